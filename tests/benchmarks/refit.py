"""The head behind a fine-tuning as it was trained, and fitted anew to every tap: which answers more test images right?

    python -m tests.benchmarks.refit --data cifar10.tar --imagenet imagenet-samples.tar [--seeds 1]

CIFAR-10 at 96 px, EfficientNet-Lite0, by images a class; the late stages, or everything. And photographs of ImageNet,
which are probably what the backbone learnt from, everything, by three draws because these are few. Each training is
made twice, without and with the head fitted anew (`--plan refit_head=false`), of the same seed and so with the same
backbone at its end, and both are tested on the same images. A cell is kept as soon as it is measured.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks import advisor, cifar10, crossing, results, trial
from tests.benchmarks.advisor import Sources
from tests.benchmarks.trial import Row, Trial
from training.advice.candidates import Regime

SIZES = ((10, 10), (10, 50), (10, 250), (2, 250))
PHOTOGRAPHS = ("ImageNet, six groups of animals", "ImageNet, dogs and other mammals")
DRAWS = 3
CROP_PX = 96


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="cifar10.tar or its folder: train and test folders")
    parser.add_argument("--imagenet", type=Path, required=True, help="one image for each class: a .tar or its folder")
    parser.add_argument("--seeds", type=int, default=1, help="of CIFAR-10")
    parser.add_argument("--cache", type=Path, default=Path(".demo/cache"), help="where features are kept")
    arguments = parser.parse_args()
    print(f"{'':<70}{'trained':>9}{'anew':>9}{'ahead':>16}")
    with tempfile.TemporaryDirectory() as folder:
        sources = Sources(
            cifar10.unpacked(arguments.data, Path(folder)),
            cifar10.unpacked(arguments.imagenet, Path(folder)),
            Path(folder) / "made",
        )
        for key, way, seed, rows in trainings(sources, arguments.seeds):
            cell = results.cell("refit", key, partial(measure, rows, way, seed, arguments.cache))
            gain = f"{100 * cell['ahead']:+.1f} ± {100 * cell['error']:.1f}"
            print(f"{key:<70}{cell['trained']:>9.1%}{cell['anew']:>9.1%}{gain:>16}")


def trainings(sources: Sources, seeds: int) -> Iterator[tuple[str, Regime, int, list[Row]]]:
    """What is trained on what: a name, the regime, the seed and the images."""
    for seed in range(DRAWS):
        for name in PHOTOGRAPHS:
            rows = advisor.photographs(advisor.PHOTOGRAPHS[name], sources, seed)
            yield f"large-different, {name}, seed {seed}", "large-different", seed, rows
    for seed in range(seeds):
        for classes, count in SIZES:
            rows = crossing.draw(sources.cifar10, classes, count, seed)
            for way in crossing.TUNED:
                yield f"{way}, {classes} classes, {count} a class, seed {seed}", way, seed, rows


def measure(rows: Sequence[Row], way: Regime, seed: int, cache: Path) -> dict[str, Any]:
    trained, anew = (
        Trial(way, CROP_PX, cache, seed, changes={**trial.FIXED, "refit_head": each}).fit(rows)
        for each in (False, True)
    )
    right = trial.right(anew), trial.right(trained)
    ahead, error = trial.ahead(*right)
    assert anew.result.way.tuning is not None  # it was asked for
    return {
        "trained": float(right[1].mean()),
        "anew": float(right[0].mean()),
        "ahead": ahead,
        "error": error,
        "log_loss": {"trained": trained.result.scores["test"].log_loss, "anew": anew.result.scores["test"].log_loss},
        "epochs": len(anew.result.way.tuning.history),
        "refit_seconds": anew.result.seconds["refit the head"],
        "test_images": len(right[0]),
    }


if __name__ == "__main__":
    main()
