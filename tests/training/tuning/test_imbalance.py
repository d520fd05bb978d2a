"""Unequal classes are treated by how unequal they are, and what is done is said."""

import math
from typing import get_args

import numpy as np
import pytest
import torch
from torch.nn import functional

from training.errors import TuningError
from training.tuning.imbalance import Kind, choose, importance, treat


@pytest.mark.parametrize(
    ("counts", "kind"),
    [
        ((5,), "none"),
        ((100, 100), "none"),
        ((300, 100), "none"),
        ((301, 100), "class weights"),
        ((1000, 400, 100), "class weights"),
        ((1001, 400, 100), "logit adjustment"),
        ((1, 50_000), "logit adjustment"),
    ],
)
def test_the_treatment_follows_from_how_unequal_the_classes_are(counts: tuple[int, ...], kind: str) -> None:
    chosen = choose(counts)
    assert chosen.kind == kind
    ratio = max(counts) / min(counts)
    assert f"the most common class has {ratio:.3g} times as many images as the rarest" in chosen.reason


@pytest.mark.parametrize("kind", ["none", "balanced sampling"])
def test_nothing_else_changes_where_nothing_or_the_order_is_changed(kind: Kind) -> None:
    chosen = treat(kind, (10, 20))
    assert chosen.weights == (1.0, 1.0)
    assert chosen.offsets == (0.0, 0.0)
    assert chosen.log_prior == ((0.0, 0.0) if kind == "none" else pytest.approx((math.log(1 / 3), math.log(2 / 3))))
    also = "" if kind == "none" else "; models are compared with all classes alike"
    assert chosen.reason == f"{kind}, as asked for{also}"


def test_where_classes_are_treated_they_count_alike_and_elsewhere_images_do() -> None:
    labels = [0, 0, 0, 2, 2, 0]
    np.testing.assert_array_equal(importance(treat("none", (4, 1, 2)), labels), np.ones(6))
    treated = importance(treat("logit adjustment", (4, 1, 2)), labels)
    np.testing.assert_allclose(treated, [0.75, 0.75, 0.75, 1.5, 1.5, 0.75])
    assert importance(treat("class weights", (4, 1)), []).shape == (0,)


def test_class_weights_go_by_the_square_root_and_leave_the_learning_rate_as_it_is() -> None:
    weights = treat("class weights", (400, 100, 100)).weights
    assert weights[1] / weights[0] == pytest.approx(2)
    assert weights[1] == weights[2]
    assert np.dot(weights, (400, 100, 100)) == pytest.approx(600)


def test_adjusted_logits_learn_to_name_a_class_however_rare_it_is() -> None:
    # Of images that look alike, 99 of one class and 1 of the other: the logits that fit adjusted are equal.
    offsets = torch.tensor(treat("logit adjustment", (99, 1)).offsets, dtype=torch.float64)
    logits = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    loss = functional.cross_entropy((logits + offsets).expand(100, 2), torch.tensor([0] * 99 + [1]))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.abs().max() < 1e-12
    assert math.exp(offsets[1]) == pytest.approx(0.01)


@pytest.mark.parametrize("kind", get_args(Kind))
def test_without_its_prior_a_head_answers_as_one_that_was_trained_under_the_treatment(kind: Kind) -> None:
    # Of images that look alike, 90 of one class and 10 of the other: what minimises the loss is known.
    treated = treat(kind, (90, 10))
    counts = np.array([50, 50] if kind == "balanced sampling" else [90, 10]) * treated.weights
    under_treatment = np.log(counts) - treated.offsets
    on_all_alike = np.log([90, 10])
    difference = under_treatment - (on_all_alike - treated.log_prior)
    assert difference[0] == pytest.approx(difference[1])  # what is added to all logits changes no answer


@pytest.mark.parametrize(
    ("counts", "named"),
    [
        ((), "no class"),
        ((3, 0, 2, 0), r"none of the classes in the columns 1, 3"),
        ((1, float("nan")), r"none of the classes in the columns 1"),
        ((1, -1), r"none of the classes in the columns 1"),
    ],
)
def test_a_class_without_images_is_named(counts: tuple[float, ...], named: str) -> None:
    with pytest.raises(TuningError, match=rf"Expected images of every class\. Received: {named}"):
        choose(counts)


def test_a_treatment_that_there_is_not_is_named() -> None:
    with pytest.raises(TuningError, match=r"Expected one of none, class weights, logit .*\. Received: focal loss"):
        treat("focal loss", (1, 2))  # type: ignore[arg-type]
