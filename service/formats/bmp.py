"""Outlines BMP files; does not decode them.

Headers: https://learn.microsoft.com/windows/win32/gdi/bitmap-storage.
"""

import struct

from service.errors import BadImage
from service.formats.outline import Outline

_CORE = 12  # bytes of the header that OS/2 wrote
_RUN_LENGTHS = {1, 2}


def outline(data: bytes) -> Outline:
    """Outline a BMP file.

    Args:
        data: The file.

    Returns:
        Its outline.

    Raises:
        BadImage: It is compressed.
        ValueError: It has no whole header.
    """
    if len(data) < 34:
        raise ValueError("no header")
    if struct.unpack_from("<I", data, 14) == (_CORE,):
        width, height = struct.unpack_from("<HH", data, 18)
        return Outline(width, height, (data,))
    width, height = struct.unpack_from("<ii", data, 18)
    if struct.unpack_from("<I", data, 30)[0] in _RUN_LENGTHS:
        # Pillow reads them in Python, pixel by pixel: a few kilobytes would stop all other threads for seconds.
        raise BadImage("Expected an uncompressed BMP. Received: run lengths.")
    # A negative height says that the first row is the upper one.
    return Outline(width, abs(height), (data,))
