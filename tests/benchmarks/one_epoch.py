"""CIFAR-10 by a single pass over its 50,000 training images, after a head that was fitted to a part of them.

    python -m tests.benchmarks.one_epoch --data cifar10.tar --recipe quick|best|again [--seeds 3] [--try-on 10000]

EfficientNet-Lite0 with ImageNet weights. The head starts as a linear probe of the frozen backbone (LP-FT,
arXiv:2202.10054): a feature pass over a part of the training images, which is counted in the minutes like every other
step, from the first look at the files to the last answer. `--try-on` chooses: it takes so many of the training images,
learns from four fifths and scores the others, so that the test images choose nothing. Kept apart: the same model when
its answers to an image and its mirror image are averaged, which costs a service twice the time.

`again` takes a second look: behind the one pass the head is refitted, as `vertebra-train fit` does it, for which the
features of all training images are computed once.
"""

import argparse
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from export import labelled
from export.labelled import LabelledImage
from export.progress import Steps
from export.run import EMBEDDING
from tests.benchmarks import cifar10, results
from training import backbones, dataset, features, tuned
from training.advice.candidates import Candidate
from training.dataset import Sample
from training.source import Source
from training.tuned import Ground, Probed
from training.tuning.plan import Plan
from training.views import views

BACKBONE = "efficientnet_lite0"
STEPS = 8


@dataclass(frozen=True)
class Recipe:
    """How the pass is made.

    Attributes:
        crop_px: The side of the images, which have 32 pixels, when the backbone sees them.
        probed: How many of the training images the head is first fitted to.
        augmentation: How far images are changed.
        tuning: All else.
    """

    crop_px: int
    probed: int
    augmentation: str
    tuning: Plan


_COMMON = Plan(unfreeze_from="c1", rate=5e-4, optimizer="adamw", weight_decay=0.02, refit_head=False)
_BEST = Recipe(256, 10_000, "none", _COMMON.model_copy(update={"batch_size": 32, "rate": 3.5e-4}))
RECIPES = {
    "quick": Recipe(96, 10_000, "none", _COMMON.model_copy(update={"unfreeze_from": "c3"})),
    "best": _BEST,
    "again": replace(_BEST, tuning=_BEST.tuning.model_copy(update={"refit_head": True})),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="cifar10.tar or its folder: train and test folders")
    parser.add_argument("--recipe", choices=RECIPES, default="quick")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--try-on", type=int, help="choose on so many of the training images")
    arguments = parser.parse_args()
    on = f", tried on {arguments.try_on:,}" if arguments.try_on else ""
    cells = []
    with tempfile.TemporaryDirectory() as folder:
        data = cifar10.unpacked(arguments.data, Path(folder))
        for seed in range(arguments.seeds):
            measured = partial(measure, data, RECIPES[arguments.recipe], arguments.try_on, seed)
            cells.append(results.cell("one_epoch", f"{arguments.recipe}, seed {seed}{on}", measured))
    for name in ("accuracy", "mirrored_accuracy", "minutes"):
        found = [cell[name] for cell in cells]
        print(f"{name:20}{statistics.fmean(found):8.4f} {min(found):8.4f} {max(found):8.4f}")


def measure(data: Path, recipe: Recipe, try_on: int | None, seed: int) -> dict[str, Any]:
    """Train once and score once, with nothing in the cache."""
    steps = Steps(STEPS, Console(stderr=True))
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        images = some(labelled.read(data / "train"), try_on, seed) if try_on else labelled.read(data)
        with steps.step("check the images", len(images)) as advance:
            # The test split holds a few copies of its own images.
            checked = dataset.prepare(images, data, dataset.Plan("skip", seed=seed), cache, advance)
        train, test = checked.splits["train"], checked.splits["test"]
        card = backbones.ready(backbones.card(BACKBONE), None, download=False)
        ground = Ground(
            card=card,
            geometry=backbones.sized(card, recipe.crop_px, recipe.crop_px),
            train=train,
            validation=(),
            counts=tuned.counts(train, len(checked.data.labels)),
            turns=False,
            cache=cache,
            seed=seed,
        )
        probed = probe(ground, checked.data.labels, train[: recipe.probed], steps)
        plan = Candidate.model_validate(
            {
                "regime": "large-different",
                "start": "linear probe",
                "taps": (EMBEDDING,),
                "augmentation": recipe.augmentation,
                "tuning": recipe.tuning,
            }
        )
        made = tuned.fine_tune(ground, plan, probed, steps)
        expected = np.array([sample.label for sample in test])
        plain = tuned.answers(made.module, ground, test, steps).logits
        seconds = dict(steps.seconds)
        mirrored = tuned.answers(lambda shown: made.module(shown.flip(2)), ground, test, steps).logits
    record = made.tuned.record
    return {
        "accuracy": float((plain.argmax(1) == expected).mean()),
        "mirrored_accuracy": float(((plain + mirrored).argmax(1) == expected).mean()),
        "minutes": sum(seconds.values()) / 60,
        "seconds_by_step": seconds,
        "train_images": len(train),
        "test_images": len(test),
        "leaks": len(checked.data.leaks),
        "crop_px": recipe.crop_px,
        "probed_images": recipe.probed,
        "augmentation": recipe.augmentation,
        "images_per_s": len(train) * recipe.tuning.epochs / record.seconds,
        "loss": record.history[-1].loss,
        "plan": record.plan.model_dump(),
        "settings": record.settings.model_dump(exclude={"range_test", "notes"}),
    }


def probe(ground: Ground, labels: tuple[str, ...], part: Sequence[Sample], steps: Steps) -> Probed:
    """The head to start from."""
    with steps.step("load the backbone"):
        extractor = features.extractor(ground.card, ground.geometry, ground.cache)
    source = Source(tuple(part), extractor, views(0), labels, ground.cache, ground.seed)
    with steps.step("extract features", len(part)) as advance:
        source.extract((), advance)
    with steps.step("train the head"):
        fitted = source.fit("linear", [(EMBEDDING,)])
    return Probed(fitted.head, fitted.module)


def some(images: Sequence[LabelledImage], count: int, seed: int) -> list[LabelledImage]:
    """So many images, equally many of each class."""
    by_class = defaultdict(list)
    for image in images:
        by_class[image.label].append(image)
    random = np.random.default_rng(seed)
    each = count // len(by_class)
    return [same[place] for same in by_class.values() for place in random.permutation(len(same))[:each]]


if __name__ == "__main__":
    main()
