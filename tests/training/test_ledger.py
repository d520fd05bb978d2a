"""What was decided stays decided, until what was decided has been done."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from training.errors import CacheError
from training.ledger import Ledger


class Choice(BaseModel):
    epochs: int


def never() -> Choice:
    pytest.fail("this was decided before")


def test_a_decision_is_made_once_and_known_to_the_next_process(tmp_path: Path) -> None:
    first = Ledger(tmp_path / "cache" / "of.json")
    assert first.once("how long", Choice, lambda: Choice(epochs=3)) == Choice(epochs=3)
    assert first.once("how long", Choice, never) == Choice(epochs=3)
    second = Ledger(tmp_path / "cache" / "of.json")
    assert second.once("how long", Choice, never) == Choice(epochs=3)
    assert second.once("how long, of another plan", Choice, lambda: Choice(epochs=5)) == Choice(epochs=5)
    second.forget()
    assert list((tmp_path / "cache").iterdir()) == []
    assert Ledger(tmp_path / "cache" / "of.json").once("how long", Choice, lambda: Choice(epochs=7)).epochs == 7


def test_a_decision_that_was_broken_off_was_not_made(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "of.json")
    with pytest.raises(KeyboardInterrupt):
        ledger.once("how long", Choice, interrupted)
    assert ledger.once("how long", Choice, lambda: Choice(epochs=2)).epochs == 2


def interrupted() -> Choice:
    raise KeyboardInterrupt


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"how long": {"weeks": 1}}'])
def test_what_nobody_can_read_is_decided_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "of.json").write_bytes(content)
    assert Ledger(tmp_path / "of.json").once("how long", Choice, lambda: Choice(epochs=1)).epochs == 1
    assert Ledger(tmp_path / "of.json").once("how long", Choice, never).epochs == 1


def test_a_place_that_holds_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "of.json").mkdir()
    with pytest.raises(CacheError, match=rf"^Expected {tmp_path}/of\.json of the cache\. Received: Is a directory\.$"):
        Ledger(tmp_path / "of.json")


def test_a_cache_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "cache" / "of.json")
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(CacheError, match=rf"^Expected a cache that can be written to\. Received: {tmp_path}/cache: "):
        ledger.once("how long", Choice, lambda: Choice(epochs=1))
