"""training/README.md is a map of the package: every file is on it, and nothing else."""

import re

import pytest

from tests.docs import pages

PACKAGE = pages.ROOT / "training"
PAGE = (PACKAGE / "README.md").read_text(encoding="utf-8")


def files(folder: str) -> set[str]:
    """What must be on the map: files, and folders with what they hold."""
    found = {each.name for each in (PACKAGE / folder).iterdir() if each.suffix in {".py", ".j2"}}
    folders = {f"{each.parent.name}/" for each in (PACKAGE / folder).glob("*/__init__.py")}
    return found - {"__init__.py"} | folders


def on_the_map(part: str) -> set[str]:
    rows = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


@pytest.mark.parametrize(
    ("folder", "part"),
    [("", PAGE.partition("## tuning")[0]), ("tuning", PAGE.partition("## tuning")[2])],
    ids=["training", "tuning"],
)
def test_every_file_is_on_the_map_and_no_other(folder: str, part: str) -> None:
    assert on_the_map(part) == files(folder)
