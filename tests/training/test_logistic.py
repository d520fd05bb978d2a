"""The optimum is scikit-learn's, from any start and with any weights, and how the solver ended is said truthfully."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from training import logistic
from training.heads import Scaler
from training.logistic import Problem, Solution

# Where the curvature is far under Böhning's bound a small gradient leaves some way to go, so what is compared number by
# number is solved for further than a head needs.
FINE = 1e-8


def drawn(rows: int, columns: int, classes: int) -> tuple[Tensor, Tensor]:
    """Standardised features that are strongly correlated, as a backbone's are, and labels that overlap."""
    random = torch.Generator().manual_seed(rows + columns + classes)
    labels = torch.arange(rows) % classes
    mixed = torch.randn(columns, columns, generator=random) * torch.linspace(1, 0.01, columns)
    features = torch.randn(rows, columns, generator=random) @ mixed.T
    features += 0.5 * torch.randn(classes, columns, generator=random)[labels]
    return Scaler.of(features, [columns]).standardise_(features), labels


def loss(features: Tensor, labels: Tensor, weights: Tensor, l2: float, weight: Tensor, bias: Tensor) -> float:
    logs = torch.log_softmax(features.double() @ weight.double() + bias.double(), dim=1)
    each = -logs.gather(1, labels[:, None])[:, 0]
    return float((each * weights).sum() / weights.sum() + l2 / 2 * weight.double().square().sum())


def reference(features: Tensor, labels: Tensor, weights: Tensor, l2: float) -> tuple[Tensor, Tensor]:
    """scikit-learn's weight `[D, C]` and bias `[C]`, its free constant taken off."""
    binary = int(labels.max()) == 1
    # For two classes it has one column, v = w1 - w0 with w0 = -w1, whose penalty weighs twice as much.
    strength = l2 * float(weights.sum()) / (2 if binary else 1)
    model = LogisticRegression(C=1 / strength, tol=1e-10, max_iter=20_000)
    model.fit(features.double().numpy(), labels.numpy(), sample_weight=weights.numpy())
    weight, bias = torch.from_numpy(model.coef_.T), torch.from_numpy(model.intercept_)
    if binary:
        weight, bias = torch.cat([-weight, weight], dim=1) / 2, torch.cat([-bias, bias]) / 2
    return weight, bias - bias.mean()


def is_optimum(found: Solution, features: Tensor, labels: Tensor, weights: Tensor, l2: float) -> None:
    """The loss is scikit-learn's to the sixth digit, each weight and bias to a thousandth of the largest."""
    assert found.converged
    weight, bias = reference(features, labels, weights, l2)
    least = loss(features, labels, weights, l2, weight, bias)
    assert loss(features, labels, weights, l2, found.weight.T, found.bias) == pytest.approx(least, rel=1e-6)
    torch.testing.assert_close(found.weight.T.double(), weight, rtol=0, atol=1e-3 * float(weight.abs().max()))
    bias_scale = max(1.0, float(bias.abs().max()))
    torch.testing.assert_close((found.bias - found.bias.mean()).double(), bias, rtol=0, atol=1e-3 * bias_scale)


