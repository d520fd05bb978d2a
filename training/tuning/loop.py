"""The fine-tuning loop: a plan, a model and images in, a better model out, from any checkpoint as if it never stopped.

Every random number follows from the plan's seed, the epoch and the step, and everything else that the next step depends
on is in the checkpoint: on a CPU a training that was killed ends with the same bits. Knows no files of images.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from export.progress import Advance
from export.run import Recipe
from training.errors import ExplodedError, TuningError
from training.freezing import digest
from training.tuning import checkpoint, devices, guards, memory, optimizer, origin, rates, schedule, settings
from training.tuning.activations import CutFeed
from training.tuning.average import Average
from training.tuning.checkpoint import Checkpoints, Facts, Position
from training.tuning.feed import Feed, Shown
from training.tuning.guards import Guard, Seal
from training.tuning.journal import Journal, Journals, Silent
from training.tuning.loss import Objective
from training.tuning.model import Tunable
from training.tuning.origin import Origins
from training.tuning.plan import Plan
from training.tuning.record import NOTHING_KNOWN, Epoch, Known, Record, Settings, Tuned
from training.tuning.validation import Score, Validation, score

# How often less of a rate is tried where the loss has exploded.
_LOWERED = 3
# After an epoch a checkpoint is due sooner than in the midst of one, because it is there that a person looks.
_EPOCH_S = 10.0


@dataclass(frozen=True)
class Learner:
    """What is trained.

    Attributes:
        model: The model; it is changed.
        origins: Where each of its tensors comes from.
        recipe: How its backbone was pretrained.
    """

    model: Tunable
    origins: Origins
    recipe: Recipe


@dataclass(frozen=True)
class Lessons:
    """What it learns from.

    Attributes:
        feed: The batches.
        validation: Images to choose the best epoch by; None to keep the last one.
        sha256: Names images, labels and augmentation: a checkpoint of others is refused.
        offset: float32 `[C]`, added to the logits while training (arXiv:2007.07314), or None.
        name: What is trained, in words.
    """

    feed: Feed
    validation: Validation | None
    sha256: str
    offset: Tensor | None = None
    name: str = "fine-tuning"


@dataclass
class _Training:
    """A training under way: what its steps need, and where it is."""

    plan: Plan
    fabric: Any
    model: Tunable
    parallel: Any  # the model as torch and Fabric wrap it, compiled and for several processes
    descent: Any
    objective: Objective
    average: Average | None
    guard: Guard
    steps: int
    trained: Mapping[str, nn.Parameter]
    learnt: Mapping[str, Tensor]
    started: Mapping[str, Tensor]  # what is learnt, as it was at the start
    best: Mapping[str, Tensor]
    at: Position


def tune(
    learner: Learner,
    lessons: Lessons,
    plan: Plan,
    folder: Path,
    advance: Advance,
    *,
    known: Known = NOTHING_KNOWN,
    checkpoint_s: float = 300.0,
) -> Tuned:
    """Fine-tune a model, or go on where a killed process left off.

    Args:
        learner: The model as it starts: the same one where a checkpoint is gone on from.
        lessons: What it learns from.
        plan: What is trained, and how.
        folder: Where checkpoints and figures lie. One that holds the checkpoint of another training is refused.
        advance: Told of every step.
        known: What was measured before.
        checkpoint_s: After how many seconds a checkpoint is due in the midst of an epoch. At the end of one it is after
            ten, or sooner where these are fewer, and at the end of all in any case.

    Returns:
        The model of the epoch with the best validation score; that of the start where no epoch beat it.

    Raises:
        TuningError: The plan breaks a rule, there is nothing to learn from, or the loss has exploded: where a range
            test chose the rate, even at a small part of it.
        FrozenError: A tensor that was frozen has changed.
        CheckpointError: A checkpoint cannot be written, or is of another training.
    """
    fabric = devices.launched()
    memory.keep(fabric.device)
    model = learner.model
    fabric.to_device(model)
    model.arrange(plan)
    _check(learner, lessons, plan)
    notes = _without_unreached(model, lessons, fabric)
    seal = Seal(model.frozen())
    kept = Checkpoints(folder, _facts(model, lessons, plan))
    gpus = [fabric.device] if fabric.device.type == "cuda" else []
    with kept.held() if fabric.is_global_zero else nullcontext(), torch.random.fork_rng(devices=gpus):
        measures = known.paces is None
        while True:
            resumed = kept.newest()
            training = _begin(learner, lessons, plan, fabric, resumed, known)
            if fabric.is_global_zero and resumed is None and measures and training.at.settings.paces:
                # Which way is the fastest may come out otherwise a second time, and other weights with it.
                kept.write(training.at, _remembered(training))
            # Before the first process takes away the checkpoint that another one is still reading.
            fabric.barrier()
            try:
                _run(training, lessons, folder, kept, seal, advance, checkpoint_s)
                break
            except ExplodedError as error:
                known = _lowered(training, error)
                kept.clear()  # there is one process
                advance(-training.at.step)
    return _tuned(training, notes)


def _run(  # noqa: PLR0917
    training: _Training,
    lessons: Lessons,
    folder: Path,
    kept: Checkpoints,
    seal: Seal,
    advance: Advance,
    checkpoint_s: float,
) -> None:
    """Take all steps from where a training is to its end."""
    at, fabric, model = training.at, training.fabric, training.model
    journal: Journal = Journals(folder, at.step, at.epoch, lessons.name) if fabric.is_global_zero else Silent()
    advance(at.step)
    begun_s, saved_s = time.monotonic() - at.seconds, time.monotonic()
    try:
        while not _is_over(training):
            model.train()
            if not at.step_of_epoch:
                at.epoch_from = time.monotonic() - begun_s
            for batch in lessons.feed.epoch(at.epoch, at.step_of_epoch, fabric.global_rank, fabric.world_size):
                figures = _step(training, batch)
                journal.write(at.step, figures)
                advance(1)
                if fabric.is_global_zero and time.monotonic() - saved_s >= checkpoint_s:
                    at.seconds = time.monotonic() - begun_s
                    kept.write(at, _remembered(training))
                    saved_s = time.monotonic()
            seal.check(model.state_dict())
            _end_epoch(training, lessons.validation, time.monotonic() - begun_s - at.epoch_from)
            journal.write(at.step, _figures(at.history[-1]))
            at.seconds = time.monotonic() - begun_s
            # Of little epochs writing one down would take a good part.
            is_due = _is_over(training) or time.monotonic() - saved_s >= min(checkpoint_s, _EPOCH_S)
            if fabric.is_global_zero and is_due:
                kept.write(at, _remembered(training))
                saved_s = time.monotonic()
    finally:
        journal.close()
    # No process goes on to what lies behind while the first one still writes.
    fabric.barrier()


def _is_over(training: _Training) -> bool:
    return training.at.epoch >= training.plan.epochs or training.at.stopped_early


def _lowered(training: _Training, error: ExplodedError) -> Known:
    """Put everything back to the start and take less of the rate that a range test chose; any other is a person's."""
    seen = training.at.settings.range_test
    # A model that was wrapped for several processes cannot be wrapped again.
    if seen is None or seen.lowered == _LOWERED or training.fabric.world_size > 1:
        raise error
    training.model.zero_grad()
    _put(training.learnt, training.started)
    lower = seen.model_copy(update={"chosen": seen.chosen / 3, "lowered": seen.lowered + 1})
    return Known(tested=lower, paces=training.at.settings.paces)


