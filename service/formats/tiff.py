"""Outlines the first page of TIFF files and bounds what their tags make a decoder do; does not decode them.

Tags: TIFF 6.0, https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf. Pillow and libtiff are shown a directory
made anew, of the tags that make pixels: no other page, no loop of pages, and nothing of what a camera has to say.
"""

import ctypes
import io
import math
import os
import struct
from functools import cache

from PIL import TiffImagePlugin, _imaging

from service.errors import BadImage
from service.formats import directory
from service.formats.directory import Directory
from service.formats.outline import Outline

_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_STRIPS, _SAMPLES, _STRIP_ROWS, _STRIP_BYTES, _PLANES = 273, 277, 278, 279, 284
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES, _SAMPLE_FORMAT = 322, 323, 324, 325, 339
# A strip a row, which nobody needs for more; each costs Pillow some microseconds.
_MAX_PIECES = 65_536
_MAX_SAMPLES = 6
# As in jpeg.py, and over the largest picture.
_MAX_SCANS = 25
# The tags that make pixels, and the most values that each may have.
_MOST = {
    _WIDTH: 1, _HEIGHT: 1, _BITS: _MAX_SAMPLES, _COMPRESSION: 1, _PHOTOMETRIC: 1,
    266: 1,  # order of bits
    _STRIPS: _MAX_PIECES, _SAMPLES: 1, _STRIP_ROWS: 1, _STRIP_BYTES: _MAX_PIECES, _PLANES: 1,
    317: 1,  # differences
    320: 3 * 256,  # colours of a palette
    _TILE_WIDTH: 1, _TILE_HEIGHT: 1, _TILES: _MAX_PIECES, _TILE_BYTES: _MAX_PIECES,
    338: _MAX_SAMPLES,  # what comes after the colours
    _SAMPLE_FORMAT: _MAX_SAMPLES,
    347: 2**16,  # tables of a JPEG
    529: 3, 530: 2, 531: 1, 532: 6,  # how luma and chroma are written
}  # fmt: skip
_COMPRESSIONS = {1: "none", 5: "LZW", 7: "JPEG", 8: "deflate", 32773: "PackBits", 32946: "deflate"}
_DEPTHS = {1, 2, 4, 8, 16}
_UNSIGNED = 1
_WHITE_IS_ZERO = 0
# A tile may be larger than a small picture, which fills a corner of it: of as much as a tile of 2048 x 2048 has.
_LARGE_TILE = 2**22


def outline(data: bytes) -> Outline:
    """Outline the first page of a TIFF file.

    Args:
        data: The file.

    Returns:
        Its outline.

    Raises:
        BadImage: It is of a kind that is not read.
        ValueError: It is broken.
    """
    tags = directory.read(data)
    kept = Directory(tags.order, {tag: tags.entries[tag] for tag in sorted(_MOST.keys() & tags.entries.keys())})
    _check_values(kept, len(data))
    bits = kept.numbers(data, _BITS, (1,))
    _check_kind(tags, bits, kept.numbers(data, _SAMPLE_FORMAT, (_UNSIGNED,)))
    width, height = kept.number(_WIDTH, 0), kept.number(_HEIGHT, 0)
    _check_pieces(kept, width, height)
    return Outline(
        width,
        height,
        _rewritten(data, kept),
        directory.orientation_in(tags),
        # Pillow turns samples of up to 8 bits the right way round, and leaves those of 16.
        is_inverted=16 in bits and kept.number(_PHOTOMETRIC, _WHITE_IS_ZERO) == _WHITE_IS_ZERO,
    )


def opened(file: io.BytesIO) -> TiffImagePlugin.TiffImageFile:
    """Open a TIFF file with Pillow, and so with libtiff."""
    _restrain_libtiff()
    return TiffImagePlugin.TiffImageFile(file)


@cache
def _restrain_libtiff() -> None:
    # Pillow has no switches for either. Its copy of libtiff is its own, so nobody else is restrained.
    os.environ.setdefault("LIBTIFF_JPEG_MAX_ALLOWED_SCAN_NUMBER", str(_MAX_SCANS))
    library = ctypes.CDLL(_imaging.__file__)
    # Where libtiff was linked in without its names, it goes on to write to stderr what is wrong with a file.
    if hasattr(library, "TIFFSetErrorHandler"):
        library.TIFFSetErrorHandler(None)


def _check_values(tags: Directory, length: int) -> None:
    for tag, entry in tags.entries.items():
        if entry.count > _MOST[tag]:
            raise ValueError(f"tag {tag} with {entry.count} values")
        if tags.offset(tag) and tags.offset(tag) + tags.size(tag) > length:
            raise ValueError(f"tag {tag} outside of the file")
    if sum(tags.size(tag) for tag in tags.entries) > length:
        raise ValueError("tags of more bytes than the file")


def _check_kind(tags: Directory, bits: tuple[int, ...], formats: tuple[int, ...]) -> None:
    if tags.number(_SUBFILE, 0) & 1:
        raise BadImage(
            "Expected a TIFF whose first page is a picture. Received: the small copy of one, as in raw files."
        )
    compression = tags.number(_COMPRESSION, 1)
    if compression not in _COMPRESSIONS:
        known = ", ".join(dict.fromkeys(_COMPRESSIONS.values()))
        raise BadImage(f"Expected a TIFF whose compression is one of {known}. Received: number {compression}.")
    if not set(bits) <= _DEPTHS or set(formats) != {_UNSIGNED}:
        received = f"{max(bits)} bits, sample format {max(formats)}"
        raise BadImage(f"Expected a TIFF of unsigned whole numbers of 1, 2, 4, 8 or 16 bits. Received: {received}.")


def _check_pieces(tags: Directory, width: int, height: int) -> None:
    samples = tags.number(_SAMPLES, 1)
    if samples > _MAX_SAMPLES:
        raise ValueError(f"{samples} samples a pixel")
    planes = samples if tags.number(_PLANES, 1) == 2 else 1
    rows = tags.number(_STRIP_ROWS, height)
    tile_width, tile_height = tags.number(_TILE_WIDTH, width), tags.number(_TILE_HEIGHT, height)
    if min(width, height, planes, rows, tile_width, tile_height) < 1:
        raise ValueError("no size")
    if _TILES in tags.entries and tile_width * tile_height > max(_LARGE_TILE, 4 * width * height):
        raise ValueError(f"tiles of {tile_width} x {tile_height}")
    pieces = {
        _STRIPS: math.ceil(height / rows) * planes,
        _TILES: math.ceil(width / tile_width) * math.ceil(height / tile_height) * planes,
    }
    for tag, most in pieces.items():
        # Pillow begins anew at the top with what is too much.
        if tag in tags.entries and tags.entries[tag].count > most:
            raise ValueError(f"{tags.entries[tag].count} pieces for {most}")


def _rewritten(data: bytes, tags: Directory) -> tuple[bytes | memoryview, ...]:
    entries = [entry.raw for entry in tags.entries.values()]
    begin, end = (struct.pack(f"{tags.order}{kind}", value) for kind, value in (("H", len(entries)), ("I", 0)))
    padding = bytes(len(data) % 2)
    start = struct.pack(f"{tags.order}I", len(data) + len(padding))
    return data[:4], start, memoryview(data)[8:], padding, begin, *entries, end
