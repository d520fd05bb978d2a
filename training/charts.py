"""Puts figures of a training onto charts: where a line goes, where its axes are marked; draws and measures nothing."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from training.advice.evidence import Accuracy, Evidence
from training.tuning.record import Epoch, RangeTest, Record

WIDTH, HEIGHT = 480, 240
LEFT, RIGHT, TOP, BOTTOM = 56, 464, 22, 196
# More points than a line has pixels are weight alone.
_MOST_POINTS = 400
_TICKS = 4
# Of the mean that follows the loss of single steps.
_SMOOTHING = 0.9
_STEPS_OF_TEN = (1, 2, 5, 10)
_ROOM = 0.06
_SURE = 1.96
# Where zeros behind the point take more room than a power of ten.
_SMALL = 1e-3


@dataclass(frozen=True)
class Tick:
    """A mark at an axis, in pixels along it."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """A line; `points` as SVG has them, `name` for the legend."""

    name: str
    points: str
    faint: bool = False


@dataclass(frozen=True)
class Dot:
    """A figure with its range, if it has one, in pixels; `title` says it in words."""

    x: float
    y: float
    low: float
    high: float
    title: str


@dataclass(frozen=True)
class Chart:
    """A chart; `words` are for who cannot see it.

    Attributes:
        across: What the horizontal axis says, as `up` the vertical one.
        rule: Where an upright line stands, in pixels; None for nowhere.
    """

    title: str
    words: str
    across: str
    up: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...] = ()
    dots: tuple[Dot, ...] = ()
    rule: Tick | None = None


@dataclass(frozen=True)
class _Axis:
    """From numbers to pixels; a logarithmic one has only numbers above 0."""

    low: float
    high: float
    begin: float
    end: float
    text: Callable[[float], str]
    logarithmic: bool = False

    def at(self, value: float) -> float:
        low, high, place = (self._even(each) for each in (self.low, self.high, value))
        return round(self.begin + (self.end - self.begin) * ((place - low) / ((high - low) or 1)), 1)

    def _even(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value

    def ticks(self) -> tuple[Tick, ...]:
        places = _decades(self.low, self.high) if self.logarithmic else _round_numbers(self.low, self.high)
        return tuple(Tick(self.at(each), self.text(each)) for each in places)


def of_training(curves: str, record: Record) -> tuple[Chart, ...]:
    """Charts of loss and rate at every step and, where there was validation, its accuracy after every epoch.

    Args:
        curves: What was measured, a line of JSON a step; lines that are of no step are passed over.
        record: How the training went.

    Returns:
        The charts; none of what was not measured.
    """
    steps = [each for each in map(json.loads, curves.splitlines()) if "loss" in each and math.isfinite(each["loss"])]
    charts = [] if len(steps) < 2 else [_loss(steps), _rate(steps)]
    return (*charts, *_validation(record))


def of_range_test(test: RangeTest) -> Chart:
    """A chart of the loss at rising rates, with the rate that was taken."""
    x = _across(test.rates, _power, logarithmic=True)
    # What comes apart rises without a bound; the fall before it is what matters.
    shown = [min(loss, 2 * test.losses[0]) for loss in test.losses]
    y = _up(shown, _plain)
    return Chart(
        title="Learning-rate range test",
        words=f"Smoothed loss at learning rates from {test.rates[0]:.1e} to {test.rates[-1]:.1e}; "
        f"{test.chosen:.1e} was taken.",
        across="learning rate",
        up="loss",
        x_ticks=x.ticks(),
        y_ticks=y.ticks(),
        lines=(_line("loss", x, y, test.rates, shown),),
        rule=Tick(x.at(min(max(test.chosen, x.low), x.high)), f"taken: {test.chosen:.1e}"),
    )


def of_learning_curve(evidence: Evidence) -> Chart | None:
    """A chart of the probe's accuracy by the number of images that it learnt from; None of fewer than two numbers."""
    points = sorted(evidence.curve, key=lambda each: each.images)
    if len({each.images for each in points}) < 2:
        return None
    x = _across([each.images for each in points], _count, logarithmic=True)
    y = _up([end for each in points for end in _ends(each.accuracy)], _percent)
    dots = tuple(_dot(x.at(each.images), y, each.accuracy, f"{each.images:,} images") for each in points)
    kinds = (("in the proportions of the data", False), ("as many of each class", True))
    series = ((name, even, [each for each in points if (each.per_class is not None) == even]) for name, even in kinds)
    return Chart(
        title="More images",
        words="Accuracy of a linear layer on the embedding: " + "; ".join(dot.title for dot in dots) + ".",
        across="images learnt from",
        up="accuracy",
        x_ticks=x.ticks(),
        y_ticks=y.ticks(),
        lines=tuple(
            _line(name, x, y, [each.images for each in these], [each.accuracy.value for each in these], faint=even)
            for name, even, these in series
            if these
        ),
        dots=dots,
    )


def _ends(accuracy: Accuracy) -> tuple[float, float]:
    wide = _SURE * accuracy.error
    return max(0.0, accuracy.value - wide), min(1.0, accuracy.value + wide)


