"""CIFAR-10 from a frozen backbone: `fit` on its 50,000 training images, tested once on its 10,000 test images.

    python -m tests.benchmarks.cifar10 --data cifar10.tar [--crop-px 160] [--head linear] [--views 0]

Every choice is made by cross-validation among the training images. The folder of features is deleted first, so that the
minutes are those of a first run; the graph's conversion is among them.
"""

import argparse
import tarfile
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console

from export.progress import Steps
from tests.benchmarks import results
from training import fit
from training.dataset import Plan
from training.question import Question

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="cifar10.tar or its folder: train and test folders")
    parser.add_argument("--crop-px", type=int, default=160)
    parser.add_argument("--head", choices=("linear", "mlp", "cosine"), default="linear")
    parser.add_argument("--views", type=int, default=0)
    arguments = parser.parse_args()
    key = f"{arguments.head} head, {arguments.crop_px} px, {arguments.views} views"
    with tempfile.TemporaryDirectory() as folder:
        question = Question(
            source=unpacked(arguments.data, Path(folder)),
            # The test split holds a few copies of its own images.
            plan=Plan(on_bad="skip"),
            backbone="efficientnet_lite0",
            cache=Path(folder) / "cache",
            resize_px=arguments.crop_px,
            crop_px=arguments.crop_px,
            regime="small-similar",
        )
        order = fit.Order(question, arguments.head, arguments.views, Path(folder) / "run")
        print(results.cell("cifar10", key, partial(measure, order)))


def measure(order: fit.Order) -> dict[str, object]:
    made = fit.fit(order, Steps(fit.STEPS, Console(stderr=True)))
    result = made.result
    assert result.head is not None  # a head is all that is trained
    scores = result.scores["test"]
    return {
        "accuracy": scores.accuracy.model_dump(),
        "seed": order.question.plan.seed,
        "test_images": scores.images,
        "left_out": len(result.data.left_out),
        "leaks": len(result.data.leaks),
        "calibration_error": scores.calibration_error.value,
        "baselines": {each.name: each.accuracy["test"].value for each in result.baselines},
        "chosen": [trial.model_dump() for trial in result.head.trials if trial.chosen],
        "backbone": result.backbone.model_dump(),
        "seconds_by_step": result.seconds,
        "minutes": sum(result.seconds.values()) / 60,
    }


def unpacked(data: Path, folder: Path) -> Path:
    """The folder of a data set, taken out of its .tar where it is in one."""
    if data.is_dir():
        return data
    with tarfile.open(data) as archive:
        archive.extractall(folder, filter="data")
        return folder / archive.getnames()[0].split("/", maxsplit=1)[0]


def drawn(folder: Path, count: int, seed: int) -> list[Path]:
    """So many images of a class; a seed's more hold its fewer."""
    files = sorted(folder.iterdir())
    return [files[place] for place in np.random.default_rng(seed).permutation(len(files))[:count]]


if __name__ == "__main__":
    main()
