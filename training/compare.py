"""Trains one backbone from several starts on one schedule, with few labels and with all; does not say which is better.

Every cell of the comparison, a start with a part of the labels, is kept in the cache as soon as it is done, so that the
same command goes on where it was stopped.
"""

import hashlib
import json
import math
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from export import score, staging
from export.errors import DataError
from export.progress import Steps
from export.run import EMBEDDING, geometry_message
from export.score import Estimate
from service.bundle import CropGeometry
from training import backbones, comparison, comparison_page, dataset, features, opening, splits, tuned
from training.advice.candidates import Candidate
from training.backbones import Card
from training.comparison import Cell, Comparison, Point, Start
from training.dataset import Dataset, Sample
from training.errors import TuningError
from training.pretraining import record
from training.question import Question
from training.source import Source
from training.store import write
from training.tuned import FineTuned, Ground, Probed
from training.tuning import devices
from training.tuning import plan as tuning
from training.views import PLAIN

PRETRAINED, RANDOM = "pretrained", "random"
_INIT = "init "
# Of every class so many labels are used at least: a probe is chosen by cross-validation.
_FEWEST_A_CLASS = 2
# A rate that rises and falls over fewer steps has done neither; but a tenfold schedule is enough for anybody.
_FEWEST_STEPS = 200
_MOST_TIMES = 10
# Raised when the same facts come to give other figures.
_REVISION = "3"
_SCHEDULE = (
    "everything trains, after a head that a probe gave where the backbone is not random; SGD with a momentum, the rate "
    "of each by one range test, rising and falling once; light augmentation; batch norms follow the images where the "
    "start is random, and keep their statistics elsewhere; the epoch that is best on validation is kept"
)


@dataclass(frozen=True)
class Order:
    """What to compare on which images.

    Attributes:
        question: Which images, and which backbone, by its name.
        pretrained: Whether the published weights are compared, too.
        init: Folders of pretrainings.
        fractions: The parts of the training images whose labels are used, each above 0 and at most 1.
        epochs: How often each image is shown; more often where that would be too few steps.
        batch_size: Images a step.
        reach: The accuracy that counts as arrived; None for nearly the best.
        out: The folder of what comes of it, which must not exist.
    """

    question: Question
    pretrained: bool
    init: tuple[Path, ...]
    fractions: tuple[float, ...]
    epochs: int
    batch_size: int
    reach: float | None
    out: Path


@dataclass(frozen=True)
class _Field:
    """What all cells have in common: the images, and how they are shown."""

    order: Order
    data: Dataset
    geometry: CropGeometry
    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]

    @property
    def test(self) -> tuple[Sample, ...]:
        return self.data.splits.get("test", ())


