"""Batch norms that keep the statistics of the pretraining, against such that follow the batches, where all is trained.

    python -m tests.benchmarks.batch_norm --cifar10 cifar10.tar [--seeds 2]

Two data sets of the advisor's benchmark that lie far from the pretraining, in content and in kind: what the statistics
of a batch should suit better, if anything. All of the backbone is trained, 20 times over, with a rate found for each
way. A cell is kept as soon as it is measured: a second run goes on where the first was stopped.
"""

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks import advisor, cifar10, results, trial
from tests.benchmarks.trial import Row, Trial

SETS = ("CIFAR-10, 100 a class", "solar cells, defects, all")
WAYS = ("eval", "train")
CROP_PX = 96


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, required=True, help="cifar10.tar or its folder")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=Path(".demo/cache"), help="where features are kept")
    arguments = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = cifar10.unpacked(arguments.cifar10, Path(folder))
        sources = advisor.Sources(cifar10=data, imagenet=Path(folder) / "none", made=Path(folder) / "made")
        for name in SETS:
            rows = advisor.SETS[name](sources)
            for seed in range(arguments.seeds):
                key = f"{CROP_PX} px, {name}, seed {seed}"
                cell = results.cell("batch_norm", key, partial(measure, rows, seed, arguments.cache))
                found.setdefault(name, []).append(cell)
    table = {name: summary(cells) for name, cells in found.items()}
    show(table)
    print(f"kept in {results.summarize('batch_norm', table)}")


def measure(rows: Sequence[Row], seed: int, cache: Path) -> dict[str, Any]:
    made = {
        way: Trial("large-different", CROP_PX, cache, seed, changes={**trial.FIXED, "batch_norm": way}).fit(rows)
        for way in WAYS
    }
    answered = {way: trial.right(each) for way, each in made.items()}
    ahead, error = trial.ahead(answered["train"], answered["eval"])
    return {
        "accuracy": {way: float(right.mean()) for way, right in answered.items()},
        "train_ahead": ahead,
        "error": error,
        "rate": {way: record.settings.rate for way, each in made.items() if (record := each.result.way.tuning)},
        "way_seconds": {way: round(sum(each.result.seconds.values()), 1) for way, each in made.items()},
        "images": made["eval"].result.way.images,
        "test_images": len(answered["eval"]),
    }


def summary(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over the seeds."""
    return {
        "accuracy": {way: statistics.mean(cell["accuracy"][way] for cell in cells) for way in WAYS},
        "train_ahead": statistics.mean(cell["train_ahead"] for cell in cells),
        # Of test images alone, the same for all seeds.
        "error": statistics.mean(cell["error"] for cell in cells),
        "seeds": len(cells),
    }


def show(table: Mapping[str, Mapping[str, Any]]) -> None:
    print(f"{'':<34}{'keeping':>9}{'following':>11}{'ahead':>15}")
    for name, mean in table.items():
        kept, followed = (mean["accuracy"][way] for way in WAYS)
        print(f"{name:<34}{kept:>9.1%}{followed:>11.1%}{100 * mean['train_ahead']:>8.1f} ± {100 * mean['error']:.1f}")


if __name__ == "__main__":
    main()
