"""What a person calls by a name is written once, whole or not at all, whoever else is at it, and is then a table."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
from rich.console import Console

from export import labelled
from export.errors import DataError
from export.progress import Steps
from tests.training.conftest import quiet
from tests.training.named.made import bring_fashion, collection, encoded, pictures
from tests.training.test_store import largest_file
from training.__main__ import main
from training.errors import CacheError
from training.named import find, vision
from training.named.collection import Collection
from training.pretraining import images

FASHION = Path("torchvision:FashionMNIST")
PNG = encoded(pictures(1, 0)[0])


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    bring_fashion(tmp_path / "cache")
    return tmp_path / "cache"


def table(source: Path, cache: Path) -> Path:
    return find.table(source, cache, download=False, steps=quiet(1))


def beside(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "datasets").iterdir() if not path.name.endswith(".lock"))


def test_a_data_set_of_torchvision_becomes_a_table_of_files(cache: Path) -> None:
    found = table(FASHION, cache)
    assert found == cache / "datasets/torchvision-FashionMNIST/images.csv"
    listed = [(str(each.path.relative_to(found.parent)), each.label, each.split) for each in labelled.read(found)]
    assert listed[:2] == [
        ("train/%0 T-shirt_top/0.png", "T-shirt/top", "train"),
        ("train/Ankle boot/1.png", "Ankle boot", "train"),
    ]
    assert len(listed) == 8
    assert beside(cache) == ["torchvision-FashionMNIST"]


def test_a_second_time_nothing_is_asked_of_the_library(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = table(FASHION, cache)
    monkeypatch.setattr(vision, "collection", lambda *_: pytest.fail("worked"))
    assert table(FASHION, cache) == found


@pytest.mark.parametrize("source", ["flowers", "flowers.csv", "C:/flowers", "other:flowers"])
def test_what_is_no_name_is_given_back_as_it_is(source: str, tmp_path: Path) -> None:
    assert table(Path(source), tmp_path) == Path(source)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_called_so_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    FASHION.mkdir()
    assert table(FASHION, tmp_path) == FASHION


@pytest.mark.parametrize("source", ["torchvision:Nothing", "huggingface:a b"])
def test_what_cannot_be_is_refused_before_anything_is_written(source: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Expected"):
        table(Path(source), tmp_path)
    assert list(tmp_path.iterdir()) == []


def saved(folder: Path, label: int) -> Path:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    datasets.disable_progress_bars()
    image = {"bytes": PNG, "path": None}
    datasets.Dataset.from_dict({"image": [image], "label": [label]}, features).save_to_disk(folder)
    return Path(f"huggingface:{folder}")


def test_a_saved_folder_of_hugging_face_is_read_anew_when_it_has_changed(tmp_path: Path) -> None:
    source = saved(tmp_path / "saved", 0)
    first = table(source, tmp_path / "cache")
    assert [each.label for each in labelled.read(first)] == ["a"]
    assert labelled.read(first)[0].path.read_bytes() == PNG
    assert table(source, tmp_path / "cache") == first
    saved(tmp_path / "saved", 1)
    assert [each.label for each in labelled.read(table(source, tmp_path / "cache"))] == ["b"]


def test_what_fails_leaves_nothing(cache: Path) -> None:
    for file in (cache / "downloads").rglob("*-images-*"):
        file.unlink()
    with pytest.raises(DataError, match=r"Received: RuntimeError: Dataset not found.*--download"):
        table(FASHION, cache)
    assert beside(cache) == []


def test_a_full_disk_is_an_error_of_the_cache_and_leaves_nothing(cache: Path) -> None:
    with (
        largest_file(100),
        pytest.raises(CacheError, match=r"Expected a cache that can .*File too large"),
    ):
        table(FASHION, cache)
    assert beside(cache) == []


_KILLED = """
import os, signal, sys
from pathlib import Path
from rich.console import Console
from export.progress import Steps
from training.named import find, writing
writing.os = type("", (), {"sync": lambda: os.kill(os.getpid(), signal.SIGKILL)})
find.table(Path(sys.argv[1]), Path(sys.argv[2]), False, Steps(1, Console(quiet=True)))
"""


def test_a_kill_leaves_nothing_that_is_taken_for_whole(cache: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(FASHION), str(cache)], check=False, timeout=100)
    assert killed.returncode == -signal.SIGKILL
    (left,) = beside(cache)
    assert left.startswith(".torchvision-FashionMNIST-")
    assert (cache / "datasets" / left / "images.csv").exists()  # killed when all was written but the name
    # Another data set's, whose name begins alike: it may be at work.
    other = cache / f"datasets/.torchvision-FashionMNIST-more-{'0' * 32}"
    other.mkdir()
    assert len(labelled.read(table(FASHION, cache))) == 8
    assert beside(cache) == [other.name, "torchvision-FashionMNIST"]


def test_a_folder_that_lost_its_table_is_made_again(cache: Path) -> None:
    found = table(FASHION, cache)
    found.unlink()
    assert len(labelled.read(table(FASHION, cache))) == 8


class _Slow:
    """A split that stays where it is until it is told to go on."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[tuple[bytes, str]]:
        self.begun.set()
        assert self.may_end.wait(60)
        yield PNG, "cat"


