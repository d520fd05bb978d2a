"""The loop of a pretraining: a method and views in, a better backbone out, from any checkpoint as if it never stopped.

Every random number follows from the seed, the epoch and the step, and everything else that the next step depends on is
in the checkpoint. Knows no labels, no files of images and no card.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from export.progress import Advance
from training.errors import TuningError
from training.freezing import digest
from training.pretraining.batches import Views
from training.pretraining.record import Epoch
from training.tuning import checkpoint, devices, guards, memory, optimizer, schedule
from training.tuning.checkpoint import Checkpoints, Facts, Position
from training.tuning.guards import Guard
from training.tuning.journal import METRICS, Journals
from training.tuning.plan import Plan
from training.tuning.record import Settings


@dataclass(frozen=True)
class Schedule:
    """How far each step goes, and when it ends.

    Attributes:
        epochs: How often each image is shown.
        batch_size: Images a step.
        rate: The highest learning rate.
        weight_decay: Never applied to norms and biases.
        clip_norm: The longest gradient that is followed.
        warm_up: The part of all steps in which the rate rises.
        seed: Every random number follows from it.
    """

    epochs: int
    batch_size: int
    rate: float
    weight_decay: float = 0.05
    clip_norm: float = 5.0
    warm_up: float = 0.1
    seed: int = 0


@dataclass
class _Training:
    """A pretraining under way: what its steps need, and where it is."""

    module: nn.Module
    chosen: Schedule
    descent: torch.optim.Optimizer
    guard: Guard
    steps: int
    at: Position

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        return dict(self.module.named_parameters())


def learn(
    module: nn.Module,
    views: Views,
    chosen: Schedule,
    folder: Path,
    advance: Advance,
    *,
    checkpoint_s: float = 300.0,
) -> tuple[Epoch, ...]:
    """Train a module, or go on where a killed process left off.

    Args:
        module: What methods.build gave, as it starts; it is changed, and in eval mode on the CPU at the end.
        views: What it is shown.
        chosen: How far each step goes.
        folder: Where checkpoints and figures lie. One that holds the checkpoint of another training is refused.
        advance: Told of every step.
        checkpoint_s: After how many seconds a checkpoint is due; there is one after each epoch, too.

    Returns:
        What each epoch brought.

    Raises:
        TuningError: There are several processes, or the loss has exploded.
        CheckpointError: A checkpoint cannot be written, or is of another training.
    """
    fabric = devices.launched()
    if fabric.world_size > 1:
        raise TuningError(f"Expected one process to pretrain in. Received: {fabric.world_size}.")
    memory.keep(fabric.device)
    guards.check_numbers(module.state_dict())
    kept = Checkpoints(folder, _facts(module, views, chosen))
    fabric.to_device(module)
    gpus = [fabric.device] if fabric.device.type == "cuda" else []
    with kept.held(), torch.random.fork_rng(devices=gpus):
        training = _begin(module, views, chosen, kept.newest())
        at = training.at
        advance(at.step)
        journal = Journals(folder, at.step, at.epoch, "pretraining")
        begun_s, saved_s = time.monotonic() - at.seconds, time.monotonic()
        try:
            while at.epoch < chosen.epochs:
                module.train()
                if not at.step_of_epoch:
                    at.epoch_from = time.monotonic() - begun_s
                for batch in views.epoch(at.epoch, at.step_of_epoch):
                    figures = _step(training, fabric.to_device(batch))
                    journal.write(at.step, figures)
                    advance(1)
                    if time.monotonic() - saved_s >= checkpoint_s:
                        at.seconds = time.monotonic() - begun_s
                        kept.write(at, _remembered(training))
                        saved_s = time.monotonic()
                journal.write(at.step, _end_epoch(at, time.monotonic() - begun_s - at.epoch_from))
                at.seconds = time.monotonic() - begun_s
                kept.write(at, _remembered(training))
        finally:
            journal.close()
    module.cpu().eval()
    return _history(folder)


def _facts(module: nn.Module, views: Views, chosen: Schedule) -> Facts:
    """What makes this training another one than others."""
    start = digest(module.state_dict())
    return {"the method": type(module).__name__, "the start": start, "the data": views.sha256, **asdict(chosen)}


def _begin(
    module: nn.Module, views: Views, chosen: Schedule, resumed: tuple[Position, dict[str, Tensor]] | None
) -> _Training:
    """Make all that steps need, as it is before the first step or as a checkpoint has it."""
    steps = chosen.epochs * views.order.steps
    plan = Plan(unfreeze_from=None, optimizer="adamw", weight_decay=chosen.weight_decay)
    trained = dict(module.named_parameters())
    training = _Training(
        module=module,
        chosen=chosen,
        descent=optimizer.build(plan, trained, dict.fromkeys(trained, chosen.rate), set()),
        # Without classes there is no loss of guessing: an explosion is told by the first loss alone.
        guard=Guard(1, steps),
        steps=steps,
        at=resumed[0] if resumed else Position(settings=_settings(chosen), start=None),
    )
    if resumed:
        _restore(training, resumed[1])
    return training


def _settings(chosen: Schedule) -> Settings:
    return Settings(
        precision="fp32",
        channels_last=False,
        compile=False,
        paces=(),
        rate=chosen.rate,
        rate_rule="asked for",
        range_test=None,
        notes=(),
    )


def _step(training: _Training, batch: Tensor) -> dict[str, float]:
    """Take one step; what it measured."""
    at, chosen, descent = training.at, training.chosen, training.descent
    torch.manual_seed(at.seed(chosen.seed))
    factor = schedule.factor(at.step, training.steps, chosen.warm_up)
    optimizer.scale(descent, factor)
    rate = chosen.rate * factor
    loss, embedding = training.module(batch)
    mean = loss.item()
    first, smooth = at.hear(mean)
    training.guard.check_loss(mean, smooth, first, at.step, rate)
    torch.autograd.backward(loss)
    norm = clip_grad_norm_(training.module.parameters(), chosen.clip_norm).item()
    training.guard.check_gradient(norm, at.step, rate)
    descent.step()
    descent.zero_grad(set_to_none=True)
    images = batch.shape[1]
    at.end_step(mean * images, images)
    return {"loss": mean, "rate": rate, "gradient_norm": norm, "spread": _spread(embedding.detach())}


def _spread(embedding: Tensor) -> float:
    """How far embeddings `[B, D]` lie from their mean, as a part of how long they are."""
    apart = (embedding - embedding.mean(0)).norm(dim=1).mean()
    return float(apart / embedding.norm(dim=1).mean().clamp_min(1e-12))


def _end_epoch(at: Position, seconds: float) -> dict[str, float]:
    figures = {"epoch": at.epoch, "epoch_loss": at.loss_sum / at.weight_sum, "epoch_seconds": seconds}
    at.end_epoch()
    return figures


def _remembered(training: _Training) -> dict[str, Tensor]:
    """Every tensor that the next steps depend on."""
    return checkpoint.together(
        {
            "module": training.module.state_dict(),
            "optimizer": optimizer.tensors(training.descent, training.trained),
        }
    )


def _restore(training: _Training, remembered: Mapping[str, Tensor]) -> None:
    """Make a training what it was when `_remembered` was asked."""
    training.module.load_state_dict(checkpoint.group(remembered, "module"))
    optimizer.restore(training.descent, training.trained, checkpoint.group(remembered, "optimizer"))


def _history(folder: Path) -> tuple[Epoch, ...]:
    """The epochs as the journal has them, the only place that knows of those before a kill."""
    found, spread = [], 0.0
    for line in map(json.loads, (folder / METRICS).read_text(encoding="utf-8").splitlines()):
        spread = line.get("spread", spread)
        if "epoch" in line:
            found.append(Epoch(loss=line["epoch_loss"], spread=spread, seconds=line["epoch_seconds"]))
    return tuple(found)
