"""Two processes that torchrun starts learn what one learns alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.tuning.teacher import learner, lessons, nothing, plan
from training.tuning import loop
from training.tuning.journal import METRICS

ROOT = Path(__file__).parents[3]


def test_two_processes_come_to_what_one_comes_to(tmp_path: Path) -> None:
    changed = {"rate": "range test", "channels_last": "auto", "precision": "fp32"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command += ["tests.training.tuning.teacher", str(tmp_path / "two"), str(tmp_path / "out"), json.dumps(changed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    one = loop.tune(learner(), lessons(), plan(**changed), tmp_path / "one", nothing)
    for name, each in load_file(tmp_path / "out").items():
        torch.testing.assert_close(each, one.state[name], rtol=1e-4, atol=1e-5, msg=name)
    lines = [json.loads(line) for line in (tmp_path / "two" / METRICS).read_text().splitlines()]
    # Written once, by the first process, of all images.
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 7))
    assert [line["validation_images"] for line in lines if "validation_images" in line] == [30, 30]
    scores = [line["validation_log_loss"] for line in lines if "validation_log_loss" in line]
    assert scores == pytest.approx([each.score.log_loss for each in one.record.history if each.score], rel=1e-4)
