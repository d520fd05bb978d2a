"""Outlines GIF files as far as their first frame; does not decode them.

Blocks: https://www.w3.org/Graphics/GIF/spec-gif89a.txt.
"""

import struct

from service.formats.outline import Outline

# A profile of 64 KiB is 256 blocks, and a description of 64 KiB, whose text counts as its blocks, about a thousand.
_MAX_BLOCKS = 2_500
_EXTENSION, _FRAME, _CONTROL = 0x21, 0x2C, 0xF9


def outline(data: bytes) -> Outline:
    """Outline a GIF file; raises ValueError where it has no frame, or more before it than anybody writes."""
    if len(data) < 13:
        raise ValueError("no header")
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    tables = 13 + _table(flags)
    start, control = _first_frame(data, tables)
    left, top, frame_width, frame_height = struct.unpack_from("<HHHH", data, start + 1)
    view = memoryview(data)
    return Outline(
        # As browsers do, Pillow makes the screen as large as the frame needs it.
        max(width, left + frame_width),
        max(height, top + frame_height),
        # The control block says which colour is transparent: the frame's surroundings have it, too.
        (view[:tables], view[control : control + 8] if control else b"", view[start:]),
    )


def _first_frame(data: bytes, position: int) -> tuple[int, int]:
    """Where the first frame begins, and where the control block before it does, or 0."""
    control, is_inside = 0, False
    for _ in range(_MAX_BLOCKS):
        if position + 10 > len(data):
            break
        if is_inside:
            # An empty block ends the extension.
            is_inside = data[position] > 0
            position += 1 + data[position]
        elif data[position] == _FRAME:
            return position, control
        elif data[position] == _EXTENSION:
            if data[position + 1] == _CONTROL and data[position + 2] == 4:
                control = position
            position, is_inside = position + 2, True
        else:
            break
    else:
        raise ValueError(f"more than {_MAX_BLOCKS} blocks before its frame")
    raise ValueError("no frame")


def _table(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0
