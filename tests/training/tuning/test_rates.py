"""The learning rate follows from the one that the backbone was pretrained with."""

import pytest

from training import backbones
from training.tuning import rates

LITE0 = backbones.card("efficientnet_lite0").backbone.recipe


@pytest.mark.parametrize(("batch", "expected"), [(256, 0.0016), (64, 0.0004), (1, 0.00000625)])
def test_fine_tuning_takes_a_tenth_of_the_original_scaled_with_the_batch(batch: int, expected: float) -> None:
    assert rates.fine_tuning(LITE0, batch) == pytest.approx(expected, abs=1e-12)
    assert rates.original(LITE0, batch) == pytest.approx(expected * 10, abs=1e-12)


def test_later_parts_move_more() -> None:
    found = rates.by_part(0.8, 0.5, ("c3", "c4", "top"))
    assert found == pytest.approx({"c3": 0.2, "c4": 0.4, "top": 0.8}, abs=1e-12)
    assert rates.by_part(0.8, 0.5, ()) == {}


def test_a_rate_over_the_original_warns() -> None:
    assert rates.warnings(0.004, LITE0, 64, from_random=False) == ()
    assert rates.warnings(0.1, LITE0, 64, from_random=True) == ()
    assert rates.warnings(0.0041, LITE0, 64, from_random=False) == (
        "The learning rate 0.0041 is over 0.004, which this backbone was pretrained with (RMSProp, decay 0.9, momentum "
        "0.9, 0.016 for each 256 images): what it has learnt may be lost. Look at how the training loss begins in the "
        "report: where it rises at first, give a lower --rate.",
    )
