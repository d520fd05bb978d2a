"""A data set becomes files and a table that say the same as it does, whatever its classes are called."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from export import labelled
from export.errors import DataError
from tests.training.named.made import collection, encoded, pictures
from training.named import writing
from training.named.collection import Collection, Entry
from training.named.writing import Facts

PNG = encoded(pictures(1, 0)[0])
JPEG = encoded(pictures(1, 0)[0], "JPEG")


def write(folder: Path, found: Collection) -> Facts:
    return writing.write(folder, "library:name", found, lambda _: None)


def labels(folder: Path) -> list[str]:
    return [each.label for each in labelled.read(folder / writing.TABLE)]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_files_lie_by_split_and_class_and_keep_their_bytes(tmp_path: Path) -> None:
    write(tmp_path, collection(train=[(PNG, "cat"), (JPEG, "dog")], test=[(PNG, "dog")]))
    assert files(tmp_path) == ["facts.json", "images.csv", "test/dog/0.png", "train/cat/0.png", "train/dog/1.jpg"]
    assert (tmp_path / "train/dog/1.jpg").read_bytes() == JPEG
    found = [(each.path, each.label, each.split) for each in labelled.read(tmp_path / "images.csv")]
    assert found == [
        (tmp_path / "train/cat/0.png", "cat", "train"),
        (tmp_path / "train/dog/1.jpg", "dog", "train"),
        (tmp_path / "test/dog/0.png", "dog", "test"),
    ]


def test_numbers_are_as_long_as_the_longest(tmp_path: Path) -> None:
    write(tmp_path, collection(train=[(PNG, "cat")] * 11))
    assert files(tmp_path)[0] == "all/cat/00.png"
    assert files(tmp_path)[10] == "all/cat/10.png"


def test_validation_may_be_called_by_any_of_its_names(tmp_path: Path) -> None:
    write(tmp_path, collection(train=[(PNG, "cat")], valid=[(PNG, "cat")], Test=[(PNG, "cat")]))
    assert [each.split for each in labelled.read(tmp_path / "images.csv")] == ["train", "validation", "test"]


@pytest.mark.parametrize("split", ["train", "test", "../elsewhere"])
def test_one_split_alone_has_no_name_so_that_a_test_can_be_drawn(tmp_path: Path, split: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    write(folder, collection(**{split: [(PNG, "cat")]}))
    assert [each.split for each in labelled.read(folder / "images.csv")] == [None]
    assert files(tmp_path) == ["folder/all/cat/0.png", "folder/facts.json", "folder/images.csv"]


@pytest.mark.parametrize(
    "names",
    [
        ("T-shirt/top", "T-shirt_top", "T-shirt top", "%0 T-shirt_top"),
        ("..", ".", "a", "/", "//", "../.."),
        ("x" * 300, "x" * 301, "소" * 200, "소" * 201),
        ("%", "%25", "a%b", "a,b", 'a"b', "a'b"),
        ("cat", "Cat", "CAT", "__MACOSX", ".hidden"),
    ],
)
def test_whatever_classes_are_called_none_is_lost_and_no_two_are_one(tmp_path: Path, names: Sequence[str]) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    write(folder, collection(train=[(PNG, name) for name in names]))
    assert labels(folder) == list(names)
    assert len(list((folder / "all").iterdir())) == len(names)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert all(each.path.read_bytes() == PNG for each in labelled.read(folder / "images.csv"))


@pytest.mark.parametrize("names", [("cafe\u0301", "caf\xe9"), ("cat", " cat")])
def test_names_that_a_table_would_make_one_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    with pytest.raises(DataError, match=r"Expected classes whose names can be told apart\. Received: .* and .*\."):
        write(tmp_path, collection(train=[(PNG, name) for name in names]))


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a\0b", "\udcff"])
def test_names_that_a_table_would_not_keep_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"Expected names of classes that can be printed\. Received: '.*'\."):
        write(tmp_path, collection(train=[(PNG, name)]))


def test_images_without_a_class_are_left_out_and_counted(tmp_path: Path) -> None:
    facts = write(tmp_path, collection(train=[(PNG, "cat"), (PNG, None), (PNG, "cat")], test=[(PNG, None)]))
    assert files(tmp_path) == ["facts.json", "images.csv", "train/cat/0.png", "train/cat/2.png"]
    assert facts.without_class == {"train": 1, "test": 1}


def test_nothing_with_a_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Expected images with classes in library:name\. Received: none\."):
        write(tmp_path, collection(test=[(PNG, None)]))


def test_splits_for_nothing_that_is_known_are_left_out_and_told(tmp_path: Path) -> None:
    facts = write(tmp_path, collection(train=[(PNG, "cat")], extra=[(PNG, "dog")]))
    assert labels(tmp_path) == ["cat"]
    assert facts.splits_left_out == ("extra",)


def test_several_splits_of_which_none_is_known_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Expected splits called train, val, .*test\. Received: easy, hard\."):
        write(tmp_path, collection(easy=[(PNG, "cat")], hard=[(PNG, "cat")]))


def test_what_is_no_image_is_written_for_whoever_checks_them(tmp_path: Path) -> None:
    entries: list[Entry] = [(PNG, "cat"), (b"", "cat"), (b"no image", "cat")]
    write(tmp_path, collection(train=entries))
    assert [each.path.suffix for each in labelled.read(tmp_path / "images.csv")] == [".png", ".unknown", ".unknown"]


def test_the_facts_say_what_was_written(tmp_path: Path) -> None:
    facts = write(tmp_path, collection(train=[(PNG, "dog"), (PNG, "cat"), (PNG, "dog")], test=[(PNG, "cat")]))
    assert json.loads((tmp_path / "facts.json").read_text()) == {
        "format": 1,
        "source": "library:name",
        "library": "made up 1.0",
        "version": "2.0.0",
        "images": {"train": {"cat": 1, "dog": 2}, "test": {"cat": 1}},
        "without_class": {},
        "splits_left_out": [],
    }
    assert Facts.model_validate_json((tmp_path / "facts.json").read_text()) == facts


def test_every_image_is_told_of(tmp_path: Path) -> None:
    told: list[int] = []
    writing.write(tmp_path, "x:y", collection(train=[(PNG, "cat"), (PNG, None)], test=[(PNG, "cat")]), told.append)
    assert told == [1, 1, 1]