def _check(learner: Learner, lessons: Lessons, plan: Plan) -> None:
    """Refuse what cannot end well, before anything is computed."""
    parameters = [name for name, _ in learner.model.named_parameters()]
    origin.check(learner.model.trained(), parameters, learner.origins)
    guards.check_numbers(learner.model.state_dict())
    if isinstance(lessons.feed, CutFeed) and lessons.feed.prefix != learner.model.cut().prefix:
        raise TuningError(
            f"Expected activations at the cut behind {learner.model.cut().prefix[-1]}. Received: those behind "
            f"{lessons.feed.prefix[-1]}. Make them for this plan"
        )
    if not _steps(lessons.feed, plan):
        raise TuningError(f"Expected at least one step to train. Received: {lessons.feed.images} images an epoch.")


def _without_unreached(model: Tunable, lessons: Lessons, fabric: Any) -> tuple[str, ...]:
    """Freeze what no gradient reaches, which several processes would wait for in vain; what a person should know."""
    plain = Objective(fabric, 0.0, None, bf16=False, channels_last=False)
    names = guards.unreached(model, plain, settings.first(lessons.feed))
    for name in names:
        model.get_parameter(name).requires_grad_(False)
    said = f"The head reads nothing that depends on {origin.named(names)}, which therefore stayed frozen."
    return (said,) if names else ()


