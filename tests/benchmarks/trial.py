"""One `fit` as benchmarks make it: a table of images and a way in, what was answered right out; keeps no figures."""

import csv
import math
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from export.labelled import Split
from export.progress import Steps
from training import fit
from training.advice.candidates import Regime
from training.dataset import Plan
from training.fit import Trained
from training.question import Question

BACKBONE = "efficientnet_lite0"
# For two trainings that are compared: what is measured to be faster could come out otherwise the second time, and
# another backbone with it.
FIXED = {"precision": "bf16", "channels_last": True}


class Row(NamedTuple):
    """An image, its class, and what it is for; what has a group stays on one side of a split."""

    path: Path
    label: str
    split: Split
    group: str = ""


@dataclass(frozen=True)
class Trial:
    """How a model is made of a table.

    Attributes:
        regime: How the backbone is used.
        crop_px: The side of the square that the backbone sees: the whole frame of images that are squares.
        cache: The folder of what is computed once.
        seed: Every random number follows from it.
        views: As for vertebra-train fit.
        turns: As there.
        limit_s: How long all of it may take, in seconds.
        changes: What is otherwise in the plans that fine-tune.
    """

    regime: Regime | Literal["auto"]
    crop_px: int
    cache: Path
    seed: int
    views: int = 0
    turns: bool = False
    limit_s: float = math.inf
    changes: Mapping[str, object] = field(default_factory=dict)

    def fit(self, rows: Iterable[Row]) -> Trained:
        """Make a run, of which nothing stays but what was measured."""
        with tempfile.TemporaryDirectory() as folder:
            question = Question(
                source=written(rows, Path(folder) / "images.csv"),
                # The test split of CIFAR-10 holds a few copies of its own images.
                plan=Plan(on_bad="skip", seed=self.seed),
                backbone=BACKBONE,
                cache=self.cache,
                resize_px=self.crop_px,
                crop_px=self.crop_px,
                regime=self.regime,
                limit_s=self.limit_s,
            )
            out = Path(folder) / "run"
            order = fit.Order(question, "linear", self.views, out, self.changes, turns=self.turns)
            return fit.fit(order, Steps(fit.STEPS, Console(quiet=True)))


def right(trained: Trained) -> NDArray[np.bool_]:
    """Which test images it answers rightly, in the same order for the same images."""
    held_out = trained.held_out["test"]
    return np.asarray(held_out.logits.argmax(axis=1) == held_out.expected)


def ahead(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> tuple[float, float]:
    """By how much the first answers more of the same images rightly, and the standard error of that."""
    apart = first.astype(float) - second
    return float(apart.mean()), float(apart.std() / math.sqrt(len(apart)))


def written(rows: Iterable[Row], table: Path) -> Path:
    """The table of these rows, written where it is said."""
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        writer.writerows(rows)
    return table
