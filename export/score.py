"""How good answers are, with 95 % confidence intervals; does not know who gave them.

Class sizes are taken as given, as a stratified split gives them. Ratios have Wilson's interval, which stays honest for
few images and for all or none of them right, where a bootstrap says that nothing can vary:

accuracy, recall, precision    the interval itself
F1 of a class                  the interval of x = right / (images and answers of the class), as F1 = 2 x / (1 + x)
balanced accuracy              the recalls' intervals, combined as variances are (Zou and Donner, 2008)
macro-F1                       a bootstrap of the answers within each class, as one mistake costs two classes; at least
                               as wide as the F1's intervals, combined likewise
calibration error              a bootstrap over images. Noise in the bins can only add to this figure: all of it may be
                               noise (low), and a resample has it twice, which is taken off again (high)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from export.document import Document

BINS = 15
# The quantile of the normal distribution that 2.5 % lie above.
_Z = 1.959964
_TAILS = (0.025, 0.975)
_RESAMPLES = 1000
_SEED = 3
# Softmax in float64 goes over so many rows at a time: 50,000 rows of 1,000 at once would take 0.4 GB, several times.
_ROWS = 1024


class Estimate(Document):
    """A figure and the 95 % confidence interval that it lies in."""

    value: float
    low: float
    high: float

    @model_validator(mode="after")
    def _within(self) -> "Estimate":
        if not self.low <= self.value <= self.high:
            raise ValueError(f"Expected a figure within its interval {self.low} to {self.high}. Got {self.value}")
        return self


class ClassScore(Document):
    """How good the answers about one class are; a ratio without images to take it of is None."""

    label: str
    images: int
    precision: Estimate | None
    recall: Estimate | None
    f1: Estimate | None


class Bin(Document):
    """The images whose highest probability lies in [low, high), or in [low, 1] in the last bin."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: Estimate


class Scores(Document):
    """How good the answers about a set of labelled images are.

    Attributes:
        confusion: The column of a class, that of an answer, and how many images of the one were answered with the
            other, for every pair that there is: of thousands of classes most pairs are not.
        reliability: The bins that hold images, rising.
    """

    images: int
    accuracy: Estimate
    balanced_accuracy: Estimate
    macro_f1: Estimate
    log_loss: float
    calibration_error: Estimate
    per_class: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, int, int], ...]
    reliability: tuple[Bin, ...]

    def matrix(self) -> NDArray[np.int64]:
        """The confusion matrix `[C, C]`: images by class (row) and answer (column)."""
        whole = np.zeros((len(self.per_class), len(self.per_class)), np.int64)
        for expected, answered, images in self.confusion:
            whole[expected, answered] = images
        return whole


def score(logits: NDArray[np.float32], expected: NDArray[np.int64], labels: Sequence[str]) -> Scores:
    """Hold answers against what was expected.

    A class without images has no recall and no F1, and does not count in balanced accuracy and macro-F1; a class that
    was never answered has no precision.

    Args:
        logits: float32 `[N, C]`, N at least 1, finite. The answer is the first largest.
        expected: int64 `[N]`, the column of the right class.
        labels: The C class names, by column.

    Returns:
        The figures. The intervals' resamples are the same every time.

    Raises:
        ValueError: The shapes do not fit, a logit is not finite, or a column does not exist.
    """
    _check(logits, expected, labels)
    answers = _answers(logits, expected)
    confusion = _confusion(expected, answers.column, len(labels))
    per_class = tuple(_class_score(confusion, column, label) for column, label in enumerate(labels))
    recalls = [each.recall for each in per_class if each.recall is not None]
    return Scores(
        images=len(expected),
        accuracy=wilson(int(confusion.trace()), len(expected)),
        balanced_accuracy=_mean(recalls),
        macro_f1=_macro_f1(confusion, [each.f1 for each in per_class if each.f1 is not None]),
        log_loss=float(answers.loss.mean()),
        calibration_error=_calibration_error(answers),
        per_class=per_class,
        confusion=tuple((row, column, int(confusion[row, column])) for row, column in np.argwhere(confusion).tolist()),
        reliability=_reliability(answers),
    )


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """The probabilities of logits.

    Args:
        logits: float32 `[N, C]`, finite, of any size.

    Returns:
        float64 `[N, C]`; each row sums to 1.
    """
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def wilson(right: int, images: int) -> Estimate:
    """A ratio with Wilson's interval (1927), as Brown, Cai and DasGupta (2001) recommend it for few images.

    Args:
        right: How many of the images count, 0 to all.
        images: How many there are, at least 1.

    Returns:
        The ratio and its interval, within [0, 1].
    """
    ratio = right / images
    middle = (ratio + _Z**2 / (2 * images)) / (1 + _Z**2 / images)
    half = _Z * np.sqrt(ratio * (1 - ratio) / images + _Z**2 / (4 * images**2)) / (1 + _Z**2 / images)
    return _estimate(ratio, middle - half, middle + half)


@dataclass(frozen=True)
class _Answers:
    """One answer an image: its column, its probability, whether it is right, and the loss."""

    column: NDArray[np.int64]  # [N]
    probability: NDArray[np.float64]  # [N]
    right: NDArray[np.bool_]  # [N]
    loss: NDArray[np.float64]  # [N]


