"""How many training images there is time to look at, on a machine whose speed a test makes up."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from rich.console import Console

from export.progress import Advance, Steps
from tests.training.conftest import quiet
from training import features, portion
from training.dataset import Sample
from training.features import Counts, Extractor
from training.ledger import Ledger
from training.source import Source
from training.views import PLAIN, View, views

CLASSES = ("ant", "bee")
TRAIN = 10_000
ROWS_PER_S = 50


def samples(count: int, first: int = 0) -> tuple[Sample, ...]:
    return tuple(
        Sample(Path(f"{number}.png"), number.to_bytes(32, "big"), number % 2, 1.0, None)
        for number in range(first, first + count)
    )


@dataclass
class Machine:
    """A backbone that gives so many rows a second, what the cache has of them, and what it was asked for."""

    folder: Path
    now_s: float = 0.0
    known: set[tuple[bytes, View]] = field(default_factory=set)
    computed: int = 0

    def missing(self, asked: Sequence[Sample], shown: Sequence[View], _: Extractor, __: Path) -> set[bytes]:
        return {each.sha256 for each in asked if any((each.sha256, view) not in self.known for view in shown)}

    def extract(self, asked: Sequence[Sample], shown: Sequence[View], _: Extractor, __: Path, ___: Advance) -> Counts:
        rows = {(each.sha256, view) for each in asked for view in shown} - self.known
        # The first batches are slow, as they are anywhere.
        self.now_s += len(rows) / ROWS_PER_S + (5.0 if rows and not self.known else 0.0)
        self.known |= rows
        self.computed += len(rows)
        return Counts(0, len(rows))

    def source(self, train: int = TRAIN, more_views: int = 0) -> Source:
        extractor = cast(Extractor, SimpleNamespace())
        return Source(samples(train), extractor, views(more_views), CLASSES, self.folder, 0)

    def taken(self, limit_s: float, source: Source | None = None, held_out: int = 0) -> tuple[Sample, ...]:
        ledger = Ledger(self.folder / "decided.json")
        return portion.take(source or self.source(), samples(held_out, TRAIN), limit_s, ledger, quiet(9))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    monkeypatch.setattr(features, "missing", made.missing)
    monkeypatch.setattr(features, "extract", made.extract)
    monkeypatch.setattr(time, "monotonic", lambda: made.now_s)
    return made


def test_where_there_is_time_all_are_looked_at(machine: Machine) -> None:
    assert machine.taken(600.0) == samples(TRAIN)


def test_where_there_is_not_features_take_two_fifths_of_the_time(machine: Machine) -> None:
    taken = machine.taken(100.0)
    assert len(taken) == pytest.approx(0.4 * 100 * ROWS_PER_S, abs=2)
    labels = [each.label for each in taken]
    assert labels.count(0) == pytest.approx(labels.count(1), abs=1)


def test_views_and_held_out_images_take_their_part(machine: Machine) -> None:
    taken = machine.taken(100.0, machine.source(more_views=1), held_out=500)
    assert len(taken) == pytest.approx((0.4 * 100 * ROWS_PER_S - 500) / 2, abs=2)


def test_what_the_cache_has_costs_nothing(machine: Machine) -> None:
    machine.known = {(each.sha256, PLAIN) for each in samples(TRAIN)}
    assert machine.taken(1.0) == samples(TRAIN)
    assert machine.computed == 0


def test_what_the_cache_has_of_them_comes_on_top(machine: Machine) -> None:
    """Its rows are of the images that would be chosen first."""
    first = machine.taken(100.0)
    machine.known |= {(each.sha256, PLAIN) for each in first}
    Ledger(machine.folder / "decided.json").forget()
    again = machine.taken(100.0)
    assert set(first) < set(again)
    assert len(again) == pytest.approx(2 * 0.4 * 100 * ROWS_PER_S, abs=2)
    # Held-out images that take all of the time take nothing from what is there.
    Ledger(machine.folder / "decided.json").forget()
    known = len(machine.known)
    assert len(machine.taken(100.0, held_out=TRAIN)) == pytest.approx(known, abs=2)


def test_of_each_class_a_few_are_looked_at_however_short_the_time_is(machine: Machine) -> None:
    labels = [each.label for each in machine.taken(-5.0)]
    assert (labels.count(0), labels.count(1)) == (7, 7)


@pytest.mark.parametrize(("train", "limit_s"), [(72, 0.1), (TRAIN, math.inf)])
def test_a_few_images_and_time_without_end_are_not_timed(machine: Machine, train: int, limit_s: float) -> None:
    assert machine.taken(limit_s, machine.source(train)) == samples(train)
    assert machine.computed == 0


def test_going_on_after_a_kill_takes_the_same(machine: Machine) -> None:
    taken = machine.taken(100.0)
    # Of these the first process has computed some, and this one began later.
    machine.known |= {(each.sha256, PLAIN) for each in taken[:1000]}
    computed = machine.computed
    assert machine.taken(60.0) == taken
    assert machine.computed == computed


def test_that_some_are_left_out_is_said(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    told = Steps(3, Console())
    taken = portion.take(machine.source(), (), 100.0, Ledger(machine.folder / "decided.json"), told)
    said = " ".join(capsys.readouterr().out.split())
    assert f"There is time to look at {len(taken)} of 10000 training images" in said
    assert "a longer --time-limit-min learns from more of them" in said
