"""The subcommand evaluate of vertebra-client, against the fake server, which finds a tabby in every image."""

import io
import json
import re
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import grpc
import pytest
from google.protobuf.message import Message

from export import labelled
from export.score import wilson
from tests.protos.client import conftest
from vertebra.client import evaluate, files
from vertebra.client.__main__ import main
from vertebra.v1 import vision_pb2

Refuse = Callable[[int, grpc.StatusCode, str | None], None]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fill(folder: Path, classes: Mapping[str, Sequence[bytes]]) -> None:
    for label, images in classes.items():
        (folder / label).mkdir(parents=True)
        for index, image in enumerate(images):
            (folder / label / f"{index}.jpg").write_bytes(image)


def requests(received: Sequence[Message]) -> list[vision_pb2.ClassifyRequest]:
    return [each for each in received if isinstance(each, vision_pb2.ClassifyRequest)]


def test_a_folder_is_judged(address: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(folder / "data", {"tabby": [b"jpeg"] * 3, "lynx": [b"jpeg"]})
    assert main(["evaluate", address, "data"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out == (
        "cats version 3, 4 images answered, 0 broken\n"
        "\n"
        "       value   95 % interval\n"
        "top-1   75.0%  30.1% to 95.4%\n"
        "\n"
        "class  images  recall  95 % interval\n"
        "lynx        1    0.0%  0.0% to 79.3%\n"
        "tabby       3  100.0%  43.9% to 100.0%\n"
    )


def test_json_has_everything(address: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(folder, {"tabby": [b"jpeg", b"broken"], "tiger cat": [b"jpeg"]})
    assert main(["evaluate", address, ".", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    interval = pytest.approx([0.5, 0.0945, 0.9055], abs=1e-4)
    assert list(found["top_1"].values()) == interval
    assert found | {"top_1": None, "classes": [each | {"recall": None} for each in found["classes"]]} == {
        "model": "cats",
        "version": 3,
        "images": 2,
        "top_1": None,
        "top_5": None,
        "classes": [
            {"label": "tabby", "images": 1, "right": 1, "recall": None},
            {"label": "tiger cat", "images": 1, "right": 0, "recall": None},
        ],
        "broken": [
            {
                "file": "./tabby/1.jpg",
                "label": "tabby",
                "code": "INVALID_ARGUMENT",
                "message": "Expected a JPEG, PNG or WebP file. Received: 6 other bytes.",
            }
        ],
    }


def test_a_broken_image_is_named_and_the_others_counted(
    address: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(folder, {"tabby": [b"jpeg", b"broken", b"jpeg"]})
    assert main(["evaluate", address, "."]) == 1
    out = capsys.readouterr().out
    assert out.startswith("cats version 3, 2 images answered, 1 broken\n")
    assert "./tabby/1.jpg  error: Expected a JPEG, PNG or WebP file. Received: 6 other bytes.\n" in out
    assert "top-1  100.0%" in out


def test_nothing_but_broken_images_has_no_figure(
    address: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(folder, {"tabby": [b"broken"]})
    assert main(["evaluate", address, "."]) == 1
    out = capsys.readouterr().out
    assert out.startswith("cats version 3, 0 images answered, 1 broken\n")
    assert "top-1" not in out


def test_top_5_is_counted_where_there_are_more_labels(
    address: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["tabby", "lynx", "puma", "ocelot", "lion", "jaguar"]
    monkeypatch.setattr(conftest, "LABELS", tuple((name, 0.1) for name in names))
    fill(folder, {"tabby": [b"jpeg"], "lion": [b"jpeg"] * 2, "jaguar": [b"jpeg"]})
    assert main(["evaluate", address, "."]) == 0
    lines = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert ["top-1", "25.0%"] in lines
    assert ["top-5", "75.0%"] in lines


def test_only_the_worst_of_many_classes_are_printed(
    address: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["tabby", *(f"cat {number:02}" for number in range(22))]
    monkeypatch.setattr(conftest, "LABELS", tuple((name, 0.1) for name in names))
    fill(folder, {name: [b"jpeg"] for name in names})
    assert main(["evaluate", address, "."]) == 0
    out = capsys.readouterr().out
    assert "the 20 classes of the lowest recall of 23 are shown\n" in out
    assert "cat 19 " in out
    assert "tabby" not in out


def test_images_go_in_requests_of_sixteen_to_the_version_that_was_found(
    address: str, folder: Path, received: Sequence[Message], capsys: pytest.CaptureFixture[str]
) -> None:
    fill(folder, {"tabby": [b"jpeg"] * 90, "lynx": [b"jpeg"] * 10})
    assert main(["evaluate", address, ".", "--json"]) == 0
    assert sorted(len(each.images) for each in requests(received)) == [4, *[16] * 6]
    assert {(each.model.name, each.model.version, each.top_k) for each in requests(received)} == {("cats", 3, 5)}
    found = json.loads(capsys.readouterr().out)
    assert [(each["label"], each["images"], each["right"]) for each in found["classes"]] == [
        ("lynx", 10, 0),
        ("tabby", 90, 90),
    ]


def test_options_reach_the_server(address: str, folder: Path, received: Sequence[Message]) -> None:
    fill(folder, {"tabby": [b"jpeg"]})
    assert main(["evaluate", address, ".", "--model", "cats", "--version", "7"]) == 0
    asked = cast(vision_pb2.GetModelRequest, received[0])
    assert (asked.model.name, asked.model.version) == ("cats", 7)


def test_what_is_no_image_is_passed_over(
    address: str, folder: Path, received: Sequence[Message], capsys: pytest.CaptureFixture[str]
) -> None:
    fill(folder, {"tabby/deep/deeper": [b"jpeg"], "tabby/.thumbnails": [b"jpeg"], ".ipynb_checkpoints": [b"jpeg"]})
    (folder / "tabby/.hidden.jpg").write_bytes(b"jpeg")
    (folder / "tabby/notes.txt").write_text("notes")
    (folder / "README").write_text("notes")
    assert main(["evaluate", address, "."]) == 0
    assert [len(each.images) for each in requests(received)] == [1]
    assert "1 image answered" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (
            {"tabby": [b"jpeg"], "dog": [b"jpeg"], "bird": [b"jpeg"]},
            "Expected folders named as the model's 3 labels: 'tabby', 'tiger cat', 'lynx'. Received: 'bird', 'dog'.",
        ),
        (
            {"train/tabby": [b"jpeg"], "test/tabby": [b"jpeg"]},
            "Expected a folder per class. Received: 'test', 'train', which are splits; give one of them.",
        ),
        ({"tabby": [b"jpeg"], "lynx": []}, "Expected at least one image in the class folder ./lynx. Received: none."),
        ({}, "Expected a folder per class in .. Received: none."),
    ],
)
def test_a_folder_that_cannot_be_judged_is_one_line_and_nothing_is_sent(
    address: str,
    folder: Path,
    received: Sequence[Message],
    capsys: pytest.CaptureFixture[str],
    classes: Mapping[str, Sequence[bytes]],
    message: str,
) -> None:
    fill(folder, classes)
    assert main(["evaluate", address, "."]) == 2
    assert capsys.readouterr() == ("", f"vertebra-client: error: {message}\n")
    assert requests(received) == []


def test_an_image_beside_the_class_folders_is_named(
    address: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(folder, {"tabby": [b"jpeg"]})
    (folder / "stray.JPG").write_bytes(b"jpeg")
    assert main(["evaluate", address, "."]) == 2
    assert "Expected a folder per class in .. Received: the image 'stray.JPG' beside" in capsys.readouterr().err


def test_a_label_of_two_classes_is_named(
    address: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(conftest, "LABELS", (("crane", 0.5), ("crane", 0.5)))
    fill(folder, {"crane": [b"jpeg"]})
    assert main(["evaluate", address, "."]) == 2
    assert "Received: 'crane', which name two.\n" in capsys.readouterr().err


@pytest.mark.parametrize(("path", "reason"), [("nowhere", "No such file or directory"), ("file", "Not a directory")])
def test_what_is_no_folder_is_one_line(
    address: str, folder: Path, capsys: pytest.CaptureFixture[str], path: str, reason: str
) -> None:
    (folder / "file").write_text("")
    assert main(["evaluate", address, path]) == 2
    assert capsys.readouterr() == ("", f"vertebra-client: error: {path}: {reason}\n")


def test_a_request_that_is_refused_ends_it_with_one_line(
    address: str, folder: Path, refuse: Refuse, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(folder, {"tabby": [b"jpeg"] * 200})
    check_labels = evaluate.check_labels

    def check_then_refuse(wanted: Sequence[str], labels: Sequence[str]) -> None:
        check_labels(wanted, labels)
        refuse(50, grpc.StatusCode.INTERNAL, None)

    monkeypatch.setattr(evaluate, "check_labels", check_then_refuse)
    assert main(["evaluate", address, "."]) == 2
    assert capsys.readouterr() == ("", "vertebra-client: error: INTERNAL: Refused as told.\n")


def test_a_terminal_sees_how_far_it_is(address: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    fill(folder, {"tabby": [b"jpeg"] * 20})
    assert main(["evaluate", address, "."]) == 0
    assert re.match(r"\r#+\.* (16|4)/20 images, ", terminal.getvalue())
    assert re.search(r"\r +\r$", terminal.getvalue())


@pytest.mark.parametrize(("right", "images"), [(0, 1), (1, 1), (81, 263), (1, 29), (999, 1000)])
def test_the_interval_is_the_one_that_training_and_export_report(right: int, images: int) -> None:
    found, expected = evaluate.ratio(right, images), wilson(right, images)
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))


def test_folders_are_read_as_training_reads_them(tmp_path: Path) -> None:
    """A Mac's form of a name, links, what a zip file of a Mac brings along, and every suffix."""
    names = [f"{index}{suffix}" for index, suffix in enumerate(sorted(files.SUFFIXES | {".txt"}))]
    for name in (*names, "deeper/a.jpg", ".hidden/b.jpg", "__MACOSX/c.jpg"):
        path = tmp_path / "data" / unicodedata.normalize("NFD", "\uc0c8") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/d.jpg").write_bytes(b"")
    (tmp_path / "data/linked").symlink_to("../elsewhere")
    (tmp_path / "data/linked/back").symlink_to("../data")
    (tmp_path / "data/__MACOSX").mkdir()
    expected = {str(each.path): each.label for each in labelled.read(tmp_path / "data")}
    assert evaluate.read(str(tmp_path / "data")) == expected
    assert set(expected.values()) == {"\uc0c8", "linked"}
