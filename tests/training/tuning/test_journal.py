"""What is measured is written down once, wherever there is a place for it."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from tests.training.test_store import largest_file
from training.errors import CheckpointError
from training.tuning import journal
from training.tuning.journal import METRICS, Board, Journals, Lines


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


def test_a_resumed_training_takes_back_what_its_checkpoint_does_not_know(tmp_path: Path) -> None:
    first = Lines(tmp_path, 0, 0)
    for step in (1, 2, 3):
        first.write(step, {"loss": step / 3})
        if step == 2:
            first.write(step, {"epoch": 0, "epoch_loss": 0.5})
    first.close()
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 4, "lo')  # killed
    kept: list[dict[str, float]] = [{"step": 1, "loss": 1 / 3}, {"step": 2, "loss": 2 / 3}]
    end: dict[str, float] = {"step": 2, "epoch": 0, "epoch_loss": 0.5}
    Lines(tmp_path, 2, 1).close()
    assert lines(tmp_path) == [*kept, end]
    # Of a checkpoint that was written between the last step of an epoch and its end.
    second = Lines(tmp_path, 2, 0)
    second.write(3, {"loss": 0.5})
    second.close()
    assert lines(tmp_path) == [*kept, {"step": 3, "loss": 0.5}]


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    written = Lines(tmp_path, 0, 0)
    said = r"Expected .*metrics.jsonl to be written. Received: File too large"
    with largest_file(100), pytest.raises(CheckpointError, match=said):
        written.write(1, {f"figure {place}": 0.5 for place in range(1000)})
    written.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_what_is_written(tmp_path: Path) -> None:
    written = Board(tmp_path, 0)
    for step in (1, 2):
        written.write(step, {"loss": step / 2, "rate": 0.1})
    written.close()
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    assert [(each.step, each.value) for each in read.Scalars("loss")] == [(1, 0.5), (2, 1.0)]


class Client:
    """MLflow's client, as far as it is used."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def create_run(self, experiment_id: str, run_name: str) -> Any:
        self.told.append((experiment_id, run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id="run"))

    def log_metric(self, run: str, name: str, value: float, step: int) -> None:
        self.told.append((run, name, value, step))

    def set_terminated(self, run: str) -> None:
        self.told.append(run)


def test_mlflow_is_told_where_its_variable_names_a_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    fake = SimpleNamespace(
        MlflowClient=lambda: client, set_experiment=lambda name: SimpleNamespace(experiment_id=f"id of {name}")
    )
    monkeypatch.setattr(journal.importlib, "import_module", lambda _: fake)  # type: ignore[attr-defined]
    monkeypatch.setattr(journal.importlib.util, "find_spec", lambda name: name == "mlflow")  # type: ignore[attr-defined]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///anything")
    (tmp_path / "colours").mkdir()
    written = Journals(tmp_path / "colours", 0, 0, "the head on colours")
    written.write(1, {"loss": 0.5})
    written.close()
    assert client.told == [("id of vertebra", "the head on colours"), ("run", "loss", 0.5, 1), "run"]


def test_without_its_variable_mlflow_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(journal, "Mlflow", None)
    Journals(tmp_path, 0, 0, "nothing").close()
    assert (tmp_path / "tensorboard").is_dir()
