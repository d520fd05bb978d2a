"""The null that is shipped is of the weights that are shipped, and says how unusual a distance is."""

import math

import numpy as np
import pytest

from training import backbones
from training.advice import null, shift
from training.advice.null import Null

NULL = Null(
    backbone="small",
    weights_sha256="0" * 64,
    origin="drawn",
    crops_px=(64, 256),
    images=(16, 64),
    layers=("a", "b"),
    mean=(((0.0, 1.0), (-2.0, 1.0)), ((2.0, 1.0), (0.0, 1.0))),
    deviation=(((1.0, 2.0), (0.5, 2.0)), ((1.0, 2.0), (0.5, 2.0))),
)


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (16, [3, 1]),
        (64, [10, 1]),
        (32, [4 / 0.75, 1]),  # half-way, by the logarithm
        (2, [3, 1]),
        (5000, [10, 1]),
    ],
)
def test_a_distance_is_told_in_deviations_for_as_many_images(images: int, expected: list[float]) -> None:
    assert NULL.z({"b": math.exp(3), "a": math.exp(3)}, images, 64) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("crop_px", "expected"),
    [(64, [3, 1]), (256, [1, 1]), (128, [2, 1]), (32, [3, 1]), (1024, [1, 1])],
)
def test_and_for_crops_as_large(crop_px: float, expected: list[float]) -> None:
    assert NULL.z({"b": math.exp(3), "a": math.exp(3)}, 16, crop_px) == pytest.approx(expected)


def test_no_distance_at_all_is_a_number() -> None:
    assert all(map(math.isfinite, NULL.z({"a": 0.0, "b": 0.0}, 16, 64)))


@pytest.mark.parametrize("number", [0, 1, 2])
def test_those_that_are_shipped_name_the_batch_norms_of_their_backbones(number: int) -> None:
    card = backbones.card(f"efficientnet_lite{number}")
    found = null.load(card.backbone.name, card.digest())
    assert found is not None
    assert found.layers == tuple(shift.norms(backbones.build(card.backbone.architecture, 0)))
    assert np.array(found.deviation).min() > 0
    assert np.array(found.mean).shape == (len(found.crops_px), len(found.images), len(found.layers))
    assert list(found.images) == sorted(found.images)
    assert list(found.crops_px) == sorted(found.crops_px)


def test_there_is_none_for_other_weights_or_another_backbone() -> None:
    assert null.load("efficientnet_lite0", "0" * 64) is None
    assert null.load("small", "0" * 64) is None
