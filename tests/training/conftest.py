"""A small backbone of timm with a card of its own, and the run that the real Lite0 gives."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from export import run
from export.progress import Steps
from service.bundle import CropGeometry, Interpolation, sha256_of
from training import backbones, regimes
from training.architectures import building
from training.backbones import Card
from training.errors import BackboneError
from training.result import Features, HeadResult, Result


def quiet(total: int) -> Steps:
    return Steps(total, Console(quiet=True))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small models and matrices are fastest on one thread, by far where other tests run beside them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def absent() -> Path:
    """What finds the weights of a card whose file is not on this machine."""
    raise BackboneError("Expected the weights. Received: no such file.")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Card:
    """A card whose file names its tensors as another implementation would."""
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.manual_seed(0)
    tensors = backbones.build("test_efficientnet", 5).state_dict()
    torch.save(
        {f"_{index}.{name.rpartition('.')[2]}": tensor for index, (name, tensor) in enumerate(tensors.items())}, path
    )
    stages = zip((2, 4, 8, 16, 32), (16, 24, 32, 48, 64), strict=True)
    backbone = backbones.card("efficientnet_lite0").backbone.model_copy(
        update={
            "name": "small",
            "architecture": "test_efficientnet",
            "weights_sha256": sha256_of(path),
            "probes": (run.Probe(name="b4", channels=64, module="blocks.4"),),
            "stages": tuple(
                run.Stage(name=f"c{index + 1}", stride=stride, channels=channels, module=f"blocks.{index}")
                for index, (stride, channels) in enumerate(stages)
            ),
        }
    )
    return Card(
        backbone=backbone,
        geometry=CropGeometry(72, 64, 64, Interpolation.INTERPOLATION_BILINEAR),
        scaling=run.Scaling(mean=(0.4, 0.5, 0.6), deviation=(0.2, 0.3, 0.4)),
        labels=lambda: ("ant", "bee", "cat", "dog", "eel"),
        weights=lambda: path,
    )


@pytest.fixture
def registered(small: Card, monkeypatch: pytest.MonkeyPatch) -> Card:
    """The small card, to be had by its name."""
    monkeypatch.setattr(backbones, "CARDS", {**backbones.CARDS, "small": small})
    return small


@pytest.fixture
def small_run(registered: Card, tmp_path: Path) -> Path:
    regimes.as_is(registered.backbone.name, tmp_path / "small", quiet(3))
    return tmp_path / "small"


@dataclass(frozen=True)
class Lite0:
    """The run of the real EfficientNet-Lite0 as it is."""

    path: Path
    run: run.Run


@pytest.fixture(scope="session")
def lite0(tmp_path_factory: pytest.TempPathFactory) -> Lite0:
    path = tmp_path_factory.mktemp("runs") / "imagenet"
    return Lite0(path, regimes.as_is("efficientnet_lite0", path, quiet(3)))


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    """Weights for the small card's architecture and classes, as a person has trained them."""
    path = tmp_path / "mine.pth"
    torch.save({"state_dict": building.untrained("test_efficientnet", 5, seed=7).state_dict()}, path)
    return path


@pytest.fixture
def changed_weights(small: Card, tmp_path: Path) -> Card:
    """The small card with a file of which one byte was changed."""
    data = bytearray(small.weights().read_bytes())
    data[-1] ^= 1
    (tmp_path / "changed.pth").write_bytes(data)
    return replace(small, weights=lambda: tmp_path / "changed.pth")


def head_of(result: Result) -> HeadResult:
    """What is said of the head of a run that is no random start."""
    assert result.head is not None
    return result.head


def features_of(result: Result) -> Features:
    """What is said of its features."""
    assert result.features is not None
    return result.features
