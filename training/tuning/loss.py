"""What a step is to make smaller; does not know how."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from training.tuning import feed
from training.tuning.depthwise import DepthwiseInFp32
from training.tuning.feed import Shown


@dataclass(frozen=True)
class Objective:
    """The cross-entropy between a model's answers and soft targets, and how the model is asked.

    Attributes:
        fabric: Brings tensors to the device.
        smoothing: The part of every target that goes to all classes alike.
        offset: float32 `[C]`, added to the logits while training (arXiv:2007.07314), or None.
        bf16: Whether matrices are multiplied as bfloat16; depthwise convolutions are not where that is slow.
        channels_last: How pixels lie in memory.
    """

    fabric: Any
    smoothing: float
    offset: Tensor | None
    bf16: bool
    channels_last: bool

    def ask(self, model: Callable[..., Tensor], batch: Shown) -> Tensor:
        """The logits float32 `[B, C]` of a batch."""
        shown = feed.laid_out(batch, self.fabric, self.channels_last)
        with self._autocast():
            return model(*shown).float()

    def answer(self, model: Callable[..., Tensor], pixels: Tensor) -> Tensor:
        """The logits float32 `[B, C]` of pixels uint8 `[B, H, W, 3]` on the device."""
        with self._autocast():
            return model(feed.pixels(pixels, self.channels_last)).float()

    @contextmanager
    def _autocast(self) -> Iterator[None]:
        device = self.fabric.device.type
        slow = DepthwiseInFp32() if self.bf16 and device == "cpu" else nullcontext()
        with torch.autocast(device, torch.bfloat16, enabled=self.bf16), slow:
            yield

    def loss(self, model: Callable[..., Tensor], batch: Shown) -> Tensor:
        """The loss of a batch, summed over its images, each as often as its weight says; divide by their sum."""
        logits = self.ask(model, batch)
        if self.offset is not None:
            logits = logits + self.fabric.to_device(self.offset)
        targets, weights = self.fabric.to_device((batch.targets, batch.weights))
        each = cross_entropy(logits, targets * (1 - self.smoothing) + self.smoothing / targets.shape[1])
        # An image without weight is only there to fill a share up: its loss may be anything, infinity too.
        return torch.where(weights > 0, each * weights, 0).sum()


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The cross-entropy of each image.

    Args:
        logits: float32 `[B, C]`.
        targets: float32 `[B, C]`, the part of each class.

    Returns:
        float32 `[B]`.
    """
    return -(targets * functional.log_softmax(logits, dim=1)).sum(1)
