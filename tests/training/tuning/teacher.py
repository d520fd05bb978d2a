"""A small model, and images in colours for it to tell apart: for tests of the loop, and processes that they start.

Run as a program, by torchrun, it trains: python -m tests.training.tuning.teacher FOLDER OUT PLAN
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from export.run import Backbone, Head, Recipe, Scaling, Stage
from training import backbones, heads
from training.parts import parts
from training.taps import TappedBackbone
from training.tuning import loop
from training.tuning.batches import Batch
from training.tuning.loop import Learner, Lessons
from training.tuning.model import Tunable
from training.tuning.order import share
from training.tuning.origin import Origin
from training.tuning.plan import Plan
from training.tuning.validation import Labelled

PARTS = ("c1", "c2", "c3", "c4", "c5", "top")
CLASSES = 3
SIDE_PX = 32
FIXED: dict[str, Any] = {"precision": "fp32", "channels_last": False}
RECIPE = Recipe(
    source="a test", data="none", optimizer="SGD", learning_rate_per_256=0.4, schedule="none", epochs=1, weight_decay=0
)
CARD = Backbone(
    name="small",
    architecture="test_efficientnet",
    source="a test",
    licence="none",
    weights_sha256="0" * 64,
    stages=tuple(
        Stage(name=f"c{index + 1}", stride=stride, channels=channels, module=f"blocks.{index}")
        for index, (stride, channels) in enumerate(zip((2, 4, 8, 16, 32), (16, 24, 32, 48, 64), strict=True))
    ),
    probes=(),
    recipe=RECIPE,
)


def tunable(reads: tuple[str, ...] = ("c2", "c4", "embedding"), seed: int = 0) -> Tunable:
    """A model of random numbers, the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module, _ = backbones.parted(backbones.build(CARD.architecture, 5))
        widths = {**{stage.name: stage.channels for stage in CARD.stages}, "embedding": 256}
        head = heads.build(Head(kind="linear", taps=reads), widths, CLASSES)
    _acquaint(module)
    backbone = TappedBackbone(module, CARD, Scaling(mean=(0.5, 0.5, 0.5), deviation=(0.3, 0.3, 0.3)))
    return Tunable(backbone, head, reads, CARD, parts(module, CARD))


def _acquaint(module: nn.Module) -> None:
    """Give batch norms the statistics of some images; with random ones a random model tells nothing apart."""
    norms = [each for each in module.modules() if isinstance(each, nn.BatchNorm2d)]
    for each in norms:
        each.momentum = 1.0
    with torch.no_grad():
        module.train()(drawn(32, 7)[0].permute(0, 3, 1, 2).float() / 76 - 1.67)
    for each in norms:
        each.momentum = 0.1
    module.eval()


def origins(model: Tunable, backbone: Origin = "pretrained", head: Origin = "warmed") -> dict[str, Origin]:
    return {name: backbone if model.is_backbone(name) else head for name in model.state_dict()}


def learner(**origin: Origin) -> Learner:
    model = tunable()
    return Learner(model, origins(model, **origin), RECIPE)


@dataclass
class Colours:
    """Noise around a colour for each class; a pure function of epoch and step, as Batches must be."""

    images: int = 48
    batch: int = 16
    seed: int = 0
    side_px: int = SIDE_PX
    asked: list[tuple[int, int]] = field(default_factory=list)

    def steps(self, epoch: int) -> int:  # noqa: ARG002 - all epochs are alike
        return -(-self.images // self.batch)

    def epoch(self, number: int, start_step: int = 0, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        self.asked.append((number, start_step))
        for step in range(start_step, self.steps(number)):
            count = min(self.batch, self.images - step * self.batch)
            pixels, labels = drawn(count, self.seed, number, step, side_px=self.side_px)
            mine = share(count, rank, world)
            yield Batch(
                pixels[mine.positions],
                torch.eye(CLASSES)[labels[mine.positions]],
                torch.from_numpy(mine.is_real.astype(np.float32)) * (1 + labels[mine.positions] / 4),
            )


@dataclass(frozen=True)
class Held:
    """Images that are held out."""

    images: int = 30
    seed: int = 99

    def batches(self) -> Iterator[Labelled]:
        for step in range(0, self.images, 16):
            count = min(16, self.images - step)
            yield Labelled(*drawn(count, self.seed, step), torch.ones(count, dtype=torch.float64))


def drawn(count: int, *seed: int, side_px: int = SIDE_PX) -> tuple[Tensor, Tensor]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    pixels = random.integers(0, 120, (count, side_px, side_px, 3))
    pixels[np.arange(count), :, :, labels] += 60
    return torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(labels)


def plan(**changed: Any) -> Plan:
    return Plan.model_validate({"unfreeze_from": "c4", "batch_size": 16, "epochs": 2, **FIXED, **changed})


def lessons(**changed: Any) -> Lessons:
    return Lessons(**{"feed": Colours(), "validation": Held(), "sha256": "0" * 64, **changed})


def nothing(done: int) -> None:
    """Tell nobody."""


def train(folder: Path, out: Path, changed: dict[str, Any], told: Callable[[int], None]) -> None:
    """Train and write the tensors; of several processes the first one writes."""
    torch.set_num_threads(1)
    tuned = loop.tune(learner(), lessons(), plan(**changed), folder, told, checkpoint_s=0)
    if os.environ.get("RANK", "0") == "0":
        save_file(tuned.state, out)


def train_aside(folder: Path, out: Path, changed: dict[str, Any], teller: Connection) -> None:
    """Train in a process of its own, which tells of its steps through a pipe."""
    train(folder, out, changed, teller.send)


if __name__ == "__main__":
    train(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]), nothing)
