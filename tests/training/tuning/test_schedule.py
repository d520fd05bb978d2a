"""The rate rises along a line, falls along a cosine, and no step is wasted."""

import math

import pytest

from training.tuning.schedule import factor


def test_it_rises_and_falls_to_nothing() -> None:
    found = [factor(step, 20, 0.2) for step in range(20)]
    assert found[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert found[4] == 1
    assert found[12] == pytest.approx(0.5)
    assert found[4:] == sorted(found[4:], reverse=True)
    assert found[-1] == pytest.approx((1 + math.cos(math.pi * 15 / 16)) / 2)
    assert 0 < found[-1] < 0.01


@pytest.mark.parametrize("warm_up", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_every_step_of_a_short_training_moves(steps: int, warm_up: float) -> None:
    assert all(0 < factor(step, steps, warm_up) <= 1 for step in range(steps))
