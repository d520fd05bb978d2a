"""Reads which images there are and what they are labelled with; does not open the images themselves."""

import csv
import io
import math
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from export.errors import DataError
from service.image import SUFFIXES

Split: TypeAlias = Literal["train", "validation", "test"]

SPLITS: Mapping[str, Split] = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
# Beside those that can be read some that cannot: who has them wants to hear so, not to miss them.
_SUFFIXES = SUFFIXES | {".avif", ".heic", ".heif", ".jp2"}
_LIGHTEST, _HEAVIEST = 1e-6, 1e6  # far beyond what anybody means, and within what float32 adds up
_PASSED_OVER = {"__MACOSX"}  # what zip files made on a Mac bring along: no images, but files with their names
_COLUMNS = ("path", "label", "group", "weight", "split")
_Row: TypeAlias = tuple[int, Mapping[str, str]]  # the line or row that a person finds it at, and its cells by column


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One image file and what a person says of it.

    Attributes:
        path: The file. It need not exist: who opens it finds out.
        label: The name of its class.
        split: What it is for, where the data says so.
        group: What must not be divided between splits (a patient, a scene), where the data says so.
        weight: How much it counts in training, from a millionth to a million.
    """

    path: Path
    label: str
    split: Split | None = None
    group: str | None = None
    weight: float = 1.0


def read(source: Path) -> tuple[LabelledImage, ...]:
    """List the labelled images of a folder or a table.

    Args:
        source: A folder with a folder for each class, `<class>/**/<image>`, or with these in folders named train and
            val, valid, validation or test; or a .csv or .parquet file with the columns path and label, and where they
            are wanted group, weight and split. A relative path in a table begins at the table's folder.

    Returns:
        The images of a folder sorted by path, those of a table in its order; at least one. Labels are in Unicode's
        form NFC, so that two ways to write one name are one class. An image's own name may hold surrogates, where it
        is not UTF-8; labels do not.

    Raises:
        DataError: There is no such source, nothing in it, or something that is not what it must be.
    """
    if not _is_utf8(source):
        raise DataError(f"Expected a path in UTF-8. Received: {os.fsencode(source)!r}. Rename it.")
    if source.is_dir():
        return _read_folder(source)
    if not source.exists():
        raise DataError(f"Expected a folder, a .csv or a .parquet file. Received: {source}, which does not exist.")
    readers = {".csv": _csv_rows, ".parquet": _parquet_rows}
    reader = readers.get(source.suffix.lower())
    if reader is None or not source.is_file():
        raise DataError(f"Expected a folder, a .csv or a .parquet file. Received: {source}.")
    try:
        images = tuple(_image(source, line, row) for line, row in reader(source))
    except OSError as error:
        raise DataError(f"Expected a table that can be read. Received: {source}: {error.strerror or error}.") from error
    if not images:
        raise DataError(f"Expected a row for each image. Received: {source}, which has none.")
    return images


def table(images: Iterable[LabelledImage]) -> str:
    """What `read` reads the same images from: the text of a .csv file, with absolute paths."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(_COLUMNS)
    for each in images:
        path = each.path.absolute()
        # The folder that one works in may have a name that is not UTF-8.
        writer.writerow(
            (path if _is_utf8(path) else each.path, each.label, each.group or "", each.weight, each.split or "")
        )
    return file.getvalue()


def held_out(images: Sequence[LabelledImage]) -> list[LabelledImage]:
    """Those of `test`, or where there are none of `validation`; all of them where the data names no splits."""
    for split in ("test", "validation"):
        if chosen := [each for each in images if each.split == split]:
            return chosen
    return list(images)


def images_below(folder: Path) -> list[Path]:
    """The images in a folder and in those below it, sorted by path; DataError where one of them cannot be read."""
    return sorted(path for path in _below(folder) if path.suffix.lower() in _SUFFIXES)


def _read_folder(source: Path) -> tuple[LabelledImage, ...]:
    folders, files = _listed(source)
    if loose := [path for path in files if path.suffix.lower() in _SUFFIXES]:
        raise DataError(
            f"Expected a folder for each class in {source}. Received: {len(loose)} images beside them, "
            f"{_shown(loose[0])} first. Move each into the folder of its class."
        )
    if not folders:
        raise DataError(f"Expected a folder for each class in {source}. Received: a folder without folders.")
    splits = [SPLITS.get(folder.name.lower()) for folder in folders]
    if "train" not in splits or set(splits) == {"train", None}:
        # One class may well be called train, or a few of them val and test.
        return tuple(_read_classes(folders, None))
    if None in splits:
        raise DataError(
            f"Expected in {source} either splits (train, validation, test) or classes. Received: both, split folders "
            f"and {_shown(folders[splits.index(None)])}. Give a folder that holds only one of them."
        )
    return tuple(image for split, folder in zip(splits, folders, strict=True) for image in _read_split(folder, split))


def _read_split(folder: Path, split: Split | None) -> Iterator[LabelledImage]:
    folders, files = _listed(folder)
    if not folders or any(path.suffix.lower() in _SUFFIXES for path in files):
        raise DataError(f"Expected a folder for each class in {folder}, and every image in one of them.")
    return _read_classes(folders, split)


