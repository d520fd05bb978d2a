import json
from pathlib import Path

import numpy as np
import pytest
import torch

from export import program, run
from export.errors import ProgramError, RunError
from export.space import embedding_space_id
from tests.training.conftest import quiet
from training.errors import BackboneError
from training.refresh import refresh

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)


def test_a_refreshed_program_gives_the_same_answers(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described = run.read(small_run)
    model = run.read_program(small_run, described)
    before = program.answers(model, PIXELS)
    space = embedding_space_id(described, model, described.output("embedding"))
    monkeypatch.setattr(torch, "__version__", "2.9.0")
    program.save(model, small_run / run.PROGRAM, described.weights_sha256)
    monkeypatch.undo()
    with pytest.raises(ProgramError, match=f"of torch 2.9.0. Rebuild it with: vertebra-train refresh {small_run}"):
        run.read_program(small_run, described)

    refresh(small_run, quiet(2))

    refreshed = run.read_program(small_run, described)
    after = program.answers(refreshed, PIXELS)
    for name, answer in before.items():
        np.testing.assert_array_equal(after[name], answer)
    assert embedding_space_id(described, refreshed, described.output("embedding")) == space
    assert run.read(small_run) == described


def test_a_missing_program_is_rebuilt(small_run: Path) -> None:
    (small_run / run.PROGRAM).unlink()
    refresh(small_run, quiet(2))
    run.read_program(small_run, run.read(small_run))


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="Expected a run"):
        refresh(tmp_path, quiet(2))


def test_weights_that_do_not_fit_are_refused(small_run: Path) -> None:
    described = json.loads((small_run / run.RUN).read_text())
    described["backbone"]["architecture"] = "tf_efficientnet_lite0"
    (small_run / run.RUN).write_text(json.dumps(described))
    with pytest.raises(BackboneError, match=r"to fit tf_efficientnet_lite0. Received: Error\(s\) in loading"):
        refresh(small_run, quiet(2))
