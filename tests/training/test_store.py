"""A store keeps rows whole or not at all, whatever happens to the machine, the disk or the process."""

import logging
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from training.errors import CacheError
from training.store import Store, write

ROW = np.dtype([("c1", "<f4", (3,)), ("flag", "?")])


def keys(*numbers: int) -> list[bytes]:
    return [sha256(b"%d" % number).digest() for number in numbers]


def rows(*numbers: int) -> NDArray[np.void]:
    made = np.zeros(len(numbers), ROW)
    made["c1"] = np.array(numbers, np.float32)[:, None] + np.arange(3) / 4
    made["flag"] = np.array(numbers) % 2 == 1
    return made


def filled(folder: Path) -> Store:
    store = Store(folder, ROW)
    store.add(keys(0, 1, 2), rows(0, 1, 2))
    store.add(keys(3, 4), rows(3, 4))
    return store


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.npy"))


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process may grow over so many bytes: a write fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("reopened", [False, True])
def test_rows_come_back_in_the_order_of_the_keys(tmp_path: Path, reopened: bool) -> None:
    store = filled(tmp_path / "a" / "b")
    if reopened:
        store = Store(tmp_path / "a" / "b", ROW)
    wanted = (4, 0, 3, 2, 0, 1)
    found = store.rows(keys(*wanted))
    assert found.dtype == ROW
    np.testing.assert_array_equal(found, rows(*wanted))
    assert len(store.rows([])) == 0


def test_what_is_changed_in_a_copy_stays_as_it_was_in_the_store(tmp_path: Path) -> None:
    store = filled(tmp_path)
    store.rows(keys(1))["c1"] = 7
    np.testing.assert_array_equal(store.rows(keys(1)), rows(1))


def test_missing_keys_are_named_once_in_their_order(tmp_path: Path) -> None:
    store = filled(tmp_path)
    assert store.missing(keys(9, 1, 7, 9, 4)) == keys(9, 7)
    with pytest.raises(KeyError):
        store.rows(keys(1, 9))


def test_nothing_to_add_writes_nothing(tmp_path: Path) -> None:
    Store(tmp_path, ROW).add([], rows())
    assert list(tmp_path.iterdir()) == []


def test_a_key_of_another_length_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="buffer size"):
        Store(tmp_path, ROW).add([b"short"], rows(1))


def test_a_key_of_two_shards_is_one_row(tmp_path: Path) -> None:
    filled(tmp_path).add(keys(1, 5), rows(1, 5))
    np.testing.assert_array_equal(Store(tmp_path, ROW).rows(keys(5, 1)), rows(5, 1))


