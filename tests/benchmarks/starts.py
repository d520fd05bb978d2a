"""Where a backbone begins: with published weights, with what it learnt of images without labels, with random numbers.

    python -m tests.benchmarks.starts --data cifar10.tar [--images 2000] [--crop-px 64]

As a person would: `pretrain` by each method learns from images of CIFAR-10 and none of their labels, then `compare`
trains every start on one schedule with 1, 10 and 100 % of the labels and asks 2,000 test images once. What was done is
kept in the cache: a second run goes on where the first was stopped. The page lies beside it, to be looked at.
"""

import argparse
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from export.progress import Steps
from tests.benchmarks import cifar10, results, trial
from tests.benchmarks.crossing import draw
from training import compare, comparison
from training.comparison import Cell, Comparison
from training.dataset import Plan
from training.pretraining import pretrain, record
from training.pretraining.methods import Method
from training.question import Question

METHODS: tuple[Method, ...] = ("vicreg", "denoising")
FRACTIONS = (0.01, 0.1, 1.0)
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="cifar10.tar or its folder: train and test folders")
    parser.add_argument("--images", type=int, default=2000, help="to learn from, with labels and without")
    parser.add_argument("--crop-px", type=int, default=64)
    parser.add_argument("--pretrain-epochs", type=int, default=50)
    parser.add_argument("--cache", type=Path, default=Path(".demo/cache"))
    arguments = parser.parse_args()
    images, crop_px, epochs = arguments.images, arguments.crop_px, arguments.pretrain_epochs
    with tempfile.TemporaryDirectory() as folder:
        data = cifar10.unpacked(arguments.data, Path(folder))
        rows = draw(data, len(cifar10.CLASSES), images // len(cifar10.CLASSES), SEED)
        table = trial.written(rows, Path(folder) / "images.csv")
        key = f"{images} images, {crop_px} px, {epochs} epochs without labels"
        made = arguments.cache / "starts" / key
        inits = tuple(pretrained(table, method, crop_px, epochs, arguments.cache, made) for method in METHODS)
        question = Question(
            source=table,
            # The test split of CIFAR-10 holds a few copies of its own images.
            plan=Plan(on_bad="skip", seed=SEED),
            backbone=trial.BACKBONE,
            cache=arguments.cache,
            resize_px=crop_px,
            crop_px=crop_px,
        )
        order = compare.Order(
            question=question,
            pretrained=True,
            init=inits,
            fractions=FRACTIONS,
            epochs=10,
            batch_size=64,
            reach=None,
            out=Path(folder) / "compared",
        )
        found = results.cell("starts", key, partial(measure, order, made / comparison.PAGE))
    for name, figures in found["starts"].items():
        print(f"{name:<24}{figures['accuracy']['value']:>7.1%}  {figures['arrived']}")


def pretrained(table: Path, method: Method, crop_px: int, epochs: int, cache: Path, made: Path) -> Path:
    """The folder of a pretraining, made where it is not there yet."""
    made.mkdir(parents=True, exist_ok=True)
    out = made / method
    if not out.exists():
        order = pretrain.Order(
            source=table,
            on_bad="skip",
            backbone=trial.BACKBONE,
            method=method,
            start="random",
            weights=None,
            download=False,
            resize_px=crop_px,
            crop_px=crop_px,
            epochs=epochs,
            batch_size=128,
            rate=None,
            turns=False,
            seed=SEED,
            cache=cache,
            out=out,
        )
        pretrain.pretrain(order, Steps(5, Console(stderr=True)))
    return out


def measure(order: compare.Order, page: Path) -> dict[str, Any]:
    found = compare.compare(order, Steps(3, Console(stderr=True)))
    shutil.copy(order.out / comparison.PAGE, page)
    return {
        "starts": {f"{cell.fraction:.0%}, {_name(cell)}": _figures(found, cell) for cell in found.cells},
        "pretrainings": {init.name: _told(init) for init in order.init},
        "seed": SEED,
        "validation_images": found.validation,
        "schedule": found.schedule,
    }


def _told(init: Path) -> dict[str, float]:
    made = record.of(record.weights(init))
    assert made is not None  # it was written above
    first, last = made.history[0], made.history[-1]
    return {"minutes": made.seconds / 60, "first_loss": first.loss, "last_loss": last.loss, "spread": last.spread}


def _name(cell: Cell) -> str:
    """The start: of a pretraining its method, which its folder is called by."""
    return Path(cell.start).name


def _figures(found: Comparison, cell: Cell) -> dict[str, Any]:
    assert cell.test is not None  # there is a test split
    return {
        "accuracy": cell.test.model_dump(),
        "arrived": found.arrival(cell),
        **cell.model_dump(exclude={"start", "test", "fraction"}),
    }


if __name__ == "__main__":
    main()
