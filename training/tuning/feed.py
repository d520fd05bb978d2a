"""What a step is shown: pixels, or what a frozen prefix has made of them; does not know how either is drawn."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from training.tuning.batches import Batch


@dataclass(frozen=True)
class CutBatch:
    """Images for one step, as a frozen prefix has seen them.

    Attributes:
        map: float32 `[B, channels, h, w]` at the cut.
        taps: What the head reads before the cut, pooled: float32 `[B, D]` by name.
        targets: As a Batch has them, like the weights.
        weights: float32 `[B]`.
    """

    map: Tensor
    taps: Mapping[str, Tensor]
    targets: Tensor
    weights: Tensor


Shown: TypeAlias = Batch | CutBatch


class Feed(Protocol):
    """Batches of either kind; training.tuning.batches.Augmented is one."""

    @property
    def images(self) -> int:
        """How many images an epoch shows."""
        ...

    def steps(self, epoch: int) -> int:
        """How many steps an epoch has."""
        ...

    def epoch(self, number: int, start_step: int = 0, rank: int = 0, world: int = 1) -> Iterator[Shown]:
        """The batches of an epoch, from a step on; of several processes each gets its share of every batch."""
        ...


def laid_out(batch: Shown, fabric: Any, channels_last: bool) -> tuple[Any, ...]:
    """What a Tunable is called with to see a batch, on its device, and in memory as its convolutions like it."""
    if isinstance(batch, Batch):
        return (pixels(fabric.to_device(batch.pixels), channels_last),)
    form = torch.channels_last if channels_last else torch.contiguous_format
    return fabric.to_device(batch.map).contiguous(memory_format=form), fabric.to_device(dict(batch.taps))


def pixels(shown: Tensor, channels_last: bool) -> Tensor:
    """Pixels `[B, H, W, 3]` whose channels lie side by side in memory, as they come, or one behind the other."""
    return shown if channels_last else shown.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
