"""What of an image a backbone is shown: the image as it is served, its mirror image, and random crops in other light.

Every view follows from the file's bytes and the view's number alone, so a cache may keep it. Knows no backbone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from service import image
from service.bundle import CropGeometry, Interpolation
from service.image import Picture

# The part of the picture that an augmented view shows, its width to its height, and how far brightness, contrast and
# saturation go: little enough for classes that differ in a texture or a colour.
_AREA = (0.6, 1.0)
_RATIO = (3 / 4, 4 / 3)
_LIGHT = (0.8, 1.2)
_FILTERS = {
    Interpolation.INTERPOLATION_BILINEAR: InterpolationMode.BILINEAR,
    Interpolation.INTERPOLATION_BICUBIC: InterpolationMode.BICUBIC,
}


@dataclass(frozen=True)
class View:
    """One way to look at an image.

    Attributes:
        name: "plain", "mirrored", or "augmented-1" and so on.
        number: Which augmented view it is, from 1; 0 for the others.
    """

    name: str
    number: int = 0


PLAIN = View("plain")
MIRRORED = View("mirrored")


def views(count: int) -> tuple[View, ...]:
    """The plain view and `count` more, at least 0, to learn from: the mirror image first, then augmented ones."""
    return (PLAIN, MIRRORED, *(View(f"augmented-{number}", number) for number in range(1, count)))[: count + 1]


def pixels(picture: Picture, shown: Sequence[View], geometry: CropGeometry, sha256: bytes) -> NDArray[np.uint8]:
    """Make the pixels of several views of one image.

    Args:
        picture: As image.decode_for gives it.
        shown: The views.
        geometry: How pixels are made.
        sha256: Names the file that the picture is of; random views follow from it.

    Returns:
        `uint8 [views, crop_height_px, crop_width_px, 3]`, in their order.
    """
    plain = image.crop(picture, geometry)
    made = {PLAIN: plain, MIRRORED: plain[:, ::-1]}
    whole = picture.image
    return np.stack([made[each] if each in made else _augmented(whole, each, geometry, sha256) for each in shown])


def _augmented(picture: Image.Image, view: View, geometry: CropGeometry, sha256: bytes) -> NDArray[np.uint8]:
    # torchvision's own transforms draw from one generator that all threads share; only its functions are used. On a
    # Pillow image they end in Pillow, whose whole-number arithmetic gives the same pixels on every machine.
    random = np.random.default_rng([*sha256, view.number])
    left, top, width, height = box(picture.width, picture.height, _AREA, random)
    shown: Image.Image = functional.resized_crop(
        picture,
        top,
        left,
        height,
        width,
        [geometry.crop_height_px, geometry.crop_width_px],
        interpolation=_FILTERS[geometry.interpolation],
        antialias=True,
    )
    if random.random() < 0.5:
        shown = functional.horizontal_flip(shown)
    for adjust in (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation):
        shown = adjust(shown, random.uniform(*_LIGHT))
    return np.asarray(shown)


def box(
    width: int, height: int, area_range: tuple[float, float], random: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw the left, top, width and height of a part of a picture, in pixels.

    Args:
        width: The picture's.
        height: The picture's.
        area_range: How much of its area the part has at least and at most.
        random: What it is drawn with.

    Returns:
        At least one pixel; a part that would be wider or higher than the picture is cut.
    """
    area = width * height * random.uniform(*area_range)
    ratio = math.exp(random.uniform(*np.log(_RATIO)))
    # A picture that is too narrow for the box cuts it.
    box_width = min(width, max(1, round(math.sqrt(area * ratio))))
    box_height = min(height, max(1, round(math.sqrt(area / ratio))))
    left = int(random.integers(width - box_width + 1))
    top = int(random.integers(height - box_height + 1))
    return left, top, box_width, box_height
