import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from training import regimes
from training.backbones import Card
from training.insight import maps


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)


def test_every_stage_has_as_many_cells_as_its_stride_says(small: Card, pixels: NDArray[np.uint8]) -> None:
    seen = maps.look(regimes.original(small).backbone, small.backbone.stages, pixels, 3)
    assert [each.stage.name for each in seen] == ["c1", "c2", "c3", "c4", "c5"]
    for each in seen:
        assert {tile.values.shape for tile in each.tiles} == {(64 // each.stage.stride, 96 // each.stage.stride)}


def test_the_mean_comes_first_and_then_the_channels_that_differ_most(small: Card, pixels: NDArray[np.uint8]) -> None:
    model = regimes.original(small)
    with torch.no_grad():
        given = model(torch.tensor(pixels)[None])["c2"][0].numpy()
    mean, *channels = maps.look(model.backbone, small.backbone.stages, pixels, 4)[1].tiles
    assert mean.channel is None
    assert [each.channel for each in channels] == np.argsort(-given.std(axis=(1, 2)))[:4].tolist()
    expected = np.abs(given).mean(axis=0)
    np.testing.assert_allclose(mean.values, (expected - expected.min()) / np.ptp(expected), atol=1e-6)
    for each in channels:
        assert each.values.min() == 0
        assert each.values.max() == pytest.approx(1)


def test_a_map_that_is_the_same_everywhere_is_dark(small: Card) -> None:
    model = regimes.original(small)
    with torch.no_grad():
        for each in model.backbone.parameters():
            each.zero_()
    for seen in maps.look(model.backbone, small.backbone.stages, np.zeros((64, 64, 3), np.uint8), 2):
        assert not any(tile.values.any() for tile in seen.tiles)


def test_of_fewer_channels_than_asked_for_all_are_shown(small: Card, pixels: NDArray[np.uint8]) -> None:
    first = maps.look(regimes.original(small).backbone, small.backbone.stages, pixels, 99)[0]
    assert sorted(each.channel for each in first.tiles if each.channel is not None) == list(range(16))
