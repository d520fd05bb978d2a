"""Linear probes of every tap, and of the embedding on fewer images; does not know what follows from them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from export.progress import Advance
from export.run import Backbone
from training.advice import log_me, ridge, side_by_side
from training.advice.accuracy import accuracy, gain
from training.advice.evidence import Depth, Point, Probe
from training.advice.ridge import PENALTIES, Rows
from training.heads import Scaler

_PARTS = (1 / 4, 1 / 2, 1.0)
_PER_CLASS = (1, 5, 10, 50, 250)


@dataclass(frozen=True)
class Targets:
    """What is said of the images that evidence is gathered from.

    Attributes:
        labels: int64 `[N]`, 0 to `classes` - 1.
        weights: float64 `[N]`, above 0.
        folds: The fold of each image, int64 `[N]`, from 0.
        classes: How many classes there are.
    """

    labels: Tensor
    weights: Tensor
    folds: Tensor
    classes: int

    def rows(self, features: Tensor) -> Rows:
        """Standardised features `[N, D]` with all of this, as a new tensor."""
        return Rows(
            Scaler.of(features, [features.shape[1]]).standardise_(features.clone()),
            self.labels,
            self.weights,
            self.classes,
        )

    def parts(self) -> list[tuple[Tensor, Tensor]]:
        """For every fold that has images the indices of the others, and its own."""
        every = (
            (torch.nonzero(self.folds != number)[:, 0], torch.nonzero(self.folds == number)[:, 0])
            for number in range(int(self.folds.max()) + 1)
        )
        return [(learnt, asked) for learnt, asked in every if len(asked)]


@dataclass(frozen=True)
class TapProbe:
    """A probe, and which images it answered right when it had not learnt from them: bool `[N]`."""

    probe: Probe
    right: Tensor


def probe(tap: str, stride: int | None, features: Tensor, known: Targets) -> TapProbe:
    """Ask a linear layer on one tap, by cross-validation.

    Args:
        tap: Its name.
        stride: Of a stage.
        features: float32 `[N, D]`.
        known: What is said of the images.

    Returns:
        The probe with the strength of penalty that was best, the strongest of equals.
    """
    rows = known.rows(features)
    right = torch.zeros(len(PENALTIES), len(known.labels), dtype=torch.bool)
    for learnt, asked in known.parts():
        right[:, asked] = ridge.answers(rows, learnt, asked) == known.labels[asked]
    best = _best(right, known.weights)
    every = torch.arange(len(known.labels))
    learnt_right = (ridge.answers(rows, every, every) == known.labels)[best]
    found = Probe(
        tap=tap,
        stride=stride,
        width=features.shape[1],
        accuracy=accuracy(right[best], known.weights),
        learnt=accuracy(learnt_right, known.weights).value,
        penalty=PENALTIES[best],
        log_me=log_me.log_me(rows.features, known.labels, known.classes),
    )
    return TapProbe(found, right[best])


def every(taps: Mapping[str, Tensor], backbone: Backbone, known: Targets, advance: Advance) -> dict[str, TapProbe]:
    """Probe all taps of a backbone.

    Args:
        taps: float32 `[N, D]` each, by name.
        backbone: Names its stages.
        known: What is said of the images.
        advance: Told of every tap.

    Returns:
        The probes, by tap, in the order of the taps.
    """
    strides = {stage.name: stage.stride for stage in backbone.stages}

    def probe_one(tap: str) -> TapProbe:
        return probe(tap, strides.get(tap), taps[tap], known)

    found = {}
    for each in side_by_side.mapped(probe_one, list(taps)):
        found[each.probe.tap] = each
        advance(1)
    return found


def depth(stages: Sequence[TapProbe], known: Targets) -> Depth:
    """Where the labels are easiest to tell.

    Args:
        stages: The probes of the stages, from early to late, and of the embedding.
        known: What is said of the images.

    Returns:
        The best, the latest of equals, and what it gains.
    """
    best = max(reversed(stages), key=lambda each: each.probe.accuracy.value)
    more = gain(best.right, stages[-1].right, known.weights)
    enough = best.probe.accuracy.value - best.probe.accuracy.error
    simplest = next(each for each in stages if each.probe.accuracy.value >= enough)
    return Depth(
        best=best.probe.tap,
        last=stages[-1].probe.tap,
        gain=more.value,
        error=more.error,
        simplest=simplest.probe.tap,
    )


def curve(features: Tensor, known: Targets) -> tuple[Point, ...]:
    """Ask the same layer after it has learnt from fewer images.

    Args:
        features: float32 `[N, D]`.
        known: What is said of the images.

    Returns:
        A quarter, a half and all of what the folds leave, and as many images of each class as every class has; by how
        many images were learnt from.
    """
    rows = known.rows(features)
    parts = known.parts()
    scarcest = min(int(known.labels[learnt].bincount(minlength=known.classes).min()) for learnt, _ in parts)
    learnt: list[tuple[int | None, list[Tensor]]] = [
        (None, [_share(each, rows.labels, part) for each, _ in parts]) for part in _PARTS
    ]
    learnt += [
        (count, [_first(each, rows.labels, count) for each, _ in parts]) for count in _PER_CLASS if count <= scarcest
    ]
    points = side_by_side.mapped(partial(_point, rows, known), learnt)
    return tuple(sorted(points, key=lambda each: (each.images, each.per_class or math.inf)))


def _point(rows: Rows, known: Targets, of: tuple[int | None, list[Tensor]]) -> Point:
    per_class, learnt = of
    right = torch.zeros(len(PENALTIES), len(rows.labels), dtype=torch.bool)
    for some, (_, asked) in zip(learnt, known.parts(), strict=True):
        right[:, asked] = ridge.answers(rows, some, asked) == rows.labels[asked]
    return Point(
        images=round(sum(map(len, learnt)) / len(learnt)),
        per_class=per_class,
        accuracy=accuracy(right[_best(right, known.weights)], known.weights),
    )


def _best(right: Tensor, weights: Tensor) -> int:
    return int((right.double() @ weights).argmax())  # the first of equals


def _share(images: Tensor, labels: Tensor, part: float) -> Tensor:
    """The same part of each class's images, at least one."""
    counts = labels[images].bincount()
    wanted = (counts * part).ceil().long()
    return images[_places(labels[images]) < wanted[labels[images]]]


def _first(images: Tensor, labels: Tensor, count: int) -> Tensor:
    return images[_places(labels[images]) < count]


def _places(labels: Tensor) -> Tensor:
    """How many images of the same class come before each."""
    order = labels.argsort(stable=True)
    counts = labels.bincount()
    starts = counts.cumsum(0) - counts
    places = torch.empty_like(labels)
    places[order] = torch.arange(len(labels)) - starts[labels[order]]
    return places
