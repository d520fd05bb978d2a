import numpy as np
import pytest
import torch

from training import backbones
from training.insight import filters


def test_filters_are_drawn_in_the_colours_that_they_answer_to() -> None:
    module = backbones.build("test_efficientnet", 0)
    weight = module.get_parameter("conv_stem.weight")
    with torch.no_grad():
        weight.zero_()
        weight[0, 0, 1, 2] = 3.0  # red, in the middle on the right
        weight[0, 2, 0, 0] = -1.5
    drawn = filters.first_layer(module)
    assert drawn.shape == (weight.shape[0], 3, 3, 3)
    assert drawn[0, 1, 2].tolist() == [255, 128, 128]
    assert drawn[0, 0, 0].tolist() == [128, 128, 64]
    assert (drawn[1:] == 128).all()


def test_filters_of_one_channel_are_grey() -> None:
    drawn = filters.first_layer(backbones.build("vertebra:lenet5@1", 0))
    assert drawn.shape == (6, 5, 5, 3)
    assert (drawn == drawn[..., :1]).all()
    assert np.ptp(drawn) > 100


@pytest.mark.parametrize(("count", "size"), [(1, (9, 9)), (2, (22, 9)), (4, (22, 22))])
def test_a_sheet_has_a_square_for_every_weight(count: int, size: tuple[int, int]) -> None:
    drawn = np.full((count, 3, 3, 3), 200, np.uint8)
    drawn[0, 0, 2] = (1, 2, 3)
    made = filters.sheet(drawn, 8, 2)
    assert made.size == size
    pixels = np.asarray(made)
    assert (pixels[:3, 6:9] == (1, 2, 3)).all()
    assert (pixels[3:9, :9] == 200).all()
