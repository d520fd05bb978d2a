"""A pretraining makes its loss smaller, ends with the same bits whenever it was stopped."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.training.pretraining.test_batches import views
from training.errors import CheckpointError, TuningError
from training.pretraining import loop
from training.pretraining.loop import Schedule
from training.tuning.journal import METRICS

SCHEDULE = Schedule(epochs=2, batch_size=5, rate=0.01)
STEPS = 6


class Tiny(nn.Module):
    """Finds the mean colour of a picture again, with noise that torch draws and a norm that remembers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(3, 8)
        self.norm = nn.BatchNorm1d(8)
        self.outer = nn.Linear(8, 3)

    def forward(self, shown: Tensor) -> tuple[Tensor, Tensor]:
        wanted = shown[0].float().mean((1, 2)) / 255
        embedding = self.norm(self.inner(wanted + 0.1 * torch.randn(wanted.shape)))
        return (self.outer(embedding) - wanted).pow(2).mean(), embedding


def nothing(_: int) -> None:
    """Told of what is done."""


def test_the_loss_falls_and_every_step_and_epoch_is_written_down(tmp_path: Path) -> None:
    module = Tiny()
    history = loop.learn(module, views(tmp_path), Schedule(10, 5, 0.01), tmp_path / "run", nothing)
    assert history[-1].loss < history[0].loss / 2
    assert len(history) == 10
    lines = [json.loads(line) for line in (tmp_path / "run" / METRICS).read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 31))
    assert not module.training
    assert history[0].spread == pytest.approx([line["spread"] for line in lines if "spread" in line][2])


@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_interrupted_it_ends_with_the_same_bits(tmp_path: Path, step: int) -> None:
    """Within an epoch, in its last step and between two of them; every step has a checkpoint here."""
    whole = Tiny()
    expected = loop.learn(whole, views(tmp_path), SCHEDULE, tmp_path / "whole", nothing)
    done: list[int] = []

    def interrupted(count: int) -> None:
        done.append(count)
        if sum(done) == step + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.learn(Tiny(), views(tmp_path), SCHEDULE, tmp_path / "run", interrupted, checkpoint_s=0)
    resumed: list[int] = []
    again = Tiny()
    found = loop.learn(again, views(tmp_path), SCHEDULE, tmp_path / "run", resumed.append, checkpoint_s=0)
    assert resumed[0] == step
    assert sum(resumed) == STEPS
    state = again.state_dict()
    assert all(torch.equal(each, state[name]) for name, each in whole.state_dict().items())
    assert [(each.loss, each.spread) for each in found] == [(each.loss, each.spread) for each in expected]


def test_torchs_own_generator_is_left_alone(tmp_path: Path) -> None:
    module = Tiny()
    torch.manual_seed(7)
    before = torch.get_rng_state()
    loop.learn(module, views(tmp_path), SCHEDULE, tmp_path / "run", nothing)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("changed", [{"rate": 0.02}, {"epochs": 3}, {"seed": 1}])
def test_the_checkpoint_of_another_training_is_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    loop.learn(Tiny(), views(tmp_path), SCHEDULE, tmp_path / "run", nothing)
    other = Schedule(**{"epochs": 2, "batch_size": 5, "rate": 0.01, **changed})
    with pytest.raises(CheckpointError, match=f"{next(iter(changed))} is .*, not"):
        loop.learn(Tiny(), views(tmp_path), other, tmp_path / "run", nothing)


def test_a_loss_that_explodes_is_stopped_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TuningError, match=r"Expected at most .* lower the learning rate"):
        loop.learn(Tiny(), views(tmp_path), Schedule(40, 5, 50.0), tmp_path / "run", nothing)


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    module = Tiny()
    with torch.no_grad():
        module.inner.weight[0, 0] = float("nan")
    with pytest.raises(TuningError, match=r"NaN or infinity in inner.weight"):
        loop.learn(module, views(tmp_path), SCHEDULE, tmp_path / "run", nothing)
