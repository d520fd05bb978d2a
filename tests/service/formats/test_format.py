"""The formats are known by their first bytes, and named in one place."""

import pytest

from service.formats import format
from service.formats.format import NAMES, SUFFIXES
from tests import samples

WHOLE = dict(samples.whole())
CALLED = {"jpg": "JPEG", "png": "PNG", "webp": "WebP", "gif": "GIF", "bmp": "BMP", "tif": "TIFF"}


@pytest.mark.parametrize("name", WHOLE)
def test_a_file_is_known_by_its_first_bytes(name: str) -> None:
    found = format.of(WHOLE[name])
    assert found is not None
    assert found.name == CALLED[name.rsplit(".", 1)[1]]
    assert "." + name.rsplit(".", 1)[1] in found.suffixes


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"RIFF\0\0\0\0WAVE", b"GIF88a", b"II*", b"\0\0\0\x1cftypheic"])
def test_other_bytes_are_of_no_format(data: bytes) -> None:
    assert format.of(data) is None


def test_the_names_and_suffixes_are_those_of_the_formats() -> None:
    assert NAMES == "JPEG, PNG, WebP, GIF, BMP or TIFF"
    assert sorted(SUFFIXES) == [".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"]
