"""Reads the first directory of tags of a TIFF file, which is what EXIF is, too; knows no tag but the orientation."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

# Photographs have about ten in their first directory, scans about twenty, and the most talkative cameras a hundred.
MAX_ENTRIES = 1000
# How far EXIF is looked at: its first directory lies at its beginning, before thumbnails and what makers add.
EXIF_BYTES = 2**16
_ORIENTATION = 274
_CLASSIC, _BIG = 42, 43
# What can hold a whole number, by the type's number: how struct calls it.
_NUMBERS = {1: "B", 3: "H", 4: "I"}
# How many bytes a value of each type has.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_INSIDE = 4


@dataclass(frozen=True)
class Entry:
    """One tag: its type, how many values it has, and the 12 bytes that it is written with."""

    type: int
    count: int
    raw: bytes


@dataclass(frozen=True)
class Directory:
    """Tags, by their numbers, and how struct calls the order of their bytes."""

    order: str
    entries: Mapping[int, Entry]

    def number(self, tag: int, default: int) -> int:
        """The one number that a tag holds.

        Args:
            tag: The tag.
            default: What is said where there is no such tag.

        Returns:
            The number.

        Raises:
            ValueError: The tag holds something else.
        """
        entry = self.entries.get(tag)
        if entry is None:
            return default
        if entry.type not in _NUMBERS or entry.count != 1:
            raise ValueError(f"tag {tag} is not one number")
        return int(struct.unpack_from(self.order + _NUMBERS[entry.type], entry.raw, 8)[0])

    def numbers(self, data: bytes, tag: int, default: tuple[int, ...]) -> tuple[int, ...]:
        """The numbers that a tag holds, in the file or in itself.

        Args:
            data: The file.
            tag: The tag.
            default: What is said where there is no such tag.

        Returns:
            The numbers.

        Raises:
            ValueError: The tag holds something else.
        """
        entry = self.entries.get(tag)
        if entry is None:
            return default
        if entry.type not in _NUMBERS:
            raise ValueError(f"tag {tag} holds no numbers")
        at = self.offset(tag)
        source, start = (data, at) if at else (entry.raw, 8)
        return tuple(struct.unpack_from(f"{self.order}{entry.count}{_NUMBERS[entry.type]}", source, start))

    def size(self, tag: int) -> int:
        """How many bytes a tag's values have; raises ValueError for a type that there is not."""
        entry = self.entries[tag]
        if entry.type not in _SIZES:
            raise ValueError(f"tag {tag} of type {entry.type}")
        return entry.count * _SIZES[entry.type]

    def offset(self, tag: int) -> int:
        """Where in the file a tag's values lie; 0 where the tag itself holds them."""
        if self.size(tag) <= _INSIDE:
            return 0
        return int(struct.unpack_from(self.order + "I", self.entries[tag].raw, 8)[0])


def read(data: bytes) -> Directory:
    """Read the first directory.

    Args:
        data: A TIFF file, or what follows `Exif\\0\\0`.

    Returns:
        Its tags; of two with one number the first.

    Raises:
        ValueError: There is none, or more in it than anybody writes.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        raise ValueError("no directory")
    kind, start = struct.unpack_from(order + "HI", data, 2)
    if kind == _BIG:
        raise ValueError("a BigTIFF, for files of more than 4 GB")
    if kind != _CLASSIC or start + 2 > len(data):
        raise ValueError("no directory")
    (count,) = struct.unpack_from(order + "H", data, start)
    if count > MAX_ENTRIES:
        raise ValueError(f"{count} tags")
    entries: dict[int, Entry] = {}
    for at in range(start + 2, min(start + 2 + 12 * count, len(data) - 11), 12):
        tag, type_, values = struct.unpack_from(order + "HHI", data, at)
        entries.setdefault(tag, Entry(type_, values, data[at : at + 12]))
    return Directory(order, entries)


def orientation(exif: bytes) -> int:
    """Which way is up, from 1 to 8, as EXIF has it; 1 where it does not say or is broken."""
    try:
        return orientation_in(read(exif.removeprefix(b"Exif\0\0")))
    except ValueError:
        return 1


def orientation_in(tags: Directory) -> int:
    """Which way is up, as these tags have it; 1 where they do not say.

    The pixels may be whole: garbage in the metadata is no reason to refuse them.
    """
    try:
        return tags.number(_ORIENTATION, 1)
    except ValueError:
        return 1
