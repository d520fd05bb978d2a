"""Keeps what a run has decided by the clock, so that going on after a kill decides the same; decides nothing itself."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from training import store
from training.errors import CacheError
from training.tuning import devices

_Entry = TypeVar("_Entry", bound=BaseModel)


class Ledger:
    """What was decided once: where there are several processes, by the first one of them.

    Args:
        file: Where it is kept. What it holds that nobody can read is decided anew.

    Raises:
        CacheError: It cannot be read.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._fabric = devices.launched()
        # By the first process, for all: what one finds and another does not would be decided by one alone.
        self._kept: dict[str, object] = self._fabric.broadcast(_read(file) if self._fabric.is_global_zero else {})

    def once(self, name: str, kind: type[_Entry], decide: Callable[[], _Entry]) -> _Entry:
        """Decide something, unless it has been decided.

        Args:
            name: What it is.
            kind: What an entry of it is.
            decide: Makes one; asked of all processes, because they may have to work together on it.

        Returns:
            The entry.

        Raises:
            CacheError: It cannot be written down.
        """
        try:
            return kind.model_validate(self._kept[name])
        except (KeyError, ValidationError):
            entry: _Entry = self._fabric.broadcast(decide())
        self._kept[name] = entry.model_dump(mode="json")
        if self._fabric.is_global_zero:
            store.write(self._file, json.dumps(self._kept).encode())
        return entry

    def forget(self) -> None:
        """Remove it, when what was decided has been done."""
        if self._fabric.is_global_zero:
            self._file.unlink(missing_ok=True)


def _read(file: Path) -> dict[str, object]:
    try:
        found = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    except OSError as error:
        raise CacheError(f"Expected {file} of the cache. Received: {error.strerror}.") from error
    return found if isinstance(found, dict) else {}
