"""docs/backbones.md says what the cards say."""

from tests.docs import cards, pages
from training.backbones import CARDS

PAGE = pages.text("backbones.md")


def test_the_table_is_made_of_the_cards() -> None:
    assert cards.written(PAGE) == cards.table(), "python -m tests.docs.cards"


def test_every_backbone_is_said_to_be_for_something() -> None:
    said = "".join(cells[1] for cells in pages.table(PAGE, "for |"))
    assert [name for name in CARDS if f"`{name}`" not in said] == []
