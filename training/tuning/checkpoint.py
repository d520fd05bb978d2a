"""Keeps a training on disk so that it goes on where it was killed, to the bit; does not train, and decides nothing.

folder/checkpoint-00000012/tensors.safetensors    every tensor that the training has changed or remembers
folder/checkpoint-00000012/training.json          all else: where it was, what it saw, and what training it is

A checkpoint is written aside and renamed, so there is a whole one at any moment. The one before is removed afterwards.
"""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from export import staging
from service.bundle import sha256_of
from training.errors import CheckpointError
from training.tuning.record import Epoch, Settings
from training.tuning.validation import Score

_TENSORS = "tensors.safetensors"
_TRAINING = "training.json"
_LOCK = ".lock"
_NAME = re.compile(r"checkpoint-(\d{8,})")
_SHOWN = 4
# So much of the last steps' losses is remembered in the smoothed one.
_SMOOTHING = 0.9
_FIRST = 10

Facts = dict[str, str | int | float | bool | None]


class Position(BaseModel):
    """Where a training is; the loop moves it on.

    Attributes:
        settings: What was decided before the first step.
        start: The score before the first step.
        step: How many steps are done in all.
        epoch: The epoch that runs, from 0; the number of epochs at the end.
        step_of_epoch: How many of its steps are done.
        loss_sum: The sum of its losses.
        weight_sum: The sum of its images' weights.
        first_loss: The lowest loss of the first steps, ten at most: that of a single one may be bad luck.
        smooth_loss: The moving average of the losses since, which begins with that one.
        best: The epoch with the best score; None before there is one.
        best_score: Its score; None without validation, too.
        waiting: How many epochs have brought no better one.
        stopped_early: Whether validation has ended the training.
        history: The epochs that are done.
        seconds: What it has taken.
        epoch_from: What it had taken when the epoch began.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    settings: Settings
    start: Score | None
    step: int = 0
    epoch: int = 0
    step_of_epoch: int = 0
    loss_sum: float = 0.0
    weight_sum: float = 0.0
    first_loss: float | None = None
    smooth_loss: float = 0.0
    best: int | None = None
    best_score: Score | None = None
    waiting: int = 0
    stopped_early: bool = False
    history: list[Epoch] = []
    seconds: float = 0.0
    epoch_from: float = 0.0

    def seed(self, seed: int, rank: int = 0) -> int:
        """The seed of what a step drops and draws, in which none of what it follows from is lost."""
        return int(np.random.SeedSequence((seed, self.step, rank)).generate_state(1)[0])

    def hear(self, loss: float) -> tuple[float, float]:
        """Take in the mean loss of the step that runs; the lowest of the first and the smoothed one are returned."""
        if self.first_loss is None or self.step < _FIRST:
            self.first_loss = loss if self.first_loss is None else min(loss, self.first_loss)
            # So that what is bad in the first ones only is never taken for a training that comes apart.
            self.smooth_loss = self.first_loss
        else:
            self.smooth_loss = _SMOOTHING * self.smooth_loss + (1 - _SMOOTHING) * loss
        return self.first_loss, self.smooth_loss

    def end_step(self, loss_sum: float, weight_sum: float) -> None:
        """Go on to the next step."""
        self.step += 1
        self.step_of_epoch += 1
        self.loss_sum += loss_sum
        self.weight_sum += weight_sum

    def end_epoch(self) -> None:
        """Go on to the next epoch."""
        self.epoch += 1
        self.step_of_epoch, self.loss_sum, self.weight_sum = 0, 0.0, 0.0


def together(groups: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of groups, by "group/name"."""
    return {f"{group}/{name}": each for group, tensors in groups.items() for name, each in tensors.items()}


def group(tensors: Mapping[str, Tensor], wanted: str) -> dict[str, Tensor]:
    """Those of one group of what `together` gave, by their names."""
    prefix = f"{wanted}/"
    return {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}


