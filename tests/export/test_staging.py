"""A folder is written whole or not at all, and whoever has no room for it is told for what."""

from pathlib import Path

import pytest

from export import staging
from export.errors import TargetError
from tests.training.test_store import largest_file


def test_it_is_there_when_all_of_it_is(tmp_path: Path) -> None:
    target = tmp_path / "runs" / "one"
    with staging.staged(target, beside=tmp_path / "runs") as draft:
        (draft / "a.txt").write_text("whole")
        assert draft.name.startswith(".one-")
        assert not target.exists()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["one"]
    assert (target / "a.txt").read_text() == "whole"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_whatever_comes_between_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), staging.staged(tmp_path / "one", beside=tmp_path):
        raise error
    assert list(tmp_path.iterdir()) == []


def test_what_was_made_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "one"
    with pytest.raises(TargetError, match=r"^Expected a folder that does not exist yet\. Received: .*/one, which does"):
        make_meanwhile(target)
    assert list(target.iterdir()) == []
    assert list(tmp_path.iterdir()) == [target]


def make_meanwhile(target: Path) -> None:
    with staging.staged(target, beside=target.parent) as draft:
        (draft / "a.txt").write_text("later")
        target.mkdir()


def test_who_has_no_room_is_told_for_what(tmp_path: Path) -> None:
    with largest_file(1000), pytest.raises(OSError, match=r"too large: '.*/one'$"):
        fill(tmp_path / "one")
    assert list(tmp_path.iterdir()) == []


def fill(target: Path) -> None:
    with staging.staged(target, beside=target.parent) as draft:
        (draft / "a.bin").write_bytes(bytes(2000))


def test_the_files_of_a_folder_are_copied_and_no_room_for_them_is_told(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    for name, size in (("a", 10), ("b", 2000)):
        (tmp_path / "from" / name).write_bytes(bytes(size))
    staging.copy_files(tmp_path / "from", tmp_path / "to")
    assert [(each.name, each.stat().st_size) for each in sorted((tmp_path / "to").iterdir())] == [
        ("a", 10),
        ("b", 2000),
    ]
    with largest_file(1000), pytest.raises(OSError, match=r"too large: '.*/one'$"):
        copy(tmp_path / "from", tmp_path / "one")
    assert not (tmp_path / "one").exists()


def copy(source: Path, target: Path) -> None:
    with staging.staged(target, beside=target.parent) as draft:
        staging.copy_files(source, draft / "files")
