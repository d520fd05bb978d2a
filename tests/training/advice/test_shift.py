"""Batch norms tell images like those that they saw from others; and are left as they were."""

import pytest
import torch
from torch import Tensor, nn

from training.advice import shift
from training.freezing import digest


class Backbone(nn.Module):
    """Two norms, and one that keeps no statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.without = nn.BatchNorm2d(3, track_running_stats=False)
        self.affine = nn.GroupNorm(1, 3)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.second(self.first(x).relu())
        return answer


def normal(images: int, mean: float = 0.0, deviation: float = 1.0) -> Tensor:
    return mean + deviation * torch.randn(images, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def module() -> nn.Module:
    """A backbone whose first norm has seen standard normal numbers."""
    made = Backbone()
    made.train()
    for _ in range(200):
        made(torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1)))
    return made.eval()


def first(module: nn.Module, x: Tensor) -> float:
    return shift.divergences(module, shift.moments(module, module, torch.split(x, 16)))["first"]


def test_norms_without_statistics_are_passed_over(module: nn.Module) -> None:
    assert list(shift.norms(module)) == ["first", "second"]


def test_what_was_seen_before_is_near_and_what_was_not_is_as_far_as_the_formula_says(module: nn.Module) -> None:
    assert first(module, normal(64)) < 0.01
    # Of N(m, s^2) and N(0, 1): (s^2 + m^2 + (1 + m^2) / s^2) / 2 - 1.
    assert first(module, normal(64, mean=2)) == pytest.approx(4, rel=0.1)
    assert first(module, normal(64, deviation=2)) == pytest.approx((4 + 1 / 4) / 2 - 1, rel=0.1)


def test_batches_do_not_matter_and_nothing_is_changed_or_left_behind(module: nn.Module) -> None:
    before = digest(module.state_dict())
    x = normal(20)
    whole = shift.moments(module, module, [x])
    parts = shift.moments(module, module, torch.split(x, 7))
    for name, rows in whole.items():
        torch.testing.assert_close(rows, parts[name])
    assert digest(module.state_dict()) == before
    assert not any(each._forward_pre_hooks for each in module.modules())


def test_hooks_are_taken_away_when_something_fails(module: nn.Module) -> None:
    with pytest.raises(RuntimeError):
        shift.moments(module, module, [torch.zeros(1, 4, 8, 8)])
    assert not any(each._forward_pre_hooks for each in module.modules())


def test_a_channel_that_is_always_the_same_is_no_infinity(module: nn.Module) -> None:
    assert torch.isfinite(torch.tensor(first(module, torch.zeros(16, 3, 8, 8))))
