"""From the name of a data set to a table of image files, made once; does not know what learns from them."""

import fcntl
import hashlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from export import staging
from export.progress import Steps
from training.errors import CacheError
from training.named import hub, vision, writing
from training.named.collection import Collection

_TORCHVISION, _HUGGINGFACE = "torchvision", "huggingface"


@dataclass(frozen=True)
class _Wanted:
    source: str
    library: str
    name: str
    cache: Path
    download: bool

    @property
    def datasets(self) -> Path:
        return self.cache / "datasets"

    @cached_property
    def folder(self) -> Path:
        is_folder = self.library == _HUGGINGFACE and hub.is_folder(self.name)
        name = _fingerprint(Path(self.name)) if is_folder else quote(self.name, safe="")
        return self.datasets / f"{self.library}-{name}"

    @cached_property
    def table(self) -> Path:
        return self.folder / writing.TABLE

    def opened(self, fetched: Path) -> Collection:
        if self.library == _HUGGINGFACE:
            return hub.collection(self.name, self.download)
        return vision.collection(self.name, self.cache / "downloads" / _TORCHVISION, fetched, self.download)


def table(source: Path, cache: Path, download: bool, steps: Steps) -> Path:
    """The table of a data set that a library knows by name; whatever else a person gives is given back as it is.

    Args:
        source: `torchvision:NAME`, `huggingface:NAME`, `huggingface:NAME:CONFIGURATION` or `huggingface:FOLDER`, where
            no file is called so.
        cache: The folder of what is computed once. Files and table are written there, whole or not at all, and found
            again; of several processes one writes them.
        download: Whether the data set may be fetched where it is not on this machine.
        steps: Tells of one step more, where they are written.

    Returns:
        What `export.labelled.read` takes.

    Raises:
        CacheError: The cache cannot be read or written.
        DataError: There is no such data set, or it is not there, or cannot be fetched or read; or its library is not
            installed.
    """
    library, colon, name = str(source).partition(":")
    checks = {_TORCHVISION: vision.check, _HUGGINGFACE: hub.check}
    if not colon or library not in checks or source.exists():
        return source
    checks[library](name)
    wanted = _Wanted(str(source), library, name, cache, download)
    if not wanted.table.exists():
        with _cache(wanted.datasets), _held(wanted, steps):
            # Another process may have made it meanwhile.
            if not wanted.table.exists():
                _make(wanted, steps)
    return wanted.table


def _make(wanted: _Wanted, steps: Steps) -> None:
    steps.say(f"Looking for {wanted.source}, to write its images to {wanted.folder}. This is done once.")
    with staging.staged(wanted.folder, beside=wanted.datasets) as draft:
        fetched = draft / ".fetched"
        collection = wanted.opened(fetched)
        steps.more(1)
        with steps.step("write the images", sum(map(len, writing.chosen(collection).values()))) as advance:
            facts = writing.write(draft, wanted.source, collection, advance)
        # What torchvision fetched has become files.
        shutil.rmtree(fetched, ignore_errors=True)
    for split, count in facts.without_class.items():
        steps.say(f"{count} images of {split} have no class and were left out.")
    for split in facts.splits_left_out:
        steps.say(f"The split {split} is neither for training nor for a test and was left out.")


@contextmanager
def _held(wanted: _Wanted, steps: Steps) -> Iterator[None]:
    """Keep other processes off while the block runs, and clear away what a killed one left half done."""
    wanted.datasets.mkdir(parents=True, exist_ok=True)
    with (wanted.datasets / f".{wanted.folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            steps.say(f"Waiting for another process, which is writing {wanted.folder}.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        draft = re.compile(rf"\.{re.escape(wanted.folder.name)}-[0-9a-f]{{32}}")
        for each in list(wanted.datasets.iterdir()):
            # Without its table the folder itself is one that a person took something out of.
            if draft.fullmatch(each.name) or (each == wanted.folder and not wanted.table.exists()):
                shutil.rmtree(each, ignore_errors=True)
        yield


@contextmanager
def _cache(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CacheError(f"Expected a cache that can be written to. Received: {folder}: {error.strerror}.") from error


def _fingerprint(folder: Path) -> str:
    """Names a folder as it is now: another one, or the same with other files in it, has another name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    known = [(str(path), status.st_size, status.st_mtime_ns) for path in files for status in [path.stat()]]
    return hashlib.sha256(repr(known).encode()).hexdigest()[:32]
