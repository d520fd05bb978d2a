"""The formats that can be read: how each is called, known by its first bytes, outlined and opened; does not decode."""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from service.formats import bmp, gif, jpeg, png, tiff, webp
from service.formats.outline import Outline


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: What people call it.
        suffixes: What its files' names end with, in lower case.
        first_bytes: What its files begin with.
        outline: Outlines a file; raises ValueError for a broken one, and BadImage for one that is not read.
        open: Opens a file. Opened by class, not by Image.open: no other format is ever tried.
    """

    name: str
    suffixes: tuple[str, ...]
    first_bytes: re.Pattern[bytes]
    outline: Callable[[bytes], Outline]
    open: Callable[[io.BytesIO], ImageFile.ImageFile]


def _begins(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(pattern, re.DOTALL)


FORMATS = (
    Format("JPEG", (".jpg", ".jpeg", ".jfif"), _begins(rb"\xff\xd8\xff"), jpeg.outline, JpegImagePlugin.JpegImageFile),
    Format("PNG", (".png",), _begins(rb"\x89PNG\r\n\x1a\n"), png.outline, PngImagePlugin.PngImageFile),
    Format("WebP", (".webp",), _begins(rb"RIFF....WEBP"), webp.outline, WebPImagePlugin.WebPImageFile),
    Format("GIF", (".gif",), _begins(rb"GIF8[79]a"), gif.outline, GifImagePlugin.GifImageFile),
    Format("BMP", (".bmp",), _begins(rb"BM"), bmp.outline, BmpImagePlugin.BmpImageFile),
    Format("TIFF", (".tif", ".tiff"), _begins(rb"II[*+]\0|MM\0[*+]"), tiff.outline, tiff.opened),
)
# As messages have it.
NAMES = ", ".join(each.name for each in FORMATS[:-1]) + f" or {FORMATS[-1].name}"
SUFFIXES = frozenset(suffix for each in FORMATS for suffix in each.suffixes)


def of(data: bytes) -> Format | None:
    """The format that the first bytes name; None for any other."""
    return next((each for each in FORMATS if each.first_bytes.match(data)), None)
