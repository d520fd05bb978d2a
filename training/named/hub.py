"""Hugging Face's data sets, from the hub or from a folder; does not know where their files end up.

Nothing but the data set is asked for: no telemetry, no counters, and nothing at all unless a download was allowed.
"""

import importlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypeAlias

from huggingface_hub import constants

from export.errors import DataError
from training.named.collection import Collection, Entry, blaming

_SAVED = ("dataset_dict.json", "state.json")  # either is in every folder that save_to_disk writes
_NAME = re.compile(r"(?P<name>\w[\w.-]*(/[\w.-]+)?)(:(?P<configuration>[^/]+))?")


class _Rows(Protocol):
    features: Mapping[str, Any]

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Mapping[str, Any]]: ...


_Loaded: TypeAlias = Mapping[str, Any]  # the library's own data sets by split, and it has no types


@dataclass(frozen=True)
class _Part:
    name: str
    rows: _Rows
    image: str
    label: str

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Entry]:
        classes = self.rows.features[self.label].names
        with blaming(f"the images of {self.name} to be read"):
            for row in self.rows:
                number = row[self.label]
                yield _encoded(row[self.image]), None if number is None or number < 0 else classes[number]


def is_folder(name: str) -> bool:
    """Whether this is a folder that `save_to_disk` wrote, and not a name on the hub."""
    return name.startswith(("/", "."))


def check(name: str) -> None:
    """Raise DataError where this can be neither a data set on the hub nor a folder."""
    if is_folder(name):
        if not any((Path(name) / each).is_file() for each in _SAVED):
            raise DataError(f"Expected a folder that save_to_disk wrote. Received: {name}, which is none.")
    elif _NAME.fullmatch(name) is None:
        raise DataError(
            "Expected a data set on Hugging Face's hub, as owner/name or owner/name:configuration, or a folder that "
            f"save_to_disk wrote. Received: {name!r}."
        )


def collection(name: str, download: bool) -> Collection:
    """Open a data set, and fetch it first where that is allowed and needed.

    Args:
        name: A name on the hub, with its configuration after a colon where it has several; or a folder.
        download: Whether it may be fetched.

    Returns:
        The data set. Images are the bytes that it holds.

    Raises:
        DataError: There is no such data set, or it is not there, or cannot be fetched or read, or does not say which
            column is the image and which its class; or the library is not installed.
    """
    check(name)
    datasets = _library()
    loaded = _saved(datasets, name) if is_folder(name) else _published(datasets, name, download)
    return Collection(
        library=f"datasets {datasets.__version__}",
        version=_version(loaded),
        parts={split: _part(datasets, name, rows) for split, rows in loaded.items()},
    )


def _library() -> ModuleType:
    try:
        # Not at the top: few people's data lies there, and an extra brings it.
        return importlib.import_module("datasets")
    except ImportError as error:
        raise DataError(
            f"Expected the package datasets, to read Hugging Face's. Received: {error}. Install it with: "
            "pip install 'vertebra[huggingface]'"
        ) from error


def _saved(datasets: ModuleType, name: str) -> _Loaded:
    with _asking_for_nothing_else(datasets, download=False), blaming(f"a folder that save_to_disk wrote in {name}"):
        return _by_split(datasets.load_from_disk(name))


def _published(datasets: ModuleType, name: str, download: bool) -> _Loaded:
    found = _NAME.fullmatch(name)
    assert found  # it was checked
    if found["name"] in datasets.packaged_modules._PACKAGED_DATASETS_MODULES:
        # It would read whatever images lie in the working directory.
        raise DataError(f"Expected a data set on Hugging Face's hub. Received: {name}, a way of reading files.")
    what = f"to fetch {name} from Hugging Face's hub" if download else f"{name} in Hugging Face's cache"
    try:
        with _asking_for_nothing_else(datasets, download), blaming(what):
            # By its whole address: a folder of that name in the working directory is something else.
            return _by_split(datasets.load_dataset(f"hf://datasets/{found['name']}", found["configuration"]))
    except DataError as error:
        if download:
            raise
        raise DataError(f"{error}. Allow its download with --download.") from error


def _by_split(loaded: Any) -> _Loaded:
    return loaded if isinstance(loaded, dict) else {str(loaded.split or "all"): loaded}


@contextmanager
def _asking_for_nothing_else(datasets: ModuleType, download: bool) -> Iterator[None]:
    # Both libraries read the environment once, when they are imported, and ask these names from then on.
    offline = constants.HF_HUB_OFFLINE or not download
    wanted = (
        (constants, "HF_HUB_OFFLINE", offline),
        (constants, "HF_HUB_DISABLE_TELEMETRY", True),
        (datasets.config, "HF_HUB_OFFLINE", offline),
        (datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False),
    )
    before = [(module, name, getattr(module, name)) for module, name, _ in wanted]
    for module, name, value in wanted:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def _version(loaded: _Loaded) -> str | None:
    """The version that its splits name, where they name one."""
    named = {str(rows.version) for rows in loaded.values() if rows.version is not None}
    return min(named, default=None)


def _part(datasets: ModuleType, name: str, rows: Any) -> _Part:
    image = _column(name, rows, datasets.Image, "images")
    label = _column(name, rows, datasets.ClassLabel, "classes")
    # Not decoded: what it holds is a file already.
    encoded = rows.select_columns([image, label]).cast_column(image, datasets.Image(decode=False))
    return _Part(name, encoded, image, label)


def _column(name: str, rows: _Rows, kind: type, what: str) -> str:
    found = [column for column, feature in rows.features.items() if isinstance(feature, kind)]
    if len(found) > 1:
        found = [column for column in found if column in ("image", "label")] or found
    if len(found) != 1:
        columns = ", ".join(f"{column} ({type(feature).__name__})" for column, feature in rows.features.items())
        raise DataError(f"Expected one column of {what} ({kind.__name__}) in {name}. Received: {columns}.")
    return found[0]


def _encoded(cell: Mapping[str, Any] | None) -> bytes:
    # Without an image an empty file: whoever checks all of them names it, and leaves it out where that was asked for.
    if cell is None:
        return b""
    data: bytes | None = cell["bytes"]
    return Path(cell["path"]).read_bytes() if data is None else data
