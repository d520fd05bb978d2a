"""What a pretraining is shown: several views of each image, and no label; does not know what is made of them.

A batch is a pure function of seed, epoch and step, as training.tuning.batches has it.
"""

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional

from export import ahead
from service import cpu
from service.bundle import CropGeometry
from training.tuning.augmentation import Augmentation, augmented
from training.tuning.order import Draws, Order
from training.tuning.pixels import Pixels

# Batches that are made and wait to be taken.
_AHEAD = 3
_MOST_THREADS = 4
# Tells these random numbers from those that others draw with the same seed and epoch.
_STREAM = 4
_COLOURED, _GREYED = 0.8, 0.2
# How far brightness and contrast, saturation, and hue may go (SimCLR, arXiv:2002.05709, at half its strength).
_LIGHT, _SATURATION, _HUE = 0.4, 0.4, 0.1


@dataclass(frozen=True)
class Look:
    """What may happen to a view of an image.

    Attributes:
        augmentation: Its crop, and whether it is mirrored and turned.
        recoloured: Whether its light and colours change, so that two views cannot be matched by them.
    """

    augmentation: Augmentation
    recoloured: bool


@dataclass(frozen=True)
class Views:
    """Batches of views, made in threads a few ahead.

    Attributes:
        pixels: The images, as `pixels.framed` keeps them.
        order: Which of them a step shows.
        look: What may happen to them.
        count: How many views each image has in a step.
        geometry: How large they are.
        seed: Every random number follows from it.
        sha256: Names the images.
    """

    pixels: Pixels
    order: Order
    look: Look
    count: int
    geometry: CropGeometry
    seed: int
    sha256: str

    def epoch(self, number: int, start_step: int = 0) -> Generator[Tensor]:
        """The batches of an epoch.

        Args:
            number: The epoch, from 0.
            start_step: The first step to make.

        Yields:
            uint8 `[count, B, crop_height_px, crop_width_px, 3]`.
        """
        draws = self.order.draws(self.seed, number)[start_step:]
        threads = max(1, min(_MOST_THREADS, cpu.usable() // 2))
        with closing(ahead.mapped(partial(self._batch, epoch=number), draws, threads, _AHEAD)) as made:
            for each in made:
                yield torch.from_numpy(each)

    def _batch(self, draws: Draws, epoch: int) -> NDArray[np.uint8]:
        frames = self.pixels.read(draws.places)
        height, width = self.geometry.crop_height_px, self.geometry.crop_width_px
        shown = np.empty((self.count, len(frames), height, width, 3), np.uint8)
        for view in range(self.count):
            for row, (frame, place) in enumerate(zip(frames, draws.places, strict=True)):
                random = np.random.default_rng([self.seed, epoch, view, place, _STREAM])
                shown[view, row] = _seen(frame, self.look, self.geometry, random)
        return shown


def _seen(
    frame: NDArray[np.uint8], look: Look, geometry: CropGeometry, random: np.random.Generator
) -> NDArray[np.uint8]:
    pixels = augmented(frame, look.augmentation, geometry, random)
    return _recoloured(pixels, random) if look.recoloured else pixels


def _recoloured(pixels: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    picture: Any = Image.fromarray(pixels)
    is_coloured, is_greyed = random.random() < _COLOURED, random.random() < _GREYED
    if is_coloured:
        picture = functional.adjust_brightness(picture, 1 + random.uniform(-_LIGHT, _LIGHT))
        picture = functional.adjust_contrast(picture, 1 + random.uniform(-_LIGHT, _LIGHT))
        picture = functional.adjust_saturation(picture, 1 + random.uniform(-_SATURATION, _SATURATION))
        picture = functional.adjust_hue(picture, random.uniform(-_HUE, _HUE))
    return np.asarray(functional.to_grayscale(picture, 3) if is_greyed else picture)
