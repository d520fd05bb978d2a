"""The range test reads a rate from losses, far below where they explode."""

import math

import pytest
import torch
from lightning_fabric import Fabric

from tests.training.tuning.teacher import Colours, plan, tunable
from training.errors import TuningError
from training.tuning import range_test
from training.tuning.loss import Objective

PLAIN = Objective(Fabric(accelerator="cpu", devices=1), 0.0, None, bf16=False, channels_last=False)
RATES = [1e-4 * 10 ** (4 * step / 39) for step in range(40)]


def _step(rate: float, exponent: float) -> float:
    """From 0 to 1 around a power of ten."""
    return 1 / (1 + math.exp(-4 * (math.log10(rate) - exponent)))


def test_the_rate_at_which_what_was_won_is_lost_again_is_taken() -> None:
    """The loss falls by one around 0.001 and rises around 0.03, where half of the rise is as much as was won."""
    losses = [2 - _step(rate, -3) + 2 * _step(rate, -1.5) for rate in RATES]
    found = range_test.read(RATES, losses)
    assert found.diverged is None
    assert found.chosen == found.harmless == pytest.approx(10**-1.5, rel=0.3)


def test_a_tenth_of_where_it_explodes_is_the_most() -> None:
    losses = [2 - _step(rate, -2.5) for rate in RATES[:25]] + [3.0, 9.0]
    found = range_test.read(RATES[:27], losses)
    assert found.diverged == RATES[26]
    assert found.harmless is not None
    assert found.harmless > found.chosen == pytest.approx(RATES[26] / 10)


def test_noise_after_a_long_fall_is_no_explosion() -> None:
    """From 3 to 0.2, and then up to five times that: far better than before the first step."""
    losses = [0.2 + 2.8 * (1 - _step(rate, -3)) for rate in RATES]
    losses[-1] = 1.0
    found = range_test.read(RATES, losses)
    assert found.diverged is None
    assert found.chosen == pytest.approx(0.1)


def test_a_loss_that_only_falls_takes_the_cap() -> None:
    found = range_test.read(RATES, [2 - _step(rate, -3) for rate in RATES])
    assert found.harmless is None
    assert found.chosen == pytest.approx(0.1)


def test_where_nothing_falls_the_cap_is_taken() -> None:
    found = range_test.read(RATES[:36], [1 + step / 10 for step in range(36)])
    assert found.harmless is None
    assert found.chosen == pytest.approx(RATES[35] / 10)


def test_what_ended_early_exploded() -> None:
    """The loss that was no number is not among them."""
    found = range_test.read(RATES[:30], [2 - _step(rate, -3) for rate in RATES[:30]])
    assert found.diverged == RATES[29]
    assert found.chosen == pytest.approx(RATES[29] / 10)


def test_adamw_is_tried_with_rates_a_hundredth_as_high() -> None:
    model = tunable()
    wanted = plan(optimizer="adamw")
    model.arrange(wanted)
    found = range_test.test(model, wanted, Colours(), PLAIN)
    assert found.rates[0] == pytest.approx(1e-6)
    assert found.rates[len(found.rates) - 1] <= 1e-2 * (1 + 1e-9)
    assert found.chosen <= 1e-3 * (1 + 1e-9)


@pytest.mark.parametrize(
    ("batch", "images", "expected"), [(64, 88, 16), (64, 512, 32), (64, 5000, 64), (8, 5000, 8), (8, 20, 8)]
)
def test_of_few_images_a_step_shows_few(batch: int, images: int, expected: int) -> None:
    assert range_test.shown(batch, images) == expected


def test_it_leaves_the_model_alone() -> None:
    model = tunable()
    model.arrange(plan())
    before = {name: each.clone() for name, each in model.state_dict().items()}
    found = range_test.test(model, plan(), Colours(), PLAIN)
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    assert len(found.rates) == len(found.losses) > 20
    assert 1e-4 < found.chosen <= 0.1
    assert min(found.losses) < found.losses[0]


def test_a_model_that_gives_no_numbers_is_told() -> None:
    model = tunable()
    model.arrange(plan())
    with torch.no_grad():
        model.get_parameter("head.linear.bias").fill_(float("nan"))
    with pytest.raises(
        TuningError, match=r"Expected losses to find a learning rate by. Received: 0 at rates from 0.0001"
    ):
        range_test.test(model, plan(), Colours(), PLAIN)


def test_batches_that_are_harder_than_others_do_not_mislead_it() -> None:
    """At rates that change nothing the curve is flat, however much the losses of small batches differ."""
    model = tunable()
    model.arrange(plan())
    feed = Colours(images=80, batch=2)
    with torch.no_grad():
        losses = [PLAIN.loss(model, batch).item() / batch.weights.sum().item() for batch in feed.epoch(0)]
    found = range_test.test(model, plan(), feed, PLAIN)
    assert max(losses) - min(losses) > 0.5
    assert max(found.losses[:5]) - min(found.losses[:5]) < 0.02