def _dot(x: float, y: _Axis, accuracy: Accuracy, words: str) -> Dot:
    low, high = _ends(accuracy)
    return Dot(x, y.at(accuracy.value), y.at(low), y.at(high), f"{words}: {accuracy.value:.1%}")


def _loss(steps: Sequence[dict[str, float]]) -> Chart:
    numbers, losses = [each["step"] for each in steps], [each["loss"] for each in steps]
    smooth = _smoothed(losses)
    x, y = _across(numbers, _count), _up([0.0, float(np.quantile(losses, 0.99)), *smooth], _plain)
    return Chart(
        title="Training loss",
        words=f"Training loss over {len(steps):,} steps: smoothed, it went from {smooth[0]:.3f} to {smooth[-1]:.3f}.",
        across="step",
        up="loss",
        x_ticks=x.ticks(),
        y_ticks=y.ticks(),
        lines=(
            _line("of each step", x, y, numbers, [min(loss, y.high) for loss in losses], faint=True),
            _line("smoothed", x, y, numbers, smooth),
        ),
    )


def _rate(steps: Sequence[dict[str, float]]) -> Chart:
    numbers, rates = [each["step"] for each in steps], [each["rate"] for each in steps]
    x, y = _across(numbers, _count), _up([0.0, *rates], _short)
    return Chart(
        title="Learning rate",
        words=f"Learning rate over {len(steps):,} steps: at most {max(rates):.2g}, {rates[-1]:.2g} in the last.",
        across="step",
        up="rate",
        x_ticks=x.ticks(),
        y_ticks=y.ticks(),
        lines=(_line("rate", x, y, numbers, rates),),
    )


def _validation(record: Record) -> tuple[Chart, ...]:
    scored = [(each, each.score) for each in record.history if each.score]
    if not scored:
        return ()
    start = [(0, record.start.accuracy)] if record.start else []
    points = [*start, *((each.number + 1, score.accuracy) for each, score in scored)]
    x = _across([number for number, _ in points], _count)
    y = _up([value for _, value in points], _percent)
    dots = tuple(
        Dot(x.at(number), y.at(value), y.at(value), y.at(value), f"{_after(number)}: {value:.1%}")
        for number, value in points
    )
    return (
        Chart(
            title="Validation accuracy",
            words="Validation accuracy: " + "; ".join(dot.title for dot in dots) + ".",
            across="epochs",
            up="accuracy",
            x_ticks=tuple(Tick(x.at(number), str(number)) for number in _epochs(record.history, len(start))),
            y_ticks=y.ticks(),
            lines=(_line("accuracy", x, y, [number for number, _ in points], [value for _, value in points]),),
            dots=dots,
        ),
    )


def _after(number: int) -> str:
    return f"after epoch {number}" if number else "before the first step"


def _epochs(history: Sequence[Epoch], start: int) -> range:
    """The epochs that are named at an axis: all of a few."""
    first, last = (0 if start else 1), len(history)
    return range(first, last + 1, max(1, math.ceil((last - first) / 10)))


def _across(values: Sequence[float], text: Callable[[float], str], *, logarithmic: bool = False) -> _Axis:
    return _Axis(min(values), max(values), LEFT, RIGHT, text, logarithmic)


def _up(values: Sequence[float], text: Callable[[float], str]) -> _Axis:
    low, high = min(values), max(values)
    room = _ROOM * (high - low) or abs(high) * _ROOM or 1.0
    # Where a chart begins at 0 it stays there.
    return _Axis(low - room if low else 0.0, high + room, BOTTOM, TOP, text)


def _line(  # noqa: PLR0917
    name: str, x: _Axis, y: _Axis, across: Sequence[float], up: Sequence[float], faint: bool = False
) -> Line:
    parts = np.array_split(np.arange(len(across)), min(len(across), _MOST_POINTS))
    means = ((float(np.take(across, part).mean()), float(np.take(up, part).mean())) for part in parts)
    return Line(name, " ".join(f"{x.at(each):g},{y.at(value):g}" for each, value in means), faint)


def _smoothed(values: Sequence[float]) -> list[float]:
    made = [values[0]]
    for value in values[1:]:
        made.append(_SMOOTHING * made[-1] + (1 - _SMOOTHING) * value)
    return made


def _round_numbers(low: float, high: float) -> list[float]:
    """Multiples of a round number, about four of them."""
    rough = (high - low) / _TICKS
    if not rough > 0:
        return [low]
    ten = 10.0 ** math.floor(math.log10(rough))
    step = next(each * ten for each in _STEPS_OF_TEN if each * ten >= rough * 0.999)
    return [number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten; of less than two of them also their doubles and halves."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    of_each = (1,) if math.log10(high / low) > 2 else (1, 2, 5)
    places = [each * 10.0**power for power in range(first, last + 1) for each in of_each]
    return [each for each in places if low * 0.999 <= each <= high * 1.001] or [low, high]


def _plain(value: float) -> str:
    return f"{value:.4g}"


def _short(value: float) -> str:
    return f"{value:.1e}" if 0 < value < _SMALL else f"{value:.3g}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _power(value: float) -> str:
    return f"{value:.0e}"


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"
