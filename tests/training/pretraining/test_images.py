"""Images without labels are found wherever they lie, but for what is held out, and checked as labelled ones are."""

import shutil
from pathlib import Path

import pytest

from export.errors import DataError
from tests.training.pretraining.scene import pictures
from training.pretraining import images


def nothing(_: int) -> None:
    """Told of what is done."""


def names(source: Path) -> list[str]:
    return [each.path.relative_to(source).as_posix() for each in images.read(source)]


def test_images_are_found_in_a_folder_and_below_it(tmp_path: Path) -> None:
    pictures(tmp_path, 2)
    pictures(tmp_path / "more/deep", 1)
    (tmp_path / "notes.txt").write_text("no image")
    assert names(tmp_path) == ["00.png", "01.png", "more/deep/00.png"]
    assert {each.label for each in images.read(tmp_path)} == {""}


def test_what_is_held_out_is_passed_over(tmp_path: Path) -> None:
    for folder in ("train/cat", "val/cat", "Test", "unlabelled"):
        pictures(tmp_path / folder, 1)
    assert names(tmp_path) == ["train/cat/00.png", "unlabelled/00.png"]


def test_a_folder_called_test_is_held_out_of_nothing_where_there_is_none_for_training(tmp_path: Path) -> None:
    pictures(tmp_path / "test", 1)
    pictures(tmp_path / "mine", 1)
    assert names(tmp_path) == ["mine/00.png", "test/00.png"]


def test_of_a_table_the_training_rows_are_taken(tmp_path: Path) -> None:
    pictures(tmp_path, 3)
    (tmp_path / "rows.csv").write_text("path,label,split\n00.png,a,train\n01.png,b,test\n02.png,b,val\n")
    assert [each.path.name for each in images.read(tmp_path / "rows.csv")] == ["00.png"]


@pytest.mark.parametrize("name", ["empty", "nowhere"])
def test_a_source_without_images_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"Expected (images to learn from|a folder, a .csv)"):
        images.read(tmp_path / name)


def test_a_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Expected a path in UTF-8. Received: b'.*\\xff'. Rename it."):
        images.read(tmp_path / "\udcff")


def test_bad_files_are_named_or_left_out(tmp_path: Path) -> None:
    pictures(tmp_path / "in", 3)
    (tmp_path / "in/broken.jpg").write_bytes(b"\xff\xd8")
    shutil.copyfile(tmp_path / "in/00.png", tmp_path / "in/copy.png")
    listed = images.read(tmp_path / "in")
    with pytest.raises(DataError, match=r"2 of 5 that cannot:\n.*broken.jpg"):
        images.prepare(listed, "error", tmp_path / "cache", nothing)
    found = images.prepare(listed, "skip", tmp_path / "cache", nothing)
    assert len(found.images) == 3
    assert [Path(each.path).name for each in found.left_out] == ["broken.jpg", "copy.png"]
    assert "a copy of" in found.left_out[1].reason


def test_the_same_images_have_the_same_name_wherever_they_lie(tmp_path: Path) -> None:
    pictures(tmp_path / "one", 3)
    shutil.copytree(tmp_path / "one", tmp_path / "other/deep")
    found = [
        images.prepare(images.read(tmp_path / at), "error", tmp_path / "cache", nothing) for at in ("one", "other")
    ]
    assert found[0].sha256 == found[1].sha256
    assert [each.sha256 for each in found[0].images] == [each.sha256 for each in found[1].images]
    (tmp_path / "one/02.png").unlink()
    fewer = images.prepare(images.read(tmp_path / "one"), "error", tmp_path / "cache", nothing)
    assert fewer.sha256 != found[0].sha256


def test_one_image_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Expected at least 2 images to learn from. Received: 1."):
        images.prepare(images.read(pictures(tmp_path / "in", 1)), "error", tmp_path / "cache", nothing)
