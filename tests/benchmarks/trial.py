"""One `fit` as benchmarks make it: a table of images and a way in, what was answered right out; keeps no figures."""

import csv
import math
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from export.labelled import Split
from export.progress import Steps
from training import fit
from training.dataset import Plan
from training.fit import How, Trained

BACKBONE = "efficientnet_lite0"


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
        how: How the backbone is used.
        crop_px: The side of the square that the backbone sees: the whole frame of images that are squares.
        cache: The folder of what is computed once.
        seed: Every random number follows from it.
        views: As for vertebra-train fit.
    """

    how: How
    crop_px: int
    cache: Path
    seed: int
    views: int = 0

    def fit(self, rows: Iterable[Row]) -> Trained:
        """Make a run, of which nothing stays but what was measured."""
        with tempfile.TemporaryDirectory() as folder:
            order = fit.Order(
                source=_written(rows, Path(folder) / "images.csv"),
                # The test split of CIFAR-10 holds a few copies of its own images.
                plan=Plan(on_bad="skip", seed=self.seed),
                backbone=BACKBONE,
                resize_px=self.crop_px,
                crop_px=self.crop_px,
                head="linear",
                views=self.views,
                cache=self.cache,
                out=Path(folder) / "run",
                how=self.how,
            )
            return fit.fit(order, Steps(fit.STEPS, Console(quiet=True)))


def right(trained: Trained) -> NDArray[np.bool_]:
    """Which test images it answers rightly, in the same order for the same images."""
    held_out = trained.held_out["test"]
    return np.asarray(held_out.logits.argmax(axis=1) == held_out.expected)


def ahead(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> tuple[float, float]:
    """By how much the first answers more of the same images rightly, and the standard error of that."""
    apart = first.astype(float) - second
    return float(apart.mean()), float(apart.std() / math.sqrt(len(apart)))


def _written(rows: Iterable[Row], table: Path) -> Path:
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        writer.writerows(rows)
    return table
