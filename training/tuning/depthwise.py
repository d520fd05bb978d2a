"""Computes depthwise convolutions in fp32 while the rest of a training step is bfloat16; knows nothing of the step.

oneDNN has no fast kernels for the bfloat16 gradients of most depthwise convolutions (any of 5 by 5 cells, any with a
stride) and falls to its reference, which takes 4 to 70 times as long as fp32 does: with it bfloat16 loses to fp32 in
every network of the EfficientNet kind, and without it wins (https://github.com/pytorch/pytorch/issues/183815).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_CONVOLUTION: tuple[Any, ...] = (functional.conv2d, torch.conv2d)
_GROUPS = 6  # its place among the arguments


class DepthwiseInFp32(TorchFunctionMode):
    """While it is entered, grouped convolutions on a CPU that will be differentiated compute in fp32, give bfloat16."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch, a grouped convolution in fp32."""
        named = dict(kwargs or {})
        if func not in _CONVOLUTION or _groups(args, named) == 1 or not torch.is_grad_enabled():
            return func(*args, **named)
        with torch.autocast("cpu", enabled=False):
            found: Tensor = func(*map(_widened, args), **{name: _widened(each) for name, each in named.items()})
        return found.bfloat16()


def _groups(args: Sequence[Any], named: Mapping[str, Any]) -> int:
    return int(args[_GROUPS]) if len(args) > _GROUPS else int(named.get("groups", 1))


def _widened(argument: object) -> object:
    return argument.float() if isinstance(argument, Tensor) else argument
