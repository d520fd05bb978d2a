"""Rows of numbers kept on disk by the digest of what they were made of; does not know what the numbers mean.

A store is a folder of shards, NumPy files that are written once, whole, and never changed:
<32 hexadecimal digits that no other shard has>-<CRC-32 of the file>.npy. So several runs may fill one store at once.
"""

import errno
import io
import logging
import os
import re
import shutil
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from training.errors import CacheError

KEY_BYTES = 32
_SHARD = re.compile(r"[0-9a-f]{32}-([0-9a-f]{8})\.npy")
_DRAFT = ".tmp"
# Nobody takes an hour to write a few megabytes: whoever left a draft for so long was killed.
_ABANDONED_S = 3600
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Shard:
    """What was in a shard when it was read whole."""

    dtype: np.dtype[Any]
    keys: list[bytes]


# By path, size and time, for all stores of this process: a race opens the same ones a hundred times.
_known: dict[tuple[Path, int, int], _Shard] = {}


class Store:
    """Rows of one dtype, by the SHA-256 of the file that they were made of; a folder of shards that only ever grows.

    What other processes add after a store was opened is not seen; a row that two of them add is there twice, and the
    same. A shard that is damaged is removed with a warning, because a cache shall never stop anybody: its rows are
    missing then, and whoever asks makes them again. Every shard's checksum is compared once in a process, when a store
    opens, at about a gigabyte a second.

    Args:
        folder: Where the shards lie. It is made where there is none.
        row: What a row is.

    Raises:
        CacheError: The folder cannot be made or read.
    """

    def __init__(self, folder: Path, row: np.dtype[Any]) -> None:
        self._folder = folder
        self._dtype = np.dtype([("key", f"V{KEY_BYTES}"), ("row", row)])
        # Not left open: a million rows would be thousands of open files.
        self._shards: list[Path] = []
        self._places: dict[bytes, tuple[int, int]] = {}  # the shard and the place in it
        try:
            folder.mkdir(parents=True, exist_ok=True)
            names = sorted(path.name for path in folder.iterdir())
        except OSError as error:
            raise CacheError(f"Expected a folder for the cache. Received: {folder}: {error.strerror}.") from error
        for name in names:
            if match := _SHARD.fullmatch(name):
                self._open(folder / name, int(match[1], 16))
            elif name.startswith(".") and name.endswith(_DRAFT):
                _remove_abandoned(folder / name)

    def missing(self, keys: Iterable[bytes]) -> list[bytes]:
        """Those of the keys that have no row, in their order, each once."""
        return [key for key in dict.fromkeys(keys) if key not in self._places]

    def add(self, keys: Sequence[bytes], rows: NDArray[Any]) -> None:
        """Write rows as one shard, whole or not at all; none are written as none.

        Args:
            keys: Digests of 32 bytes.
            rows: A row for each.

        Raises:
            CacheError: There is no room for them, or the folder cannot be written to.
        """
        if not keys:
            return
        records = np.empty(len(keys), self._dtype)
        records["key"] = np.frombuffer(b"".join(keys), self._dtype["key"])
        records["row"] = rows
        # In memory first: for a full disk, NumPy's own way to a file raises an OSError that does not say so.
        data = io.BytesIO()
        np.save(data, records)
        path = self._folder / f"{uuid4().hex}-{zlib.crc32(data.getbuffer()):08x}.npy"
        write(path, data.getvalue())
        self._remember(path, keys)

    def rows(self, keys: Sequence[bytes]) -> NDArray[Any]:
        """Read rows.

        Args:
            keys: Digests of 32 bytes; one may come more than once.

        Returns:
            A copy of their rows, in their order: `[len(keys)]` of the store's dtype.

        Raises:
            KeyError: A key has no row.
            CacheError: A shard was taken away since the store was opened.
        """
        found = np.empty(len(keys), self._dtype["row"])
        for shard, wanted, places in self._by_shard(keys):
            found[places] = shard[wanted]
        return found

    def fields(self, keys: Sequence[bytes], names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Read some of the fields of rows; what lies between them is not read.

        Args:
            keys: Digests of 32 bytes; one may come more than once.
            names: Fields of the store's dtype.

        Returns:
            For each field a copy `[len(keys), ...]`, in the order of the keys.

        Raises:
            KeyError: A key has no row.
            CacheError: A shard was taken away since the store was opened.
        """
        row = self._dtype["row"]
        found = {name: np.empty((len(keys), *row[name].shape), row[name].base) for name in names}
        for shard, wanted, places in self._by_shard(keys):
            for name in names:
                found[name][places] = shard[name][wanted]
        return found

    def _by_shard(self, keys: Sequence[bytes]) -> Iterator[tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]]:
        """A shard's rows, which of them are wanted, and the places of those among the keys, a shard at a time."""
        places = np.array([self._places[key] for key in keys], np.int64).reshape(-1, 2)
        # By shard, and in a shard from front to back: a disk likes that, and each file is opened once.
        order = np.lexsort((places[:, 1], places[:, 0]))
        shards, starts = np.unique(places[order, 0], return_index=True)
        for shard, chosen in zip(shards, np.split(order, starts[1:]), strict=False):
            yield self._map(self._shards[shard])["row"], places[chosen, 1], chosen

    def _map(self, path: Path) -> NDArray[Any]:
        try:
            shard: NDArray[Any] = np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise CacheError(f"Expected {path} as it was a moment ago. Received: {error}.") from error
        return shard

    def _open(self, path: Path, crc: int) -> None:
        try:
            status = path.stat()
            place = (path.resolve(), status.st_size, status.st_mtime_ns)
            if place in _known and self._dtype == _known[place].dtype:
                self._remember(path, _known[place].keys)
                return
            data = path.read_bytes()
            if (received := zlib.crc32(data)) != crc:
                raise ValueError(f"its CRC-32 is {received:08x}")
            shard = np.load(io.BytesIO(data))
            if shard.dtype != self._dtype:
                raise ValueError(f"it holds {shard.dtype['row']}, not {self._dtype['row']}")
        except OSError as error:
            # Not removed: whoever may not open it, or has too many files open, knows nothing of what is in it.
            _log.warning("Passing over %s of the cache, whose rows will be made again: %s.", path, error.strerror)
            return
        except ValueError as error:
            _log.warning("Removing the damaged %s from the cache, whose rows will be made again: %s.", path, error)
            _remove(path)
            return
        _known[place] = _Shard(self._dtype, shard["key"].tolist())
        self._remember(path, _known[place].keys)

    def _remember(self, path: Path, keys: Sequence[bytes]) -> None:
        shard = len(self._shards)
        self._shards.append(path)
        self._places.update((key, (shard, place)) for place, key in enumerate(keys))


def write(path: Path, data: bytes) -> None:
    """Write a file of the cache, whole or not at all, even where the machine is switched off.

    Args:
        path: The file; one that exists is replaced, and its folder is made where there is none.
        data: What it shall hold.

    Raises:
        CacheError: There is no room for it, or the folder cannot be written to.
    """
    draft = path.with_name(f".{uuid4().hex}{_DRAFT}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            # Else a power cut may leave the name with nothing behind it.
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise CacheError(_why(path.parent, len(data), error)) from error
    # Whatever ended it, Ctrl-C too; after the rename there is nothing left to remove.
    finally:
        with suppress(OSError):
            draft.unlink()


def _why(folder: Path, needed: int, error: OSError) -> str:
    if error.errno in _NO_ROOM:
        there = next(each for each in (folder, *folder.parents) if each.exists())
        free = shutil.disk_usage(there).free
        return (
            f"Expected room for {needed} bytes more in the cache {folder}. Received: {error.strerror}, {free} bytes "
            "free. Make room or choose another folder for the cache; what is in it already will not be made again"
        )
    return f"Expected a cache that can be written to. Received: {folder}: {error.strerror}."


def _remove_abandoned(draft: Path) -> None:
    try:
        if time.time() - draft.stat().st_mtime > _ABANDONED_S:
            draft.unlink()
    except OSError:
        # Another process was quicker, or may do it one day.
        return


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("Could not remove %s: %s.", path, error.strerror)
