"""What was answered so far of a folder of images, kept on disk through Ctrl-C and crashes; knows no server.

A SQLite database: it is whole after any end, and locked for as long as one process holds it.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from vertebra.client.errors import OutputError

# What is answered in so many seconds may have to be asked again after a crash.
COMMIT_S = 1.0

TABLES = """
CREATE TABLE IF NOT EXISTS space (id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS images (
    path BLOB PRIMARY KEY, size_bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, vector BLOB NOT NULL
);
"""


class Part:
    """The embeddings of a file that is not finished; to be used in a `with` block, by one process at a time.

    Args:
        file: The database, made where there is none.
        embedding_space_id: The space that all embeddings in it lie in.
        clock: Monotonic seconds.
    """

    def __init__(self, file: Path, embedding_space_id: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.file = file
        self._space = embedding_space_id
        self._clock = clock
        self._committed_s = clock()

    def __enter__(self) -> Self:
        """Lock the part; OutputError where it is another process's, cannot be read, or is of another space."""
        with self._errors():
            self._database = sqlite3.connect(self.file, timeout=0, isolation_level=None)
        try:
            with self._errors():
                self._lock()
                self._check_space()
        except BaseException:
            self._database.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Keep what was added, and let go of the lock."""
        try:
            with self._errors():
                if self._database.in_transaction:
                    self._database.execute("COMMIT")
        finally:
            self._database.close()

    def add(self, path: str, stat: os.stat_result, vector: NDArray[np.float32]) -> None:
        """Keep the embedding, float32 [D], of the image at a path as it was at this stat."""
        row = (os.fsencode(path), stat.st_size, stat.st_mtime_ns, vector.astype("<f4", copy=False).tobytes())
        with self._errors():
            self._database.execute("INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?)", row)
            if self._clock() - self._committed_s >= COMMIT_S:
                self._database.execute("COMMIT")
                self._database.execute("BEGIN")
                self._committed_s = self._clock()

    def holds(self, path: str, stat: os.stat_result) -> bool:
        """Whether the embedding of an image is here, and the image is still the one that it is of."""
        query = "SELECT 1 FROM images WHERE path = ? AND size_bytes = ? AND mtime_ns = ?"
        with self._errors():
            found = self._database.execute(query, (os.fsencode(path), stat.st_size, stat.st_mtime_ns))
            return found.fetchone() is not None

    def vector(self, path: str) -> bytes:
        """The embedding of an image that is held: its numbers, float32, little-endian."""
        with self._errors():
            ((vector,),) = self._database.execute("SELECT vector FROM images WHERE path = ?", (os.fsencode(path),))
        return bytes(vector)

    def _lock(self) -> None:
        # Held until the database is closed or the process ends, however it ends.
        self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._database.execute("BEGIN EXCLUSIVE")
        for table in filter(str.strip, TABLES.split(";")):
            self._database.execute(table)

    def _check_space(self) -> None:
        kept = [space for (space,) in self._database.execute("SELECT id FROM space")]
        if not kept:
            self._database.execute("INSERT INTO space VALUES (?)", (self._space,))
        elif kept != [self._space]:
            raise OutputError(
                f"Expected the embedding space {kept[0]}, which {self.file} has been begun in. Received: the model "
                f"answers in {self._space}. Ask for the model of before, or remove {self.file} to begin anew."
            )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", None)  # Python's own errors have none
            if code == sqlite3.SQLITE_BUSY:
                message = f"Expected {self.file} for one process alone. Received: another one is writing it."
            elif code == sqlite3.SQLITE_NOTADB:
                message = f"Expected {self.file} to be of an earlier run. Received: another file. Move it away."
            else:
                message = f"Expected to keep embeddings in {self.file}. Received: {error}."
            raise OutputError(message) from error
