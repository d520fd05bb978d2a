"""How images are changed at random while they are learnt from; validation and test never pass here.

torchvision's transforms draw from torch's one generator, which the training step uses at the same time for its dropout.
So only torchvision's functions are used, on Pillow images, and what is drawn comes from a generator that the caller
makes of seed, epoch and image: whatever asks, in whichever thread or process and order, gets the same pixels. Pillow's
whole-number arithmetic gives them on every machine, and asks for none of the threads that torch trains with.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, assert_never

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from service import image
from service.bundle import CropGeometry, Interpolation
from training import views

Preset: TypeAlias = Literal["none", "light", "medium", "strong"]

# Fewer of either and mixed images cost accuracy: a class must first be seen as it is (BiT, arXiv:1912.11370).
MIXING_EPOCHS = 5
MIXING_IMAGES = 20_000
_ERASED_AREA = (0.02, 0.33)
# What a picture is turned out of its frame shows: the grey in the middle, and no edge of black.
_GREY = [128, 128, 128]
_FILTERS = {
    Interpolation.INTERPOLATION_BILINEAR: Image.Resampling.BILINEAR,
    Interpolation.INTERPOLATION_BICUBIC: Image.Resampling.BICUBIC,
}


def _moved(
    picture: Image.Image, right: float = 0.0, down: float = 0.0, shear: tuple[float, float] = (0.0, 0.0)
) -> Image.Image:
    moved: Image.Image = functional.affine(
        picture,
        angle=0.0,
        translate=[round(right * picture.width), round(down * picture.height)],
        scale=1.0,
        shear=[math.degrees(math.atan(each)) for each in shear],
        interpolation=InterpolationMode.BILINEAR,
        fill=_GREY,
    )
    return moved


# Each is told how strongly, from -1 to 1, where 1 is RandAugment's strongest (arXiv:1909.13719); but for shifts, of
# which it is less than half, because crops shift already.
_DISTORTIONS: tuple[Callable[[Image.Image, float], Image.Image], ...] = (
    lambda picture, _: picture,
    lambda picture, _: functional.autocontrast(picture),
    lambda picture, _: functional.equalize(picture),
    lambda picture, much: functional.rotate(picture, 30 * much, InterpolationMode.BILINEAR, fill=_GREY),
    lambda picture, much: _moved(picture, right=0.2 * much),
    lambda picture, much: _moved(picture, down=0.2 * much),
    lambda picture, much: _moved(picture, shear=(0.3 * much, 0.0)),
    lambda picture, much: _moved(picture, shear=(0.0, 0.3 * much)),
    lambda picture, much: functional.adjust_brightness(picture, 1 + 0.9 * much),
    lambda picture, much: functional.adjust_contrast(picture, 1 + 0.9 * much),
    lambda picture, much: functional.adjust_saturation(picture, 1 + 0.9 * much),
    lambda picture, much: functional.adjust_sharpness(picture, 1 + 0.9 * much),
    lambda picture, much: functional.posterize(picture, 8 - round(4 * abs(much))),
    lambda picture, much: functional.solarize(picture, 256 * (1 - abs(much))),
)


@dataclass(frozen=True)
class Augmentation:
    """What may happen to an image.

    Attributes:
        area: How much of the frame a crop shows at least; None for the crop that is served.
        mirrors: Whether every second image is mirrored.
        turns: Whether it is turned by 0, 90, 180 or 270 degrees (a crop that is no square by 0 or 180), for data of
            which nobody knows which side is up.
        distortion: How strong the one distortion of an image may be (TrivialAugment, arXiv:2103.10158), in parts of
            what RandAugment allows; 0 for none.
        erasing: The part of the images of which a rectangle becomes noise.
        mixing: Whether a batch is mixed: every other one by mixup, the others by cutmix.
    """

    area: float | None = None
    mirrors: bool = False
    turns: bool = False
    distortion: float = 0.0
    erasing: float = 0.0
    mixing: bool = False


def preset(name: Preset, *, turns: bool, images: int, epochs: int) -> Augmentation:
    """An augmentation by its name.

    Args:
        name: "none" shows images as they are served; "light" crops at least 0.6 of the frame, and mirrors, little
            enough for a single epoch; "medium" distorts, too; "strong" distorts more, erases and mixes.
        turns: Whether no side of the images is up.
        images: How many there are to learn from; for few of them nothing is mixed.
        epochs: How often each is shown; for few nothing is mixed.

    Returns:
        The augmentation.
    """
    match name:
        case "none":
            return Augmentation(turns=turns)
        case "light":
            return Augmentation(0.6, True, turns)
        case "medium":
            return Augmentation(0.5, True, turns, distortion=0.5)
        case "strong":
            can_mix = images >= MIXING_IMAGES and epochs >= MIXING_EPOCHS
            return Augmentation(0.35, True, turns, distortion=1.0, erasing=0.25, mixing=can_mix)
        case unknown:
            assert_never(unknown)


def augmented(
    frame: NDArray[np.uint8], how: Augmentation, geometry: CropGeometry, random: np.random.Generator
) -> NDArray[np.uint8]:
    """Change an image at random.

    Args:
        frame: uint8 `[h, w, 3]`, as `pixels.framed` keeps it.
        how: What may happen to it.
        geometry: How the service makes pixels: says the size of the crop, and the filter.
        random: What is drawn, comes from it alone.

    Returns:
        uint8 `[crop_height_px, crop_width_px, 3]`.
    """
    shown = _cropped(frame, how, geometry, random)
    if how.distortion:
        distort = _DISTORTIONS[random.integers(len(_DISTORTIONS))]
        shown = distort(shown, how.distortion * random.uniform(-1, 1))
    pixels = np.asarray(shown)
    if how.mirrors and random.random() < 0.5:
        pixels = pixels[:, ::-1]
    if how.turns:
        pixels = _turned(pixels, random)
    return _erased(pixels, random) if random.random() < how.erasing else pixels


def _cropped(
    frame: NDArray[np.uint8], how: Augmentation, geometry: CropGeometry, random: np.random.Generator
) -> Image.Image:
    if how.area is None:
        return Image.fromarray(image.read(frame, geometry, image.ImageLimits()))
    left, top, width, height = views.box(frame.shape[1], frame.shape[0], (how.area, 1.0), random)
    size = (geometry.crop_width_px, geometry.crop_height_px)
    box = (left, top, left + width, top + height)
    return Image.fromarray(frame).resize(size, _FILTERS[geometry.interpolation], box)


def _turned(pixels: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    quarters = int(random.integers(4))
    is_square = pixels.shape[0] == pixels.shape[1]
    return np.rot90(pixels, quarters if is_square else quarters // 2 * 2)


def _erased(pixels: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    left, top, box_width, box_height = views.box(width, height, _ERASED_AREA, random)
    changed = pixels.copy()
    changed[top : top + box_height, left : left + box_width] = random.integers(
        256, size=(box_height, box_width, 3), dtype=np.uint8
    )
    return changed