@pytest.mark.parametrize("l2", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("classes", [2, 7])
@pytest.mark.parametrize(("rows", "columns"), [(200, 20), (60, 150)], ids=["more rows", "more columns"])
def test_the_optimum_is_scikit_learns(rows: int, columns: int, classes: int, l2: float) -> None:
    features, labels = drawn(rows, columns, classes)
    weights = torch.ones(rows, dtype=torch.float64)
    is_optimum(Problem(features, labels, classes).solve(l2, weights, tolerance=FINE), features, labels, weights, l2)


@pytest.mark.parametrize("precise", [True, False], ids=["float64", "float32"])
@pytest.mark.parametrize("l2", [1.0, 1e-2, 1e-4])
def test_the_loss_of_a_head_is_at_most_five_millionths_above_scikit_learns(
    l2: float, precise: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, labels = drawn(400, 150, 3)
    weights = torch.ones(400, dtype=torch.float64)
    if not precise:
        monkeypatch.setattr(logistic, "_PRECISE", 0)
    found = Problem(features, labels, 3).solve(l2, weights)
    least = loss(features, labels, weights, l2, *reference(features, labels, weights, l2))
    assert least - 1e-9 <= loss(features, labels, weights, l2, found.weight.T, found.bias) <= least + 5e-6
    assert found.weight.dtype == found.bias.dtype == torch.float32
    assert found.converged or not precise


@pytest.mark.parametrize("l2", [0.1, 1e-3])
def test_the_optimum_is_scikit_learns_where_most_directions_are_taken_for_their_mean(
    l2: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, labels = drawn(300, 120, 3)
    weights = torch.ones(300, dtype=torch.float64)
    monkeypatch.setattr(logistic, "_LEADING", 8)
    is_optimum(Problem(features, labels, 3).solve(l2, weights, tolerance=FINE), features, labels, weights, l2)


def test_the_optimum_is_scikit_learns_above_512_features() -> None:
    features, labels = drawn(700, 600, 2)
    weights = torch.ones(700, dtype=torch.float64)
    is_optimum(Problem(features, labels, 2).solve(1e-2, weights, tolerance=FINE), features, labels, weights, 1e-2)


def test_rows_count_by_their_weights() -> None:
    features, labels = drawn(150, 12, 3)
    weights = torch.from_numpy(np.random.default_rng(0).uniform(0.1, 5, 150))
    weights[::7] = 0
    is_optimum(Problem(features, labels, 3).solve(1e-2, weights, tolerance=FINE), features, labels, weights, 1e-2)


def test_a_row_of_weight_two_is_two_rows() -> None:
    features, labels = drawn(90, 12, 3)
    weights = torch.ones(90, dtype=torch.float64)
    weights[:30] = 2
    once = Problem(features, labels, 3).solve(1e-2, weights)
    doubled, theirs = torch.cat([features, features[:30]]), torch.cat([labels, labels[:30]])
    twice = Problem(doubled, theirs, 3).solve(1e-2, torch.ones(120, dtype=torch.float64))
    torch.testing.assert_close(once.weight, twice.weight, rtol=0, atol=1e-3 * float(twice.weight.abs().max()))


def test_rows_of_weight_nothing_are_not_there() -> None:
    features, labels = drawn(90, 12, 3)
    weights = torch.ones(90, dtype=torch.float64)
    weights[60:] = 0
    is_optimum(
        Problem(features, labels, 3).solve(1e-2, weights, tolerance=FINE),
        features[:60],
        labels[:60],
        weights[:60],
        1e-2,
    )


def test_a_constant_and_a_duplicated_feature_do_no_harm() -> None:
    features, labels = drawn(120, 10, 3)
    constant = torch.zeros(120, 1)  # as Scaler leaves it
    features = torch.cat([features, features[:, :1], constant], dim=1)
    weights = torch.ones(120, dtype=torch.float64)
    found = Problem(features, labels, 3).solve(1e-2, weights, tolerance=FINE)
    is_optimum(found, features, labels, weights, 1e-2)
    torch.testing.assert_close(found.weight[:, 10], found.weight[:, 0], rtol=0, atol=1e-4)
    assert float(found.weight[:, 11].abs().max()) == 0


def test_features_that_are_all_constant_leave_the_frequencies() -> None:
    labels = torch.tensor([0, 0, 0, 1])
    found = Problem(torch.zeros(4, 5), labels, 2).solve(1.0, torch.ones(4, dtype=torch.float64))
    assert found.converged
    torch.testing.assert_close(torch.softmax(found.bias, dim=0), torch.tensor([0.75, 0.25]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("began", [10.0, 1e-6])
def test_a_warm_start_ends_at_the_same_place(began: float) -> None:
    features, labels = drawn(200, 40, 4)
    weights = torch.ones(200, dtype=torch.float64)
    problem = Problem(features, labels, 4)
    cold = problem.solve(1e-3, weights)
    warm = problem.solve(1e-3, weights, problem.solve(began, weights))
    assert warm.converged
    torch.testing.assert_close(warm.weight, cold.weight, rtol=0, atol=1e-3 * float(cold.weight.abs().max()))


def test_a_start_at_the_optimum_ends_there_at_once() -> None:
    features, labels = drawn(200, 40, 4)
    weights = torch.ones(200, dtype=torch.float64)
    problem = Problem(features, labels, 4)
    cold = problem.solve(1e-3, weights)
    assert problem.solve(1e-3, weights, cold).iterations <= 3 < cold.iterations


@pytest.mark.parametrize("l2", [10**0.5, 1e-6])
def test_the_ends_of_the_path_converge_where_the_classes_can_be_told_apart(l2: float) -> None:
    features, labels = drawn(40, 100, 2)
    found = Problem(features, labels, 2).solve(l2, torch.ones(40, dtype=torch.float64))
    assert found.converged
    assert found.gradient <= found.tolerance == logistic.TOLERANCE
    assert 0 < found.iterations < 200


def test_a_solver_that_ran_out_of_iterations_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = drawn(200, 40, 4)
    monkeypatch.setattr(logistic, "_MAX_ITERATIONS", 2)
    found = Problem(features, labels, 4).solve(1e-4, torch.ones(200, dtype=torch.float64))
    assert found.iterations == 2
    assert found.gradient > found.tolerance
    assert not found.converged


def test_logits_are_those_of_the_rows_asked_about() -> None:
    features, labels = drawn(50, 6, 3)
    problem = Problem(features, labels, 3)
    found = problem.solve(0.1, torch.ones(50, dtype=torch.float64))
    rows = torch.tensor([7, 3, 40])
    torch.testing.assert_close(problem.logits(found, rows), features[rows] @ found.weight.T + found.bias)


def test_the_same_problem_gives_the_same_bits_whatever_was_drawn_before() -> None:
    features, labels = drawn(100, 30, 3)
    weights = torch.ones(100, dtype=torch.float64)
    torch.manual_seed(5)
    first = Problem(features, labels, 3).solve(1e-2, weights)
    state = torch.get_rng_state()
    second = Problem(features, labels, 3).solve(1e-2, weights)
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(torch.get_rng_state(), state)
