"""The pretrained classifier is asked about its own classes, and about others."""

import pytest
import torch
from torch import Tensor, nn

from tests.training.advice.drawn import noise
from training.advice.probes import Targets
from training.advice.source import source

NAMES = ("ant", "bee", "cat", "dog")


def classifier() -> nn.Linear:
    """Names the largest of four numbers."""
    layer = nn.Linear(4, 4)
    with torch.no_grad():
        layer.weight.copy_(5 * torch.eye(4))
        layer.bias.zero_()
    return layer


def known(labels: Tensor) -> Targets:
    return Targets(
        labels, torch.ones(len(labels), dtype=torch.float64), torch.arange(len(labels)) % 2, int(labels.max()) + 1
    )


def test_its_own_classes_are_told_as_they_are() -> None:
    labels = torch.arange(40) % 2
    embedding = nn.functional.one_hot(torch.tensor([3, 1])[labels], 4).float()  # dogs and bees
    found = source(embedding, classifier(), NAMES, ["Dog", "BEE"], known(labels))
    assert found.matched == 2
    assert found.as_is is not None
    assert found.as_is.value == 1
    assert found.mutual_information == pytest.approx(1)
    assert found.leep > -0.1
    assert found.confidence > 0.95
    assert found.entropy < 0.1


def test_answers_that_have_nothing_to_do_with_the_labels_tell_nothing_of_them() -> None:
    found = source(noise(60, 4, 0), classifier(), NAMES, ["left", "right"], known(torch.arange(60) % 2))
    assert abs(found.mutual_information) < 0.1
    assert found.leep == pytest.approx(-0.69, abs=0.1)  # a coin's
    assert found.as_is is None
    assert found.matched == 0


def test_all_labels_must_be_its_classes_for_it_to_serve_as_it_is() -> None:
    found = source(noise(20, 4, 0), classifier(), NAMES, ["ant", "spoon"], known(torch.arange(20) % 2))
    assert (found.matched, found.as_is) == (1, None)
