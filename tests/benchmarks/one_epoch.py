"""CIFAR-10 by a single pass over its 50,000 training images, after a head that was fitted to a part of them.

    python -m tests.benchmarks.one_epoch --data cifar10.tar --recipe quick|best|again [--seeds 3] [--try-on 10000]

EfficientNet-Lite0 with ImageNet weights. The head starts as a linear probe of the frozen backbone (LP-FT,
arXiv:2202.10054): a feature pass over a part of the training images, which is counted in the minutes like every other
step, from the first look at the files to the last answer. `--try-on` chooses: it takes so many of the training images,
learns from four fifths and scores the others, so that the test images choose nothing. Kept apart: the same model when
its answers to an image and its mirror image are averaged, which costs a service twice the time.

`again` takes a second look: behind the one pass the backbone is frozen, the features of all training images, and of
their mirror images, are computed once, and a head on all stages and probes is solved on them.
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
import torch
from numpy.typing import NDArray
from rich.console import Console
from safetensors.torch import save_file

from export import labelled
from export.labelled import LabelledImage
from export.progress import Steps
from export.run import EMBEDDING, LOGITS
from tests.benchmarks import cifar10, results
from training import backbones, dataset, features, fitting, tuned
from training.advice.candidates import Candidate
from training.dataset import Sample
from training.heads import LinearHead, Scaler
from training.logistic import Problem
from training.served import Served
from training.source import Source
from training.tuned import Ground, Probed
from training.tuning import pixels
from training.tuning.batches import Plain
from training.tuning.plan import Plan
from training.views import PLAIN, views

BACKBONE = "efficientnet_lite0"
STEPS = 9
# Of the head behind the pass: of 0.1, 0.03 and 0.01 that which had most right with `--try-on 20000` at 96 px.
L2 = 0.1
# A tenth of it answered 4,000 images no better, for ten times the iterations.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Recipe:
    """How the pass is made.

    Attributes:
        crop_px: The side of the images, which have 32 pixels, when the backbone sees them.
        probed: How many of the training images the head is first fitted to.
        augmentation: How far images are changed.
        tuning: All else.
        looks_again: Whether a head is fitted to the features that the pass ended with.
    """

    crop_px: int
    probed: int
    augmentation: str
    tuning: Plan
    looks_again: bool = False


_COMMON = Plan(unfreeze_from="c1", rate=5e-4, optimizer="adamw", weight_decay=0.02)
_BEST = Recipe(256, 10_000, "none", _COMMON.model_copy(update={"batch_size": 32, "rate": 3.5e-4}))
RECIPES = {
    "quick": Recipe(96, 10_000, "none", _COMMON.model_copy(update={"unfreeze_from": "c3"})),
    "best": _BEST,
    "again": replace(_BEST, looks_again=True),
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
            classes=len(checked.data.labels),
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
        if recipe.looks_again:
            plain, module = look_again(ground, made.module, checked.data.labels, test, steps)
        else:
            plain, module = tuned.answers(made.module, ground, test, steps).logits, made.module
        seconds = dict(steps.seconds)
        mirrored = answers_of(module, ground, test, mirrored=True)
        before = answers_of(made.module, ground, test) if recipe.looks_again else plain
    record = made.tuned.record
    return {
        "accuracy": float((plain.argmax(1) == expected).mean()),
        "mirrored_accuracy": float(((plain + mirrored).argmax(1) == expected).mean()),
        "one_pass_accuracy": float((before.argmax(1) == expected).mean()),
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


def look_again(
    ground: Ground, module: Served, labels: tuple[str, ...], test: Sequence[Sample], steps: Steps
) -> tuple[NDArray[np.float32], Served]:
    """What a head on the features of a fine-tuned backbone makes of the test images, and the model with that head."""
    steps.more(3)
    file = ground.cache / "tuned.safetensors"
    save_file({name: each.contiguous() for name, each in module.backbone.module.state_dict().items()}, file)
    with steps.step("load the backbone"):
        card = backbones.ready(backbones.card(BACKBONE), file)
        extractor = features.extractor(card, ground.geometry, ground.cache)
    source = Source(ground.train, extractor, views(1), labels, ground.cache, ground.seed)
    with steps.step("extract features", 2 * len(source.train) + len(test)) as advance:
        source.extract(test, advance)
    with steps.step("train the head"):
        head = solved(source, taps := card.backbone.taps())
    module = Served(backbones.parted(backbones.pretrained(card))[0], head, card.backbone, card.scaling)
    with steps.step("ask about held-out images"):
        found = features.rows(test, PLAIN, extractor, ground.cache, taps)
        with torch.inference_mode():
            answers = head({tap: torch.from_numpy(rows) for tap, rows in found.items()}).numpy()
    return answers, module


def solved(source: Source, taps: tuple[str, ...]) -> LinearHead:
    """A head of one strength of penalty: the backbone has learnt from these images, so that none of them could say
    which strength is right for others.
    """
    matrix = source.matrix(taps)
    scaler = Scaler.of(matrix, [source.extractor.taps[tap] for tap in taps])
    labels = torch.tensor([sample.label for sample in source.train]).repeat(len(source.shown))
    problem = Problem(scaler.standardise_(matrix), labels, len(source.classes))
    solution = problem.solve(L2, torch.ones(len(labels), dtype=torch.float64), tolerance=TOLERANCE)
    return fitting.linear_head(taps, solution, scaler)


def answers_of(
    module: Served, ground: Ground, samples: Sequence[Sample], *, mirrored: bool = False
) -> NDArray[np.float32]:
    """What a model makes of images, or of their mirror images: float32 `[N, C]`."""
    kept = pixels.served(samples, ground.geometry, ground.cache, lambda _: None)
    batches = Plain(kept, np.array([sample.label for sample in samples]), np.ones(len(samples)), 64).batches()
    with torch.inference_mode():
        shown = (batch.pixels.flip(2) if mirrored else batch.pixels for batch in batches)
        return np.concatenate([module(each)[LOGITS].numpy() for each in shown])


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
