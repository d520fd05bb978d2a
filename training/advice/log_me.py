"""LogME (arXiv:2102.11005), the log evidence of a linear model of the labels; does not know what it is compared to."""

import math

import torch
from torch import Tensor
from torch.nn import functional

_ROUNDS = 11  # as the authors have it: the fixed point is near after a few
_TINY = 1e-12


def log_me(features: Tensor, labels: Tensor, classes: int) -> float:
    """The mean over classes of the log evidence of the class's indicator, for an image.

    Args:
        features: float32 `[N, D]`.
        labels: int64 `[N]`.
        classes: How many classes there are.

    Returns:
        A number; the higher the better, and only in comparison.
    """
    images, width = features.shape
    targets = functional.one_hot(labels, classes).double()  # [N, C]
    wide = width > images
    # Of the smaller of the two squares, which have the same values above 0.
    values, vectors = torch.linalg.eigh((features @ features.T if wide else features.T @ features).double())
    kept = values > max(float(values[-1]), _TINY) * 1e-6
    values, vectors = values[kept], vectors[:, kept]
    # The part of each target that lies along each direction of the rows, and what lies outside of all.
    along = vectors.T @ targets if wide else (vectors.T @ (targets.T @ features.double()).T) / values.sqrt()[:, None]
    squares = along.square()  # [k, C]
    outside = (targets.square().sum(dim=0) - squares.sum(dim=0)).clamp_min(0)  # [C]
    alpha, beta = torch.ones(classes, dtype=torch.float64), torch.ones(classes, dtype=torch.float64)
    for _ in range(_ROUNDS):
        shrunk, error, size = _fit(values[:, None], squares, outside, alpha, beta)
        alpha = (shrunk / (size + _TINY)).clamp_min(_TINY)
        beta = (images - shrunk).clamp_min(_TINY) / (error + _TINY)
    _, error, size = _fit(values[:, None], squares, outside, alpha, beta)
    spread = (alpha + beta * values[:, None]).log().sum(dim=0) + (width - len(values)) * alpha.log()
    evidence = width * alpha.log() + images * beta.log() - spread - beta * error - alpha * size
    return float((evidence / images - math.log(2 * math.pi)).mean() / 2)


def _fit(
    values: Tensor, squares: Tensor, outside: Tensor, alpha: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the most probable layer: how many directions it uses, its squared error and its squared size, `[C]` each."""
    total = alpha + beta * values  # [k, C]
    used = (beta * values / total).sum(dim=0)
    error = (squares * (alpha / total).square()).sum(dim=0) + outside
    size = (squares * values * (beta / total).square()).sum(dim=0)
    return used, error, size
