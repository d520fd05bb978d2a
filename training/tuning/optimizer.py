"""The optimizer of a fine-tuning, which holds what is trained and nothing else; does not know how far a step goes."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from training.tuning.plan import Plan

_MOMENTUM = 0.9


def build(plan: Plan, trained: Mapping[str, nn.Parameter], rates: Mapping[str, float], anchored: set[str]) -> Optimizer:
    """Make an optimizer.

    Args:
        plan: Which one, and its weight decay.
        trained: The parameters that learn, by name.
        rates: The highest learning rate of each.
        anchored: The parameters that L2-SP draws back, which therefore do not decay.

    Returns:
        The optimizer; each of its groups has its highest rate as "highest".
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        # Norms and biases are vectors, and nothing else is.
        decays = parameter.ndim > 1 and name not in anchored
        groups.setdefault((rates[name], plan.weight_decay if decays else 0.0), []).append(parameter)
    described = [
        {"params": parameters, "lr": rate, "highest": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]
    if plan.optimizer == "adamw":
        return torch.optim.AdamW(described)
    return torch.optim.SGD(described, momentum=_MOMENTUM, nesterov=True)


def scale(optimizer: Optimizer, factor: float) -> None:
    """Set every group to a part of its highest rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["highest"] * factor


def tensors(optimizer: Optimizer, trained: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """All that an optimizer remembers, by "parameter/what"."""
    return {f"{name}/{key}": each for name, key, each in _state(optimizer, trained)}


def restore(optimizer: Optimizer, trained: Mapping[str, nn.Parameter], kept: Mapping[str, Tensor]) -> None:
    """Make an optimizer remember what `tensors` gave of another; of a new one there is nothing."""
    for place, saved in kept.items():
        name, _, key = place.rpartition("/")
        parameter = trained[name]
        like = parameter if saved.shape == parameter.shape and saved.ndim else saved
        # As the parameter lies in memory, channels last or not, so that the next steps are as fast as they were.
        state = torch.empty_like(like, dtype=saved.dtype, device=parameter.device if saved.ndim else saved.device)
        optimizer.state[parameter][key] = state.detach().copy_(saved)


def _state(optimizer: Optimizer, trained: Mapping[str, nn.Parameter]) -> Iterator[tuple[str, str, Tensor]]:
    for name, parameter in trained.items():
        state: Mapping[str, Any] = optimizer.state.get(parameter, {})
        yield from ((name, key, each) for key, each in state.items() if isinstance(each, Tensor))
