"""Each footnote of docs/footnotes.md names tests or figures that are there, or says that there are none."""

import re

import pytest

from tests import proofs
from tests.docs import pages

PAGE = pages.text("footnotes.md")
ROWS = pages.table(PAGE, "| the article says")
NOTHING = {"history: nothing to run"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_footnote_is_shown_or_says_that_it_is_not(row: list[str]) -> None:
    number, said, so, shown = row
    assert re.match(r"S[0-4]: ", said), number
    assert so.endswith("."), number
    named = re.findall(r"`([^`]+)`", shown)
    assert named or shown in NOTHING, number
    assert [each for each in named if not proofs.is_there(each)] == []


def test_footnotes_are_numbered_and_articles_named() -> None:
    assert [row[0] for row in ROWS] == [str(number) for number in range(1, len(ROWS) + 1)]
    articles = {row[0] for row in pages.table(PAGE, "| article")}
    assert {each for row in ROWS for each in re.findall(r"\bS\d\b", " ".join(row))} <= articles


def test_percentages_of_ours_are_the_figures_that_were_kept() -> None:
    cell = "cifar10.json: cells > linear head, 160 px, 0 views"
    for place in (f"{cell} > accuracy > value", f"{cell} > baselines > SGD head"):
        assert f"{proofs.figure(place):.2%}".replace("%", " %") in PAGE
