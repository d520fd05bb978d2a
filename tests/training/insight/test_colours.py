import numpy as np
import pytest
from PIL import Image

from training.insight import colours


def test_the_higher_a_number_the_brighter_its_colour() -> None:
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None]
    bright = np.asarray(colours.coloured(ramp).convert("RGB").convert("L"), int)[0]
    assert (np.diff(bright) >= -1).all()
    assert bright[-1] - bright[0] > 150
    assert colours.coloured(ramp).size == (256, 1)


def test_a_heat_is_laid_over_where_it_is() -> None:
    pixels = np.full((64, 96, 3), (200, 20, 20), np.uint8)
    heat = np.zeros((2, 3), np.float32)
    heat[0, 2] = 1.0
    made = np.asarray(colours.overlaid(pixels, heat), int)
    assert made.shape == (64, 96, 3)
    hot, cold = made[0, -1], made[-1, 0]
    assert hot.sum() > 2 * cold.sum()
    # What is not hot is grey, so that no colour of the picture is taken for heat.
    assert np.ptp(cold) == 0


def test_without_heat_the_picture_is_grey_and_dim() -> None:
    pixels = np.full((8, 8, 3), 100, np.uint8)
    assert (np.asarray(colours.overlaid(pixels, np.zeros((2, 2), np.float32))) == 55).all()


@pytest.mark.parametrize(("tiles", "columns", "size"), [(1, 4, (7, 9)), (4, 4, (40, 9)), (5, 4, (40, 22))])
def test_a_sheet_has_its_tiles_in_rows(tiles: int, columns: int, size: tuple[int, int]) -> None:
    made = colours.sheet([Image.new("RGB", (7, 9), (place, 0, 0)) for place in range(tiles)], columns)
    assert made.size == size
    assert [made.getpixel((place % columns * 11, place // columns * 13)) for place in range(tiles)] == [
        (place, 0, 0) for place in range(tiles)
    ]


def test_an_enlarged_picture_has_squares() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 2, 3), np.uint8)
    made = np.asarray(colours.enlarged(Image.fromarray(pixels), 5))
    np.testing.assert_array_equal(made, pixels.repeat(5, axis=0).repeat(5, axis=1))
