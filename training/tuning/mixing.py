"""Mixes the images of a batch and what is said of them; does not know how the images came to look as they do."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MIXUP_ALPHA = 0.2


@dataclass(frozen=True)
class Rows:
    """Images side by side.

    Attributes:
        pixels: uint8 `[B, H, W, 3]`.
        targets: float32 `[B, C]`, each row the part of each class.
        weights: float32 `[B]`, above 0.
    """

    pixels: NDArray[np.uint8]
    targets: NDArray[np.float32]
    weights: NDArray[np.float32]


def mixed(own: Rows, others: Rows, random: np.random.Generator) -> Rows:
    """Mix images with as many others, by mixup (arXiv:1710.09412) or cutmix (arXiv:1905.04899), all by the same part.

    Args:
        own: The images.
        others: What each is mixed with.
        random: What is drawn, comes from it alone.

    Returns:
        The mixed images. What an image counts goes with its part, into the targets as well.
    """
    if random.random() < 0.5:
        part = random.beta(_MIXUP_ALPHA, _MIXUP_ALPHA)
        pixels = np.rint(own.pixels * np.float32(part) + others.pixels * np.float32(1 - part)).astype(np.uint8)
    else:
        pixels, part = _cut(own.pixels, others.pixels, random)
    counted, others_counted = own.weights * part, others.weights * (1 - part)
    weights = counted + others_counted
    targets = (own.targets * counted[:, None] + others.targets * others_counted[:, None]) / weights[:, None]
    return Rows(pixels, targets.astype(np.float32), weights.astype(np.float32))


def _cut(
    own: NDArray[np.uint8], others: NDArray[np.uint8], random: np.random.Generator
) -> tuple[NDArray[np.uint8], float]:
    """Put a rectangle of the other images, of a part of their area that is uniform from 0 to 1, over the images."""
    height, width = own.shape[1:3]
    half = np.sqrt(random.random()) / 2
    across, down = random.random(), random.random()
    left, right = (round(max(0.0, min(1.0, across + side)) * width) for side in (-half, half))
    top, bottom = (round(max(0.0, min(1.0, down + side)) * height) for side in (-half, half))
    pixels = own.copy()
    pixels[:, top:bottom, left:right] = others[:, top:bottom, left:right]
    return pixels, 1 - (bottom - top) * (right - left) / (height * width)
