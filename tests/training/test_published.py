"""A published classifier answers for some of its classes as it did for all of them."""

import pytest
import torch
from torch import nn

from training import backbones, published
from training.backbones import Card
from training.errors import HeadError


def classifier(card: Card) -> nn.Linear:
    _, found = backbones.parted(backbones.pretrained(card))
    assert found is not None
    return found


def test_logits_are_those_of_the_classes_that_are_asked_for(small: Card) -> None:
    # In another order and another spelling, and not all of them.
    found = published.head(small, ("Eel", "bee", "CAT"))
    torch.manual_seed(0)
    whole = classifier(small)
    rows = torch.randn(4, whole.in_features)
    with torch.no_grad():
        answered, expected = found.module({"embedding": rows}), whole(rows)[:, [4, 1, 2]]
    torch.testing.assert_close(answered, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(found.module.get_parameter("linear.weight"), whole.weight[[4, 1, 2]])


def test_the_head_says_what_it_is_and_that_nothing_was_chosen(small: Card) -> None:
    found = published.head(small, ("ant", "dog"))
    assert not found.module.training
    assert (found.head.kind, found.head.taps) == ("linear", ("embedding",))
    assert found.result.parameters == 2 * (classifier(small).in_features + 1)
    assert (found.result.folds, found.result.trials, found.result.convergence) == (0, (), None)
    assert found.result.calibration is None


def test_a_class_that_it_was_not_published_with_is_refused(small: Card) -> None:
    with pytest.raises(HeadError, match=r"classes that small was published with. Received: moth, which it does not"):
        published.head(small, ("ant", "moth"))


def test_classes_of_imagenet_may_be_named_by_their_synsets() -> None:
    card = backbones.ready(backbones.card("efficientnet_lite0"))
    found = published.head(card, ("n01443537_goldfish", "tench", "n01484850"))
    whole = classifier(card)
    assert torch.equal(found.module.get_parameter("linear.weight"), whole.weight[[1, 0, 2]])


def test_of_many_such_classes_a_few_are_named(small: Card) -> None:
    unknown = tuple(f"moth {number}" for number in range(9))
    with pytest.raises(HeadError, match=r"Received: moth 0, moth 1, moth 2, moth 3, moth 4, which it does not know"):
        published.head(small, unknown)
