"""What a file's header says of its picture; does not know any format."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Outline:
    """What is known of a file before it is decoded.

    Attributes:
        width: The width of the picture as it is stored.
        height: The height of the picture as it is stored.
        parts: What of the file makes pixels, one after the other.
        orientation: Which way is up, as EXIF has it, from 1 to 8; anything else means what 1 does.
        can_scale: Whether a decoder can give it at half, a quarter or an eighth of its size.
        is_held_whole: Whether a decoder holds the whole picture also where it gives a smaller one.
        is_inverted: Whether the least number is white where the decoder leaves it at that.
    """

    width: int
    height: int
    parts: Sequence[bytes | memoryview]
    orientation: int = 1
    can_scale: bool = False
    is_held_whole: bool = True
    is_inverted: bool = False
