"""A plan is cut to its time: what finds a rate, what is asked about and what is refitted take of it, too."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from tests.training.test_race import CLASSES, at_pace, changed, ground, plans, samples
from training import budget, tuned
from training.ledger import Ledger


@dataclass
class Machine:
    """How fast it trains, and ledgers in which nothing is decided yet."""

    ledger: Callable[[], Ledger]
    images_per_s: float = 10.0


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    made = Machine(lambda: Ledger(tmp_path / uuid4().hex))
    monkeypatch.setattr(tuned, "paces", lambda *_: at_pace(made.images_per_s))
    return made


@pytest.mark.parametrize(
    ("limit_s", "images", "epochs"),
    [
        (5.0, 48, 1),  # not even all images once: of every class as many
        (1.0, 32, 1),  # but eight of every class
        (45.0, 200, 2),
        (math.inf, 200, 20),  # never more than the plan has
    ],
)
def test_a_plan_is_cut_to_its_time(machine: Machine, limit_s: float, images: int, epochs: int) -> None:
    (plan,) = plans("large-similar")
    shown, cut = budget.within(ground(validation=0), plan, None, limit_s, machine.ledger())
    assert cut.tuning is not None
    assert (len(shown.train), cut.tuning.epochs) == (images, epochs)
    counts = np.bincount([sample.label for sample in shown.train])
    assert counts.max() - counts.min() <= 1


def test_the_time_that_finds_the_rate_is_not_there_for_training(machine: Machine) -> None:
    """At 10 images a second 40 steps of 64, each asked about once more, take 341 s."""
    plan, shown = changed(plans("large-similar")[0], rate="range test"), ground(4000, 0)
    for limit_s, images, epochs in ((342.0 + 801.0, 4000, 2), (100.0, 500, 1)):
        learnt, cut = budget.within(shown, plan, None, limit_s, machine.ledger(), finds_rate=True)
        assert cut.tuning is not None
        assert (len(learnt.train), cut.tuning.epochs) == (images, epochs)


@pytest.mark.parametrize(("limit_s", "images", "epochs"), [(75.0, 200, 3), (74.0, 200, 2), (17.5, 100, 1)])
def test_the_time_that_refitting_takes_is_not_there_for_training(
    machine: Machine, limit_s: float, images: int, epochs: int
) -> None:
    """At 10 images a second an epoch of 200 takes 20 s, and to fit a head to what becomes of them 15 s."""
    plan = changed(plans("large-similar")[0], refit_head=True)
    shown, cut = budget.within(ground(validation=0), plan, None, limit_s, machine.ledger())
    assert cut.tuning is not None
    assert (len(shown.train), cut.tuning.epochs) == (images, epochs)


@pytest.mark.parametrize(
    ("asked", "validation", "epochs"), [(0, 0, 10), (1800, 0, 7), (60_000, 0, 5), (0, 300, 6), (1800, 300, 4)]
)
def test_the_time_that_asking_takes_is_not_there_for_training(
    machine: Machine, asked: int, validation: int, epochs: int
) -> None:
    """2,000 images can be shown, or three times as many be asked about: once, and after every epoch."""
    machine.images_per_s = 100.0
    shown = ground(validation=validation)
    _, cut = budget.within(shown, plans("large-similar")[0], None, 20.0, machine.ledger(), asked=asked)
    assert cut.tuning is not None
    assert cut.tuning.epochs == epochs


def test_of_unequal_classes_some_of_each_are_kept(machine: Machine) -> None:
    (plan,) = plans("large-similar")
    rare = tuple(replace(each, label=3) for each in samples(2, first=900))
    common = tuple(each for each in samples(400) if each.label != 3)
    shown, _ = budget.within(replace(ground(), train=(*common, *rare)), plan, None, 4.0, machine.ledger())
    counts = np.bincount([sample.label for sample in shown.train], minlength=CLASSES)
    assert counts.tolist() == [11, 11, 11, 2]
    assert len(set(shown.train)) == len(shown.train)
