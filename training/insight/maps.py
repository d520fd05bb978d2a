"""What each stage of a backbone makes of an image, as tiles to look at; does not know what a head reads of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from export.run import Stage
from training.taps import TappedBackbone


@dataclass(frozen=True)
class Tile:
    """One picture of a stage.

    Attributes:
        channel: Which channel it is; None for the mean over all of them, each without its sign.
        values: float32 `[h, w]`, 0 where it is lowest and 1 where it is highest; all 0 where it is the same everywhere.
    """

    channel: int | None
    values: NDArray[np.float32]


@dataclass(frozen=True)
class StageMap:
    """A stage and its tiles: the mean first, then the channels that differ most from cell to cell."""

    stage: Stage
    tiles: tuple[Tile, ...]


def look(
    backbone: TappedBackbone, stages: Sequence[Stage], pixels: NDArray[np.uint8], channels: int
) -> tuple[StageMap, ...]:
    """See what every stage makes of an image.

    Args:
        backbone: In eval mode.
        stages: Its stages.
        pixels: uint8 `[H, W, 3]`.
        channels: How many channels of each to show beside the mean.

    Returns:
        The stages in their order; each tile has the sides H / stride and W / stride.
    """
    with torch.inference_mode():
        answers = backbone(torch.tensor(pixels)[None])
    return tuple(StageMap(stage, _tiles(answers[stage.name][0].numpy(), channels)) for stage in stages)


def _tiles(map_: NDArray[np.float32], channels: int) -> tuple[Tile, ...]:
    """The tiles of a map `[channels, h, w]`."""
    busiest = np.argsort(-map_.std(axis=(1, 2)), kind="stable")[:channels]
    mean = Tile(None, _spread(np.abs(map_).mean(axis=0)))
    return (mean, *(Tile(int(channel), _spread(map_[channel])) for channel in busiest))


def _spread(values: NDArray[np.float32]) -> NDArray[np.float32]:
    low, size = values.min(), np.ptp(values)
    return np.asarray((values - low) / (size or 1), np.float32)
