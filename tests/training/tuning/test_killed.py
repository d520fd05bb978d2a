"""A training that is killed, at any step and in any way, goes on to the same bits as one that never was."""

import json
import multiprocessing
import os
import random
import signal
from functools import partial
from itertools import count
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.training.tuning.teacher import learner, lessons, nothing, plan, train_aside
from training.tuning import loop
from training.tuning.journal import METRICS

STEPS = 12
# All that a step may remember: momentum, averages, dropout, moving statistics, the place in an epoch.
PLANS: dict[str, dict[str, Any]] = {
    "sgd": {"rate": 0.02, "epochs": 4, "dropout": 0.3, "average": "ema", "batch_norm": "train", "unfreeze_from": "c3"},
    "adamw": {"rate": 0.003, "epochs": 4, "optimizer": "adamw", "average": "tail", "average_over": 0.6, "l2_sp": 0.1},
}
LEFT = {"checkpoint", ".checkpoint", ".lock", METRICS, "metrics.tmp", "tensorboard"}

# Its processes have torch already, and nothing else of this one.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.training.tuning.teacher"])


class Child:
    """A process that trains."""

    def __init__(self, folder: Path, changed: dict[str, Any]) -> None:
        self.out = folder / "out.safetensors"
        self._heard, teller = PROCESSES.Pipe(duplex=False)
        arguments = (folder / "run", self.out, changed, teller)
        self.process: ForkServerProcess = PROCESSES.Process(target=train_aside, args=arguments, daemon=True)
        self.process.start()
        teller.close()

    def hear(self) -> int:
        """The next that it tells of; EOFError where it has ended."""
        assert self._heard.poll(60)
        told: int = self._heard.recv()
        return told

    def stop(self, how: signal.Signals) -> int | None:
        assert self.process.pid is not None
        os.kill(self.process.pid, how)
        return self.end()

    def end(self) -> int | None:
        self.process.join(60)
        return self.process.exitcode


def finished(folder: Path, changed: dict[str, Any]) -> dict[str, Tensor]:
    child = Child(folder, changed)
    assert child.end() == 0
    return load_file(child.out)


@pytest.fixture(scope="module", params=PLANS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Tensor]]:
    return request.param, finished(tmp_path_factory.mktemp("whole"), PLANS[request.param])


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_again_and_again_it_ends_with_the_same_bits(
    whole: tuple[str, dict[str, Tensor]], tmp_path: Path, how: signal.Signals
) -> None:
    name, expected = whole
    draw = random.Random(f"{name} {how}")
    done = [0]
    while done[-1] < STEPS - 4:
        child = Child(tmp_path, PLANS[name])
        done.append(child.hear())
        # Not all that is done has a checkpoint: it is killed wherever it is, in a step or while it writes.
        for _ in range(draw.randint(1, 3)):
            done[-1] += child.hear()
        assert child.stop(how) in (-signal.SIGKILL, 1)
        assert not child.out.exists()
        assert {path.name.partition("-")[0] for path in (tmp_path / "run").iterdir()} <= LEFT
    assert len(done) > 3
    found = finished(tmp_path, PLANS[name])
    assert set(found) == set(expected)
    assert all(torch.equal(each, expected[key]) for key, each in found.items())
    lines = [json.loads(line) for line in (tmp_path / "run" / METRICS).read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, STEPS + 1))


def test_it_does_not_begin_anew(tmp_path: Path) -> None:
    """What it goes on from is told at once, so that a bar shows it."""
    first = Child(tmp_path, PLANS["sgd"])
    assert [first.hear() for _ in range(6)] == [0, 1, 1, 1, 1, 1]
    first.stop(signal.SIGKILL)
    second = Child(tmp_path, PLANS["sgd"])
    assert second.hear() >= 4
    assert second.end() == 0


@pytest.mark.parametrize("step", [1, 3, 4])
def test_interrupted_inside_a_process_it_goes_on(tmp_path: Path, step: int) -> None:
    """Ctrl-C between two steps, at the end of an epoch, and after it."""
    expected = loop.tune(learner(), lessons(), plan(rate=0.02), tmp_path / "whole", nothing)
    told: list[int] = []

    def interrupted(done: int) -> None:
        told.append(done)
        if sum(told) == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.tune(learner(), lessons(), plan(rate=0.02), tmp_path / "run", interrupted, checkpoint_s=0)
    found = loop.tune(learner(), lessons(), plan(rate=0.02), tmp_path / "run", nothing, checkpoint_s=0)
    assert all(torch.equal(each, expected.state[name]) for name, each in found.state.items())
    assert found.record.history[0].score == expected.record.history[0].score


def test_an_epoch_that_was_interrupted_took_the_time_before_and_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that goes on by a second whenever it is looked at: twice a step, when every step has a checkpoint."""
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=partial(next, count())))
    told: list[int] = []

    def interrupted(done: int) -> None:
        told.append(done)
        if sum(told) == 3:
            raise KeyboardInterrupt

    long = plan(rate=0.02, epochs=1)
    with pytest.raises(KeyboardInterrupt):
        loop.tune(learner(), lessons(), long, tmp_path / "run", interrupted, checkpoint_s=0)
    found = loop.tune(learner(), lessons(), long, tmp_path / "run", nothing, checkpoint_s=0)
    assert found.record.history[0].seconds == pytest.approx(found.record.seconds, abs=3)
    assert found.record.seconds > 2 * found.record.steps
