"""What an unfinished file of embeddings keeps, and for whom."""

import os
from pathlib import Path

import numpy as np
import pytest

from vertebra.client.errors import OutputError
from vertebra.client.part import Part

VECTOR = np.array([1, 2], np.float32)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "x.npz.part"


def stat(size: int = 10, mtime_ns: int = 2**60) -> os.stat_result:
    seconds = mtime_ns / 1e9
    return os.stat_result((0, 0, 0, 0, 0, 0, size, 0, int(seconds), 0), {"st_mtime_ns": mtime_ns})


def test_it_keeps_what_was_added(file: Path) -> None:
    with Part(file, "space") as part:
        part.add("a.jpg", stat(), VECTOR)
    with Part(file, "space") as part:
        assert part.holds("a.jpg", stat())
        assert part.vector("a.jpg") == VECTOR.tobytes()
        assert not part.holds("b.jpg", stat())
        assert not part.holds("a.jpg", stat(size=11))
        assert not part.holds("a.jpg", stat(mtime_ns=2**60 + 1))


def test_an_image_that_has_changed_takes_its_place(file: Path) -> None:
    with Part(file, "space") as part:
        part.add("a.jpg", stat(), VECTOR)
        part.add("a.jpg", stat(size=11), 2 * VECTOR)
        assert part.vector("a.jpg") == (2 * VECTOR).tobytes()
        assert not part.holds("a.jpg", stat())


def test_the_lock_outlasts_what_is_committed(file: Path) -> None:
    now_s = 0.0
    with Part(file, "space", lambda: now_s) as part:
        now_s = 1.0
        part.add("a.jpg", stat(), VECTOR)
        with (
            pytest.raises(OutputError, match=r"for one process alone\. Received: another one is writing it"),
            Part(file, ""),
        ):
            pass
        part.add("b.jpg", stat(), VECTOR)
    with Part(file, "space") as part:
        assert part.holds("b.jpg", stat())


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"Expected to keep embeddings in .*no.x\.part\. Received: unable to open"):
        Part(tmp_path / "no" / "x.part", "space").__enter__()
