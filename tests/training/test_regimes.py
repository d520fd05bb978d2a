from dataclasses import replace
from pathlib import Path

import pytest

from export import run
from export.errors import TargetError
from service.bundle import labels_sha256, sha256_of
from tests.training.conftest import absent, quiet
from training import backbones, regimes
from training.backbones import Card
from training.errors import BackboneError


def test_a_run_as_it_is_says_everything_that_its_card_does(small_run: Path, small: Card) -> None:
    made = run.read(small_run)
    assert made.regime.name == "as-is"
    assert made.backbone == small.backbone
    assert (made.geometry, made.scaling, made.labels) == (small.geometry, small.scaling, small.labels())
    assert (made.metrics, made.data_sha256, made.trained) == ({}, None, ())
    assert made.labels_sha256 == labels_sha256(small.labels())
    assert made.head == run.Head(kind="linear", taps=("embedding",))
    assert [output.name for output in made.outputs] == ["c1", "c2", "c3", "c4", "c5", "embedding", "logits"]
    assert {path.name for path in small_run.iterdir()} == {"weights.safetensors", "run.json", "model.pt2"}


def test_an_existing_folder_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "pretrained", lambda _: pytest.fail("worked"))
    monkeypatch.setattr(backbones, "ready", lambda *_: pytest.fail("looked for weights"))
    with pytest.raises(TargetError, match=f"Expected a folder that does not exist yet. Received: {tmp_path}, which"):
        regimes.as_is("efficientnet_lite0", tmp_path, quiet(3), download=True)


@pytest.mark.usefixtures("registered")
def test_a_file_of_ones_own_is_served_with_the_published_classes(small: Card, own_file: Path, tmp_path: Path) -> None:
    made = regimes.as_is("small", tmp_path / "mine", quiet(3), own_file)
    assert made.backbone.source == "the file mine.pth, given by who made the run, for small"
    assert made.backbone.weights_sha256 == sha256_of(own_file)
    assert made.labels == small.labels()


def test_weights_are_fetched_where_that_is_allowed(
    small: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = replace(small, weights=absent, download=small.weights)
    monkeypatch.setattr(backbones, "CARDS", {"small": remote})
    with pytest.raises(BackboneError, match=r"^Expected the weights. Received: no such file.$"):
        regimes.as_is("small", tmp_path / "run", quiet(3))
    made = regimes.as_is("small", tmp_path / "run", quiet(3), download=True)
    assert made.backbone.weights_sha256 == small.digest()


def test_missing_weights_leave_no_run(changed_weights: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "CARDS", {"small": changed_weights})
    with pytest.raises(BackboneError, match="to have the SHA-256"):
        regimes.as_is("small", tmp_path / "runs/small", quiet(3))
    assert not (tmp_path / "runs").exists()