def compare(order: Order, steps: Steps) -> Comparison:
    """Train every start with every part of the labels; validation draws the curves, and the test is asked once.

    Args:
        order: What to compare.
        steps: Tells of two steps, and of those of every cell that is not in the cache.

    Returns:
        The comparison, its folder written whole.

    Raises:
        BackboneError: There is no such backbone, or weights are not what its card says.
        CacheError: The cache cannot be read or written.
        DataError: The images are not what they must be.
        HeadError: No head can be trained on them.
        TargetError: The folder exists.
        TuningError: The schedule cannot be followed, or there are several processes.
    """
    staging.refuse_existing(order.out)
    if (processes := devices.launched().world_size) > 1:
        raise TuningError(f"Expected one process to compare in. Received: {processes}.")
    cards = _cards(order)
    question = order.question
    # As from a random start, because each start has weights of its own.
    opened = opening.opened(replace(question, regime="scratch"), steps)
    data, geometry = opened.data, opened.geometry
    ground = _Field(order, data, geometry, *_parted(data, question.plan.seed))
    cells = tuple(
        _cell(ground, name, card, fraction, steps)
        for fraction in sorted(set(order.fractions))
        for name, card in cards.items()
    )
    found = Comparison(
        data=data.data,
        backbone=question.backbone,
        geometry=geometry,
        seed=question.plan.seed,
        schedule=_SCHEDULE,
        validation=len(ground.validation),
        reach=order.reach,
        starts=tuple(_start(name, card, ground) for name, card in cards.items()),
        cells=cells,
    )
    with steps.step("write the comparison"), staging.staged(order.out, beside=order.out.parent) as draft:
        (draft / comparison.COMPARISON).write_text(found.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (draft / comparison.PAGE).write_text(comparison_page.render(found), encoding="utf-8")
    return found


def _cards(order: Order) -> dict[str, Card | None]:
    """The starts; None for random numbers."""
    question = order.question
    card = backbones.card(question.backbone)
    cards: dict[str, Card | None] = {}
    if order.pretrained:
        cards[PRETRAINED] = backbones.ready(card, question.weights, question.download)
    cards |= {f"{_INIT}{folder}": backbones.ready(card, record.weights(folder)) for folder in order.init}
    return {**cards, RANDOM: None}


def _start(name: str, card: Card | None, ground: _Field) -> Start:
    if card is None:
        question = ground.order.question
        source = backbones.scratch(backbones.card(question.backbone), question.plan.seed)[0].backbone.source
        return Start(name=name, source=source, test_images_seen=0)
    if name == PRETRAINED:
        return Start(name=name, source=card.backbone.source, test_images_seen=None)
    seen = record.seen(Path(name.removeprefix(_INIT)))
    count = sum(sample.sha256 in seen for sample in ground.test)
    return Start(name=name, source=card.backbone.source, test_images_seen=count)


def _parted(data: Dataset, seed: int) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """The images to learn from, and those that draw the curves."""
    train = data.splits["train"]
    if "validation" in data.splits:
        return train, data.splits["validation"]
    learnt, asked = splits.hold_out(train, seed)
    if not asked:
        raise DataError(
            f"Expected images of which some can be held out to draw curves by. Received: {len(train)} for "
            f"{len(data.data.labels)} classes. Add images, or name a validation split."
        )
    return learnt, asked


def part(train: Sequence[Sample], fraction: float, seed: int) -> tuple[Sample, ...]:
    """A part of every class, the smaller parts within the larger ones; of groups as many as there can be.

    Args:
        train: The images.
        fraction: The part, above 0 and at most 1.
        seed: Draws others.

    Returns:
        At least two of each class, in the order in which they were.
    """
    by_class: defaultdict[int, list[int]] = defaultdict(list)
    for place in np.random.default_rng(seed).permutation(len(train)).tolist():
        by_class[train[place].label].append(place)
    chosen: list[int] = []
    for places in by_class.values():
        seen: Counter[str] = Counter()
        rank: dict[int, int] = {}
        for place in places:
            # An image without a group is a group of its own.
            group = train[place].group or f"image {place}"
            rank[place] = seen[group]
            seen[group] += 1
        places.sort(key=rank.__getitem__)
        chosen += places[: max(_FEWEST_A_CLASS, round(fraction * len(places)))]
    return tuple(train[place] for place in sorted(chosen))


def _cell(field: _Field, name: str, card: Card | None, fraction: float, steps: Steps) -> Cell:
    """A start with a part of the labels, from the cache where it was done before."""
    train = part(field.train, fraction, field.order.question.plan.seed)
    plan = _plan(field, card, len(train))
    path = field.order.question.cache / "comparisons" / f"{_digest(field, card, train, plan)}.json"
    if (kept := _kept(path)) is not None:
        # Few images may be the same ones for two parts.
        return kept.model_copy(update={"start": name, "fraction": fraction})
    steps.say(f"{name}, {100 * fraction:.3g} % of the labels: {len(train)} images, {_epochs(plan)} epochs")
    cell, made = _trained(field, name, card, fraction, train, plan, steps)
    write(path, cell.model_dump_json().encode())
    tuned.forget(made)
    return cell


def _kept(path: Path) -> Cell | None:
    try:
        return Cell.model_validate_json(path.read_bytes())
    # What is not there, or was torn, is computed again.
    except (OSError, ValidationError):
        return None


def _plan(field: _Field, card: Card | None, images: int) -> Candidate:
    order = field.order
    described = backbones.card(order.question.backbone).backbone
    steps = math.ceil(images / order.batch_size)
    epochs = max(order.epochs, min(math.ceil(_FEWEST_STEPS / steps), _MOST_TIMES * order.epochs))
    return Candidate(
        regime="scratch" if card is None else "large-different",
        start="random" if card is None else "linear probe",
        taps=(EMBEDDING,),
        augmentation="light",
        tuning=tuning.Plan(
            unfreeze_from=described.stages[0].name,
            rate="range test",
            batch_size=order.batch_size,
            epochs=epochs,
            layer_decay=1.0,
            batch_norm="train" if card is None else "eval",
            seed=order.question.plan.seed,
            # What is compared is the curve of the epochs, to its end.
            refit_head=False,
        ),
    )


def _epochs(plan: Candidate) -> int:
    assert plan.tuning is not None  # every one of these fine-tunes
    return plan.tuning.epochs


def _trained(  # noqa: PLR0917
    field: _Field,
    name: str,
    card: Card | None,
    fraction: float,
    train: tuple[Sample, ...],
    plan: Candidate,
    steps: Steps,
) -> tuple[Cell, FineTuned]:
    steps.more((2 if card is None else 4) + bool(field.test))
    started_s = time.monotonic()
    probed = None if card is None else _probed(field, card, train, steps)
    head_s = time.monotonic() - started_s
    ground = Ground(
        card=card or backbones.card(field.order.question.backbone),
        geometry=field.geometry,
        train=train,
        validation=field.validation,
        counts=tuned.counts(train, len(field.data.data.labels)),
        turns=False,
        cache=field.order.question.cache,
        seed=field.order.question.plan.seed,
    )
    made = tuned.fine_tune(ground, plan, probed, steps)
    best = made.tuned.record.best
    cell = Cell(
        start=name,
        fraction=fraction,
        images=len(train),
        epochs=_epochs(plan),
        rate=made.tuned.record.settings.rate,
        head_minutes=head_s / 60,
        curve=_curve(made, head_s),
        kept=0 if best is None else best + 1,
        test=_tested(ground, made, field.test, steps),
    )
    return cell, made


def _probed(field: _Field, card: Card, train: tuple[Sample, ...], steps: Steps) -> Probed:
    """The head that a probe of the frozen backbone gives."""
    question = field.order.question
    with steps.step("extract features", len(train)) as advance:
        extractor = features.extractor(card, field.geometry, question.cache)
        source = Source(train, extractor, (PLAIN,), field.data.data.labels, question.cache, question.plan.seed)
        source.extract((), advance)
    with steps.step("train the head"):
        fitted = source.fit("linear", [(EMBEDDING,)])
    return Probed(fitted.head, fitted.module)


def _curve(made: FineTuned, head_s: float) -> tuple[Point, ...]:
    told = made.tuned.record
    assert told.start is not None  # there are images to validate on
    points, seconds = [Point(epoch=0, accuracy=told.start.accuracy, minutes=head_s / 60)], head_s
    for epoch in told.history:
        assert epoch.score is not None  # as above
        seconds += epoch.seconds
        points.append(Point(epoch=epoch.number + 1, accuracy=epoch.score.accuracy, minutes=seconds / 60))
    return tuple(points)


def _tested(ground: Ground, made: FineTuned, test: tuple[Sample, ...], steps: Steps) -> Estimate | None:
    if not test:
        return None
    answered = tuned.answers(made.module, ground, test, steps).logits.argmax(1)
    right = int((answered == np.array([sample.label for sample in test])).sum())
    return score.wilson(right, len(test))


def _digest(field: _Field, card: Card | None, train: Sequence[Sample], plan: Candidate) -> str:
    """Names all that the figures of a cell follow from, but for the machine."""
    described = (card or backbones.card(field.order.question.backbone)).backbone
    facts = (_REVISION, described.architecture, card and card.digest(), plan.model_dump(mode="json"))
    hashed = hashlib.sha256(json.dumps(facts).encode())
    hashed.update(geometry_message(field.geometry).SerializeToString(deterministic=True))
    hashed.update(dataset.named(train, field.validation, field.test))
    return hashed.hexdigest()