def _read_classes(folders: Iterable[Path], split: Split | None) -> Iterator[LabelledImage]:
    for folder in folders:
        if not _is_utf8(folder):
            raise DataError(
                f"Expected the name of a class in UTF-8. Received: {os.fsencode(folder.name)!r} in {folder.parent}. "
                "Rename the folder."
            )
        images = images_below(folder)
        if not images:
            raise DataError(f"Expected images of the class {folder.name!r}. Received: none in {folder}. Remove it.")
        # As a table's.
        label = unicodedata.normalize("NFC", folder.name).strip()
        yield from (LabelledImage(path, label, split) for path in images)


def _listed(folder: Path) -> tuple[list[Path], list[Path]]:
    try:
        entries = sorted(path for path in folder.iterdir() if not _is_passed_over(path.name))
    except OSError as error:
        raise _unreadable(error) from error
    is_folder = [path.is_dir() for path in entries]
    folders = [path for path, yes in zip(entries, is_folder, strict=True) if yes]
    return folders, [path for path, yes in zip(entries, is_folder, strict=True) if not yes]


def _below(folder: Path) -> Iterator[Path]:
    # People link to where their images are. A link that leads back above the class would bring in all the others.
    seen = {os.path.realpath(each) for each in folder.absolute().parents}
    for place, folders, files in os.walk(folder, onerror=_raise_unreadable, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not _is_passed_over(name)]
        yield from (Path(place, name) for name in files if not _is_passed_over(name))


def _is_passed_over(name: str) -> bool:
    return name.startswith(".") or name in _PASSED_OVER


def _raise_unreadable(error: OSError) -> None:
    raise _unreadable(error) from error


def _unreadable(error: OSError) -> DataError:
    return DataError(f"Expected a folder that can be read. Received: {error.filename}: {error.strerror}.")


def _csv_rows(source: Path) -> Iterator[_Row]:
    data = source.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"Expected UTF-8 in {source}. Received: the byte 0x{data[error.start]:02x} in line {line}. "
            "Save the table as UTF-8."
        ) from error
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(lines, [])]
        _check_header(source, header)
        for cells in lines:
            if cells and len(cells) != len(header):
                raise DataError(
                    f"Expected {len(header)} cells in {source}, line {lines.line_num}. Received: {len(cells)}. A cell "
                    "with a comma in it stands in double quotes."
                )
            if cells:
                yield lines.line_num, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"Expected a CSV file. Received: {source}, line {lines.line_num}: {error}.") from error


def _parquet_rows(source: Path) -> Iterator[_Row]:
    try:
        # Not at the top: most people's data is a folder, and an extra brings pyarrow.
        import pyarrow  # noqa: PLC0415
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        raise DataError(
            f"Expected pyarrow, to read {source}. Received: {error}. Install it with: pip install 'vertebra[parquet]'"
        ) from error
    try:
        with parquet.ParquetFile(source) as file:
            _check_header(source, file.schema_arrow.names)
            columns = [name for name in _COLUMNS if name in file.schema_arrow.names]
            if pyarrow.types.is_floating(file.schema_arrow.field("label").type):
                # As pandas makes of whole numbers where one is missing: the classes would be called 1.0 and 2.0.
                raise DataError(f"Expected text or whole numbers in {source}, column 'label'. Received: fractions.")
            table = file.read(columns=columns).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"Expected a Parquet file. Received: {source}: {error}.") from error
    for row, cells in enumerate(table, start=1):
        yield row, {name: "" if value is None else str(value) for name, value in cells.items()}


def _check_header(source: Path, header: Sequence[str]) -> None:
    if not header:
        raise DataError(f"Expected a line that names the columns in {source}. Received: an empty first line or file.")
    for name in ("path", "label"):
        if name not in header:
            hint = " Separate columns by commas." if len(header) == 1 else ""
            raise DataError(f"Expected a column {name!r} in {source}. Received: {', '.join(header)}.{hint}")
    for name in _COLUMNS:
        if header.count(name) > 1:
            raise DataError(f"Expected one column {name!r} in {source}. Received: {header.count(name)}.")


def _image(source: Path, line: int, row: Mapping[str, str]) -> LabelledImage:
    place = f"{source}, line {line}" if source.suffix.lower() == ".csv" else f"{source}, row {line}"
    label = unicodedata.normalize("NFC", row["label"].strip())
    if not label:
        raise DataError(f"Expected a label in {place}, column 'label'. Received: an empty cell.")
    if not row["path"].strip() or "\0" in row["path"]:
        raise DataError(f"Expected a path in {place}, column 'path'. Received: {row['path']!r}.")
    return LabelledImage(
        path=source.parent / row["path"],
        label=label,
        split=_split(row.get("split", ""), place),
        group=row.get("group", "").strip() or None,
        weight=_weight(row["weight"], place) if "weight" in row else 1.0,
    )


def _split(cell: str, place: str) -> Split | None:
    name = cell.strip().lower()
    if name and name not in SPLITS:
        raise DataError(f"Expected one of {', '.join(SPLITS)} in {place}, column 'split'. Received: {cell!r}.")
    return SPLITS.get(name)


def _weight(cell: str, place: str) -> float:
    try:
        weight = float(cell)
    except ValueError:
        weight = math.nan
    if not _LIGHTEST <= weight <= _HEAVIEST:
        raise DataError(
            f"Expected a number from {_LIGHTEST:g} to {_HEAVIEST:g} in {place}, column 'weight'. Received: {cell!r}."
        )
    return weight


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(path: Path) -> str:
    return os.fsencode(path.name).decode(errors="backslashreplace")
