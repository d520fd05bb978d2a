"""What pages name is there: links, commands, flags."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from tests.docs import pages
from training.__main__ import Train


def each_of(*named: Path) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", named, ids=lambda page: page.relative_to(pages.ROOT).as_posix())


def commands() -> dict[str, type[BaseModel]]:
    """The commands of vertebra-train and what they take."""
    named: dict[str, type[BaseModel]] = {}
    for name, field in Train.model_fields.items():
        (kind,) = [each for each in getattr(field.annotation, "__args__", ()) if each is not type(None)]
        named[name.replace("_", "-")] = kind
    return named


def flags(kinds: Iterator[type[BaseModel]]) -> set[str]:
    return {f"--{name.replace('_', '-')}" for kind in kinds for name in kind.model_fields}


def test_the_commands_are_found() -> None:
    assert {"fit", "advise", "probe", "as-is"} <= set(commands())
    assert {"--regime", "--time-limit-min"} <= flags(iter([commands()["fit"]]))


@each_of(*pages.PAGES, pages.README)
def test_links_lead_somewhere(page: Path) -> None:
    for target in pages.links(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@each_of(*pages.PAGES, pages.README)
def test_commands_are_those_of_the_program(page: Path) -> None:
    named = commands()
    for code in pages.codes(page.read_text(encoding="utf-8")):
        for command, given in re.findall(r"vertebra-train ([a-z-]+)([^#]*)", code):
            assert command in named, code
            assert set(re.findall(r"--[a-z-]+", given)) <= flags(iter([named[command]])), code


@each_of(*pages.PAGES)
def test_flags_are_those_of_the_program(page: Path) -> None:
    every = flags(iter(commands().values()))
    for code in pages.codes(page.read_text(encoding="utf-8")):
        if code.startswith("--"):
            assert set(re.findall(r"--[a-z-]+", code)) <= every, code


@pytest.mark.parametrize("name", [page.stem for page in pages.PAGES if page.parent.name == "docs"])
def test_every_page_is_reached_from_another(name: str) -> None:
    linked = {
        (page.parent / target).resolve()
        for page in (*pages.PAGES, pages.README)
        for target in pages.links(page.read_text(encoding="utf-8"))
    }
    assert (pages.ROOT / "docs" / f"{name}.md").resolve() in linked
