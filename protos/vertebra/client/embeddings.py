"""Files of embeddings, NumPy's .npz and Parquet, written whole or not at all; asks no server."""

import importlib.util
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from vertebra.client.answers import ServedModel
from vertebra.client.errors import OutputError

PARQUET = ".parquet"
ROWS = 1024  # of a row group


@dataclass(frozen=True, slots=True)
class Embeddings:
    """What a file holds.

    Attributes:
        model: What answered.
        paths: The images with an embedding, N of them, relative to their folder and with slashes.
        vector: The embedding of one of them, as D float32, little-endian.
        failed: Why an image has none, by path.
    """

    model: ServedModel
    paths: Sequence[str]
    vector: Callable[[str], bytes]
    failed: Mapping[str, str]

    def vectors(self) -> Iterator[bytes]:
        """The embeddings in the order of the paths; OutputError where they differ in length."""
        expected_bytes = self.dimensions * 4
        for path in self.paths:
            vector = self.vector(path)
            if len(vector) != expected_bytes:
                raise OutputError(f"Expected {expected_bytes} bytes of embedding for {path}. Received: {len(vector)}.")
            yield vector

    @property
    def dimensions(self) -> int:
        """How many numbers an embedding has; 0 where there is none."""
        return len(self.vector(self.paths[0])) // 4 if self.paths else 0


def check(file: Path) -> None:
    """Whether a file of this name could be written, before hours are spent on what goes into it.

    Args:
        file: The name.

    Raises:
        OutputError: It ends in neither .npz nor .parquet, its folder does not exist, or pyarrow is missing.
    """
    if file.suffix not in WRITERS:
        raise OutputError(f"Expected a file that ends in {' or '.join(WRITERS)}. Received: {str(file)!r}.")
    if file.is_dir() or not file.parent.is_dir():
        raise OutputError(f"Expected a file in a folder that exists. Received: {str(file)!r}.")
    if file.suffix == PARQUET and importlib.util.find_spec("pyarrow") is None:
        raise OutputError(
            f"Expected pyarrow, to write {file}. Received: it is not installed. Install it with: "
            "pip install 'vertebra-client[parquet]'"
        )


def write(file: Path, embeddings: Embeddings) -> None:
    """Write a file of embeddings; what was there before stays until the new one is whole and on the disk.

    Args:
        file: The name; one process at a time writes it.
        embeddings: What goes into it.

    Raises:
        OutputError: It cannot be written.
    """
    draft = file.with_name(f"{file.name}.new")
    try:
        with draft.open("wb") as stream:
            WRITERS[file.suffix](stream, embeddings)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(file)
    except OSError as error:
        raise OutputError(f"Expected to write {file}. Received: {error.strerror or error}.") from error
    finally:
        draft.unlink(missing_ok=True)


def write_npz(stream: BinaryIO, embeddings: Embeddings) -> None:
    words = {
        "paths": list(embeddings.paths),
        "model": embeddings.model.name,
        "version": embeddings.model.version,
        "embedding_space_id": embeddings.model.embedding_space_id,
        "failed_paths": list(embeddings.failed),
        "failed_reasons": list(embeddings.failed.values()),
    }
    with zipfile.ZipFile(stream, "w") as archive:
        for name, value in words.items():
            kind = np.int64 if name == "version" else np.str_
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(cast(BinaryIO, member), np.array(value, kind), allow_pickle=False)
        # Row by row: together they may be larger than the memory.
        with archive.open("embeddings.npy", "w", force_zip64=True) as member:
            shape = (len(embeddings.paths), embeddings.dimensions)
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(cast(BinaryIO, member), header)
            for vector in embeddings.vectors():
                member.write(vector)


def write_parquet(stream: BinaryIO, embeddings: Embeddings) -> None:
    # Not at the top: an extra brings pyarrow.
    import pyarrow  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    vector_type = pyarrow.list_(pyarrow.float32(), embeddings.dimensions)
    facts = {name: str(getattr(embeddings.model, name)) for name in ("version", "embedding_space_id")}
    schema = pyarrow.schema(
        {"path": pyarrow.string(), "embedding": vector_type, "error": pyarrow.string()},
        metadata={"model": embeddings.model.name} | facts,
    )
    answered = ((text(path), vector, None) for path, vector in zip(embeddings.paths, embeddings.vectors(), strict=True))
    broken = ((text(path), None, text(reason)) for path, reason in embeddings.failed.items())
    rows = chain(answered, broken)
    with parquet.ParquetWriter(stream, schema) as writer:
        while group := [row for _, row in zip(range(ROWS), rows, strict=False)]:
            paths, vectors, errors = zip(*group, strict=True)
            arrays = [None if each is None else np.frombuffer(each, "<f4") for each in vectors]
            columns = [
                pyarrow.array(column, field.type) for column, field in zip((paths, arrays, errors), schema, strict=True)
            ]
            writer.write_batch(pyarrow.record_batch(columns, schema=schema))


def text(word: str) -> str:
    """In Parquet a text is UTF-8, and a file's name need not be."""
    return os.fsencode(word).decode("utf-8", "backslashreplace")


WRITERS = {".npz": write_npz, PARQUET: write_parquet}
