"""Outlines WebP files; does not decode them.

Chunks: https://developers.google.com/speed/webp/docs/riff_container. Of an animation the first frame is taken.
"""

import struct

from service.formats import directory
from service.formats.outline import Outline

# Before the orientation come at most the frames of an animation.
_MAX_CHUNKS = 2_500


def outline(data: bytes) -> Outline:
    """Outline a WebP file; raises ValueError where it has no header."""
    width, height = _size(data)
    return Outline(width, height, (data,), _orientation(data))


def _size(data: bytes) -> tuple[int, int]:
    name = data[12:16]
    if len(data) >= 30:
        if name == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
            width, height = struct.unpack_from("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
        if name == b"VP8L" and data[20] == 0x2F:
            (bits,) = struct.unpack_from("<I", data, 21)
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        if name == b"VP8X":
            return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    raise ValueError("no header")


def _orientation(data: bytes) -> int:
    position = 12
    for _ in range(_MAX_CHUNKS):
        if position + 8 > len(data):
            break
        name, length = struct.unpack_from("<4sI", data, position)
        if name == b"EXIF":
            return directory.orientation(data[position + 8 : position + 8 + min(length, directory.EXIF_BYTES)])
        position += 8 + length + length % 2
    return 1
