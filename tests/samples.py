"""Whole files of every format and kind that can be read, made here; does not know what reads them."""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

# By their numbers, their values: some numbers, or many as they are written.
Tags = dict[int, tuple[int, ...] | bytes]
# Where each pass of an interlaced PNG begins, and its steps: x, y, step in x, step in y.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def photograph(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    china = Image.fromarray(load_sample_images().images[0])
    return china.resize(size, Image.Resampling.LANCZOS).convert(mode)


def encoded(picture: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(
    width: int, height: int, depth: int, kind: int, rows: bytes, *, interlaced: bool = False, more: bytes = b""
) -> bytes:
    """A PNG of rows that begin with their filter; `more` chunks come before them."""
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlaced)
    chunks = chunk(b"IHDR", header) + more + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def deep_png(values: NDArray[np.uint16]) -> bytes:
    """A PNG of 16 bits a sample: `[h, w]` grey, or `[h, w, 3]` RGB."""
    height, width = values.shape[:2]
    big_endian = values.reshape(height, -1).astype(">u2")
    return png(width, height, 16, 2 if values.ndim == 3 else 0, b"".join(b"\0" + row.tobytes() for row in big_endian))


def interlaced_png(pixels: NDArray[np.uint8]) -> bytes:
    """An interlaced PNG of `uint8 [h, w, 3]`."""
    height, width = pixels.shape[:2]
    passes = (pixels[y::step_y, x::step_x] for x, y, step_x, step_y in _PASSES)
    rows = b"".join(b"\0" + row.tobytes() for each in passes for row in each if row.size)
    return png(width, height, 8, 2, rows, interlaced=True)


def tiff(pixels: NDArray[Any], photometric: int, **tags: tuple[int, ...]) -> bytes:
    """An uncompressed TIFF of one strip; tags beside the usual ones as `t<number>`, all of them of 32 bits."""
    height, width = pixels.shape[:2]
    samples = pixels.shape[2] if pixels.ndim == 3 else 1
    content = pixels.tobytes()
    usual: Tags = {
        256: (width,), 257: (height,), 258: (8 * pixels.itemsize,) * samples, 259: (1,), 262: (photometric,), 273: (8,),
        277: (samples,), 278: (height,), 279: (len(content),),
    }  # fmt: skip
    return ifd_tiff(content, usual | {int(name[1:]): values for name, values in tags.items()})


def ifd_tiff(content: bytes, tags: Tags, next_at: int = 0) -> bytes:
    """A TIFF of these tags, each of 32-bit numbers, whose content begins at byte 8."""
    start = 8 + len(content) + len(content) % 2
    extra_at = start + 2 + 12 * len(tags) + 4
    entries, extra = b"", b""
    for tag, values in sorted(tags.items()):
        packed = values if isinstance(values, bytes) else struct.pack(f"<{len(values)}I", *values)
        is_inside = len(packed) == 4
        entries += struct.pack("<HHI", tag, 4, len(packed) // 4)
        entries += packed if is_inside else struct.pack("<I", extra_at + len(extra))
        extra += b"" if is_inside else packed
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", next_at)
    return b"II*\0" + struct.pack("<I", start) + content + bytes(len(content) % 2) + directory + extra


def whole() -> Iterator[tuple[str, bytes]]:
    """A file of each kind that can be read, by its name."""
    picture = photograph((61, 47))
    for mode in ("L", "RGB", "CMYK"):
        yield f"{mode}.jpg", encoded(picture.convert(mode), "JPEG", quality=85)
    yield "progressive.jpg", encoded(picture, "JPEG", progressive=True)
    yield "restarts.jpg", encoded(picture, "JPEG", restart_marker_blocks=2, exif=turned(6))
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        yield f"{mode}.png", encoded(picture.convert(mode), "PNG")
    yield "interlaced.png", interlaced_png(np.asarray(picture))
    yield "deep.png", deep_png(np.asarray(picture).astype(np.uint16) * 257)
    yield "deep-grey.png", deep_png(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    yield "turned.png", encoded(picture, "PNG", exif=turned(8))
    yield "lossy.webp", encoded(picture, "WEBP", exif=turned(3))
    yield "lossless.webp", encoded(picture.convert("RGBA"), "WEBP", lossless=True)
    frames = [picture, photograph((61, 47)).rotate(90)]
    yield "animated.webp", encoded(picture, "WEBP", save_all=True, append_images=frames)
    yield "palette.gif", encoded(picture.quantize(64), "GIF")
    yield "grey.gif", encoded(picture.convert("L"), "GIF")
    yield "animated.gif", encoded(picture, "GIF", save_all=True, append_images=frames, loop=0, comment=b"hello")
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        yield f"{mode}.bmp", encoded(picture.convert(mode), "BMP")
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
        yield f"{compression}.tif", encoded(picture, "TIFF", compression=compression)
    yield "jpeg.tif", encoded(picture, "TIFF", compression="jpeg", quality=90)
    for mode in ("1", "L", "P", "LA", "RGBA", "CMYK"):
        yield f"{mode}.tif", encoded(picture.convert(mode), "TIFF")
    yield "deep.tif", tiff(np.asarray(picture.convert("L")).astype("<u2") * 257, 1)
    yield "turned.tif", encoded(picture, "TIFF", tiffinfo={274: 6})
    yield "pages.tif", encoded(picture, "TIFF", save_all=True, append_images=frames)