class _Saved(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    facts: Facts
    position: Position
    tensors_sha256: str


class Checkpoints:
    """The checkpoints of one training, of which the newest is kept.

    Args:
        folder: Where they lie; made where there is none.
        facts: What training it is: another one's checkpoint is refused.
    """

    def __init__(self, folder: Path, facts: Facts) -> None:
        self._folder = folder
        self._facts = facts

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other trainings off the folder while the block runs, and clear away what a killed one left half done.

        Raises:
            CheckpointError: Another one holds it, or it cannot be written to.
        """
        with _named(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = (self._folder / _LOCK).open("w")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise CheckpointError(
                    f"Expected a folder that no other training writes its checkpoints to. Received: {self._folder}. "
                    "The same is being trained by another process: run this again when it has ended"
                ) from error
            for draft in self._folder.glob(".checkpoint-*"):
                shutil.rmtree(draft, ignore_errors=True)
            yield

    def newest(self) -> tuple[Position, dict[str, Tensor]] | None:
        """Read the newest checkpoint.

        Returns:
            Where the training was, and its tensors; None where there is no checkpoint.

        Raises:
            CheckpointError: It is damaged, or of another training.
        """
        found = self._found()
        if not found:
            return None
        folder = found[-1]
        saved = _read(folder)
        if differences := _differences(saved.facts, self._facts):
            raise CheckpointError(
                f"Expected a checkpoint of this training in {self._folder}. Received: one of another: {differences}. "
                "Give this training a folder of its own, or remove that one to start anew"
            )
        return saved.position, _tensors(folder, saved.tensors_sha256)

    def write(self, position: Position, tensors: Mapping[str, Tensor]) -> None:
        """Write a checkpoint, whole or not at all, even where the machine is switched off.

        Args:
            position: Where the training is.
            tensors: All that it has changed or remembers.

        Raises:
            CheckpointError: There is no room for it, or the folder cannot be written to. The one before is whole.
        """
        before = self._found()
        number = _number(before[-1]) + 1 if before else 0
        data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        with _named(self._folder):
            with staging.staged(self._folder / f"checkpoint-{number:08}", beside=self._folder) as draft:
                _write(draft / _TENSORS, data)
                saved = _Saved(facts=self._facts, position=position, tensors_sha256=sha256_of(draft / _TENSORS))
                _write(draft / _TRAINING, saved.model_dump_json(indent=2).encode())
            _sync(self._folder)
        for old in before:
            staging.remove(old)

    def clear(self) -> None:
        """Remove them all: the training begins anew."""
        for each in self._found():
            staging.remove(each)

    def _found(self) -> list[Path]:
        """The checkpoints, oldest first."""
        folders = self._folder.iterdir() if self._folder.is_dir() else ()
        return sorted((path for path in folders if _NAME.fullmatch(path.name)), key=_number)


def _number(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _read(folder: Path) -> _Saved:
    try:
        return _Saved.model_validate_json((folder / _TRAINING).read_bytes())
    except (OSError, ValidationError) as error:
        first = error.errors(include_url=False)[0] if isinstance(error, ValidationError) else None
        received = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else error
        raise CheckpointError(
            f"Expected {folder / _TRAINING} to be of a checkpoint of format 1. Received: {received}. Remove the folder "
            "to start anew"
        ) from error


def _tensors(folder: Path, sha256: str) -> dict[str, Tensor]:
    path = folder / _TENSORS
    try:
        if (received := sha256_of(path)) == sha256:
            return load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"Expected {path}. Received: {error}. Remove the folder to start anew") from error
    raise CheckpointError(
        f"Expected {path} to have the SHA-256 {sha256}. Received: {received}. Remove the folder to start anew"
    )


def _differences(theirs: Facts, ours: Facts) -> str:
    """In which facts two trainings differ, in words; nothing where they are the same."""
    names = [name for name in {**ours, **theirs} if theirs.get(name) != ours.get(name)]
    said = [f"{name} is {theirs.get(name)}, not {ours.get(name)}" for name in names[:_SHOWN]]
    return ", ".join(said) + (f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        # Else a power cut may leave the name with nothing behind it.
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _named(folder: Path) -> Iterator[None]:
    """Say of what the system cannot do that it happened to checkpoints."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"Expected a folder for checkpoints with room in it. Received: {folder}: {error.strerror}. What was kept "
            "before is whole: make room and start again, and the training goes on from there"
        ) from error
