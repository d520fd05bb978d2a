"""Writes down what a training measures as it goes: lines of JSON always, TensorBoard and MLflow where they are at hand.

Does not know what is good or bad.
"""

import importlib
import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from training.errors import CheckpointError

METRICS, BOARD = "metrics.jsonl", "tensorboard"
# MLflow logs to whatever this names; without it, it would begin a folder wherever the program was started.
_MLFLOW = "MLFLOW_TRACKING_URI"


class Journal(Protocol):
    """Where figures go."""

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Note figures as they are after a number of steps."""
        ...

    def close(self) -> None:
        """End it; what was written is on disk then."""
        ...


class Lines:
    """A file with a line of JSON for each step and epoch; a resumed training takes back what came after its checkpoint.

    Args:
        folder: Where it lies, as metrics.jsonl.
        step: How many steps are done.
        epochs: How many epochs are.

    Raises:
        CheckpointError: It cannot be written.
    """

    def __init__(self, folder: Path, step: int, epochs: int) -> None:
        self._path = folder / METRICS
        try:
            kept = [line for line in _lines(self._path) if _is_done(line, step, epochs)]
            draft = self._path.with_suffix(".tmp")
            draft.write_text("".join(kept), encoding="utf-8")
            draft.replace(self._path)
            # Line by line, so that a kill takes none that a checkpoint knows of.
            self._file = self._path.open("a", buffering=1, encoding="utf-8")
        except OSError as error:
            raise self._failed(error) from error

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Note figures as they are after a number of steps; CheckpointError where there is no room."""
        try:
            self._file.write(json.dumps({"step": step, **figures}) + "\n")
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """End it; CheckpointError where there is no room."""
        try:
            self._file.close()
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> CheckpointError:
        return CheckpointError(f"Expected {self._path} to be written. Received: {error.strerror}.")


class Board:
    """TensorBoard's event files.

    Args:
        folder: Where they lie.
        step: How many steps are done; what an interrupted training wrote behind it is not shown.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - it need not be installed

        self._writer: Any = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Note figures as they are after a number of steps."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """End it."""
        self._writer.close()


class Mlflow:
    """A run of MLflow, at the place that its environment variable names.

    Args:
        name: The run's name.
    """

    def __init__(self, name: str) -> None:
        mlflow = importlib.import_module("mlflow")

        self._client: Any = mlflow.MlflowClient()
        experiment = mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", "vertebra"))
        self._run = self._client.create_run(experiment.experiment_id, run_name=name).info.run_id

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Note figures as they are after a number of steps."""
        for name, value in figures.items():
            self._client.log_metric(self._run, name, value, step=step)

    def close(self) -> None:
        """End it."""
        self._client.set_terminated(self._run)


class Journals:
    """Every journal that there is a place for, as one.

    Args:
        folder: Where the files lie: metrics.jsonl, and those of TensorBoard in a folder of that name.
        step: How many steps are done.
        epochs: How many epochs are.
        name: What is trained, in words.
    """

    def __init__(self, folder: Path, step: int, epochs: int, name: str) -> None:
        self._all: list[Journal] = [Lines(folder, step, epochs)]
        if importlib.util.find_spec("tensorboard"):
            self._all.append(Board(folder / BOARD, step))
        if os.environ.get(_MLFLOW) and importlib.util.find_spec("mlflow"):
            self._all.append(Mlflow(name))

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Note figures as they are after a number of steps."""
        for each in self._all:
            each.write(step, figures)

    def close(self) -> None:
        """End them all."""
        for each in self._all:
            each.close()


class Silent:
    """The journal of a process that leaves writing to another."""

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Note nothing."""

    def close(self) -> None:
        """Nothing to end."""


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []


def _is_done(line: str, step: int, epochs: int) -> bool:
    """Whether a line is of what a checkpoint knows; the torn last line of a killed training is not."""
    try:
        figures = json.loads(line)
        # The last step of an epoch may be known, and its end not yet.
        return bool(figures["step"] <= step and figures.get("epoch", -1) < epochs)
    except (ValueError, KeyError):
        return False
