"""Crops grow when they are asked to, by the part of all steps."""

import pytest

from service.bundle import CropGeometry, Interpolation
from training.errors import TuningError
from training.tuning.crops import Crops

GEOMETRY = CropGeometry(146, 128, 128, Interpolation.INTERPOLATION_BICUBIC)
WIDE = CropGeometry(50, 32, 48, Interpolation.INTERPOLATION_BICUBIC)


def sides(crops: Crops, steps: int) -> list[int]:
    return [crops.at(epoch, step, steps).crop_width_px for epoch in range(crops.epochs) for step in range(steps)]


def test_all_steps_have_the_crop_that_is_served_if_nothing_else_is_asked_for() -> None:
    assert Crops(GEOMETRY).at(0, 0, 10) is GEOMETRY


def test_the_first_part_of_all_steps_has_a_smaller_crop() -> None:
    assert sides(Crops(GEOMETRY, ((0.7, 96),)), 10) == [96] * 7 + [128] * 3
    assert sides(Crops(GEOMETRY, ((0.5, 64), (0.75, 96)), epochs=2), 4) == [64] * 4 + [96] * 2 + [128] * 2
    assert sides(Crops(GEOMETRY, ((0.7, 96),)), 1) == [96]


def test_a_smaller_crop_has_the_same_shape_and_at_least_a_pixel() -> None:
    crop = Crops(WIDE, ((0.5, 24),)).at(0, 0, 2)
    assert (crop.crop_width_px, crop.crop_height_px, crop.resize_shorter_px) == (24, 16, 25)
    crop = Crops(WIDE, ((0.5, 1),)).at(0, 0, 2)
    assert (crop.crop_width_px, crop.crop_height_px, crop.resize_shorter_px) == (1, 1, 1)


@pytest.mark.parametrize(
    "smaller",
    [
        ((0.5, 128),),
        ((0.5, 0),),
        ((0.0, 64),),
        ((1.0, 64),),
        ((0.5, 96), (0.6, 64)),
        ((0.5, 64), (0.5, 96)),
        ((2.0, 96),),
    ],
)
def test_crops_that_do_not_grow_are_refused(smaller: tuple[tuple[float, int], ...]) -> None:
    with pytest.raises(TuningError, match=r"Expected crops that grow, .* that rise to 128\. Received: \(\("):
        Crops(GEOMETRY, smaller)