def _check(logits: NDArray[np.float32], expected: NDArray[np.int64], labels: Sequence[str]) -> None:
    if logits.shape != (len(expected), len(labels)) or not logits.size:
        raise ValueError(
            f"Expected logits of at least one image as [{len(expected)}, {len(labels)}], a row for each expected class "
            f"and a column for each label. Received: {list(logits.shape)}."
        )
    finite = np.isfinite(logits).all(axis=1)
    if not finite.all():
        row = int(finite.argmin())
        raise ValueError(f"Expected finite logits. Received: {logits[row][~np.isfinite(logits[row])][0]} in row {row}.")
    if expected.min() < 0 or expected.max() >= len(labels):
        wrong = expected[(expected < 0) | (expected >= len(labels))][0]
        raise ValueError(f"Expected classes from 0 to {len(labels) - 1}. Received: {wrong}.")


def _answers(logits: NDArray[np.float32], expected: NDArray[np.int64]) -> _Answers:
    column = logits.argmax(axis=1)
    probability, loss = np.empty(len(logits)), np.empty(len(logits))
    for start in range(0, len(logits), _ROWS):
        rows = slice(start, start + _ROWS)
        block = logits[rows].astype(np.float64)  # [rows, C]
        top = block.max(axis=1)
        total = np.exp(block - top[:, None]).sum(axis=1)
        probability[rows] = 1 / total
        loss[rows] = np.log(total) + top - block[np.arange(len(block)), expected[rows]]
    return _Answers(column, probability, column == expected, loss)


def _confusion(expected: NDArray[np.int64], answered: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    return np.bincount(expected * classes + answered, minlength=classes**2).reshape(classes, classes)


def _class_score(confusion: NDArray[np.int64], column: int, label: str) -> ClassScore:
    images, answered = int(confusion[column].sum()), int(confusion[:, column].sum())
    right = int(confusion[column, column])
    return ClassScore(
        label=label,
        images=images,
        precision=wilson(right, answered) if answered else None,
        recall=wilson(right, images) if images else None,
        f1=_f1(wilson(right, images + answered - right)) if images else None,
    )


def _f1(jaccard: Estimate) -> Estimate:
    return Estimate(**{name: 2 * bound / (1 + bound) for name, bound in jaccard})


def _mean(estimates: Sequence[Estimate]) -> Estimate:
    value, low, high = np.array([(each.value, each.low, each.high) for each in estimates]).T
    # Wilson's intervals lean towards one half. Over many classes that would add up to a mean that leans, too.
    half = (high - low) / 2
    below, above = np.maximum(value - low, half), np.maximum(high - value, half)
    middle = value.mean()
    return _estimate(middle, middle - np.linalg.norm(below) / len(value), middle + np.linalg.norm(above) / len(value))


def _macro_f1(confusion: NDArray[np.int64], f1: Sequence[Estimate]) -> Estimate:
    alone = _mean(f1)
    low, high = np.quantile(_resampled_macro_f1(confusion), _TAILS)
    return _estimate(alone.value, min(alone.low, low), max(alone.high, high))


def _resampled_macro_f1(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    random = np.random.default_rng(_SEED)
    sizes = confusion.sum(axis=1)
    right = np.zeros((len(confusion), _RESAMPLES), np.int64)
    answered = np.zeros_like(right)
    for column in np.flatnonzero(sizes):
        # Most cells are empty where there are many classes, and an empty cell stays so.
        cells = np.flatnonzero(confusion[column])
        drawn = random.multinomial(sizes[column], confusion[column, cells] / sizes[column], _RESAMPLES).T
        answered[cells] += drawn
        right[column] = drawn[cells == column].sum(axis=0)
    present = sizes > 0
    f1 = 2 * right[present] / (sizes[present, None] + answered[present])  # [classes with images, resamples]
    return np.asarray(f1.mean(axis=0))


def _bins(answers: _Answers) -> NDArray[np.int64]:
    return np.minimum((answers.probability * BINS).astype(np.int64), BINS - 1)


def _calibration_error(answers: _Answers) -> Estimate:
    """How far confidence lies from accuracy, the mean over images of their bin's distance (Naeini and others, 2015)."""
    bins, gaps = _bins(answers), answers.right - answers.probability
    images = len(bins)
    found = np.bincount(bins, gaps, BINS) / images
    random = np.random.default_rng(_SEED)
    resampled = np.empty((_RESAMPLES, BINS))
    for each in resampled:
        chosen = random.integers(0, images, images)
        each[:] = np.bincount(bins[chosen], gaps[chosen], BINS) / images
    value = np.abs(found).sum()
    noise = np.quantile(np.abs(resampled - found).sum(axis=1), _TAILS[1])
    high = 2 * value - np.quantile(np.abs(resampled).sum(axis=1), _TAILS[0])
    # No bin's error is known better than that of all images together, which Wilson knows of few and of all alike.
    accuracy, confidence = wilson(int(answers.right.sum()), images), answers.probability.mean()
    noise = max(noise, accuracy.value - accuracy.low, accuracy.high - accuracy.value)
    return _estimate(value, value - noise, max(high, accuracy.high - confidence, confidence - accuracy.low))


def _reliability(answers: _Answers) -> tuple[Bin, ...]:
    bins = _bins(answers)
    return tuple(_bin(int(each), answers, bins == each) for each in np.unique(bins))


def _bin(place: int, answers: _Answers, inside: NDArray[np.bool_]) -> Bin:
    images = int(inside.sum())
    return Bin(
        low=place / BINS,
        high=(place + 1) / BINS,
        images=images,
        confidence=float(answers.probability[inside].mean()),
        accuracy=wilson(int(answers.right[inside].sum()), images),
    )


def _estimate(value: float, low: float, high: float) -> Estimate:
    """An interval within [0, 1] that holds its value, where rounding or a bootstrap would leave it out."""
    return Estimate(value=float(value), low=max(0.0, float(min(low, value))), high=min(1.0, float(max(high, value))))