@pytest.mark.parametrize("damage", ["bit", "cut", "empty", "text"])
def test_a_damaged_shard_is_removed_and_its_rows_are_missing(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    filled(tmp_path)
    broken = next(path for path in shards(tmp_path) if len(np.load(path)) == 2)
    data = bytearray(broken.read_bytes())
    data[-5] ^= 4
    broken.write_bytes({"bit": bytes(data), "cut": bytes(data[:-9]), "empty": b"", "text": b"not a shard"}[damage])
    with caplog.at_level(logging.WARNING):
        store = Store(tmp_path, ROW)
    assert str(broken) in caplog.text
    assert "its CRC-32 is" in caplog.text
    assert store.missing(keys(0, 1, 2, 3, 4)) == keys(3, 4)
    store.add(keys(3, 4), rows(3, 4))
    caplog.clear()
    np.testing.assert_array_equal(Store(tmp_path, ROW).rows(keys(3, 0)), rows(3, 0))
    assert caplog.text == ""


def test_a_shard_is_read_once_in_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path)
    read: list[Path] = []
    whole = Path.read_bytes

    def counted(path: Path) -> bytes:
        read.append(path)
        return whole(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    for _ in range(2):
        np.testing.assert_array_equal(Store(tmp_path, ROW).rows(keys(3, 0)), rows(3, 0))
    assert sorted(read) == shards(tmp_path)


def test_a_shard_of_another_dtype_is_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    filled(tmp_path)
    other = np.dtype([("c1", "<f8", (3,))])
    assert Store(tmp_path, other).missing(keys(0)) == keys(0)
    assert "it holds [('c1', '<f4', (3,)), ('flag', '?')], not [('c1', '<f8', (3,))]" in caplog.text
    assert shards(tmp_path) == []


def test_a_shard_that_cannot_be_opened_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    filled(tmp_path)
    name = shards(tmp_path)[0].name
    shards(tmp_path)[0].unlink()
    (tmp_path / name).mkdir()  # opening it fails, for root too
    assert len(Store(tmp_path, ROW).missing(keys(0, 1, 2, 3, 4))) in (2, 3)
    assert f"Passing over {tmp_path / name}" in caplog.text
    assert (tmp_path / name).exists()


def test_a_shard_that_is_taken_away_from_an_open_store_is_named(tmp_path: Path) -> None:
    store = filled(tmp_path)
    for path in shards(tmp_path):
        path.unlink()
    with pytest.raises(CacheError, match=r"Expected .*\.npy as it was a moment ago. Received: .*No such file"):
        store.rows(keys(0))


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    filled(tmp_path)
    for name in ("facts.json", "mine.npy", ".hidden"):
        (tmp_path / name).write_text("mine")
        os.utime(tmp_path / name, (0, 0))
    assert Store(tmp_path, ROW).missing(keys(0, 4)) == []
    assert {"facts.json", "mine.npy", ".hidden"} < {path.name for path in tmp_path.iterdir()}


def test_only_a_draft_that_is_old_is_removed(tmp_path: Path) -> None:
    for name, age_s in ((".old.tmp", 3700), (".young.tmp", 3500)):
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)
    Store(tmp_path, ROW)
    assert [path.name for path in tmp_path.iterdir()] == [".young.tmp"]


def test_a_full_disk_is_said_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    store = filled(tmp_path)
    before = shards(tmp_path)
    many = range(10, 2010)
    with (
        largest_file(50_000),
        pytest.raises(
            CacheError,
            match=rf"Expected room for 90\d\d\d bytes more in the cache {tmp_path}. Received: File too large, \d+ ",
        ),
    ):
        store.add(keys(*many), rows(*many))
    assert sorted(tmp_path.iterdir()) == before
    assert store.missing(keys(0, 10)) == keys(10)
    store.add(keys(*many), rows(*many))
    np.testing.assert_array_equal(Store(tmp_path, ROW).rows(keys(*many)), rows(*many))


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match=r"Expected a folder for the cache. Received: .*/file: File exists"):
        Store(tmp_path / "file", ROW)
    with pytest.raises(CacheError, match=r"Received: .*/file/below: Not a directory"):
        Store(tmp_path / "file/below", ROW)
    with pytest.raises(CacheError, match=r"Expected a cache that can be written to. Received: .*/file: File exists"):
        write(tmp_path / "file" / "graph", b"")


def test_ctrl_c_while_a_shard_is_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path)
    before = sorted(tmp_path.iterdir())

    def interrupt(_: int) -> None:
        assert len(list(tmp_path.iterdir())) == len(before) + 1
        raise KeyboardInterrupt

    monkeypatch.setattr("training.store.os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.add(keys(5), rows(5))
    assert sorted(tmp_path.iterdir()) == before
    assert store.missing(keys(5)) == keys(5)


def test_a_store_keeps_no_file_open(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    store = filled(tmp_path)
    store.rows(keys(0, 4))
    assert os.listdir("/proc/self/fd") == before


WRITER = """
import sys
from pathlib import Path
import numpy as np
from tests.training.test_store import ROW, keys, rows
from training.store import Store
start, folder = int(sys.argv[1]), Path(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for number in range(start, start + 60):
    Store(folder, ROW).add(keys(number, number + 1), rows(number, number + 1))
"""


def test_two_processes_fill_one_store(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, start, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        for start in ("0", "30")
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=60)
    assert [writer.returncode for writer in writers] == [0, 0]
    store = Store(tmp_path, ROW)
    np.testing.assert_array_equal(store.rows(keys(*range(91))), rows(*range(91)))
    assert len(shards(tmp_path)) == len(list(tmp_path.iterdir())) == 120
