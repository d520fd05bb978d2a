"""Turns encoded bytes or decoded pixels into the `uint8 [H, W, 3]` that graphs take; does not know what they are for.

Training and export import this file: it is the only preprocessing there is. Pillow decodes and resizes everything.
Measured against OpenCV and simplejpeg (tests/benchmarks/decode.py): they decode a JPEG to the same pixels a quarter of
a millisecond sooner, and neither resizes with an antialiased bicubic filter.

What the pixels are: of several frames or pages the first, upright as EXIF says, alpha dropped, 16 bits reduced to 8.
Colour profiles are not applied, as nearly no training set was made with them: RGB is taken as it stands, and CMYK is
converted by the plain formula, R = (255 - C) * (255 - K) / 255.
"""

import io
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.bundle import CropGeometry, Interpolation
from service.errors import BadImage
from service.formats import format, jpeg
from service.formats.format import NAMES, SUFFIXES, Format
from service.formats.outline import Outline

__all__ = ["NAMES", "SUFFIXES", "ImageLimits", "Picture", "crop", "decode", "decode_for", "format_of", "read", "weigh"]

# Modes whose conversion to 8-bit RGB loses nothing but alpha, and colours beyond RGB.
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK"}
_DEEP_MODES = {"I;16", "I;16B"}
_EIGHT_BITS = ((np.arange(2**16, dtype=np.uint32) + 128) // 257).astype(np.uint8)
# A JPEG decoder can give an eighth, a quarter or a half of the picture's size, in less time. It is asked to where what
# it gives is still so many times larger than what is wanted. At 2 times the embedding of Lite0 keeps a mean cosine of
# 0.9994 to that of a full decode, at 1.45 times 0.998; an eighth pays that, because 12 megapixels of 4:3, for which
# 256 are wanted, take a quarter of the time so, and a third at a quarter of their size (tests/benchmarks/decode.py).
_SPARE = {8: 1.45, 4: 2.0, 2: 2.0}
# What reading beyond the end of bytes raises.
_CUT = (struct.error, IndexError, EOFError)
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Which orientations keep the width, and which bring the last column to the left and the last row to the top.
_AS_WIDE, _FROM_RIGHT, _FROM_BELOW = {2, 3, 4}, {2, 3, 6, 7}, {3, 4, 7, 8}
_FILTERS = {
    Interpolation.INTERPOLATION_BILINEAR: Image.Resampling.BILINEAR,
    Interpolation.INTERPOLATION_BICUBIC: Image.Resampling.BICUBIC,
}


@dataclass(frozen=True)
class ImageLimits:
    """What is refused before it is decoded.

    Attributes:
        max_bytes: The largest encoded file.
        max_pixels: The largest width times height, as the header has it.
        max_aspect: How many times longer than the other a side may be. A square crop shows less than a hundredth of
            what is longer, and the answer would be about that.
    """

    max_bytes: int = 16 * 2**20
    max_pixels: int = 50_000_000
    max_aspect: int = 100


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
        image: Upright, mode RGB.
        box: Where in it the picture lies, as left, top, right and bottom: a decoder that scales rounds sides up to
            whole pixels.
    """

    image: Image.Image
    box: tuple[float, float, float, float]


def read(source: bytes | NDArray[np.uint8], geometry: CropGeometry, limits: ImageLimits) -> NDArray[np.uint8]:
    """Make of an image the pixels that a graph takes.

    Args:
        source: A file of one of the formats, or upright RGB pixels `uint8 [h, w, 3]`.
        geometry: The resize and the crop.
        limits: What is refused before it is decoded.

    Returns:
        `uint8 [crop_height_px, crop_width_px, 3]`, RGB.

    Raises:
        BadImage: The source is no such file, is broken, or is over a limit.
    """
    return crop(decode_for(source, geometry, limits), geometry)


def decode_for(source: bytes | NDArray[np.uint8], geometry: CropGeometry, limits: ImageLimits) -> Picture:
    """Decode an image as large as a geometry needs it: what `read` crops.

    Args:
        source: A file of one of the formats, or upright RGB pixels `uint8 [h, w, 3]`.
        geometry: Says how large that is.
        limits: What is refused before it is decoded.

    Returns:
        The picture.

    Raises:
        BadImage: The source is no such file, is broken, or is over a limit.
    """
    return _decode(source, geometry, limits) if isinstance(source, bytes) else _from_pixels(source, limits)


def decode(data: bytes, limits: ImageLimits) -> NDArray[np.uint8]:
    """Decode a file to upright RGB pixels of its own size.

    Args:
        data: A file of one of the formats.
        limits: What is refused before it is decoded.

    Returns:
        `uint8 [h, w, 3]`; alpha is dropped, grey is repeated, a palette is looked up.

    Raises:
        BadImage: The data is no such file, is broken, or is over a limit.
    """
    return np.asarray(_decode(data, None, limits).image)


def weigh(source: bytes | NDArray[np.uint8], geometry: CropGeometry, limits: ImageLimits) -> int:
    """How many pixels decoding will hold; found from the header alone, and never raises.

    Args:
        source: A file of one of the formats, or pixels.
        geometry: How large the picture is needed.
        limits: What is refused.

    Returns:
        Pixels; 0 for what will be refused.
    """
    try:
        if not isinstance(source, bytes):
            _check_pixels(source, limits)
            return math.prod(source.shape[:2])
        outline = _outline(source, _format(source, limits), limits)
    except BadImage:
        return 0
    scale = _scale(outline, geometry)
    scaled = math.ceil(outline.width / scale) * math.ceil(outline.height / scale)
    return scaled + (outline.width * outline.height if scale > 1 and outline.is_held_whole else 0)


def format_of(data: bytes) -> str | None:
    """The name of the format that the first bytes name; None for any other."""
    found = format.of(data)
    return found.name if found else None


def _decode(data: bytes, geometry: CropGeometry | None, limits: ImageLimits) -> Picture:
    found = _format(data, limits)
    outline = _outline(data, found, limits)
    scale = _scale(outline, geometry) if geometry else 1
    with _blaming(data, found):
        if found.name == "JPEG" and outline.is_held_whole:
            jpeg.check(data, outline.width * outline.height)
        image = _load(found, outline, scale)
    return _upright(_to_rgb(image, outline), (outline.width / scale, outline.height / scale), outline.orientation)


def _format(data: bytes, limits: ImageLimits) -> Format:
    if len(data) > limits.max_bytes:
        raise BadImage(f"Expected at most {limits.max_bytes} bytes. Received: {len(data)}.")
    found = format.of(data)
    if found is None:
        raise BadImage(f"Expected a {NAMES} file. Received: {len(data)} bytes that begin {data[:8]!r}.")
    return found


def _outline(data: bytes, found: Format, limits: ImageLimits) -> Outline:
    with _blaming(data, found):
        outline = found.outline(data)
    _check_size(outline.width, outline.height, limits)
    return outline


@contextmanager
def _blaming(data: bytes, found: Format) -> Iterator[None]:
    """Hostile bytes make decoders raise nearly anything; whatever it is, it is this image's fault."""
    try:
        yield
    except BadImage:
        raise
    except Exception as error:
        is_cut = isinstance(error, _CUT) or isinstance(error.__cause__, _CUT)
        reason = "it ends too early" if is_cut else " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise BadImage(f"Expected a whole {found.name} file. Received: {len(data)} bytes, broken: {reason}.") from error


def _scale(outline: Outline, geometry: CropGeometry) -> int:
    if not outline.can_scale:
        return 1
    shorter = min(outline.width, outline.height) / geometry.resize_shorter_px
    return next((scale for scale, spare in _SPARE.items() if shorter >= scale * spare), 1)


def _load(found: Format, outline: Outline, scale: int) -> Image.Image:
    image = found.open(io.BytesIO(b"".join(outline.parts)))
    if image.mode not in _MODES | _DEEP_MODES:
        raise BadImage(f"Expected grey, palette, RGB or CMYK of at most 16 bits. Received: mode {image.mode}.")
    # What is allocated is what was outlined, and so was checked.
    if image.size != (outline.width, outline.height):
        raise ValueError(f"{image.width} x {image.height} pixels and {outline.width} x {outline.height}")
    if scale > 1:
        image.draft(None, (outline.width // scale, outline.height // scale))
    image.load()
    return image


def _from_pixels(pixels: NDArray[np.uint8], limits: ImageLimits) -> Picture:
    _check_pixels(pixels, limits)
    height, width = pixels.shape[:2]
    return Picture(Image.fromarray(pixels), (0.0, 0.0, width, height))


def _check_pixels(pixels: NDArray[np.uint8], limits: ImageLimits) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise BadImage(f"Expected pixels uint8 [h, w, 3]. Received: {pixels.dtype} {list(pixels.shape)}.")
    _check_size(pixels.shape[1], pixels.shape[0], limits)


def _check_size(width: int, height: int, limits: ImageLimits) -> None:
    if width < 1 or height < 1 or width * height > limits.max_pixels:
        raise BadImage(f"Expected 1 to {limits.max_pixels} pixels. Received: {width} x {height}.")
    if max(width, height) > limits.max_aspect * min(width, height):
        raise BadImage(f"Expected an aspect ratio of at most {limits.max_aspect}:1. Received: {width} x {height}.")


def _to_rgb(image: Image.Image, outline: Outline) -> Image.Image:
    if image.mode in _DEEP_MODES:
        table = _EIGHT_BITS[::-1] if outline.is_inverted else _EIGHT_BITS
        image = Image.fromarray(table[np.asarray(image)])
    if image.mode in ("P", "PA") and "transparency" in image.info:
        # Pillow asks for this detour where a palette has alpha; the colours are the same.
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def _upright(image: Image.Image, size: tuple[float, float], orientation: int) -> Picture:
    method = _UPRIGHT.get(orientation)
    if method is None:
        return Picture(image, (0.0, 0.0, *size))
    turned = image.transpose(method)
    width, height = size if orientation in _AS_WIDE else size[::-1]
    left = turned.width - width if orientation in _FROM_RIGHT else 0.0
    top = turned.height - height if orientation in _FROM_BELOW else 0.0
    return Picture(turned, (left, top, left + width, top + height))


def crop(picture: Picture, geometry: CropGeometry) -> NDArray[np.uint8]:
    """Resize a picture's shorter side and cut out its centre.

    Args:
        picture: The picture.
        geometry: The resize and the crop.

    Returns:
        `uint8 [crop_height_px, crop_width_px, 3]`, RGB.
    """
    # One resize of the part that is kept: the same pixels as resizing all and cropping, at half the cost, and a picture
    # of 1 x 100 never becomes one of 256 x 25,600.
    left, top, right, bottom = picture.box
    width, height = right - left, bottom - top
    shorter = min(width, height)
    resized_width = int(geometry.resize_shorter_px * width / shorter)
    resized_height = int(geometry.resize_shorter_px * height / shorter)
    crop_left = round((resized_width - geometry.crop_width_px) / 2)
    crop_top = round((resized_height - geometry.crop_height_px) / 2)
    scale_x, scale_y = width / resized_width, height / resized_height
    box = (
        left + crop_left * scale_x,
        top + crop_top * scale_y,
        left + (crop_left + geometry.crop_width_px) * scale_x,
        top + (crop_top + geometry.crop_height_px) * scale_y,
    )
    size = (geometry.crop_width_px, geometry.crop_height_px)
    return np.asarray(picture.image.resize(size, _FILTERS[geometry.interpolation], box=box))
