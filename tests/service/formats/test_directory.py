"""The first directory of TIFF and EXIF: its tags in either order of bytes, and nothing of what is broken."""

import struct

import pytest

from service.formats import directory
from service.formats.directory import MAX_ENTRIES, Directory


def exif(order: str, *entries: tuple[int, int, int, bytes]) -> bytes:
    packed = [struct.pack(order + "HHI", *entry[:3]) + entry[3].ljust(4, b"\0") for entry in entries]
    magic = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HI", 42, 8)
    return magic + struct.pack(order + "H", len(entries)) + b"".join(packed) + bytes(4)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "packed"), [(1, "B"), (3, "H"), (4, "I")])
@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
def test_the_orientation_is_found(order: str, kind: int, packed: str, prefix: bytes) -> None:
    other = (256, 4, 1, struct.pack(order + "I", 7))
    data = exif(order, other, (274, kind, 1, struct.pack(order + packed, 6)))
    assert directory.orientation(prefix + data) == 6


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"II",
        b"XX*\0\x08\0\0\0\0\0",
        b"II*\0\xff\xff\xff\xff\0\0",
        exif("<", (274, 5, 1, b"\x06")),
        exif("<", (274, 3, 2, b"\x06")),
        exif("<", *[(274, 3, 1, b"\x06")] * (MAX_ENTRIES + 1)),
        exif("<", (274, 3, 1, b"\x06"))[:15],
    ],
)
def test_where_it_is_broken_or_missing_the_picture_is_upright(data: bytes) -> None:
    assert directory.orientation(data) == 1


def test_of_two_tags_with_one_number_the_first_counts() -> None:
    assert directory.orientation(exif("<", (274, 3, 1, b"\x03"), (274, 3, 1, b"\x06"))) == 3


def test_numbers_lie_in_the_tag_or_in_the_file() -> None:
    far = struct.pack("<3H", 8, 16, 32)
    data = exif("<", (258, 3, 3, struct.pack("<I", 38)), (277, 3, 2, struct.pack("<2H", 5, 6))) + far
    tags = directory.read(data)
    assert data[38:] == far
    assert tags.numbers(data, 258, ()) == (8, 16, 32)
    assert tags.numbers(data, 277, ()) == (5, 6)
    assert tags.numbers(data, 1, (9,)) == (9,)
    assert (tags.offset(258), tags.offset(277)) == (38, 0)


def test_a_tag_of_something_else_is_named() -> None:
    tags = directory.read(exif("<", (256, 2, 1, b"a"), (257, 99, 1, b"")))
    with pytest.raises(ValueError, match="tag 256 is not one number"):
        tags.number(256, 0)
    with pytest.raises(ValueError, match="tag 256 holds no numbers"):
        tags.numbers(b"", 256, ())
    with pytest.raises(ValueError, match="tag 257 of type 99"):
        tags.size(257)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GIF89a" + bytes(10), "no directory"),
        (b"II+\0" + bytes(20), "a BigTIFF"),
        (exif("<", *[(1, 1, 1, b"")] * 1001), "1001 tags"),
    ],
)
def test_what_is_no_directory_is_said(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        directory.read(data)
    assert directory.read(exif(">")) == Directory(">", {})