class _Heard(io.StringIO):
    """A console's file that goes on with something when it has heard that somebody waits."""

    def __init__(self, on: threading.Event) -> None:
        super().__init__()
        self._on = on

    def write(self, text: str) -> int:
        if "Waiting for another process" in text:
            self._on.set()
        return super().write(text)


def test_of_two_at_once_one_writes_and_the_other_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, opened, found = _Slow(), [], []

    def collected(*_: object) -> Collection:
        opened.append(1)
        return Collection("made up", None, {"train": slow})

    monkeypatch.setattr(vision, "collection", collected)
    # Locks are of open files, so two threads are to each other as two processes are.
    first = threading.Thread(target=lambda: found.append(table(FASHION, tmp_path)))
    first.start()
    assert slow.begun.wait(60)
    said = _Heard(slow.may_end)
    found.append(find.table(FASHION, tmp_path, download=False, steps=Steps(1, Console(file=said, width=200))))
    first.join(60)
    assert found == [tmp_path / "datasets/torchvision-FashionMNIST/images.csv"] * 2
    assert len(opened) == 1
    assert labelled.read(found[0])[0].path.read_bytes() == PNG


def test_what_is_left_out_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = collection(train=[(PNG, "cat"), (PNG, None)], extra=[(PNG, "dog")])
    monkeypatch.setattr(vision, "collection", lambda *_: made)
    said = io.StringIO()
    find.table(FASHION, tmp_path, download=False, steps=Steps(3, Console(file=said, width=200)))
    lines = said.getvalue().splitlines()
    assert lines[0].startswith("Looking for torchvision:FashionMNIST, to write its images to ")
    assert lines[1].startswith("  1/4  write the images")
    assert lines[2:] == [
        "1 images of train have no class and were left out.",
        "The split extra is neither for training nor for a test and was left out.",
    ]


def test_what_was_fetched_does_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetched(_: str, __: Path, folder: Path, download: bool) -> Collection:
        assert download
        folder.mkdir()
        (folder / "archive.tar").write_bytes(b"large")
        return collection(train=[(PNG, "cat")])

    monkeypatch.setattr(vision, "collection", fetched)
    find.table(FASHION, tmp_path, download=True, steps=quiet(1))
    assert not list(tmp_path.rglob("archive.tar"))
    assert os.listdir(tmp_path / "datasets/torchvision-FashionMNIST/all/cat") == ["0.png"]


def test_pretraining_looks_at_the_training_split_alone(cache: Path) -> None:
    listed = images.read(table(FASHION, cache))
    assert len(listed) == 6
    assert {each.path.relative_to(cache / "datasets").parts[1] for each in listed} == {"train"}


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["vertebra-train", *map(str, arguments)])
    return main()


@pytest.mark.usefixtures("registered")
def test_a_command_takes_a_name_and_keeps_it(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["--data", FASHION, "--backbone", "small", "--cache", cache, "--out", tmp_path / "x.npz"]
    assert call(monkeypatch, "extract", *given) == 0
    said = json.loads((tmp_path / "x.manifest.json").read_text())
    assert said["data"] == "torchvision:FashionMNIST"
    assert said["rows"] == 8
    assert set(said["labels"]) == {"Ankle boot", "T-shirt/top"}


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("command", ["fit", "advise", "probe", "extract", "compare", "pretrain"])
@pytest.mark.parametrize(
    ("source", "advice"),
    [("torchvision:MNIST", "--download, or lay its files into"), ("huggingface:nobody/nothing", "with --download.")],
)
def test_every_command_says_what_to_do_where_a_data_set_is_not_here(
    command: str,
    source: str,
    advice: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    given = ["--data", source, "--backbone", "small", "--cache", tmp_path / "cache"]
    out = [] if command in ("advise", "probe") else ["--out", tmp_path / ("x.npz" if command == "extract" else "out")]
    assert call(monkeypatch, command, *given, *out) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("vertebra-train: error: Expected ")
    assert advice in last


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("command", ["fit", "advise", "extract", "compare", "pretrain"])
def test_a_download_is_only_made_where_it_was_allowed(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def collected(_: str, __: Path, ___: Path, download: bool) -> Collection:
        asked.append(download)
        raise DataError("Expected enough. Received: enough.")

    monkeypatch.setattr(vision, "collection", collected)
    given = ["--data", FASHION, "--backbone", "small", "--cache", tmp_path / "cache"]
    out = [] if command == "advise" else ["--out", tmp_path / ("x.npz" if command == "extract" else "out")]
    assert call(monkeypatch, command, *given, *out, "--download") == 2
    assert call(monkeypatch, command, *given, *out) == 2
    assert asked == [True, False]
