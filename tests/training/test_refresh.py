import json
from pathlib import Path

import numpy as np
import pytest
import torch

from export import program, run
from export.errors import ProgramError, RunError
from export.run import Head
from export.space import embedding_space_id
from service.bundle import labels_sha256
from tests.training.conftest import quiet
from training import backbones, heads
from training.backbones import Card
from training.errors import BackboneError, HeadError
from training.refresh import refresh
from training.served import Served, describe

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


LABELS = ("bee", "cat")
TAPS = ("c3", "b4", "embedding")
HEADS = (
    Head(kind="linear", taps=TAPS),
    Head(kind="mlp", taps=TAPS, hidden=6),
    Head(kind="cosine", taps=TAPS),
)


def write_trained(path: Path, card: Card, head: Head) -> Path:
    """A run of a head that was trained on a stage, a probe and the embedding, as `fit` writes it."""
    built = heads.build(head, {"c3": 32, "b4": 64, "embedding": 256}, len(LABELS))
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in built.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape, generator=random))
    backbone, _ = backbones.parted(backbones.pretrained(card))
    model = program.trace(Served(backbone, built, card.backbone, card.scaling), card.geometry)
    made = run.Run(
        regime=run.Decision(name="small-similar", reason="a test"),
        backbone=card.backbone,
        geometry=card.geometry,
        scaling=card.scaling,
        head=head,
        trained=tuple(name for name in model.state_dict if name.startswith("head.")),
        labels=LABELS,
        labels_sha256=labels_sha256(LABELS),
        outputs=describe(model, card.backbone),
        metrics={},
        data_sha256="a" * 64,
        weights_sha256=run.digest(model),
    )
    run.write(path, made, model)
    return path


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.kind)
def test_every_head_is_built_again_from_its_description_and_its_tensors(
    head: Head, small: Card, tmp_path: Path
) -> None:
    path = write_trained(tmp_path / "run", small, head)
    described = run.read(path)
    before = program.answers(run.read_program(path, described), PIXELS)
    (path / run.PROGRAM).unlink()
    refresh(path, quiet(2))
    after = program.answers(run.read_program(path, described), PIXELS)
    assert before["logits"].shape == (3, 2)
    np.testing.assert_array_equal(after["logits"], before["logits"])


def test_a_head_that_cannot_be_built_is_refused(small_run: Path) -> None:
    described = json.loads((small_run / run.RUN).read_text())
    described["head"] = {"kind": "linear", "taps": ["c3", "z9"]}
    (small_run / run.RUN).write_text(json.dumps(described))
    with pytest.raises(HeadError, match=r"Expected a head on the taps c1, .*, b4, embedding\. .* on z9\."):
        refresh(small_run, quiet(2))


def test_another_head_than_the_weights_are_of_is_refused(small: Card, tmp_path: Path) -> None:
    path = write_trained(tmp_path / "run", small, HEADS[0])
    described = json.loads((path / run.RUN).read_text())
    described["head"]["taps"] = ["embedding"]
    (path / run.RUN).write_text(json.dumps(described))
    with pytest.raises(BackboneError, match=r"run to fit test_efficientnet\. [\s\S]*mismatch for head\.linear\.weight"):
        refresh(path, quiet(2))


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
