import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export import program, run
from export.errors import ProgramError
from tests.export.conftest import GEOMETRY, Tiny, Traced

SHA256 = "a" * 64


@pytest.fixture
def saved(tiny: Traced, tmp_path: Path) -> Path:
    path = tmp_path / "model.pt2"
    program.save(tiny.model, path, SHA256)
    return path


def test_a_loaded_program_answers_like_the_module_at_any_batch(saved: Path) -> None:
    model = program.load(saved, SHA256)
    for images in (1, 2, 9):
        pixels = np.random.default_rng(images).integers(0, 256, (images, 32, 32, 3), np.uint8)
        expected = Tiny().eval()(torch.from_numpy(pixels))
        answers = program.answers(model, pixels)
        assert answers.keys() == expected.keys()
        for name, answer in answers.items():
            assert answer.dtype == np.float32
            np.testing.assert_allclose(answer, expected[name].detach().numpy(), atol=1e-6)


def test_outputs_are_named_and_shaped_in_order(tiny: Traced) -> None:
    assert program.output_names(tiny.model) == ("c2", "embedding", "logits")
    assert program.output_shapes(tiny.model) == {"c2": (8, 8, 8), "embedding": (8,), "logits": (3,)}


@pytest.mark.parametrize("version", ["2.13.9", "2.15.0+cpu", "3.14.1"])
def test_another_minor_version_of_torch_is_refused(
    tiny: Traced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    program.save(tiny.model, tmp_path / "model.pt2", SHA256)
    monkeypatch.undo()
    message = rf"Received: of torch {version[:4]}.* Rebuild it with: vertebra-train refresh {tmp_path}"
    with pytest.raises(ProgramError, match=message):
        program.load(tmp_path / "model.pt2", SHA256)


def test_another_patch_version_of_torch_is_taken(tiny: Traced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", torch.__version__.rpartition(".")[0] + ".99+cpu")
    program.save(tiny.model, tmp_path / "model.pt2", SHA256)
    monkeypatch.undo()
    program.load(tmp_path / "model.pt2", SHA256)


@pytest.mark.parametrize("content", [None, b"", b"no archive"])
def test_a_missing_or_broken_program_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / run.PROGRAM
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ProgramError, match=r"Expected a program that vertebra-train wrote .* vertebra-train refresh"):
        program.load(path, SHA256)


class _Code:
    """A pickle of it makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (str(self._path), "w")


def test_code_in_a_program_is_refused_and_not_run(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    made, pickled = tmp_path / "made", io.BytesIO()
    torch.save(_Code(made), pickled)
    with zipfile.ZipFile(saved) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    (config,) = (name for name in files if name.endswith("model_weights_config.json"))
    weights = json.loads(files[config])
    first = next(iter(weights["config"].values()))
    first["use_pickle"] = True
    (tensor,) = (name for name in files if name.endswith(f"weights/{first['path_name']}"))
    with zipfile.ZipFile(saved, "w", zipfile.ZIP_STORED) as archive:
        for name, data in {**files, config: json.dumps(weights).encode(), tensor: pickled.getvalue()}.items():
            archive.writestr(name, data)
    expected = r"Expected nothing but tensors in .*model\.pt2\. Received: a pickle of code\. .* vertebra-train refresh"
    with pytest.raises(ProgramError, match=expected):
        program.load(saved, SHA256)
    assert not made.exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_a_program_without_a_stamp_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    torch.export.save(program.trace(Tiny(), GEOMETRY), path)
    with pytest.raises(ProgramError, match="Expected a program that vertebra-train wrote"):
        program.load(path, SHA256)
