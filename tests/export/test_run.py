import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from export import program, run
from export.errors import ProgramError, RunError, TargetError
from tests.export.conftest import GEOMETRY, Tiny, Traced


def change(folder: Path, **values: object) -> None:
    described = json.loads((folder / run.RUN).read_text())
    (folder / run.RUN).write_text(json.dumps(described | values))


@pytest.fixture
def copy(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path / "copy"))


def test_what_was_written_is_read(tiny: Traced, tiny_run: Path) -> None:
    assert run.read(tiny_run) == tiny.run
    weights = run.read_weights(tiny_run)
    for name, tensor in Tiny().state_dict().items():
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=0)


def test_geometry_is_stored_as_a_manifest_has_it(tiny_run: Path) -> None:
    assert json.loads((tiny_run / run.RUN).read_text())["geometry"] == {
        "crop": {
            "resize_shorter_px": 40,
            "crop_height_px": 32,
            "crop_width_px": 32,
            "interpolation": "INTERPOLATION_BICUBIC",
        }
    }


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"Expected a run: a folder with run.json. Received: .*, which has none\."):
        run.read(tmp_path)
    with pytest.raises(RunError, match=r"Expected a run: .* Received: .*nowhere, which does not exist\."):
        run.read(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": 1}, "to be a run of format 2. Received: format: Input should be 2"),
        ({"colour": "red"}, "Received: colour: Extra inputs are not permitted"),
        ({"labels": ["cat", ""]}, "Received: labels.1: String should have at least 1 character"),
        ({"labels": ["cat", "dog"]}, r"Expected a label for each column of the logits \[3\]. Got 2"),
        ({"geometry": {}}, "Expected a geometry of the kind crop. Received: None"),
        ({"geometry": {"corp": {}}}, 'no field named "corp"'),
        ({"outputs": []}, "Expected an output logits"),
        (
            {"labels": ["cat", "dog", "mule"]},
            r"Expected labels with the SHA-256 ([0-9a-f]{64})\. Got labels with (?!\1)",
        ),
        ({"labels": ["dog", "cat", "horse"]}, r"Expected labels with the SHA-256 [0-9a-f]{64}\. Got labels with"),
        ({"labels_sha256": "nothing"}, "Received: labels_sha256: String should match pattern"),
        ({"head": {"kind": "forest", "taps": ["embedding"]}}, r"Received: head.kind: Input should be 'linear', 'mlp'"),
        (
            {"head": {"kind": "mlp", "taps": ["embedding"]}},
            "Received: head: .* numbers lie between two layers, of an mlp",
        ),
        ({"head": {"kind": "linear", "taps": []}}, "Received: head.taps: Tuple should have at least 1 item"),
    ],
)
def test_a_changed_description_is_refused(copy: Path, values: dict[str, object], message: str) -> None:
    change(copy, **values)
    with pytest.raises(RunError, match=message):
        run.read(copy)


def test_changed_weights_are_refused(copy: Path) -> None:
    weights = bytearray((copy / run.WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (copy / run.WEIGHTS).write_bytes(weights)
    with pytest.raises(RunError, match=r"weights.safetensors to have the SHA-256 [0-9a-f]{64}. Received: [0-9a-f]{64}"):
        run.read(copy)


def test_missing_weights_are_refused(copy: Path) -> None:
    (copy / run.WEIGHTS).unlink()
    with pytest.raises(RunError, match=r"Expected the file weights.safetensors in .* Received: No such file"):
        run.read(copy)


def test_a_run_that_contradicts_its_program_is_refused(tiny: Traced, tiny_run: Path, tmp_path: Path) -> None:
    wrong = tiny.run.model_copy(update={"outputs": tiny.run.outputs[1:]})
    with pytest.raises(RunError, match=r"Expected the outputs .* Received: a program with \{'c2'"):
        run.read_program(tiny_run, wrong)
    other = tiny.run.model_copy(update={"weights_sha256": "0" * 64})
    with pytest.raises(RunError, match=r"Expected a program of the weights 0{64}. Received: one of"):
        run.write(tmp_path / "run", other, tiny.model)


def test_an_existing_folder_is_refused_and_left_alone(
    tiny: Traced, tmp_path: Path, files: Callable[[Path], set[str]]
) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(TargetError, match=r"Expected a folder that does not exist yet. Received: .*run, which does"):
        run.write(tmp_path / "run", tiny.run, tiny.model)
    assert files(tmp_path) == {"run"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_nothing(
    error: type[BaseException],
    tiny: Traced,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: Callable[[Path], set[str]],
) -> None:
    def fail(*_: object) -> None:
        raise error("here")

    monkeypatch.setattr(program, "save", fail)
    with pytest.raises(error, match="here"):
        run.write(tmp_path / "run", tiny.run, tiny.model)
    assert files(tmp_path) == set()


def test_a_failed_replacement_leaves_the_old_program(
    copy: Path, tiny: Traced, monkeypatch: pytest.MonkeyPatch, files: Callable[[Path], set[str]]
) -> None:
    before = files(copy)

    def fail(model: object, path: Path, weights_sha256: str) -> None:
        path.write_text("half")
        raise KeyboardInterrupt(model, weights_sha256)

    monkeypatch.setattr(program, "save", fail)
    with pytest.raises(KeyboardInterrupt):
        run.replace_program(copy, tiny.run, tiny.model)
    assert files(copy) == before
    run.read_program(copy, tiny.run)


def test_a_program_of_other_weights_is_refused(copy: Path, tiny: Traced) -> None:
    program.save(program.trace(Tiny(seed=1), GEOMETRY), copy / run.PROGRAM, "1" * 64)
    with pytest.raises(ProgramError, match=r"Received: the weights 1{64}. Rebuild it with: vertebra-train refresh"):
        run.read_program(copy, tiny.run)
