"""A tiny model of torch, its run and its bundle."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from export import bundle, program, run
from export.progress import Steps
from service.bundle import CropGeometry, Interpolation, labels_sha256

GEOMETRY = CropGeometry(40, 32, 32, Interpolation.INTERPOLATION_BICUBIC)
SCALING = run.Scaling(mean=(0.5, 0.5, 0.5), deviation=(0.5, 0.5, 0.5))
LABELS = ("cat", "dog", "horse")
BACKBONE = run.Backbone(
    name="tiny",
    architecture="tiny",
    source="seeded",
    licence="Apache-2.0",
    weights_sha256="0" * 64,
    stages=(run.Stage(name="c2", stride=4, channels=8, module="second"),),
    probes=(),
    recipe=run.Recipe(
        source="none",
        data="none",
        optimizer="none",
        learning_rate_per_256=0.1,
        schedule="",
        epochs=None,
        weight_decay=0,
    ),
)
OUTPUTS = (
    run.Output(name="c2", kind="feature_map", shape=(8, 8, 8), tap="c2", stride=4),
    run.Output(name="embedding", kind="embedding", shape=(8,), tap="pooled", pooling="avg"),
    run.Output(name="logits", kind="logits", shape=(3,)),
)


class Tiny(nn.Module):
    """Two convolutions, a pooled embedding of eight and three logits."""

    def __init__(self, seed: int = 0, head_seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Conv2d(3, 4, 3, 2, 1)
        self.second = nn.Conv2d(4, 8, 3, 2, 1)
        self.norm = nn.BatchNorm2d(8)
        torch.manual_seed(head_seed)
        self.head = nn.Linear(8, len(LABELS))

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        x = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1  # [N, 3, 32, 32]
        x = self.norm(self.second(self.first(x).relu())).relu()  # [N, 8, 8, 8]
        embedding = x.mean(dim=(2, 3))  # [N, 8]
        return {"c2": x, "embedding": embedding, "logits": self.head(embedding)}


def describe(model: torch.export.ExportedProgram) -> run.Run:
    return run.Run(
        regime=run.Decision(name="as-is", reason="a test"),
        backbone=BACKBONE,
        geometry=GEOMETRY,
        scaling=SCALING,
        head=run.Head(kind="linear", taps=("embedding",)),
        trained=(),
        labels=LABELS,
        labels_sha256=labels_sha256(LABELS),
        outputs=OUTPUTS,
        metrics={},
        data_sha256=None,
        weights_sha256=run.digest(model),
    )


def write_run(path: Path, module: nn.Module) -> Path:
    model = program.trace(module, GEOMETRY)
    run.write(path, describe(model), model)
    return path


@dataclass(frozen=True)
class Traced:
    """The tiny model as export works with it."""

    model: torch.export.ExportedProgram
    run: run.Run


@pytest.fixture(scope="session")
def tiny() -> Traced:
    model = program.trace(Tiny(), GEOMETRY)
    return Traced(model, describe(model))


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, tiny: Traced) -> Path:
    """A run's folder, not to be changed."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    run.write(path, tiny.run, tiny.model)
    return path


@pytest.fixture
def steps() -> Steps:
    return Steps(5, Console(quiet=True))


@pytest.fixture
def order(tiny_run: Path, tmp_path: Path) -> bundle.Order:
    return bundle.Order(tiny_run, tmp_path / "models", "tiny", golden=None)


@pytest.fixture(scope="session")
def tiny_bundle(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle's folder, not to be changed."""
    repository = tmp_path_factory.mktemp("models")
    made = bundle.make(bundle.Order(tiny_run, repository, "tiny", golden=None), Steps(5, Console(quiet=True)))
    return made.path


@pytest.fixture
def files() -> Callable[[Path], set[str]]:
    """Lists everything under a folder, hidden or not."""
    return lambda folder: {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
