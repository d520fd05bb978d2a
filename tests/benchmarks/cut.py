"""Fine-tuning late layers with and without a cache of what the frozen layers before them make of the images.

    python -m tests.benchmarks.cut [--images 1000] [--epochs 4]

Solar cells of 224 px, each in two looks that the epochs show in turn: the same pixels in the same order either way, so
the accuracy has to be the same. Without the cache an epoch runs the whole backbone, with it only what learns. Filling
the cache is told apart, and after how many epochs it has paid. Rounds are interleaved; figures are medians over epochs.
A cell is kept as soon as it is measured: a second run goes on where the first was stopped.
"""

import argparse
import statistics
import tempfile
import time
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from export.run import EMBEDDING
from tests.benchmarks import bottleneck, elpv, results
from tests.benchmarks.bottleneck import BATCH, CARD, GEOMETRY, Images
from training import backbones, features
from training.fitting import Fitted
from training.parts import parts
from training.source import Source
from training.taps import TappedBackbone
from training.tuning import activations, augmentation, batches, imbalance, loop, pixels
from training.tuning.activations import CutFeed, Shown
from training.tuning.batches import Augmented
from training.tuning.feed import Feed
from training.tuning.loop import Learner, Lessons
from training.tuning.model import HEAD, Tunable
from training.tuning.order import Order
from training.tuning.origin import Origin
from training.tuning.plan import Plan, Precision
from training.tuning.record import Tuned
from training.views import PLAIN

# What learns, from little to much, and how its cache is kept.
CELLS: tuple[tuple[str, Precision], ...] = (("top", "fp32"), ("c5", "fp32"), ("c5", "bf16"), ("c4", "fp32"))
LOOKS, RATE, SEED = 2, 0.01, 0


@dataclass(frozen=True)
class Lesson:
    """What is learnt: images, the head to start from, a plan, and a folder that held nothing."""

    images: Images
    probe: Fitted
    plan: Plan
    folder: Path

    def learner(self) -> Learner:
        """The model as it starts, arranged for the plan."""
        backbone, _ = backbones.parted(backbones.pretrained(CARD))
        tapped = TappedBackbone(backbone, CARD.backbone, CARD.scaling)
        head = deepcopy(self.probe.module)
        model = Tunable(tapped, head, self.probe.head.taps, CARD.backbone, parts(backbone, CARD.backbone))
        model.arrange(self.plan)
        origins: dict[str, Origin] = {
            name: "warmed" if name.startswith(f"{HEAD}.") else "pretrained" for name in model.state_dict()
        }
        return Learner(model, origins, CARD.backbone.recipe)

    def looks(self) -> Augmented:
        """The images as they are shown without the cache."""
        framed = pixels.framed(self.images.train, GEOMETRY, self.folder, lambda _: None)
        counts = torch.bincount(self.images.labels(self.images.train)).tolist()
        data = batches.images(self.images.train, framed, imbalance.treat("none", counts))
        light = augmentation.preset("light", turns=True, images=len(framed), epochs=self.plan.epochs)
        return Augmented(data, Order(data.labels, BATCH), light, GEOMETRY, SEED, LOOKS)


@dataclass(frozen=True)
class Timed:
    """A training, and what its epochs took."""

    tuned: Tuned
    accuracy: float
    cpu_s: float

    @property
    def epoch_s(self) -> float:
        """The median over its epochs."""
        return statistics.median(epoch.seconds for epoch in self.tuned.record.history)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000, help="to learn from; half as many are tested on")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    images = bottleneck.choose(arguments.images)
    print(f"{'learns from':<12}{'kept as':<9}{'epoch':>9}{'cached':>9}{'ratio':>7}{'CPU':>7}{'paid after':>12}")
    for place, precision in CELLS:
        key = f"from {place}, kept as {precision}, {arguments.images} images, {arguments.epochs} epochs"
        kept = results.cell("cut", key, partial(measure, images, place, precision, arguments.epochs, arguments.rounds))
        print(
            f"{place:<12}{precision:<9}{kept['epoch_s']:>7.1f} s{kept['cached_epoch_s']:>7.1f} s{kept['ratio']:>7.2f}"
            f"{kept['cpu_ratio']:>7.2f}{kept['paid_after_epochs']:>5.1f} epochs"
        )


def measure(images: Images, place: str, precision: Precision, epochs: int, rounds: int) -> dict[str, float]:
    """Train twice, without the cache and with it, as often as there are rounds."""
    plan = Plan(unfreeze_from=place, rate=RATE, epochs=epochs, seed=SEED, precision="fp32", channels_last=True)
    plain, cached, filled_s, kept_bytes = [], [], [], 0
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            lesson = Lesson(images, probe(images, Path(folder)), plan, Path(folder))
            looks = lesson.looks()
            plain.append(timed(lesson, looks, "plain"))
            started_s = time.perf_counter()
            feed = fill(lesson, looks, precision)
            filled_s.append(time.perf_counter() - started_s)
            cached.append(timed(lesson, feed, "cached"))
            kept_bytes = sum(each.nbytes for each in feed.kept)
    epoch_s, cached_epoch_s = (statistics.median(each.epoch_s for each in runs) for runs in (plain, cached))
    filling_s = statistics.median(filled_s)
    return {
        "seed": SEED,
        "epoch_s": epoch_s,
        "cached_epoch_s": cached_epoch_s,
        "ratio": cached_epoch_s / epoch_s,
        "cpu_ratio": statistics.median(each.cpu_s for each in cached) / statistics.median(each.cpu_s for each in plain),
        "filling_s": filling_s,
        "paid_after_epochs": filling_s / (epoch_s - cached_epoch_s),
        "kept_bytes": kept_bytes,
        "accuracy": plain[0].accuracy,
        "cached_accuracy": cached[0].accuracy,
        "largest_difference": largest_difference(plain[0].tuned, cached[0].tuned),
        "test_images": len(images.test),
    }


def probe(images: Images, cache: Path) -> Fitted:
    """The head that both start from."""
    extractor = features.extractor(CARD, GEOMETRY, cache)
    source = Source(tuple(images.train), extractor, (PLAIN,), tuple(elpv.LABELS), cache, SEED)
    source.extract((), lambda _: None)
    return source.fit("linear", [(EMBEDDING,)])


def fill(lesson: Lesson, looks: Augmented, precision: Precision) -> CutFeed:
    model = lesson.learner().model.to(memory_format=torch.channels_last)
    shown = Shown(looks, LOOKS, looks.images, looks.sha256)
    kept = activations.kept(model, shown, precision, lesson.folder, lambda _: None)
    return CutFeed(kept, model.cut().prefix, looks)


def timed(lesson: Lesson, feed: Feed, name: str) -> Timed:
    learner = lesson.learner()
    started_s = time.process_time()
    tuned = loop.tune(learner, Lessons(feed, None, name), lesson.plan, lesson.folder / name, lambda _: None)
    cpu_s = time.process_time() - started_s
    return Timed(tuned, accuracy(learner.model, lesson.images), cpu_s)


def accuracy(model: Tunable, images: Images) -> float:
    with torch.inference_mode():
        answered = torch.cat([model(batch).argmax(1) for batch in torch.split(bottleneck.decode(images.test), BATCH)])
    return float((answered == images.labels(images.test)).double().mean())


def largest_difference(first: Tuned, second: Tuned) -> float:
    """Between two weights that should be the same."""
    return max(float((each - second.state[name]).abs().max()) for name, each in first.state.items())


if __name__ == "__main__":
    main()
