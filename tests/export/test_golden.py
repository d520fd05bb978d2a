import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export import golden
from export.errors import GoldenError
from service import image
from tests.export.conftest import GEOMETRY

LIMITS = image.ImageLimits()


def write_images(folder: Path, count: int, suffix: str = ".png") -> None:
    folder.mkdir(exist_ok=True)
    for index in range(count):
        Image.new("RGB", (40 + index, 40), (index, 0, 255 - index)).save(folder / f"{index:03}{suffix}")


def test_generated_images_are_the_same_every_time() -> None:
    first, second = golden.generate(GEOMETRY), golden.generate(GEOMETRY)
    assert first.source == "generated"
    assert first.files == second.files
    assert first.pixels.shape == (16, 32, 32, 3)
    np.testing.assert_array_equal(first.pixels, second.pixels)


def test_generated_images_differ_in_size_and_mode_and_content() -> None:
    made = golden.generate(GEOMETRY)
    pictures = [Image.open(io.BytesIO(data)) for data in made.files.values()]
    assert len({picture.size for picture in pictures}) == 8
    assert {picture.mode for picture in pictures} == {"RGB", "L"}
    assert len({row.tobytes() for row in made.pixels}) == 16


def test_pixels_are_those_that_the_service_makes() -> None:
    made = golden.generate(GEOMETRY)
    for data, row in zip(made.files.values(), made.pixels, strict=True):
        np.testing.assert_array_equal(image.read(data, GEOMETRY, LIMITS), row)


def test_given_images_are_taken_byte_for_byte_in_the_order_of_their_names(tmp_path: Path) -> None:
    write_images(tmp_path / "given", 40)
    (tmp_path / "given/000.txt").write_text("passed over")
    Image.new("RGB", (50, 50)).save(tmp_path / "given/0000.JPEG")
    made = golden.collect(tmp_path / "given", GEOMETRY, LIMITS)
    assert made.source == "given"
    assert list(made.files)[:3] == ["00.png", "01.jpeg", "02.png"]
    assert len(made.files) == len(made.pixels) == 32
    assert made.files["00.png"] == (tmp_path / "given/000.png").read_bytes()
    assert made.files["01.jpeg"] == (tmp_path / "given/0000.JPEG").read_bytes()


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path, 15)
    with pytest.raises(
        GoldenError, match=r"Expected at least 16 JPEG, PNG, WebP, GIF, BMP or TIFF files in .* Received: 15"
    ):
        golden.collect(tmp_path, GEOMETRY, LIMITS)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GoldenError, match=r"Expected a folder of golden images. Received: .*nowhere: No such file"):
        golden.collect(tmp_path / "nowhere", GEOMETRY, LIMITS)


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_images(tmp_path, 20)
    (tmp_path / "007.png").write_bytes(b"no image")
    with pytest.raises(GoldenError, match=r"Received: .*007\.png: Expected a JPEG, PNG, WebP, GIF, BMP or TIFF file"):
        golden.collect(tmp_path, GEOMETRY, LIMITS)
