"""How good answers are, and how sure that is; does not know who gave them."""

from math import sqrt

from torch import Tensor

from training.advice.evidence import Accuracy


def accuracy(right: Tensor, weights: Tensor) -> Accuracy:
    """The part of the images that are answered right.

    Args:
        right: bool `[N]`, at least one.
        weights: float64 `[N]`, above 0: how much each image counts.

    Returns:
        The part, with its standard error.
    """
    value = float((right * weights).sum() / weights.sum())
    count = _effective(weights)
    doubtful = (value * count + 1) / (count + 2)
    return Accuracy(value=value, error=sqrt(doubtful * (1 - doubtful) / count))


def gain(right: Tensor, other: Tensor, weights: Tensor) -> Accuracy:
    """How much more of the same images one answers right than another.

    Args:
        right: bool `[N]`, of the one.
        other: bool `[N]`, of the other.
        weights: float64 `[N]`.

    Returns:
        The difference, below 0 where it is less, with its standard error.
    """
    each = right.double() - other.double()
    value = float((each * weights).sum() / weights.sum())
    count = _effective(weights)
    square = (float((each.square() * weights).sum() / weights.sum()) * count + 1) / (count + 2)
    return Accuracy(value=value, error=sqrt(max(0.0, square - value**2) / count))


def _effective(weights: Tensor) -> float:
    """As how many images of equal weight these tell (Kish, 1965)."""
    return float(weights.sum() ** 2 / weights.square().sum())
