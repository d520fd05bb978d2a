"""The evidence is that of the authors' formulas, written out."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from tests.training.advice.drawn import telling
from training.advice.log_me import log_me


def written_out(features: NDArray[np.float64], target: NDArray[np.float64]) -> float:
    """Algorithm 1 of arXiv:2102.11005 with whole matrices, for one class."""
    images, width = features.shape
    alpha = beta = 1.0
    for _ in range(50):
        precision = alpha * np.eye(width) + beta * features.T @ features
        mean = beta * np.linalg.solve(precision, features.T @ target)
        used = float(np.trace(beta * np.linalg.solve(precision, features.T @ features)))
        alpha, beta = used / float(mean @ mean), (images - used) / float(((features @ mean - target) ** 2).sum())
    precision = alpha * np.eye(width) + beta * features.T @ features
    mean = beta * np.linalg.solve(precision, features.T @ target)
    logs = width / 2 * np.log(alpha) + images / 2 * np.log(beta) - images / 2 * np.log(2 * np.pi)
    errors = beta / 2 * ((features @ mean - target) ** 2).sum() + alpha / 2 * mean @ mean
    return float((logs - errors - np.linalg.slogdet(precision)[1] / 2) / images)


@pytest.mark.parametrize("columns", [10, 90])  # fewer and more than images
def test_it_is_what_the_formulas_say(columns: int) -> None:
    labels = torch.arange(60) % 3
    features = telling(labels, columns, 0.3)
    with threadpool_limits(1):
        expected = np.mean(
            [written_out(features.double().numpy(), (labels == each).double().numpy()) for each in range(3)]
        )
    assert log_me(features, labels, 3) == pytest.approx(expected, abs=0.01)


def test_features_that_tell_more_have_more_of_it() -> None:
    labels = torch.arange(90) % 3
    found = [log_me(telling(labels, 10, apart), labels, 3) for apart in (0.0, 0.5, 2.0)]
    assert found == sorted(found)


def test_features_that_are_all_the_same_have_some() -> None:
    assert np.isfinite(log_me(torch.zeros(10, 4), torch.arange(10) % 2, 2))
