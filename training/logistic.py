"""Multinomial logistic regression to its optimum, for many strengths of L2 in a row; does not choose among them.

The loss is the weighted mean of the cross-entropy plus l2 / 2 times the squared weights (the bias is free), on
standardised features. L-BFGS alone needs hundreds of passes, because features of a backbone are strongly correlated. It
therefore works in coordinates in which Böhning's bound on the Hessian, half the covariance plus l2 (Annals of the
Institute of Statistical Mathematics 44, 1992), is nearly the identity. What makes them is the covariance's leading
eigenvectors, found once for all strengths of L2 and all folds; along all others the bound is taken for its mean.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional

# Of the gradient's largest entry, in the coordinates that the solver works in.
TOLERANCE = 1e-5
_MAX_ITERATIONS = 1000
_LEADING = 512
# Numbers up to which the layer that is kept is solved for in float64. In float32 the line search loses its way where
# few rows average the rounding; of many rows there is no need to, and no room.
_PRECISE = 2**25


@dataclass(frozen=True)
class Solution:
    """A linear layer, and how the solver ended: logits = features @ weight.T + bias.

    Attributes:
        weight: float32 `[C, D]`.
        bias: float32 `[C]`.
        gradient: Its largest entry at the end, in the coordinates that the solver works in.
        tolerance: What the gradient had to come under.
    """

    weight: Tensor
    bias: Tensor
    iterations: int
    gradient: float
    tolerance: float

    @property
    def converged(self) -> bool:
        """Whether the gradient came under the tolerance."""
        return self.gradient <= self.tolerance


class Problem:
    """Rows to learn from, with the coordinates that suit them.

    Args:
        features: float32 `[N, D]`, standardised.
        labels: int64 `[N]`, 0 to `classes` - 1.
        classes: How many columns the logits have.
    """

    def __init__(self, features: Tensor, labels: Tensor, classes: int) -> None:
        self._x = features
        self._labels = labels
        self._classes = classes
        self._vectors, self._values, self._rest = _spectrum(features)

    def solve(
        self, l2: float, weights: Tensor, start: Solution | None = None, tolerance: float = TOLERANCE
    ) -> Solution:
        """Find the layer of least loss.

        Args:
            l2: The strength of the penalty, above 0.
            weights: float64 `[N]`, how much each row counts; those of other folds 0.
            start: Where to begin: the solution for a neighbouring strength.
            tolerance: What the largest entry of the gradient must come under.

        Returns:
            The solution.
        """
        weights = weights / weights.sum()
        x = self._x.double() if tolerance <= TOLERANCE and self._x.numel() <= _PRECISE else self._x
        values = self._values.to(x.dtype)
        stretch = _Stretch(self._vectors.to(x.dtype), (values / 2 + l2).rsqrt(), (self._rest / 2 + l2) ** -0.5)

        def loss(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            flat, bias = self._parted(point)
            weight = stretch(flat.to(x.dtype))
            value, by_logit = self._cross_entropy(functional.linear(x, weight, bias.to(x.dtype)), weights)
            # In this order, rows of [C, D]: transposed, the product of so narrow a matrix took up to 19 times as long.
            along = stretch(by_logit.T @ x + l2 * weight)
            gradient = torch.cat([along.double().flatten(), by_logit.sum(dim=0, dtype=torch.float64)])
            return value + l2 / 2 * float(weight.double().square().sum()), gradient.numpy()

        # The threads of scipy's BLAS wait by spinning, and take the cores from torch's: six times slower on two cores.
        with threadpool_limits(1, user_api="blas"):
            found = minimize(
                loss,
                self._start(start, stretch).numpy(),
                jac=True,
                method="L-BFGS-B",
                options={"maxiter": _MAX_ITERATIONS, "gtol": tolerance, "ftol": 0.0, "maxcor": 20},
            )
        flat, bias = self._parted(found.x)
        weight = stretch(flat.to(x.dtype)).float()
        return Solution(weight, bias.float(), int(found.nit), float(np.abs(found.jac).max()), tolerance)

    def logits(self, solution: Solution, rows: Tensor) -> Tensor:
        """float32 `[len(rows), C]` of some of the rows, int64 indices."""
        return functional.linear(self._x[rows], solution.weight, solution.bias)

    def _parted(self, point: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        """The weight `[C, D]` in the solver's coordinates and the bias `[C]`, float64."""
        whole = torch.from_numpy(point)
        return whole[: -self._classes].reshape(self._classes, -1), whole[-self._classes :]

    def _start(self, start: Solution | None, stretch: "_Stretch") -> Tensor:
        if start is None:
            return torch.zeros((self._x.shape[1] + 1) * self._classes, dtype=torch.float64)
        weight = stretch.inverse()(start.weight.to(stretch.vectors.dtype))
        return torch.cat([weight.double().flatten(), start.bias.double()])

    def _cross_entropy(self, logits: Tensor, weights: Tensor) -> tuple[float, Tensor]:
        """The weighted mean and its gradient by logit, both `[N, C]`."""
        # In float64 from here: near the optimum the line search compares losses that differ in the ninth digit.
        logs = torch.log_softmax(logits.double(), dim=1)  # [N, C]
        value = -(logs.gather(1, self._labels[:, None])[:, 0] * weights).sum()
        by_logit = logs.exp_()
        by_logit[torch.arange(len(self._labels)), self._labels] -= 1
        return float(value), by_logit.mul_(weights[:, None]).to(logits.dtype)


@dataclass(frozen=True)
class _Stretch:
    """A symmetric matrix `[D, D]` by its eigenvectors `[D, k]`, their eigenvalues `[k]`, and one for all others."""

    vectors: Tensor
    values: Tensor
    rest: float

    def __call__(self, rows: Tensor) -> Tensor:
        """Rows `[C, D]`, of the dtype of the vectors, times it."""
        return self.rest * rows + (rows @ self.vectors * (self.values - self.rest)) @ self.vectors.T

    def inverse(self) -> "_Stretch":
        return _Stretch(self.vectors, 1 / self.values, 1 / self.rest)


def _spectrum(features: Tensor) -> tuple[Tensor, Tensor, float]:
    """The leading eigenvectors of the covariance `[D, k]`, their eigenvalues `[k]`, and the mean of all others.

    By a random projection and one pass back and forth (arXiv:0909.4061, algorithms 4.4 and 5.1): nearly is enough.
    """
    rows, columns = features.shape
    draw = torch.Generator().manual_seed(0)
    probe = torch.randn(columns, min(_LEADING, rows, columns), generator=draw)
    basis = torch.linalg.qr(features @ probe).Q  # [N, k]
    basis = torch.linalg.qr(features @ (features.T @ basis)).Q
    part = basis.T @ features  # [k, D]
    # Of the small square, which takes a tenth of the time of a decomposition of the part itself.
    values, rotation = torch.linalg.eigh((part @ part.T).double() / rows)
    leading = values > values.max() * 1e-6  # what is smaller is noise of float32, and divided by below
    values, rotation = values[leading].float(), rotation[:, leading].float()
    vectors = part.T @ rotation / (values * rows).sqrt()
    rest = float(features.square().sum(dtype=torch.float64)) / rows - float(values.sum())
    return vectors, values, max(rest, 0.0) / max(1, columns - len(values))
