"""The images that will prove a bundle wherever it is loaded: given ones, or generated; does not run any model."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from export.errors import GoldenError
from service import image
from service.bundle import MIN_GOLDEN_IMAGES, CropGeometry
from service.errors import BadImage

GENERATED = "generated"
MAX_IMAGES = 32
_SEED = 20260
# Portrait, landscape and square; odd sides; smaller and larger than a crop; one needle.
_SIZES = ((224, 224), (320, 240), (241, 333), (97, 61), (640, 427), (255, 511), (31, 500), (400, 400))


@dataclass(frozen=True)
class GoldenSet:
    """Encoded images and the pixels that a graph takes of them.

    Attributes:
        source: "generated", or the name of the folder that they came from.
        files: The encoded images, by the names that they will have, in the order of the pixels.
        pixels: `uint8 [images, H, W, 3]`.
    """

    source: str
    files: Mapping[str, bytes]
    pixels: NDArray[np.uint8]


def collect(folder: Path, geometry: CropGeometry, limits: image.ImageLimits) -> GoldenSet:
    """Take the first images of a folder by name, at most 32.

    Args:
        folder: Holds image files; other files and folders are passed over.
        geometry: How the graph's pixels are made.
        limits: What is refused.

    Returns:
        The images, byte for byte.

    Raises:
        GoldenError: They are fewer than 16, or one of them cannot be read.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in image.SUFFIXES)[:MAX_IMAGES]
    except OSError as error:
        raise GoldenError(f"Expected a folder of golden images. Received: {folder}: {error.strerror}.") from error
    if len(paths) < MIN_GOLDEN_IMAGES:
        raise GoldenError(
            f"Expected at least {MIN_GOLDEN_IMAGES} {image.NAMES} files in {folder}. Received: {len(paths)}."
        )
    files, pixels = {}, []
    for index, path in enumerate(paths):
        try:
            data = path.read_bytes()
            pixels.append(image.read(data, geometry, limits))
        except (OSError, BadImage) as error:
            raise GoldenError(f"Expected a golden image that can be read. Received: {path}: {error}") from error
        files[f"{index:02}{path.suffix.lower()}"] = data
    return GoldenSet(folder.resolve().name, files, np.stack(pixels))


def generate(geometry: CropGeometry) -> GoldenSet:
    """Draw sixteen images, the same ones every time: gradients, shapes, textures, grey and noise of many sizes.

    Args:
        geometry: How the graph's pixels are made.

    Returns:
        The images, as PNG.
    """
    files = {f"{index:02}.png": _encode(_draw(index)) for index in range(MIN_GOLDEN_IMAGES)}
    pixels = [image.read(data, geometry, image.ImageLimits()) for data in files.values()]
    return GoldenSet(GENERATED, files, np.stack(pixels))


def _draw(index: int) -> Image.Image:
    random = np.random.default_rng([_SEED, index])
    width, height = _SIZES[index % len(_SIZES)]
    paint = (_gradient, _shapes, _texture, _grey_noise)[index % 4]
    return paint(width, height, random)


def _gradient(width: int, height: int, random: np.random.Generator) -> Image.Image:
    start, end = random.integers(0, 256, (2, 3))
    along = np.linspace(0, 1, width)[None, :, None] * 0.5 + np.linspace(0, 1, height)[:, None, None] * 0.5
    return Image.fromarray((start + (end - start) * along).astype(np.uint8))  # [h, w, 3]


def _shapes(width: int, height: int, random: np.random.Generator) -> Image.Image:
    picture = _gradient(width, height, random)
    draw = ImageDraw.Draw(picture)
    for shape in range(12):
        x, y = random.integers(0, width), random.integers(0, height)
        radius = random.integers(3, max(4, min(width, height) // 3))
        box = [int(x - radius), int(y - radius), int(x + radius), int(y + radius)]
        red, green, blue = (int(value) for value in random.integers(0, 256, 3))
        (draw.ellipse if shape % 2 else draw.rectangle)(box, fill=(red, green, blue))
    return picture


def _texture(width: int, height: int, random: np.random.Generator) -> Image.Image:
    x, y = np.arange(width)[None, :, None], np.arange(height)[:, None, None]
    waves = random.uniform(0.02, 0.6, (2, 3))
    pattern = 0.5 + 0.25 * np.sin(x * waves[0]) + 0.25 * np.cos(y * waves[1] + x * waves[1] / 3)
    return Image.fromarray((pattern * 255).astype(np.uint8))  # [h, w, 3]


def _grey_noise(width: int, height: int, random: np.random.Generator) -> Image.Image:
    coarse = random.integers(0, 256, (1 + height // 8, 1 + width // 8), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)  # mode L


def _encode(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
