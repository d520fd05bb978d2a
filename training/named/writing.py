"""Writes a data set as image files and a table of their labels; does not know which library it came from."""

import csv
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from export.errors import DataError
from export.labelled import SPLITS
from export.progress import Advance
from service.formats import format as formats
from training.named.collection import Collection, Part

TABLE = "images.csv"
FACTS = "facts.json"
_LONGEST = 60  # of a class's folder, in characters; in UTF-8 that is less than any file system takes
_PLAIN = re.compile(r"[^%./\0][^/\0]*")
_ONLY = "all"  # not the name that it has: where there is no other, that may be anything


class Facts(BaseModel):
    """What was written, for a person to read.

    Attributes:
        source: The data set, as a person called it.
        library: What read it, and of which version.
        version: Of the data, where the library has a word for it.
        images: How many images of each class each split has.
        without_class: How many images were left out, because nobody says of which class they are, by split.
        splits_left_out: Splits that are neither for training nor for validation or test.
    """

    model_config = ConfigDict(frozen=True)

    format: int = 1
    source: str
    library: str
    version: str | None
    images: dict[str, dict[str, int]]
    without_class: dict[str, int]
    splits_left_out: tuple[str, ...]


class _Classes:
    """The folders of classes; each name has one of its own, whatever characters it is of."""

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}
        self._read: dict[str, str] = {}

    def folder(self, name: str) -> str:
        """The folder of a class; DataError for a name that a table would not keep."""
        if name not in self._folders:
            self._check(name)
            self._folders[name] = self._named(name)
        return self._folders[name]

    def _check(self, name: str) -> None:
        read = unicodedata.normalize("NFC", name.strip())
        if not read or not name.isprintable():
            raise DataError(f"Expected names of classes that can be printed. Received: {name!r}.")
        if (other := self._read.setdefault(read, name)) != name:
            raise DataError(f"Expected classes whose names can be told apart. Received: {other!r} and {name!r}.")

    def _named(self, name: str) -> str:
        if _PLAIN.fullmatch(name) and len(name) <= _LONGEST:
            return name
        # The percent sign and the number keep it apart from every other; the rest is for a person.
        legible = re.sub(r"[^\w -]", "_", name)[:_LONGEST]
        return f"%{len(self._folders)} {legible}"


def write(folder: Path, source: str, collection: Collection, advance: Advance) -> Facts:
    """Write a data set into a folder.

    Files are `<split>/<class>/<number>.<suffix>`, where the class's folder is called as it is, unless it cannot be. The
    table beside them has path, label and split as `export.labelled.read` takes them. One split alone is written without
    its name, so that a test split can be drawn from it.

    Args:
        folder: An empty folder.
        source: The data set, as a person called it.
        collection: The data set.
        advance: Told of every image.

    Returns:
        What was written.

    Raises:
        DataError: The data set cannot be read, holds no images, or its classes cannot be told apart.
        OSError: The folder cannot be written to.
    """
    parts = chosen(collection)
    named = len(parts) > 1
    classes, counts, without = _Classes(), {split: Counter[str]() for split in parts}, Counter[str]()
    with (folder / TABLE).open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("path", "label", "split"))
        for split, part in parts.items():
            for number, data, label in _numbered(part):
                advance(1)
                if label is None:
                    without[split] += 1
                    continue
                path = folder / (split if named else _ONLY) / classes.folder(label) / f"{number}{_suffix(data)}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
                table.writerow((path.relative_to(folder), label, split if named else ""))
                counts[split][label] += 1
    if not any(counts.values()):
        raise DataError(f"Expected images with classes in {source}. Received: none.")
    facts = Facts(
        source=source,
        library=collection.library,
        version=collection.version,
        images={split: dict(sorted(count.items())) for split, count in counts.items()},
        without_class=dict(without),
        splits_left_out=tuple(split for split in collection.parts if split not in parts),
    )
    (folder / FACTS).write_text(facts.model_dump_json(indent=2) + "\n", encoding="utf-8")
    # Else a power cut may leave names with nothing behind them.
    os.sync()
    return facts


def chosen(collection: Collection) -> dict[str, Part]:
    """The splits to write: those for training, validation and test, or the only one that there is."""
    if len(collection.parts) == 1:
        return dict(collection.parts)
    found = {split: part for split, part in collection.parts.items() if split.lower() in SPLITS}
    if not found:
        raise DataError(f"Expected splits called {', '.join(SPLITS)}. Received: {', '.join(collection.parts)}.")
    return found


def _numbered(part: Part) -> Iterator[tuple[str, bytes, str | None]]:
    digits = len(str(len(part) - 1))
    for number, (data, label) in enumerate(part):
        yield f"{number:0{digits}}", data, label


def _suffix(data: bytes) -> str:
    found = formats.of(data)
    # What cannot be read is written all the same: whoever checks all images names it.
    return found.suffixes[0] if found else ".unknown"
