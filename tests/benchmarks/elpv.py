"""Defective solar cells from a frozen backbone: `fit` on elpv-dataset, 75/25, stratified by label and type.

    python -m tests.benchmarks.elpv [--seeds 10] [--views 0]

Three protocols: defective from a probability of 0.5 on; defective above 0; and the first again with pictures of the
same cell kept on one side of the split, for which near-duplicates, as the data check finds them, are joined to groups.
A cell of the table is kept as soon as it is measured: a second run goes on where the first was stopped.
"""

import argparse
import csv
import statistics
import tempfile
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from export.progress import Steps
from service import image
from tests.benchmarks import results
from training import fit, twins
from training.dataset import Plan

DATA = Path(str(resources.files("elpv_dataset") / "data"))
FOLDS = 4  # one of them is a quarter
CROP_PX = 224  # and the resize: the whole frame
LABELS = np.array(["functional", "defective"])


@dataclass(frozen=True)
class Protocol:
    """Which cells count as defective, and whether copies of a cell may lie on both sides of the split."""

    name: str
    defective_above: float
    grouped: bool


PROTOCOLS = (
    Protocol("defective from 0.5", 0.4, False),  # the probabilities are 0, 1/3, 2/3 and 1
    Protocol("defective above 0", 0.0, False),
    Protocol("defective from 0.5, copies on one side", 0.4, True),
)


@dataclass(frozen=True)
class Cells:
    """All cells: `[2624]` each."""

    paths: NDArray[np.str_]
    probabilities: NDArray[np.float64]
    types: NDArray[np.str_]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--views", type=int, default=0, help="as for vertebra-train fit")
    parser.add_argument("--cache", type=Path, default=Path(".demo/cache"), help="where features are kept")
    arguments = parser.parse_args()
    for protocol in PROTOCOLS:
        found = [
            results.cell(
                "elpv",
                f"{protocol.name}, {arguments.views} views, seed {seed}",
                partial(measure, protocol, seed, arguments.views, arguments.cache),
            )
            for seed in range(arguments.seeds)
        ]
        print(f"{protocol.name}, {arguments.views} views, {len(found)} seeds:")
        for name in ("accuracy", "balanced_accuracy", "macro_f1", "mono", "poly", "leaks"):
            values = [float(each[name]) for each in found]
            print(f"  {name:<18} mean {statistics.mean(values):.4f}, deviation {statistics.stdev(values):.4f}")


def measure(protocol: Protocol, seed: int, views: int, cache: Path) -> dict[str, float]:
    cells = read()
    is_defective = cells.probabilities > protocol.defective_above
    test = draw(cells, is_defective, seed, protocol.grouped)
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "cells.csv"
        with table.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("path", "label", "split", *(["group"] if protocol.grouped else [])))
            for index, path in enumerate(cells.paths):
                group = [copies()[index]] if protocol.grouped else []
                writer.writerow((path, LABELS[int(is_defective[index])], "test" if test[index] else "train", *group))
        order = fit.Order(
            source=table,
            plan=Plan(seed=seed),
            backbone="efficientnet_lite0",
            resize_px=CROP_PX,
            crop_px=CROP_PX,
            head="linear",
            views=views,
            cache=cache,
            out=Path(folder) / "run",
            how=fit.How("small-similar"),
        )
        made = fit.fit(order, Steps(fit.STEPS, Console(quiet=True)))
    held_out, scores = made.held_out["test"], made.result.scores["test"]
    right = held_out.logits.argmax(axis=1) == held_out.expected
    types = dict(zip(cells.paths, cells.types, strict=True))
    kinds = np.array([types[str(path)] for path in held_out.paths])
    return {
        "accuracy": scores.accuracy.value,
        "balanced_accuracy": scores.balanced_accuracy.value,
        "macro_f1": scores.macro_f1.value,
        "mono": float(right[kinds == "mono"].mean()),
        "poly": float(right[kinds == "poly"].mean()),
        "test_images": len(right),
        "leaks": len(made.result.data.leaks),
        "taps": len(made.run.head.taps),
    }


@cache
def read() -> Cells:
    lines = [line.split() for line in (DATA / "labels.csv").read_text().splitlines()]
    names, probabilities, types = zip(*lines, strict=True)
    return Cells(np.array([str(DATA / name) for name in names]), np.array(probabilities, float), np.array(types))


def draw(cells: Cells, is_defective: NDArray[np.bool_], seed: int, grouped: bool) -> NDArray[np.bool_]:
    """Which cells to test on: a quarter, with the same share of each label and type as in all."""
    strata = np.char.add(is_defective.astype(int).astype(str), cells.types)
    everything = np.arange(len(strata))
    if grouped:
        folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
        _, chosen = next(iter(folds.split(everything, strata, copies())))
    else:
        _, chosen = train_test_split(everything, test_size=1 / FOLDS, random_state=seed, stratify=strata)
    test = np.zeros(len(strata), bool)
    test[chosen] = True
    return test


@cache
def copies() -> NDArray[np.int64]:
    """The group of each cell: those that near-duplicates lead to from it, and it alone where there are none."""
    sketches = np.stack(
        [twins.sketch(image.decode(Path(path).read_bytes(), image.ImageLimits())) for path in read().paths]
    )
    group = np.arange(len(sketches))
    for index in range(len(sketches)):
        others = np.delete(np.arange(len(sketches)), index)
        (found,) = twins.find(sketches[index : index + 1], sketches[others])
        if found >= 0:
            twin = others[found]
            group[group == group[twin]] = group[index]
    return group


if __name__ == "__main__":
    main()
