"""The program vertebra-client: what it prints and how it leaves; the calls themselves are tested with Client."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import grpc
import pytest
from google.protobuf.message import Message

from vertebra.client.__main__ import main
from vertebra.v1 import vision_pb2

Refuse = Callable[[int, grpc.StatusCode, str | None], None]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "cat.jpg").write_bytes(b"jpeg")
    (tmp_path / "broken.jpg").write_bytes(b"broken")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_classify_prints_a_table(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", address, "cat.jpg"]) == 0
    assert capsys.readouterr().out == (
        "image    label      probability\n"
        "cat.jpg  tabby           75.00%\n"
        "cat.jpg  tiger cat       20.00%\n"
        "cat.jpg  lynx             5.00%\n"
        "\n"
        "cats version 3, 1 request: decode 1.5 ms, queue 0.5 ms, infer 2.0 ms, total 4.0 ms\n"
    )


@pytest.mark.usefixtures("folder")
def test_options_reach_the_server(
    address: str, received: Sequence[Message], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", "cats", "--version", "7", "--top-k", "2", "--min-probability", "0.9"]
    assert main(["classify", address, "cat.jpg", *options]) == 0
    assert "cat.jpg  -\n" in capsys.readouterr().out
    request = cast(vision_pb2.ClassifyRequest, received[0])
    assert (request.model.name, request.model.version, request.top_k) == ("cats", 7, 2)


@pytest.mark.usefixtures("folder")
def test_a_broken_image_is_named_and_the_others_printed(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", address, "broken.jpg", "cat.jpg"]) == 1
    out = capsys.readouterr().out
    assert "broken.jpg  error: Expected a JPEG, PNG or WebP file. Received: 6 other bytes.\n" in out
    assert "cat.jpg     tabby           75.00%\n" in out


@pytest.mark.usefixtures("folder")
def test_classify_prints_json(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", address, "cat.jpg", "broken.jpg", "--top-k", "1", "--json"]) == 1
    message = "Expected a JPEG, PNG or WebP file. Received: 6 other bytes."
    assert json.loads(capsys.readouterr().out) == {
        "images": [
            {"file": "cat.jpg", "labels": [{"index": 0, "name": "tabby", "probability": 0.75}]},
            {"file": "broken.jpg", "error": {"code": "INVALID_ARGUMENT", "message": message}},
        ],
        "requests": [
            {
                "model": {"name": "cats", "version": 3, "embedding_space_id": "a" * 64},
                "timing": {"decode_ms": 1.5, "queue_ms": 0.5, "infer_ms": 2.0, "total_ms": 4.0},
            }
        ],
    }


@pytest.mark.usefixtures("folder")
def test_embed_prints_a_table(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", address, "cat.jpg"]) == 0
    table = "image    shape  norm    vector\ncat.jpg  [5]    5.4772  0.0000 1.0000 2.0000 3.0000 ...\n\n"
    assert capsys.readouterr().out.startswith(table)


@pytest.mark.usefixtures("folder")
def test_embed_prints_whole_vectors_as_json(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", address, "cat.jpg", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == [{"file": "cat.jpg", "embedding": [0, 1, 2, 3, 4]}]


def test_models_prints_a_table(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", address]) == 0
    assert capsys.readouterr().out == (
        "model  version  state   precision    provider              error\n"
        "cats   3        READY   FP32         CPUExecutionProvider\n"
        "dogs   1        FAILED  UNSPECIFIED                        Expected format 1. Received: 2.\n"
    )


def test_models_prints_json(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", address, "--json"]) == 0
    assert [model["name"] for model in json.loads(capsys.readouterr().out)["models"]] == ["cats", "dogs"]


def test_many_files_go_in_requests_of_sixteen(
    address: str, folder: Path, received: Sequence[Message], capsys: pytest.CaptureFixture[str]
) -> None:
    files = [f"{number:02}.jpg" for number in range(33)]
    for file in files:
        (folder / file).write_bytes(b"jpeg")
    assert main(["classify", address, *files, "--top-k", "1"]) == 0
    assert [len(cast(vision_pb2.ClassifyRequest, request).images) for request in received] == [16, 16, 1]
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[1:34]] == files
    assert "cats version 3, 3 requests: decode 4.5 ms, queue 1.5 ms, infer 6.0 ms, total 12.0 ms\n" in out


def test_a_request_holds_no_more_bytes_than_a_server_takes(
    address: str, folder: Path, received: Sequence[Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vertebra.client.__main__.CHUNK_BYTES", 10)
    files = [f"{number}.jpg" for number in range(5)]
    for file, size in zip(files, (4, 4, 4, 20, 1), strict=True):
        (folder / file).write_bytes(b"j" * size)
    assert main(["classify", address, *files]) == 0
    assert [len(cast(vision_pb2.ClassifyRequest, request).images) for request in received] == [2, 1, 1, 1]


def test_a_line_break_in_a_file_s_name_does_not_break_the_table(
    address: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "two\nlines.jpg").write_bytes(b"jpeg")
    assert main(["classify", address, "two\nlines.jpg", "--top-k", "1"]) == 0
    assert "two\\nlines.jpg  tabby" in capsys.readouterr().out


@pytest.mark.usefixtures("folder")
def test_an_output_that_cannot_be_written_is_one_line(address: str) -> None:
    command = [sys.executable, "-m", "vertebra.client", "classify", address, "cat.jpg"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr == "vertebra-client: error: standard output: No space left on device\n"


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cat.jpg", "--model", "nowhere"], "NOT_FOUND: Expected a model out of ['cats']. Received: 'nowhere'."),
        (["nowhere.jpg"], "nowhere.jpg: No such file or directory"),
        (["."], ".: Is a directory"),
    ],
)
def test_an_error_is_one_line(
    address: str, capsys: pytest.CaptureFixture[str], arguments: Sequence[str], message: str
) -> None:
    assert main(["classify", address, *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"vertebra-client: error: {message}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["classify", "x:1", "a.jpg", "--deadline", "inf"],
            "Expected a finite number of seconds above 0. Received: inf.",
        ),
        (["classify", "x:1", "a.jpg", "--top-k", "-1"], "Expected a number from 0 to 4294967295. Received: -1."),
        (["embed", "x:1"], "the following arguments are required: FILE"),
        (["models", "x:1", "a.jpg"], "unrecognized arguments: a.jpg"),
    ],
)
def test_wrong_arguments_are_named(capsys: pytest.CaptureFixture[str], arguments: Sequence[str], message: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err


def test_what_stdout_cannot_show_is_escaped(address: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "größe.jpg").write_bytes(b"jpeg")
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding="ascii"))
    assert main(["classify", address, "größe.jpg"]) == 0
    assert b"gr\\xf6\\xdfe.jpg" in out.getvalue()


@pytest.mark.usefixtures("folder")
def test_it_runs_as_a_program(address: str) -> None:
    command = [sys.executable, "-m", "vertebra.client", "classify", address, "cat.jpg", "broken.jpg", "--json"]
    program = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (program.returncode, program.stderr) == (1, "")
    assert len(json.loads(program.stdout)["images"]) == 2


@pytest.mark.usefixtures("folder")
def test_nobody_there_is_one_line_of_a_program() -> None:
    command = [sys.executable, "-m", "vertebra.client", "models", "127.0.0.1:1"]
    program = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (program.returncode, program.stdout) == (2, "")
    assert program.stderr.startswith("vertebra-client: error: UNAVAILABLE: connections to all backends failing")
    assert program.stderr.count("\n") == 1


@pytest.mark.usefixtures("folder")
def test_a_reader_that_leaves_early_is_no_error(address: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "vertebra.client", "embed", address, "cat.jpg", "--json"]
    program = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    os.close(writer)
    assert (program.returncode, program.stderr) == (0, "")
