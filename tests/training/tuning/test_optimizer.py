"""The optimizer holds what is trained, and what torch does with what is not."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tests.training.tuning.teacher import PARTS, plan, tunable
from training.tuning import optimizer, rates

KINDS = ["sgd", "adamw"]


def of(first: nn.Parameter, second: nn.Parameter) -> dict[str, Callable[[], Optimizer]]:
    return {
        "sgd": lambda: torch.optim.SGD([first, second], lr=0.1, momentum=0.9, weight_decay=0.1),
        "adamw": lambda: torch.optim.AdamW([first, second], lr=0.1, weight_decay=0.1),
    }


def parameter() -> nn.Parameter:
    return nn.Parameter(torch.ones(3, 2))


def backward(*parameters: nn.Parameter) -> None:
    torch.autograd.backward(torch.stack([(each**2).sum() for each in parameters]).sum())


def test_it_is_given_trained_parameters_alone() -> None:
    model = tunable()
    for unfreeze_from, parts in ((None, ()), ("c5", PARTS[4:]), ("c1", PARTS)):
        chosen = plan(unfreeze_from=unfreeze_from)
        model.arrange(chosen)
        trained = model.trained()
        by_part = rates.by_part(0.01, 0.5, parts)
        built = optimizer.build(chosen, trained, model.rates(by_part, 0.01), set())
        held = [each for group in built.param_groups for each in group["params"]]
        assert len(held) == len(trained)
        assert {id(each) for each in held} == {id(each) for each in trained.values()}
    assert (
        len(optimizer.build(plan(), {"head.linear.weight": parameter()}, {"head.linear.weight": 1}, set()).param_groups)
        == 1
    )


def test_norms_biases_and_what_is_anchored_do_not_decay() -> None:
    trained = {"matrix": parameter(), "anchored": parameter(), "bias": nn.Parameter(torch.ones(3))}
    built = optimizer.build(plan(weight_decay=0.3), trained, dict.fromkeys(trained, 0.1), {"anchored"})
    decays = {id(each): group["weight_decay"] for group in built.param_groups for each in group["params"]}
    assert [decays[id(each)] for each in trained.values()] == [0.3, 0.0, 0.0]


def test_sgd_is_the_default_with_a_momentum_after_nesterov() -> None:
    built = optimizer.build(plan(), {"a": parameter()}, {"a": 0.1}, set())
    assert isinstance(built, torch.optim.SGD)
    assert (built.defaults["momentum"], built.defaults["nesterov"]) == (0.9, True)
    assert isinstance(
        optimizer.build(plan(optimizer="adamw"), {"a": parameter()}, {"a": 0.1}, set()), torch.optim.AdamW
    )


def test_a_factor_is_of_the_highest_rate() -> None:
    trained = {"a": parameter(), "b": parameter()}
    built = optimizer.build(plan(), trained, {"a": 0.1, "b": 0.4}, set())
    for _ in range(2):
        optimizer.scale(built, 0.5)
    assert sorted(group["lr"] for group in built.param_groups) == [0.05, 0.2]


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_parameters_in_an_optimizer_do_no_harm_without_a_gradient(kind: str) -> None:
    """What the sources say is true as long as no gradient was ever there: neither decay nor momentum moves them."""
    learns, frozen = parameter(), parameter()
    frozen.requires_grad_(False)
    descent = of(learns, frozen)[kind]()
    for _ in range(3):
        backward(learns)
        descent.step()
        descent.zero_grad()
    assert torch.equal(frozen, torch.ones(3, 2))
    assert not torch.equal(learns, torch.ones(3, 2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cleared", [False, True])
def test_what_is_frozen_in_the_middle_goes_on_moving_unless_its_gradient_goes(kind: str, cleared: bool) -> None:
    """With `set_to_none=False` a gradient of zeros stays, and momentum and decay go on."""
    learns, frozen = parameter(), parameter()
    descent = of(learns, frozen)[kind]()
    backward(learns, frozen)
    descent.step()
    descent.zero_grad(set_to_none=cleared)
    frozen.requires_grad_(False)
    before = frozen.detach().clone()
    backward(learns)
    descent.step()
    assert torch.equal(frozen, before) == cleared


@pytest.mark.parametrize("kind", KINDS)
def test_an_optimizer_that_is_restored_goes_on_to_the_bit(kind: str) -> None:
    def made() -> tuple[dict[str, nn.Parameter], Optimizer]:
        trained = {"a": nn.Parameter(torch.linspace(-1, 1, 6).reshape(3, 2)), "b/c": nn.Parameter(torch.ones(4))}
        return trained, optimizer.build(plan(optimizer=kind), trained, {"a": 0.1, "b/c": 0.2}, set())

    def step(trained: dict[str, nn.Parameter], descent: Any) -> None:
        backward(*trained.values())
        descent.step()
        descent.zero_grad()

    whole, first = made()
    assert optimizer.tensors(first, whole) == {}
    step(whole, first)
    kept = {name: each.clone() for name, each in optimizer.tensors(first, whole).items()}
    resumed, second = made()
    with torch.no_grad():
        for name, each in whole.items():
            resumed[name].copy_(each)
    optimizer.restore(second, resumed, kept)
    step(whole, first)
    step(resumed, second)
    assert all(torch.equal(resumed[name], each) for name, each in whole.items())


def test_state_lies_in_memory_as_its_parameter_does() -> None:
    weight: Tensor = torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last)
    trained = {"a": nn.Parameter(weight)}
    descent = optimizer.build(plan(), trained, {"a": 0.1}, set())
    optimizer.restore(descent, trained, {"a/momentum_buffer": torch.rand(2, 3, 4, 4)})
    assert descent.state[trained["a"]]["momentum_buffer"].is_contiguous(memory_format=torch.channels_last)
