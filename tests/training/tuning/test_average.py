"""Averages of weights, against the plain sums that they stand for."""

import pytest
import torch

from training.tuning.average import Average


def numbers(step: int) -> dict[str, torch.Tensor]:
    return {"a": torch.tensor([float(step), -step * step]), "count": torch.tensor(step)}


def test_the_tail_is_the_mean_of_the_last_steps() -> None:
    average = Average("tail", 3, 10)
    for step in range(10):
        average.update(numbers(step), step)
        assert bool(average.tensors) == (step >= 7)
    assert average.tensors["a"].tolist() == pytest.approx([8, -(49 + 64 + 81) / 3])
    assert average.tensors["count"] == 9


def test_a_moving_average_forgets_faster_in_the_beginning() -> None:
    average, expected = Average("ema", 20, 100), 0.0
    for step in range(100):
        average.update(numbers(step), step)
        new = 1.0 if not step else max(1 / 20, 9 / (10 + step))
        expected += new * (step - expected)
        assert average.tensors["a"][0].item() == pytest.approx(expected, rel=1e-5)
    assert 85 < expected < 92


def test_it_does_not_follow_what_is_changed_in_place() -> None:
    average, moving = Average("tail", 1, 1), torch.zeros(2)
    average.update({"a": moving}, 0)
    moving.fill_(7)
    assert average.tensors["a"].tolist() == [0, 0]
