"""Puts what came of a training into one page for a person; measures nothing itself.

The page needs no network and no script: styles, drawings and thumbnails are in it. Drawings are SVG that the template
writes, so that they follow the reader's colours, and every label and file name goes through its escaping.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.labelled import Split
from export.run import Run
from export.score import Bin, ClassScore, Estimate, Scores, softmax
from service.bundle import Interpolation
from training import charts, page, pictures
from training.advice.evidence import Evidence
from training.charts import Chart
from training.insight import gallery
from training.insight.gallery import Asked, Gallery
from training.pictures import Thumbnail
from training.result import Heat, Lookalike, Race, Result
from training.served import Served

TEMPLATE = "report.html.j2"
# A confusion matrix of more classes cannot be read, nor a table of all of them.
MATRIX_CLASSES = 40
LISTED_CLASSES = 40
CONFUSED_PAIRS = 20
MISTAKES = 24
PAIRS = 24
# As many colours as people tell apart.
MAP_CLASSES = 8
LISTED_FILES = 200
# Of how many right and wrong answers it is shown what spoke for them.
EXPLAINED = 4
# What a regime's name stands for.
REGIMES = {
    "as-is": "the published model as it is",
    "small-similar": "few images, like those of the pretraining",
    "small-different": "few images, unlike those of the pretraining",
    "large-similar": "many images, like those of the pretraining",
    "large-different": "many images, unlike those of the pretraining",
    "scratch": "no pretraining",
}
# Where a learning rate comes from, as Settings have it.
RATES = {
    "recipe/10": "a tenth of the rate that the backbone was pretrained with",
    "recipe": "the rate that the backbone was pretrained with",
    "range test": "found by the test below",
    "asked for": "as it was asked for",
}
_SURE = 1.96
_SEED = 0


@dataclass(frozen=True)
class HeldOut:
    """The held-out images that the pictures are made of: those of the test split, or of validation without one.

    Attributes:
        paths: N image files.
        expected: int64 `[N]`, the column of the right class.
        logits: float32 `[N, C]`, calibrated.
        embedding: float32 `[N, D]`.
    """

    paths: tuple[Path, ...]
    expected: NDArray[np.int64]
    logits: NDArray[np.float32]
    embedding: NDArray[np.float32]


@dataclass(frozen=True)
class Material:
    """What the page shows beside figures.

    Attributes:
        model: The model of the run, in eval mode.
        evidence: What spoke for a regime; None where nothing was gathered.
        curves: What a fine-tuning measured, a line of JSON a step; empty where there was none.
    """

    model: Served
    evidence: Evidence | None
    curves: str


@dataclass(frozen=True)
class _Runner:
    """A plan of a race: what came of it in each round, None where it was no longer in it."""

    regime: str
    trains: str
    chosen: bool
    heats: tuple[Heat | None, ...]


@dataclass(frozen=True)
class _Probed:
    """How well a linear layer on a stage does."""

    name: str
    note: str
    accuracy: Estimate


@dataclass(frozen=True)
class _Rival:
    """A way to answer, for comparison."""

    name: str
    description: str
    accuracy: Estimate


@dataclass(frozen=True)
class _Pair:
    """Images of one class, more than one, that were taken for another; `share` is of the class."""

    expected: str
    answered: str
    images: int
    share: float


@dataclass(frozen=True)
class _Mistake:
    """An image that was answered wrongly, with the probabilities of both classes."""

    path: Path
    expected: str
    answered: str
    probability: float
    probability_of_expected: float
    thumbnail: Thumbnail


@dataclass(frozen=True)
class _Near:
    """Two images that the backbone can hardly tell apart."""

    pair: Lookalike
    thumbnail: Thumbnail
    other: Thumbnail


@dataclass(frozen=True)
class _Point:
    """A place on the map, in [0, 1]; `mark` is the place of its class in the legend, or None."""

    x: float
    y: float
    mark: int | None
    right: bool
    title: str


@dataclass(frozen=True)
class _Map:
    points: tuple[_Point, ...]
    legend: tuple[str, ...]
    images: int


def render(result: Result, run: Run, held_out: HeldOut, material: Material) -> str:
    """Write the page.

    Args:
        result: What was measured.
        run: What was trained.
        held_out: What the pictures are made of; its images are those of the result's scores of that split.
        material: What else is drawn.

    Returns:
        One HTML document in UTF-8, complete in itself.
    """
    split: Split = "test" if "test" in result.scores else "validation"
    scores = result.scores[split]
    return page.render(
        TEMPLATE,
        {"percent": _percent, "number": _number, "plural": _plural, "gap": _gap, "sentence": _sentence},
        result=result,
        run=run,
        split=split,
        scores=scores,
        rivals=_rivals(result, split),
        usual=_usual(result, split),
        leaks=[leak for leak in result.data.leaks if leak.split in result.scores],
        near=_near(result.lookalikes or ()),
        classes=_classes(scores),
        listed_classes=LISTED_CLASSES,
        listed_files=LISTED_FILES,
        matrix=scores.matrix().tolist() if len(scores.per_class) <= MATRIX_CLASSES else None,
        pairs=_pairs(scores),
        mistakes=_mistakes(held_out, result.data.labels),
        map=_map(held_out, scores),
        gallery=_gallery(held_out, run, material.model),
        regimes=REGIMES,
        rates=RATES,
        race=_race(result.way.race),
        evidence=material.evidence,
        probed=_probed(material.evidence),
        curves=_curves(result, material.curves),
        range_test=_range_test(result),
        learning_curve=charts.of_learning_curve(material.evidence) if material.evidence else None,
        box=charts,
        interpolation=Interpolation.Name(run.geometry.interpolation).removeprefix("INTERPOLATION_").lower(),
    )


def _percent(ratio: float) -> str:
    return f"{ratio * 100:.1f}\N{NO-BREAK SPACE}%"


def _number(count: int) -> str:
    return f"{count:,}"


def _plural(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _sentence(words: str) -> str:
    """With a capital: `str.capitalize` would make small letters of all others."""
    return words[:1].upper() + words[1:]


def _gap(each: Bin) -> float:
    return each.accuracy.value - each.confidence


def _usual(result: Result, split: Split) -> _Rival:
    """The answer that needs no picture: always the class that is most frequent in training."""
    column = int(np.argmax(result.data.images["train"]))
    per_class = result.scores[split].per_class[column]
    share = per_class.images / result.scores[split].images
    return _Rival(per_class.label, "the most frequent class in training, whatever the picture", _exactly(share))


def _exactly(value: float) -> Estimate:
    return Estimate(value=value, low=value, high=value)


def _rivals(result: Result, split: Split) -> list[_Rival]:
    return [
        _Rival(each.name, each.description, each.accuracy[split]) for each in result.rivals() if split in each.accuracy
    ]


def _classes(scores: Scores) -> list[ClassScore]:
    """All classes in their order where they can be read at a glance, else by falling need of attention."""
    if len(scores.per_class) <= LISTED_CLASSES:
        return list(scores.per_class)
    return sorted(scores.per_class, key=lambda each: each.f1.value if each.f1 else 2.0)


def _pairs(scores: Scores) -> list[_Pair]:
    confusion = scores.matrix()
    np.fill_diagonal(confusion, 0)
    order = np.argsort(-confusion, axis=None, kind="stable")[:CONFUSED_PAIRS]
    cells = [divmod(int(cell), len(confusion)) for cell in order]
    return [
        _Pair(
            scores.per_class[row].label,
            scores.per_class[column].label,
            int(confusion[row, column]),
            float(confusion[row, column]) / scores.per_class[row].images,
        )
        for row, column in cells
        if confusion[row, column] > 1
    ]


def _worst(held_out: HeldOut) -> NDArray[np.int64]:
    """The images that were answered wrongly, the one with the least probability of its class first."""
    wrong = np.flatnonzero(held_out.logits.argmax(axis=1) != held_out.expected)
    if not len(wrong):
        return wrong
    of_expected = softmax(held_out.logits[wrong])[np.arange(len(wrong)), held_out.expected[wrong]]
    return wrong[np.argsort(of_expected, kind="stable")]


def _mistakes(held_out: HeldOut, labels: tuple[str, ...]) -> list[_Mistake]:
    worst = _worst(held_out)[:MISTAKES]
    if not len(worst):
        return []
    answered, probabilities = held_out.logits.argmax(axis=1), softmax(held_out.logits[worst])
    thumbnails = _thumbnails(held_out.paths[each] for each in worst)
    return [
        _Mistake(
            held_out.paths[each],
            labels[held_out.expected[each]],
            labels[answered[each]],
            float(row.max()),
            float(row[held_out.expected[each]]),
            picture,
        )
        for each, row, picture in zip(worst, probabilities, thumbnails, strict=True)
    ]


def _thumbnails(paths: Iterable[Path]) -> list[Thumbnail]:
    with ThreadPoolExecutor(2) as decoders:
        return list(decoders.map(pictures.thumbnail, paths))


def _near(lookalikes: Sequence[Lookalike]) -> list[_Near]:
    shown = lookalikes[:PAIRS]
    thumbnails = _thumbnails(Path(each.path) for each in shown)
    others = _thumbnails(Path(each.other) for each in shown)
    return [_Near(*each) for each in zip(shown, thumbnails, others, strict=True)]


def _surest(held_out: HeldOut) -> NDArray[np.int64]:
    """The right answer of each class that is surest, the surest class first."""
    right = np.flatnonzero(held_out.logits.argmax(axis=1) == held_out.expected)
    if not len(right):
        return right
    order = right[np.argsort(-softmax(held_out.logits[right]).max(axis=1), kind="stable")]
    _, first = np.unique(held_out.expected[order], return_index=True)
    return order[np.sort(first)]


def _gallery(held_out: HeldOut, run: Run, model: Served) -> Gallery:
    answered = held_out.logits.argmax(axis=1)
    chosen = (*_surest(held_out)[:EXPLAINED], *_worst(held_out)[:EXPLAINED])
    return gallery.hang(
        model, run, [Asked(held_out.paths[each], int(held_out.expected[each]), int(answered[each])) for each in chosen]
    )


def _race(race: Race | None) -> list[_Runner]:
    """The plans of a race in their order, with a place for each round."""
    # Where no image could be held out, or a few in a hurry, there is none.
    if race is None or not race.heats:
        return []
    rounds = range(1, 1 + max(heat.round for heat in race.heats))
    runners = {heat.plan: heat for heat in race.heats}
    ran = {(heat.plan, heat.round): heat for heat in race.heats}
    return [
        _Runner(heat.regime, heat.trains, plan == race.chosen, tuple(ran.get((plan, each)) for each in rounds))
        for plan, heat in sorted(runners.items())
    ]


def _probed(evidence: Evidence | None) -> list[_Probed]:
    """The stages and the embedding, from input to output."""
    if evidence is None:
        return []
    probes = [each for each in evidence.probes if each.stride is not None or each.tap == evidence.depth.last]
    return [
        _Probed(
            each.tap,
            f"{each.width:,} numbers" + (f", stride {each.stride}" if each.stride else ""),
            Estimate(
                value=each.accuracy.value,
                low=max(0.0, each.accuracy.value - _SURE * each.accuracy.error),
                high=min(1.0, each.accuracy.value + _SURE * each.accuracy.error),
            ),
        )
        for each in probes
    ]


def _curves(result: Result, curves: str) -> tuple[Chart, ...]:
    return charts.of_training(curves, result.way.tuning) if result.way.tuning else ()


def _range_test(result: Result) -> Chart | None:
    test = result.way.tuning.settings.range_test if result.way.tuning else None
    return charts.of_range_test(test) if test else None


def _map(held_out: HeldOut, scores: Scores) -> _Map | None:
    images = len(held_out.paths)
    chosen = np.arange(images)
    if images > pictures.MAP_POINTS:
        chosen = np.sort(np.random.default_rng(_SEED).choice(images, pictures.MAP_POINTS, replace=False))
    places = pictures.flatten(held_out.embedding[chosen])
    if places is None:
        return None
    marks = _marks(scores)
    labels = [each.label for each in scores.per_class]
    answered = held_out.logits.argmax(axis=1)
    points = tuple(
        _Point(
            float(x),
            float(1 - y),
            marks.get(int(held_out.expected[each])),
            bool(answered[each] == held_out.expected[each]),
            f"{held_out.paths[each].name}: {labels[held_out.expected[each]]}, answered {labels[answered[each]]}",
        )
        for each, (x, y) in zip(chosen, places, strict=True)
    )
    return _Map(points, tuple(labels[column] for column in marks), images)


def _marks(scores: Scores) -> dict[int, int]:
    """The classes that get a colour, and its place: all of a few, else those with the most mistakes about them."""
    confusion = scores.matrix()
    present = np.flatnonzero(confusion.sum(axis=1))
    mistakes = confusion.sum(axis=1) + confusion.sum(axis=0) - 2 * confusion.diagonal()
    chosen = sorted(present, key=lambda column: (-mistakes[column], column))[:MAP_CLASSES]
    return {int(column): place for place, column in enumerate(sorted(chosen))}