def _begin(  # noqa: PLR0917
    learner: Learner,
    lessons: Lessons,
    plan: Plan,
    fabric: Any,
    resumed: tuple[Position, dict[str, Tensor]] | None,
    known: Known,
) -> _Training:
    """Make all that steps need, as it is before the first step or as a checkpoint has it."""
    model = learner.model
    plain = Objective(fabric, plan.label_smoothing, lessons.offset, bf16=False, channels_last=False)
    decided = resumed[0].settings if resumed else None
    if decided is None and fabric.is_global_zero:
        from_random = all(each == "random" for each in learner.origins.values())
        decided = settings.decide(model, plan, learner.recipe, lessons.feed, plain, known, from_random=from_random)
    decided = fabric.broadcast(decided)
    assert decided is not None  # the first process has sent it
    model.to(memory_format=torch.channels_last if decided.channels_last else torch.contiguous_format)
    objective = replace(plain, bf16=decided.precision == "bf16", channels_last=decided.channels_last)
    at = resumed[0] if resumed else Position(settings=decided, start=_score(model, objective, lessons.validation))
    parallel, descent = fabric.setup(
        torch.compile(model) if decided.compile else model, _optimizer(model, plan, decided)
    )
    steps = _steps(lessons.feed, plan)
    over = max(1, round(steps * plan.average_over))
    started = _clones(model.learnt())
    training = _Training(
        plan=plan,
        fabric=fabric,
        model=model,
        parallel=parallel,
        descent=descent,
        objective=objective,
        average=None if plan.average == "none" else Average(plan.average, over, steps),
        guard=Guard(settings.first(lessons.feed).targets.shape[1], steps),
        steps=steps,
        trained=model.trained(),
        learnt=model.learnt(),
        started=started,
        best=started,
        at=at,
    )
    if resumed:
        _restore(training, resumed[1])
    return training


def _optimizer(model: Tunable, plan: Plan, decided: Settings) -> torch.optim.Optimizer:
    trained = model.trained()
    by_part = rates.by_part(decided.rate, plan.layer_decay, model.trained_parts(plan))
    anchored = {name for name in trained if model.is_backbone(name)} if plan.l2_sp else set()
    return optimizer.build(plan, trained, model.rates(by_part, decided.rate), anchored)


def _step(training: _Training, batch: Shown) -> dict[str, float]:
    """Take one step; what it measured."""
    plan, at, fabric, descent = training.plan, training.at, training.fabric, training.descent
    torch.manual_seed(at.seed(plan.seed, fabric.global_rank))
    factor = schedule.factor(at.step, training.steps, plan.warm_up)
    optimizer.scale(descent, factor)
    rate = at.settings.rate * factor
    loss = training.objective.loss(training.parallel, batch)
    # Over the images of all processes: where shares weigh unequally, the mean of their means is another number.
    sums = torch.stack([loss.detach().double().cpu(), batch.weights.double().sum()])
    loss_sum, weight_sum = fabric.all_reduce(fabric.to_device(sums), reduce_op="sum").tolist()
    if not weight_sum > 0:
        raise TuningError(f"Expected images that count in step {at.step + 1}. Received: none of a weight above 0.")
    mean = loss_sum / weight_sum
    first, smooth = at.hear(mean)
    training.guard.check_loss(mean, smooth, first, at.step, rate)
    # Fabric means the gradients of all processes; this makes of it the gradient of the mean over all images.
    fabric.backward(loss * (fabric.world_size / weight_sum))
    if plan.l2_sp:
        _pull_back(training)
    norm = fabric.clip_gradients(training.parallel, descent, max_norm=plan.clip_norm, error_if_nonfinite=False).item()
    training.guard.check_gradient(norm, at.step, rate)
    descent.step()
    descent.zero_grad(set_to_none=True)
    if training.average:
        training.average.update(training.learnt, at.step)
    at.end_step(loss_sum, weight_sum)
    return {"loss": mean, "rate": rate, "gradient_norm": norm}


def _pull_back(training: _Training) -> None:
    """Add the gradient of half the squared distance to where the backbone started (L2-SP, arXiv:1802.01483)."""
    for name, parameter in training.trained.items():
        if training.model.is_backbone(name):
            assert parameter.grad is not None  # what no gradient reaches does not train
            parameter.grad.add_(parameter.detach() - training.started[name], alpha=training.plan.l2_sp)


def _end_epoch(training: _Training, validation: Validation | None, seconds: float) -> None:
    """Score what an epoch has made, and keep it if it is the best."""
    at, plan = training.at, training.plan
    with _wearing(training.learnt, training.average.tensors if training.average else {}):
        found = _score(training.model, training.objective, validation)
        if found is None or at.best_score is None or found.beats(at.best_score):
            training.best = _clones(training.learnt)
            at.best, at.best_score, at.waiting = at.epoch, found, 0
        else:
            at.waiting += 1
    at.history.append(Epoch(number=at.epoch, loss=at.loss_sum / at.weight_sum, score=found, seconds=seconds))
    at.stopped_early = plan.patience is not None and at.waiting >= plan.patience
    at.end_epoch()


