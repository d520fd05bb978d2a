"""Two processes that torchrun starts make the run that one makes alone, write it once, and speak with one voice."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from export import run
from tests.training.test_fit import COLOURS, draw_classes
from tests.training.test_selection import called
from training import backbones
from training.__main__ import main
from training.backbones import Card
from training.result import CURVES, METRICS, Result

ROOT = Path(__file__).parents[2]
SCRIPT = """
import pickle, sys
from pathlib import Path
import torch
from training import backbones
from training.__main__ import main
from training.backbones import Card

torch.set_num_threads(1)
listed, geometry, scaling, labels, weights, arguments = pickle.loads(Path(sys.argv[1]).read_bytes())
backbones.CARDS = {each.name: Card(each, geometry, scaling, lambda: labels, lambda: weights) for each in listed}
sys.argv = ["vertebra-train", "fit", *arguments]
sys.exit(main())
"""


def arguments(folder: Path, name: str) -> list[str]:
    given = ["--data", f"{folder}/data", "--cache", f"{folder}/{name}-cache", "--out", f"{folder}/{name}"]
    # A race between a head and two depths, in which nothing is measured that could come out otherwise.
    return [*given, "--backbone", "auto", "--regime", "small-different", "--deterministic", "--epochs", "2"]


def rows(cache: Path) -> dict[str, int]:
    """How many rows there are of features, sketches and pixels, however often."""
    return {
        kind: sum(len(np.load(each)) for each in (cache / kind).rglob("*.npy"))
        for kind in ("features", "images", "pixels")
    }


@pytest.mark.timeout(300)  # two processes that import torch and trace, on cores that others may be using
def test_two_processes_make_the_run_that_one_makes(
    small: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_classes(tmp_path / "data", list(COLOURS), 12)
    # Two to choose from, which are looked at alike.
    cards = [called(small, name) for name in ("small", "other")]
    monkeypatch.setattr(backbones, "CARDS", {each.backbone.name: each for each in cards})
    told = ([each.backbone for each in cards], small.geometry, small.scaling, small.labels(), small.weights())
    (tmp_path / "work").write_bytes(pickle.dumps((*told, arguments(tmp_path, "two"))))
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(tmp_path / "script.py"), str(tmp_path / "work")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr(sys, "argv", ["vertebra-train", "fit", *arguments(tmp_path, "one")])
    try:
        assert main() == 0
    finally:
        torch.use_deterministic_algorithms(False)
    assert done.stdout.count("Wrote ") == capsys.readouterr().out.count("Wrote ") == 1
    one, two = (Result.model_validate_json((tmp_path / name / METRICS).read_bytes()) for name in ("one", "two"))
    assert one.way.race is not None
    assert two.way.race is not None
    heats = [(heat.trains, heat.round, heat.images, heat.epochs, heat.accuracy) for heat in one.way.race.heats]
    assert [(heat.trains, heat.round, heat.images, heat.epochs, heat.accuracy) for heat in two.way.race.heats] == heats
    assert (two.way.race.chosen, two.scores["test"].accuracy) == (one.way.race.chosen, one.scores["test"].accuracy)
    weights = [load_file(tmp_path / name / run.WEIGHTS) for name in ("one", "two")]
    for name, each in weights[0].items():
        # A refitted head, whose weights are about 2, is solved until its gradient is below a thousandth.
        atol = 1e-2 if name.startswith("head.") else 1e-4
        torch.testing.assert_close(each, weights[1][name], rtol=1e-3, atol=atol, msg=name)
    assert (tmp_path / "two" / CURVES).exists() == (two.way.tuning is not None)
    # What the first process has computed the other has found.
    assert rows(tmp_path / "two-cache") == rows(tmp_path / "one-cache")
    # Nothing that was under way is left, and nothing that was half written.
    for folder in ("decided", "trainings"):
        assert list((tmp_path / "two-cache" / folder).iterdir()) == []
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith(".")} == set()
