"""Turns encoded bytes or decoded pixels into the `uint8 [H, W, 3]` that graphs take; does not know what they are for.

Training and export import this file: it is the only preprocessing there is. Pillow decodes and resizes everything.
Measured against OpenCV and simplejpeg (tests/benchmarks/decode.py): they decode a JPEG to the same pixels a quarter of
a millisecond sooner, and neither resizes with an antialiased bicubic filter.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from service.bundle import CropGeometry, Interpolation
from service.errors import BadImage

# Opened by class, not by Image.open: no other format is ever tried, and our bound on pixels comes before Pillow's.
_READERS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
}
# Modes whose conversion to 8-bit RGB loses nothing but alpha.
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX"}
# A progressive JPEG has about ten. Each scan goes over all pixels once more: thousands of empty ones in a small file
# would keep a decoder busy for minutes.
_MAX_SCANS = 100
# Markers of a JPEG (ITU-T T.81, B.1.1.3), by their second byte; no segment follows stuffing, fill and restarts.
_SCAN, _END, _ALONE = 0xDA, 0xD9, {0x00, 0x01, *range(0xD0, 0xD9), 0xFF}
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
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
    """

    max_bytes: int = 16 * 2**20
    max_pixels: int = 50_000_000


def read(source: bytes | NDArray[np.uint8], geometry: CropGeometry, limits: ImageLimits) -> NDArray[np.uint8]:
    """Make of an image the pixels that a graph takes.

    Args:
        source: A JPEG, PNG or WebP file, or upright RGB pixels `uint8 [h, w, 3]`.
        geometry: The resize and the crop.
        limits: What is refused before it is decoded.

    Returns:
        `uint8 [crop_height_px, crop_width_px, 3]`, RGB.

    Raises:
        BadImage: The source is no such file, is broken, or is over a limit.
    """
    image = _decode(source, limits) if isinstance(source, bytes) else _from_pixels(source, limits)
    return _resize_and_crop(image, geometry)


def decode(data: bytes, limits: ImageLimits) -> NDArray[np.uint8]:
    """Decode a file to upright RGB pixels of its own size.

    Args:
        data: A JPEG, PNG or WebP file.
        limits: What is refused before it is decoded.

    Returns:
        `uint8 [h, w, 3]`; alpha is dropped, grey is repeated, a palette is looked up.

    Raises:
        BadImage: The data is no such file, is broken, or is over a limit.
    """
    return np.asarray(_decode(data, limits))


def format_of(data: bytes) -> str | None:
    """The format that the first bytes name, "JPEG", "PNG" or "WebP"; None for any other."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    return None


def _decode(data: bytes, limits: ImageLimits) -> Image.Image:
    if len(data) > limits.max_bytes:
        raise BadImage(f"Expected at most {limits.max_bytes} bytes. Received: {len(data)}.")
    name = format_of(data)
    if name is None:
        raise BadImage(f"Expected a JPEG, PNG or WebP file. Received: {len(data)} bytes that begin {data[:8]!r}.")
    if name == "JPEG" and _has_too_many_scans(data):
        raise BadImage(f"Expected a JPEG of at most {_MAX_SCANS} scans. Received: more.")
    try:
        image: Image.Image = _READERS[name](io.BytesIO(data))
        _check_size(image.width, image.height, limits)
        if image.mode not in _MODES:
            raise BadImage(f"Expected 8-bit grey, palette or RGB, with or without alpha. Received: mode {image.mode}.")
        image.load()
    except BadImage:
        raise
    except Image.DecompressionBombError as error:
        raise BadImage(f"Expected 1 to {limits.max_pixels} pixels. Received: {error}") from error
    # Hostile bytes make decoders raise nearly anything; whatever it is, it is this image's fault.
    except Exception as error:
        reason = str(error).strip().rstrip(".") or type(error).__name__
        raise BadImage(f"Expected a whole {name} file. Received: {len(data)} bytes, broken: {reason}.") from error
    return _upright(_to_rgb(image), _orientation(image))


def _has_too_many_scans(data: bytes) -> bool:
    # The count of the marker's two bytes is cheap and never too low, but too high for what carries other data along,
    # like the film of a motion photo behind the end of its picture.
    if data.count(b"\xff\xda") <= _MAX_SCANS:
        return False
    scans, position = 0, 2
    while scans <= _MAX_SCANS and 0 <= (position := data.find(b"\xff", position)) < len(data) - 3:
        marker = data[position + 1]
        if marker == _END:
            return False
        if marker in _ALONE:
            position += 1 if marker == 0xFF else 2
        else:
            scans += marker == _SCAN
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return scans > _MAX_SCANS


def _from_pixels(pixels: NDArray[np.uint8], limits: ImageLimits) -> Image.Image:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise BadImage(f"Expected pixels uint8 [h, w, 3]. Received: {pixels.dtype} {list(pixels.shape)}.")
    _check_size(pixels.shape[1], pixels.shape[0], limits)
    return Image.fromarray(pixels)


def _check_size(width: int, height: int, limits: ImageLimits) -> None:
    if width < 1 or height < 1 or width * height > limits.max_pixels:
        raise BadImage(f"Expected 1 to {limits.max_pixels} pixels. Received: {width} x {height}.")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("P", "PA") and "transparency" in image.info:
        # Pillow asks for this detour where a palette has alpha; the colours are the same.
        image = image.convert("RGBA")
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    # The pixels are whole: garbage in the metadata is no reason to refuse them.
    except Exception:
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    method = _UPRIGHT.get(orientation)
    return image if method is None else image.transpose(method)


def _resize_and_crop(image: Image.Image, geometry: CropGeometry) -> NDArray[np.uint8]:
    # One resize of the part that is kept: the same pixels as resizing all and cropping, at half the cost, and a picture
    # of 1 x 50,000 never becomes one of 256 x 12,800,000.
    width, height = image.size
    shorter = min(width, height)
    resized_width = int(geometry.resize_shorter_px * width / shorter)
    resized_height = int(geometry.resize_shorter_px * height / shorter)
    left = round((resized_width - geometry.crop_width_px) / 2)
    top = round((resized_height - geometry.crop_height_px) / 2)
    scale_x, scale_y = width / resized_width, height / resized_height
    box = (
        left * scale_x,
        top * scale_y,
        (left + geometry.crop_width_px) * scale_x,
        (top + geometry.crop_height_px) * scale_y,
    )
    size = (geometry.crop_width_px, geometry.crop_height_px)
    return np.asarray(image.resize(size, _FILTERS[geometry.interpolation], box=box))
