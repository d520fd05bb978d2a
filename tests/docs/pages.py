"""Reads the pages below docs/ as their tests need them: tables, words in code, links; judges none of it."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Of training alone; the README is of all programs.
PAGES = (*sorted((ROOT / "docs").glob("*.md")), ROOT / "training" / "README.md")
README = ROOT / "README.md"


def text(name: str) -> str:
    """A page below docs/."""
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def table(page: str, heading: str) -> list[list[str]]:
    """The cells of the table whose first line begins with `heading`, without that line."""
    lines = iter(page.splitlines())
    for line in lines:
        if line.startswith(f"| {heading}"):
            break
    else:
        raise LookupError(heading)
    next(lines)  # the rule
    return list(_rows(lines))


def _rows(lines: Iterator[str]) -> Iterator[list[str]]:
    for line in lines:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("|").split("|")]


def codes(page: str) -> list[str]:
    """What stands in backquotes, and the lines of blocks of code."""
    fenced = r"^```\w*\n(.*?)^```$"
    blocks = [line.strip() for line in page.splitlines() if line.startswith("    ")]
    blocks += [line.strip() for block in re.findall(fenced, page, re.S | re.M) for line in block.splitlines()]
    return re.findall(r"`([^`]+)`", re.sub(fenced, "", page, flags=re.S | re.M)) + blocks


def links(page: str) -> list[str]:
    """Where links within the repository go."""
    return [target for target in re.findall(r"\]\(([^)#]+)", page) if "://" not in target]