def _score(model: Tunable, objective: Objective, validation: Validation | None) -> Score | None:
    if validation is None:
        return None
    model.eval()
    return score(lambda pixels: objective.answer(model, pixels), validation, objective.fabric)


def _tuned(training: _Training, notes: tuple[str, ...]) -> Tuned:
    """The best that there was, put into the model."""
    model, at = training.model, training.at
    kept_start = at.start is not None and at.best_score is not None and not at.best_score.beats(at.start)
    if at.start and at.best_score and kept_start:
        notes += (
            f"On the validation images no epoch was better than the start: {at.best_score.weighed:.1%} right at best "
            f"(log loss {at.best_score.log_loss:.3f}), {at.start.weighed:.1%} before ({at.start.log_loss:.3f}). The "
            "start was kept.",
        )
    seen = at.settings.range_test
    if seen and seen.lowered:
        notes += (
            f"At the rate that the range test named, {seen.chosen * 3**seen.lowered:.3g}, the loss exploded, and all "
            f"began anew with less of it: {seen.chosen:.3g}.",
        )
    _put(training.learnt, training.started if kept_start else training.best)
    model.eval()
    record = Record(
        plan=training.plan,
        settings=at.settings,
        steps=training.steps,
        history=tuple(at.history),
        start=at.start,
        best=None if kept_start else at.best,
        stopped_early=at.stopped_early,
        frozen_sha256=digest(model.frozen()),
        notes=(*at.settings.notes, *notes, *training.guard.notes(at.history[-1].loss)),
        seconds=at.seconds,
    )
    state = {name: each.detach().cpu().contiguous().clone() for name, each in model.state_dict().items()}
    return Tuned(state, () if kept_start else tuple(training.learnt), record)


def _remembered(training: _Training) -> dict[str, Tensor]:
    """Every tensor that the next steps depend on, and those of the best epoch."""
    return checkpoint.together(
        {
            "learnt": training.learnt,
            "optimizer": optimizer.tensors(training.descent, training.trained),
            "average": training.average.tensors if training.average else {},
            "best": training.best if training.at.best is not None else {},
        }
    )


def _restore(training: _Training, remembered: Mapping[str, Tensor]) -> None:
    """Make a training what it was when `_remembered` was asked."""
    _put(training.learnt, checkpoint.group(remembered, "learnt"))
    optimizer.restore(training.descent.optimizer, training.trained, checkpoint.group(remembered, "optimizer"))
    if training.average:
        training.average.tensors = {
            name: torch.empty_like(training.learnt[name]).copy_(each)
            for name, each in checkpoint.group(remembered, "average").items()
        }
    if training.at.best is not None:
        training.best = checkpoint.group(remembered, "best")


def _facts(model: Tunable, lessons: Lessons, plan: Plan) -> Facts:
    """What makes this training another one than others."""
    shapes = {name: torch.tensor(each.shape) for name, each in model.state_dict().items()}
    return {
        "the architecture": digest(shapes)[:12],
        "the start": digest(model.state_dict())[:12],
        "the data": lessons.sha256[:12],
        "images": lessons.feed.images,
        "steps": _steps(lessons.feed, plan),
        "the offset": None if lessons.offset is None else digest({"": lessons.offset})[:12],
        **plan.model_dump(),
    }


def _steps(batches: Feed, plan: Plan) -> int:
    return sum(batches.steps(epoch) for epoch in range(plan.epochs))


def _figures(epoch: Epoch) -> dict[str, float]:
    scored = {f"validation_{name}": value for name, value in epoch.score.model_dump().items()} if epoch.score else {}
    return {"epoch": epoch.number, "epoch_loss": epoch.loss, "epoch_seconds": epoch.seconds, **scored}


def _clones(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: each.detach().clone() for name, each in tensors.items()}


@torch.no_grad()
def _put(into: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Give tensors the numbers of others, where they are."""
    for name, each in tensors.items():
        into[name].copy_(each)


@contextmanager
def _wearing(learnt: Mapping[str, Tensor], averaged: Mapping[str, Tensor]) -> Iterator[None]:
    """Let a model have its averaged tensors while the block runs, where there are any."""
    own = _clones(learnt)
    _put(learnt, averaged)
    try:
        yield
    finally:
        _put(learnt, own)
