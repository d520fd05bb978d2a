"""Frozen against fine-tuned, by images a class and by classes of CIFAR-10: where the lines cross.

    python -m tests.benchmarks.crossing --data cifar10.tar [--seeds 3] [--all]

Each cell is one data set and three ways to learn from it: `fit --regime small-similar` (the best head on the frozen
backbone), `large-similar` (late layers, too) and `large-different` (all layers). A seed draws which classes and which
images: with more of either it adds to those that it had, so that no cell has other classes for being a larger one. All
are tested on the same 2,000 test images of their classes. `--all` adds one cell of all 50,000 images. A cell is kept as
soon as it is measured: a second run goes on where the first was stopped, in the middle of a fine-tuning, too.
"""

import argparse
import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from export.labelled import Split
from tests.benchmarks import cifar10, results, trial
from tests.benchmarks.trial import Row, Trial
from training.advice.candidates import Regime

CLASSES, COUNTS, ALL = (2, 3, 5, 10), (10, 50, 250), 5000
TEST_IMAGES = 2000
FROZEN: Regime = "small-similar"
TUNED: tuple[Regime, ...] = ("large-similar", "large-different")
# The head learns from mirror images, too, which is as good as it gets without the backbone; but not of all images,
# of which they tell it little and where they make hours of its minutes.
VIEWS = 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="cifar10.tar or its folder: train and test folders")
    parser.add_argument("--crop-px", type=int, default=96)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--classes", type=int, nargs="+", default=CLASSES)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, help="images a class")
    parser.add_argument("--all", action="store_true", help="and once all images of all classes")
    parser.add_argument("--cache", type=Path, default=Path(".demo/cache"), help="where features are kept")
    arguments = parser.parse_args()
    sizes = [(classes, count) for classes in arguments.classes for count in arguments.counts]
    cells = [(*size, seed) for seed in range(arguments.seeds) for size in sizes]
    cells += [(len(cifar10.CLASSES), ALL, 0)] if arguments.all else []
    found: dict[tuple[int, int], list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = cifar10.unpacked(arguments.data, Path(folder))
        for classes, count, seed in cells:
            key = f"{arguments.crop_px} px, {classes} classes, {count} a class, seed {seed}"
            cell = results.cell(
                "crossing", key, partial(measure, data, classes, count, seed, arguments.crop_px, arguments.cache)
            )
            found.setdefault((classes, count), []).append(cell)
    table = summary(found)
    show(table)
    print(f"kept in {results.summarize('crossing', table)}")


def measure(data: Path, classes: int, count: int, seed: int, crop_px: int, cache: Path) -> dict[str, Any]:
    rows = draw(data, classes, count, seed)
    views = VIEWS if count < ALL else 0
    made = {way: Trial(way, crop_px, cache, seed, views).fit(rows) for way in (FROZEN, *TUNED)}
    answered = {way: trial.right(each) for way, each in made.items()}
    ahead = {way: trial.ahead(answered[way], answered[FROZEN]) for way in TUNED}
    return {
        "accuracy": {way: float(right.mean()) for way, right in answered.items()},
        "ahead": {way: points for way, (points, _) in ahead.items()},
        "error": {way: error for way, (_, error) in ahead.items()},
        "way_seconds": {way: round(sum(each.result.seconds.values()), 1) for way, each in made.items()},
        "fine_tune_seconds": {way: round(made[way].result.seconds["fine-tune"], 1) for way in TUNED},
        "epochs": {way: len(record.history) for way in TUNED if (record := made[way].result.way.tuning)},
        "taps": len(made[FROZEN].run.head.taps),
        "views": views,
        "images": classes * count,
        "test_images": len(answered[FROZEN]),
        "classes": sorted({row.label for row in rows}),
    }


def draw(data: Path, classes: int, count: int, seed: int) -> list[Row]:
    """So many images of so many classes to learn from, and TEST_IMAGES of them in all to test on."""
    chosen = np.random.default_rng(seed).permutation(cifar10.CLASSES)[:classes].tolist()
    each, more = divmod(TEST_IMAGES, classes)
    rows: list[Row] = []
    for place, name in enumerate(chosen):
        rows += _some(data, "train", name, count, seed)
        rows += _some(data, "test", name, each + (place < more), 0)
    return rows


def _some(data: Path, split: Split, name: str, count: int, seed: int) -> list[Row]:
    return [Row(path, name, split) for path in cifar10.drawn(data / split / name, count, seed)]


def summary(found: Mapping[tuple[int, int], Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Means over the seeds, in points, and where each way of fine-tuning comes to be ahead for good."""
    sizes = {_size(*size): _mean(cells) for size, cells in found.items()}
    lines: dict[int, dict[int, Mapping[str, float]]] = {}
    for classes, count in found:
        lines.setdefault(classes, {})[count] = sizes[_size(classes, count)]["ahead"]
    crosses = {
        f"{classes} classes": {way: crossing({count: ahead[way] for count, ahead in line.items()}) for way in TUNED}
        for classes, line in lines.items()
    }
    return {"sizes": sizes, "crosses": crosses}


def _size(classes: int, count: int) -> str:
    return f"{classes} classes, {count} a class"


def _mean(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def over(figure: str) -> dict[str, float]:
        return {way: statistics.mean(cell[figure][way] for cell in cells) for way in cells[0][figure]}

    # Of test images alone; how far other draws of classes and images lie apart is seen in the cells.
    error = {way: math.hypot(*(cell["error"][way] for cell in cells)) / len(cells) for way in TUNED}
    return {"accuracy": over("accuracy"), "ahead": over("ahead"), "error": error, "seeds": len(cells)}


def crossing(ahead: Mapping[int, float]) -> str:
    """From how many images a class on fine-tuning stays ahead, read on a line between the counts' logarithms."""
    counts = sorted(ahead)
    if ahead[counts[-1]] <= 0:
        return f"not by {counts[-1]}"
    for before, after in reversed(list(pairwise(counts))):
        if ahead[before] <= 0:
            part = -ahead[before] / (ahead[after] - ahead[before])
            return f"near {before * (after / before) ** part:.0f}"
    return f"before {counts[0]}"


def show(table: Mapping[str, Any]) -> None:
    print(f"{'':<26}{'frozen':>8}" + "".join(f"{way:>24}" for way in TUNED))
    for size, mean in table["sizes"].items():
        tuned = (
            f"{mean['accuracy'][way]:>8.1%} ({100 * mean['ahead'][way]:+5.1f} ± {100 * mean['error'][way]:.1f})"
            for way in TUNED
        )
        print(f"{size:<26}{mean['accuracy'][FROZEN]:>8.1%}" + "".join(f"{each:>24}" for each in tuned))
    for classes, where in table["crosses"].items():
        print(f"{classes}: " + ", ".join(f"{way} is ahead {point}" for way, point in where.items()))


if __name__ == "__main__":
    main()
