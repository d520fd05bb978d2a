"""The subcommand embed of vertebra-client with a folder: the file, what an earlier run left, and every kind of end."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message
from pyarrow import parquet

from tests.protos.client.conftest import FakeVision
from vertebra.client import embeddings, part
from vertebra.client.__main__ import main
from vertebra.v1 import vision_pb2

SPACE = "a" * 64
NOT_AN_IMAGE = "Expected a JPEG, PNG or WebP file. Received: 6 other bytes."


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Has images in two folders, and what is none."""
    for name in ("b.jpg", "sub/a.png", "sub/c.webp", "notes.txt", ".hidden.jpg"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(name.encode())
    monkeypatch.chdir(tmp_path)
    return tmp_path / "images"


@pytest.fixture
def embed(address: str, folder: Path) -> Callable[..., int]:
    del folder
    return lambda *options, out="x.npz": main(["embed", address, "images", "--out", out, *options])


def load(file: str) -> dict[str, Any]:
    with np.load(file) as arrays:
        return {name: arrays[name] for name in arrays}


def asked(received: Sequence[Message]) -> list[bytes]:
    """The images of streams."""
    requests = [message for message in received if isinstance(message, vision_pb2.EmbedStreamRequest)]
    return [request.image.encoded for request in requests]


def test_a_file_of_numpy(embed: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert embed() == 0
    assert capsys.readouterr() == ("Wrote x.npz: 3 embeddings, 0 images failed.\ncats version 3\n", "")
    arrays = load("x.npz")
    assert arrays["paths"].tolist() == ["b.jpg", "sub/a.png", "sub/c.webp"]
    assert arrays["embeddings"].dtype == np.float32
    np.testing.assert_array_equal(arrays["embeddings"], np.tile(np.arange(5), (3, 1)))
    facts = {name: arrays[name].item() for name in ("model", "version", "embedding_space_id")}
    assert facts == {"model": "cats", "version": 3, "embedding_space_id": SPACE}
    assert sorted(os.listdir()) == ["images", "x.npz"]


def test_a_file_of_parquet(embed: Callable[..., int], folder: Path) -> None:
    (folder / "sub" / "broken.jpg").write_bytes(b"broken")
    assert embed(out="x.parquet") == 1
    table = parquet.read_table("x.parquet")
    vector = [0.0, 1.0, 2.0, 3.0, 4.0]
    assert table.to_pylist() == [
        {"path": "b.jpg", "embedding": vector, "error": None},
        {"path": "sub/a.png", "embedding": vector, "error": None},
        {"path": "sub/c.webp", "embedding": vector, "error": None},
        {"path": "sub/broken.jpg", "embedding": None, "error": NOT_AN_IMAGE},
    ]
    assert table.schema.metadata == {b"model": b"cats", b"version": b"3", b"embedding_space_id": SPACE.encode()}


def test_images_without_an_embedding_are_named(
    embed: Callable[..., int], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken.jpg").write_bytes(b"broken")
    (folder / "gone.jpg").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.jpg")
    assert embed() == 1
    assert capsys.readouterr().out == (
        f"broken.jpg  error: {NOT_AN_IMAGE}\n"
        "gone.jpg    error: No such file or directory\n"
        "pipe.jpg    error: Expected a file. Received: something else.\n"
        "Wrote x.npz: 3 embeddings, 3 images failed.\n"
        "cats version 3\n"
    )
    arrays = load("x.npz")
    assert arrays["failed_paths"].tolist() == ["broken.jpg", "gone.jpg", "pipe.jpg"]
    assert arrays["failed_reasons"][0] == NOT_AN_IMAGE
    assert len(arrays["embeddings"]) == 3
    assert sorted(os.listdir()) == ["images", "x.npz"]


@pytest.mark.parametrize("out", ["x.npz", "x.parquet"])
def test_where_every_image_is_broken_there_is_a_file_all_the_same(
    embed: Callable[..., int], folder: Path, out: str
) -> None:
    for file in ("b.jpg", "sub/a.png", "sub/c.webp"):
        (folder / file).write_bytes(b"broken")
    assert embed(out=out) == 1
    assert Path(out).stat().st_size > 0


def test_as_json(embed: Callable[..., int], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "broken.jpg").write_bytes(b"broken")
    assert embed("--json") == 1
    assert json.loads(capsys.readouterr().out) == {
        "out": "x.npz",
        "model": {"name": "cats", "version": 3, "embedding_space_id": SPACE},
        "images": 3,
        "resumed": 0,
        "failed": [{"file": "broken.jpg", "code": "INVALID_ARGUMENT", "message": NOT_AN_IMAGE}],
    }


def test_an_earlier_run_is_gone_on_with(
    embed: Callable[..., int],
    folder: Path,
    vision: FakeVision,
    received: list[Message],
    capsys: pytest.CaptureFixture[str],
) -> None:
    vision.leave(2, grpc.StatusCode.UNAVAILABLE, None)
    assert embed() == 2
    assert capsys.readouterr().err == (
        "What was answered is kept in x.npz.part: the same command goes on from there.\n"
        "vertebra-client: error: UNAVAILABLE: Refused as told.\n"
    )
    assert not Path("x.npz").exists()
    vision.answers_left = None
    received.clear()
    # A file that was changed meanwhile is another image.
    (folder / "b.jpg").write_bytes(b"changed")
    assert embed() == 0
    assert asked(received) == [b"changed", b"sub/c.webp"]
    assert capsys.readouterr().out.startswith("Wrote x.npz: 3 embeddings, 1 of them of an earlier run, 0 images failed")
    assert load("x.npz")["paths"].tolist() == ["b.jpg", "sub/a.png", "sub/c.webp"]
    assert sorted(os.listdir()) == ["images", "x.npz"]


def test_an_image_that_is_gone_is_not_in_the_file(embed: Callable[..., int], folder: Path, vision: FakeVision) -> None:
    vision.leave(2, grpc.StatusCode.UNAVAILABLE, None)
    assert embed() == 2
    vision.answers_left = None
    (folder / "b.jpg").unlink()
    assert embed() == 0
    assert load("x.npz")["paths"].tolist() == ["sub/a.png", "sub/c.webp"]


def test_an_image_that_was_merely_not_answered_is_asked_about_again(
    embed: Callable[..., int], folder: Path, received: list[Message]
) -> None:
    (folder / "b.jpg").write_bytes(b"huge")
    assert embed() == 1
    assert load("x.npz")["failed_reasons"].tolist() == ["Received message larger than max."]
    received.clear()
    assert embed() == 1
    assert asked(received) == [b"huge"]


def test_spaces_are_not_mixed(
    embed: Callable[..., int], vision: FakeVision, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    vision.leave(2, grpc.StatusCode.UNAVAILABLE, None)
    assert embed() == 2
    capsys.readouterr()
    monkeypatch.setattr("tests.protos.client.conftest.SPACE", "b" * 64)
    assert embed() == 2
    error = capsys.readouterr().err
    assert f"Expected the embedding space {SPACE}, which x.npz.part has been begun in. Received: the model" in error
    assert f"answers in {'b' * 64}. Ask for the model of before, or remove x.npz.part to begin anew." in error


def test_what_is_no_part_is_not_overwritten(embed: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    Path("x.npz.part").write_text("Dear diary, today I have written more than a page, or so it felt. " * 20)
    assert embed() == 2
    assert "Expected x.npz.part to be of an earlier run. Received: another file. Move it" in capsys.readouterr().err
    assert Path("x.npz.part").read_text().startswith("Dear diary")


def test_one_process_writes_at_a_time(embed: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    with sqlite3.connect("x.npz.part") as other:
        other.execute("BEGIN EXCLUSIVE")
        assert embed() == 2
    other.close()
    assert "Expected x.npz.part for one process alone. Received: another one is writing it" in capsys.readouterr().err
    assert embed() == 0


def test_what_cannot_be_written_leaves_what_was_there(
    embed: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("x.npz").write_bytes(b"older")

    def full(stream: Any, _: embeddings.Embeddings) -> None:
        stream.write(b"half of it")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setitem(embeddings.WRITERS, ".npz", full)
        assert embed() == 2
    assert capsys.readouterr().err.endswith("error: Expected to write x.npz. Received: No space left on device.\n")
    assert Path("x.npz").read_bytes() == b"older"
    assert sorted(os.listdir()) == ["images", "x.npz", "x.npz.part"]
    assert embed() == 0
    assert "3 of them of an earlier run" in capsys.readouterr().out


def test_a_disk_that_is_full_is_named(
    embed: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vertebra.client.part.TABLES", "PRAGMA max_page_count = 2;" + part.TABLES)
    assert embed() == 2
    assert "Expected to keep embeddings in x.npz.part. Received: database or disk is full." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["images"], "Expected --out X.npz or --out X.parquet with the folder images. Received: no --out."),
        (["images", "images/b.jpg", "--out", "x.npz"], "one folder with --out. Received: images, images/b.jpg."),
        (["images/b.jpg", "--out", "x.npz"], "Expected one folder with --out. Received: images/b.jpg."),
        (["empty", "--out", "x.npz"], "Expected at least one image in empty. Received: none."),
        (["images", "--out", "x.csv"], "Expected a file that ends in .npz or .parquet. Received: 'x.csv'."),
        (["images", "--out", "no/x.npz"], "Expected a file in a folder that exists. Received: 'no/x.npz'."),
        (["images", "--out", "taken.npz"], "Expected a file in a folder that exists. Received: 'taken.npz'."),
        (["images", "--out", "x.npz", "--model", "nowhere"], "NOT_FOUND: Expected a model out of ['cats']."),
    ],
)
@pytest.mark.usefixtures("folder")
def test_an_error_is_one_line(
    address: str, capsys: pytest.CaptureFixture[str], arguments: Sequence[str], message: str
) -> None:
    Path("empty").mkdir()
    Path("taken.npz").mkdir()
    assert main(["embed", address, *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_parquet_without_pyarrow_names_the_extra(
    embed: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert embed(out="x.parquet") == 2
    assert "it is not installed. Install it with: pip install 'vertebra-client[parquet]'" in capsys.readouterr().err


def test_a_name_that_is_no_text_keeps_its_embedding(embed: Callable[..., int], folder: Path) -> None:
    (folder / os.fsdecode(b"\xff.jpg")).write_bytes(b"jpeg")
    assert embed() == 0
    assert os.fsencode(load("x.npz")["paths"][-1]) == b"\xff.jpg"
    assert embed(out="x.parquet") == 0
    assert parquet.read_table("x.parquet")["path"][-1].as_py() == "\\xff.jpg"


def test_rows_pass_one_group_of_parquet(
    embed: Callable[..., int], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "ROWS", 2)
    (folder / "broken.jpg").write_bytes(b"broken")
    assert embed(out="x.parquet") == 1
    assert parquet.read_metadata("x.parquet").num_rows == 4
    assert parquet.read_metadata("x.parquet").num_row_groups == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_run_that_is_interrupted_is_gone_on_with(
    address: str, folder: Path, vision: FakeVision, received: list[Message], number: signal.Signals, code: int
) -> None:
    # A run that is killed keeps what it had a second before.
    for index in range(300):
        (folder / f"{index:03}.jpg").write_bytes(b"jpeg")
    original = vision.status_of
    asked_for = threading.Semaphore(0)

    def status_of(image: vision_pb2.Image) -> vision_pb2.Status:
        asked_for.release()
        threading.Event().wait(0.02)  # else it would have ended before the signal came
        return original(image)

    vision.status_of = status_of  # type: ignore[method-assign]
    command = [sys.executable, "-m", "vertebra.client", "embed", address, "images", "--out", "x.npz"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as program:
        for _ in range(100):
            assert asked_for.acquire(timeout=60)
        program.send_signal(number)
        _, err = program.communicate(timeout=60)
    assert program.returncode == code
    said = "What was answered is kept in x.npz.part: the same command goes on from there.\n"
    assert err == ("" if number == signal.SIGKILL else said)
    vision.status_of = original  # type: ignore[method-assign]
    received.clear()
    assert main(["embed", address, "images", "--out", "x.npz"]) == 0
    assert 0 < len(asked(received)) < 303
    assert len(load("x.npz")["paths"]) == 303


def test_a_terminal_sees_a_bar(embed: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        def __init__(self) -> None:
            self.text = ""

        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> None:
            self.text += text

        def flush(self) -> None:
            pass

    terminal = Terminal()
    monkeypatch.setattr("vertebra.client.progress.TERMINAL_S", 0.0)
    monkeypatch.setattr(sys, "stderr", terminal)
    assert embed() == 0
    shown = terminal.text.split("\r")
    assert shown[1] == "........................ 0/3 images"
    assert re.fullmatch(r"#{24} 3/3 images, [0-9.]+/s, 0:00 left *", shown[4])
    assert shown[5:] == [" " * len(shown[4].rstrip()), ""]
