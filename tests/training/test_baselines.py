"""Simple ways to use the same features, and what the head does better than they."""

from typing import Any

import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from training import baselines, fitting
from training.fitting import Examples


def drawn(images: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features as a backbone's: their scales differ by far, and what tells classes apart is not the largest."""
    centres = torch.randn(classes, 64, generator=torch.Generator().manual_seed(9))
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(images) % classes
    features = 0.5 * centres[labels] + torch.randn(images, 64, generator=random)
    return (features + 2) * torch.logspace(-2, 0.3, 64), labels


def accuracies(classes: int) -> dict[str, float]:
    learnt, held_out = drawn(300, classes, 1), drawn(600, classes, 2)
    found = baselines.compare(*learnt, {"test": held_out})
    return {each.name: each.accuracy["test"].value for each in found}


def test_each_way_is_tested_on_every_split_that_was_held_out() -> None:
    learnt = drawn(60, 3, 1)
    found = baselines.compare(*learnt, {"validation": drawn(12, 3, 2), "test": drawn(30, 3, 3)})
    assert [each.name for each in found] == ["kNN", "SGD head"]
    for each in found:
        assert list(each.accuracy) == ["validation", "test"]
        assert each.accuracy["test"].low <= each.accuracy["test"].value <= each.accuracy["test"].high


def test_knn_votes_among_the_nearest_by_cosine() -> None:
    (learnt, labels), (asked, expected) = drawn(100, 3, 1), drawn(50, 3, 2)
    found = baselines.compare(learnt, labels, {"test": (asked, expected)})
    reference = KNeighborsClassifier(20, metric="cosine", algorithm="brute").fit(learnt.numpy(), labels.numpy())
    right = float((reference.predict(asked.numpy()) == expected.numpy()).mean())
    assert found[0].accuracy["test"].value == pytest.approx(right)
    # Only the direction counts.
    scaled = asked * torch.linspace(0.1, 10, 50)[:, None]
    assert baselines.compare(learnt, labels, {"test": (scaled, expected)})[0] == found[0]


def test_fewer_images_than_neighbours_are_no_trouble() -> None:
    learnt = drawn(6, 2, 1)
    found = baselines.compare(*learnt, {"test": drawn(8, 2, 2)})
    assert found[0].description == "votes of the 6 nearest training images by cosine"


def test_the_optimizer_of_the_sgd_head_has_the_tensors_of_the_head_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    sgd: Any = torch.optim.SGD

    def seen(parameters: Any, **settings: float) -> Any:
        given.append((list(parameters), settings))
        return sgd(given[-1][0], **settings)

    monkeypatch.setattr(torch.optim, "SGD", seen)
    baselines.compare(*drawn(30, 3, 1), {"test": drawn(6, 3, 2)})
    ((parameters, settings),) = given
    assert [tuple(each.shape) for each in parameters] == [(3, 64), (3,)]
    assert settings == {"lr": 0.01, "momentum": 0.9}


def test_the_same_features_give_the_same_figures_whatever_was_drawn_before() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = baselines.compare(*drawn(60, 3, 1), {"test": drawn(90, 3, 2)})
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert baselines.compare(*drawn(60, 3, 1), {"test": drawn(90, 3, 2)}) == first


@pytest.mark.parametrize("classes", [3, 10])
def test_the_head_is_at_least_as_accurate_as_the_sgd_head_for_3_and_10_classes(classes: int) -> None:
    features, labels = drawn(300, classes, 1)
    unseen, expected = drawn(600, classes, 2)
    weights = torch.ones(300, dtype=torch.float64)
    learnt = Examples(
        lambda _: features.clone(),
        {"embedding": features.shape[1]},
        1,
        labels,
        weights,
        [None] * 300,
        [str(each) for each in range(classes)],
        0,
    )
    fitted = fitting.fit("linear", [("embedding",)], learnt)
    with torch.no_grad():
        accuracy = float((fitted.module({"embedding": unseen}).argmax(dim=1) == expected).double().mean())
    assert fitted.result.convergence is not None
    assert fitted.result.convergence.converged
    assert accuracy >= accuracies(classes)["SGD head"]
