"""Outlines PNG files; does not decode them.

Chunks: https://www.w3.org/TR/png-3/#5Chunk-layout. Of an animation the picture for those who do not animate is taken.
"""

import struct
from collections.abc import Iterator

from service.formats import directory
from service.formats.outline import Outline

# Encoders write chunks of 8 KiB and more: 16 MiB are 2,000 of them.
_MAX_CHUNKS = 2_500
_KEPT = {b"IHDR", b"PLTE", b"tRNS", b"IDAT"}
_START = 8


def outline(data: bytes) -> Outline:
    """Outline a PNG file; raises ValueError where it has no header or more chunks than anybody writes."""
    if data[12:16] != b"IHDR" or len(data) < 33:
        raise ValueError("no header")
    view = memoryview(data)
    parts, orientation = [view[:_START]], 1
    for name, start, end in _chunks(data):
        if name in _KEPT:
            parts.append(view[start:end])
        elif name == b"eXIf":
            orientation = directory.orientation(data[start + 8 : min(end - 4, start + 8 + directory.EXIF_BYTES)])
        elif name == b"IEND":
            break
    width, height = struct.unpack_from(">II", data, 16)
    return Outline(width, height, parts, orientation)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The name, start and end of each chunk; the last may be cut."""
    position = _START
    for _ in range(_MAX_CHUNKS):
        if position + 8 > len(data):
            return
        length, name = struct.unpack_from(">I4s", data, position)
        yield name, position, position + 12 + length
        position += 12 + length
    raise ValueError(f"more than {_MAX_CHUNKS} chunks")
