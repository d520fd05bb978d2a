"""Averages of weights over steps, which are often better than the last ones; does not know what the weights are of."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor


class Average:
    """The moving average of tensors, or their mean over the last steps.

    Args:
        kind: "ema" forgets steadily, and faster in the beginning, so that the start is not remembered for long; "tail"
            is the plain mean.
        over: How many steps it looks back, at least 1.
        steps: How many steps there will be.
    """

    def __init__(self, kind: Literal["ema", "tail"], over: int, steps: int) -> None:
        self._kind = kind
        self._over = over
        self._steps = steps
        self.tensors: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, learnt: Mapping[str, Tensor], step: int) -> None:
        """Take in the tensors as a step left them.

        Args:
            learnt: The tensors, the same names each time; float ones are averaged, others are as they are.
            step: From 0.
        """
        begins = self._steps - self._over if self._kind == "tail" else 0
        if step < begins:
            return
        seen = step - begins
        # (1 + t) / (10 + t) after TensorFlow's ExponentialMovingAverage.
        new = 1 / (seen + 1) if self._kind == "tail" else max(1 / self._over, 9 / (10 + seen))
        for name, tensor in learnt.items():
            if not seen or name not in self.tensors:
                self.tensors[name] = tensor.detach().clone()
            elif tensor.is_floating_point():
                self.tensors[name].lerp_(tensor, new)
            else:
                self.tensors[name].copy_(tensor)
