"""Plans race on training images alone; of those that luck cannot tell from the best the evidence chooses."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import numpy as np
import pytest
from numpy.typing import NDArray

from export.progress import Steps
from export.run import Head
from tests.training.conftest import quiet
from training import backbones, race, tuned
from training.advice.candidates import Candidate, Regime, candidates
from training.advice.decide import UNADVISED, Leaning
from training.dataset import Sample
from training.errors import ExplodedError
from training.fitting import Fitted
from training.ledger import Ledger
from training.result import Race
from training.tuned import Answers, Ground
from training.tuning import imbalance
from training.tuning.imbalance import Treatment
from training.tuning.record import Known, Pace, RangeTest

LITE0 = backbones.card("efficientnet_lite0")
CLASSES = 4


def samples(count: int, first: int = 0, groups: int | None = None) -> tuple[Sample, ...]:
    return tuple(
        Sample(
            path=Path(f"{number}.png"),
            sha256=number.to_bytes(32, "big"),
            label=number % CLASSES,
            weight=1.0,
            group=None if groups is None else f"group {number // groups}",
        )
        for number in range(first, first + count)
    )


def ground(train: int = 200, validation: int = 100) -> Ground:
    return Ground(
        card=LITE0,
        geometry=LITE0.geometry,
        train=samples(train),
        validation=samples(validation, first=train),
        counts=tuned.counts(samples(train), CLASSES),
        turns=False,
        cache=Path("nowhere"),
        seed=0,
    )


def plans(*regimes: Regime, images: int = 200) -> list[Candidate]:
    """The plans of regimes, with a rate and a head that take no time to find, and 200 steps of at most 20 epochs."""
    found = (plan for regime in regimes for plan in candidates(regime, images, LITE0.backbone))
    epochs = min(20, math.ceil(12_800 / images))
    return [changed(plan, rate=0.01, epochs=epochs, refit_head=False) for plan in found]


def changed(plan: Candidate, **changes: object) -> Candidate:
    tuning = plan.tuning and plan.tuning.model_copy(update=changes)
    return plan.model_copy(update={"tuning": tuning})


def rightly(count: int, of: int, first: int = 0) -> NDArray[np.bool_]:
    """So many of the images are answered right, from the first one on, and then again from the beginning."""
    right = np.zeros(of, bool)
    right[np.arange(first, first + count) % of] = True
    return right


def saw(rate: float) -> RangeTest:
    return RangeTest(rates=(), losses=(), harmless=None, diverged=None, chosen=rate)


def at_pace(images_per_s: float) -> tuple[Pace, ...]:
    return (Pace(precision="fp32", channels_last=False, images_per_s=images_per_s, cosine=1.0, refused=None),)


@dataclass
class Machine:
    """In the place of everything that trains: plans are as good as they are told, and what is shown is written down."""

    folder: Path
    right: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    images_per_s: float = 1e9
    learnt: list[tuple[Sample, ...]] = field(default_factory=list)
    asked: list[tuple[Sample, ...]] = field(default_factory=list)
    tuned: list[tuple[str, int, int]] = field(default_factory=list)
    tested: list[RangeTest | None] = field(default_factory=list)
    treated: Treatment = field(default_factory=lambda: imbalance.treat("none", (1,) * CLASSES))
    measured: list[str] = field(default_factory=list)

    def ledger(self, name: str | None = None) -> Ledger:
        """The one of this name, or one in which nothing is decided yet."""
        return Ledger(self.folder / (name or uuid4().hex))

    def paces(self, _: Ground, plan: Candidate, __: object) -> tuple[Pace, ...]:
        self.measured.append(plan.words())
        return at_pace(self.images_per_s)

    def frozen(self) -> race.HeadTrials:
        return race.HeadTrials(self._fit, self._right, self.treated)

    def _fit(self, plan: Candidate, train: tuple[Sample, ...]) -> Fitted:
        self.learnt.append(train)
        return cast(Fitted, _Made(plan.words(), Head(kind="linear", taps=plan.taps), None))

    def _right(self, fitted: Fitted, asked: tuple[Sample, ...]) -> NDArray[np.bool_]:
        self.asked.append(asked)
        return self.right[cast(_Made, fitted).module]

    def fine_tune(self, shown: Ground, plan: Candidate, _: object, __: Steps, known: Known) -> "_Made":
        assert plan.tuning is not None
        self.learnt.append(shown.train)
        self.tuned.append((plan.words(), len(shown.train), plan.tuning.epochs))
        self.tested.append(known.tested)
        assert known.paces
        settings = SimpleNamespace(range_test=known.tested or saw(len(self.tested)))
        return _Made(plan.words(), None, None, SimpleNamespace(record=SimpleNamespace(settings=settings)))

    def answers(self, module: str, _: Ground, asked: Sequence[Sample], *__: object) -> Answers:
        self.asked.append(tuple(asked))
        right, labels = self.right[module], np.array([sample.label for sample in asked])
        answered = np.where(right, labels, (labels + 1) % CLASSES)
        return Answers(np.eye(CLASSES, dtype=np.float32)[answered], np.zeros((len(asked), 1), np.float32))


@dataclass(frozen=True)
class _Made:
    module: str
    head: Any
    result: Any
    tuned: Any = None


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    monkeypatch.setattr(tuned, "fine_tune", made.fine_tune)
    monkeypatch.setattr(tuned, "answers", made.answers)
    monkeypatch.setattr(tuned, "paces", made.paces)
    monkeypatch.setattr(tuned, "forget", lambda _: None)
    # So that of many images counts are percentages.
    monkeypatch.setattr(race, "_MANY", 100)
    return made


def run(
    machine: Machine, raced: Sequence[Candidate], shown: Ground, limit_s: float = 1e6, leans: Leaning = UNADVISED
) -> Race:
    return race.race(shown, raced, leans, machine.frozen(), limit_s, quiet(99), machine.ledger()).race


TO_HEAD = Leaning(to="head", reason="a head is enough")
HEAD, STAGES, LAST, LATE = "the head on the embedding", "the head on the embedding and all stages", "c5", "c4"


def words(place: str) -> str:
    return f"the head and the backbone from {place} on"


@pytest.mark.parametrize(
    ("dearer", "expected"),
    [
        (rightly(77, 100), 0),  # worse by three, and better in none
        (rightly(77, 100, 10), 1),  # worse by three, but of 23 that they answer differently: luck
        (rightly(80, 100), 1),  # as good
        (rightly(83, 100), 1),
    ],
)
def test_what_trains_most_has_to_lose_by_more_than_luck(
    machine: Machine, dearer: NDArray[np.bool_], expected: int
) -> None:
    machine.right = {HEAD: rightly(80, 100), words("c1"): dearer}
    raced = plans("small-similar", "large-different")
    found = run(machine, raced, ground())
    assert found.chosen == expected
    assert f"of {found.validation} validation images right" in found.reason
    assert [heat.accuracy for heat in found.heats] == [0.8, dearer.mean()]


@pytest.mark.parametrize(
    ("dearer", "expected"), [(rightly(83, 100, 10), 0), (rightly(83, 100), 1), (rightly(70, 100), 0)]
)
def test_where_the_evidence_leans_to_a_head_it_has_to_lose_by_more_than_luck(
    machine: Machine, dearer: NDArray[np.bool_], expected: int
) -> None:
    machine.right = {HEAD: rightly(80, 100), words(LATE): rightly(75, 100), words("c1"): dearer}
    raced = plans("small-similar", "large-similar", "large-different")
    found = run(machine, raced, ground(), leans=TO_HEAD)
    assert found.chosen == 2 * expected
    assert ("within one standard error" in found.reason) == found.reason.endswith(", and a head is enough")


def test_of_two_fine_tunings_that_beat_the_head_it_is_not_said_that_a_head_is_enough(machine: Machine) -> None:
    machine.right = {HEAD: rightly(60, 100), words(LATE): rightly(83, 100, 10), words("c1"): rightly(82, 100, 12)}
    found = run(machine, plans("small-similar", "large-similar", "large-different"), ground(), leans=TO_HEAD)
    assert found.chosen == 2
    assert found.reason.endswith(f", and {UNADVISED.reason}")


@pytest.mark.parametrize(
    ("leans", "limit_s", "expected"),
    [
        (UNADVISED, 20_000 / 0.3 - 1, 2),
        (UNADVISED, 20_001 / 0.85, 2),
        (UNADVISED, 19_999 / 0.85, 1),  # not time enough for what trains most, but for what trains less
        (TO_HEAD, 20_000 / 0.3 - 1, 0),
    ],
)
def test_where_there_are_few_to_ask_and_no_time_to_spare_the_evidence_chooses_and_nothing_is_tried(
    machine: Machine, leans: Leaning, limit_s: float, expected: int
) -> None:
    machine.right = {HEAD: rightly(60, 99), words(LATE): rightly(50, 99), words("c1"): rightly(70, 99)}
    machine.images_per_s = 1.0
    raced = plans("small-similar", "large-similar", "large-different", images=10_000)
    # Half of what two rounds leave is time for all of two epochs, or not.
    found = run(machine, raced, ground(train=10_000, validation=99), limit_s, leans)
    assert (found.chosen, found.images, found.validation, found.heats) == (expected, 10_000, 0, ())
    assert (machine.tuned, machine.asked) == ([], [])
    assert found.reason.endswith(f"so there was none: {leans.reason}")
    found = run(machine, raced, ground(train=10_000, validation=99), 20_000 / 0.3 + 1, leans)
    assert (found.chosen, found.validation) == (2, 99)
    assert machine.tuned


def test_when_the_time_is_over_nothing_is_tried(machine: Machine) -> None:
    machine.right = {HEAD: rightly(60, 300), words("c1"): rightly(90, 300)}
    found = run(machine, plans("small-similar", "large-different"), ground(validation=300), -1.0, TO_HEAD)
    assert (machine.tuned, found.heats, found.chosen) == ([], (), 0)
    assert found.reason == f"the time was over before a race could begin, so there was none: {TO_HEAD.reason}"


def test_a_random_start_is_not_taken_without_having_been_tried(machine: Machine) -> None:
    machine.right = {HEAD: rightly(60, 99)}
    machine.images_per_s = 1.0
    found = run(machine, plans("small-similar", "large-similar", "scratch"), ground(validation=99), 100.0)
    assert found.chosen == 1


@pytest.mark.parametrize(("dearer", "expected"), [(rightly(83, 100, 10), 0), (rightly(83, 100), 1)])
def test_of_heads_the_cheapest_that_luck_cannot_tell_from_the_best_wins(
    machine: Machine, dearer: NDArray[np.bool_], expected: int
) -> None:
    machine.right = {HEAD: rightly(80, 100), STAGES: dearer}
    found = run(machine, plans("small-similar", "small-different")[:2], ground())
    assert found.chosen == expected
    assert ("and dearer" in found.reason) == (expected == 0)


def test_of_three_depths_the_best_is_found_and_the_regime_leaves_early_stages_alone(machine: Machine) -> None:
    """Claim 3: with few different images it is tried how deep to go; only `auto` tries everything as well."""
    machine.right = {STAGES: rightly(60, 100), words(LAST): rightly(90, 100), words(LATE): rightly(70, 100)}
    raced = plans("small-different")
    found = run(machine, raced, ground())
    assert [heat.trains for heat in found.heats] == [STAGES, words(LAST), words(LATE)]
    assert raced[found.chosen].words() == words(LAST)
    assert not any(plan.tuning and plan.tuning.unfreeze_from == "c1" for plan in raced)


def test_the_better_half_of_what_was_cut_short_gets_more_time(machine: Machine) -> None:
    machine.right = {
        words(LAST): rightly(60, 100),
        words(LATE): rightly(70, 100),
        words("c1"): rightly(80, 100),
    }
    machine.images_per_s = 1.0
    raced = [plan for plan in plans("small-different", "large-different", images=10_000) if plan.tuning]
    found = run(machine, raced, ground(train=10_000), limit_s=100_000.0)
    assert [(heat.round, heat.trains) for heat in found.heats] == [
        (1, words(LAST)),
        (1, words(LATE)),
        (1, words("c1")),
        (2, words(LATE)),
        (2, words("c1")),
    ]
    # What trains most comes first, in both rounds.
    assert [tried for tried, *_ in machine.tuned] == [words(place) for place in ("c1", "c4", "c5", "c1", "c4")]
    first, second = {heat.images for heat in found.heats[:3]}, {heat.images for heat in found.heats[3:]}
    assert first == {5000}  # a third of 15 % of the time at one image a second
    assert second == {10_000}  # a half of 25 % of it would be more than once
    assert raced[found.chosen].words() == words("c1")


def test_what_was_trained_to_its_end_is_not_trained_again(machine: Machine) -> None:
    machine.right = {words(LATE): rightly(70, 100), words("c1"): rightly(80, 100)}
    found = run(machine, plans("large-similar", "large-different"), ground())
    assert [heat.round for heat in found.heats] == [1, 1]


def test_images_that_the_data_name_to_validate_on_are_asked_and_never_learnt_from(machine: Machine) -> None:
    machine.right = {HEAD: rightly(80, 100), words(LATE): rightly(90, 100)}
    shown = ground()
    run(machine, plans("small-similar", "large-similar"), shown)
    assert set(machine.asked) == {shown.validation}
    assert set(machine.learnt) == {shown.train}


def test_without_them_a_part_of_the_training_images_is_held_out_and_no_group_is_divided(machine: Machine) -> None:
    shown = replace(ground(), train=samples(200, groups=8), validation=())
    machine.right = {HEAD: rightly(20, 96)}
    found = run(machine, plans("small-similar"), shown)
    (learnt,), (asked,) = machine.learnt, machine.asked
    assert sorted((*learnt, *asked), key=lambda each: each.sha256) == list(shown.train)
    assert (found.images, found.validation) == (len(learnt), len(asked)) == (104, 96)
    assert not {each.group for each in learnt} & {each.group for each in asked}


def test_a_plan_that_comes_apart_has_lost_and_the_others_race_on(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.right = {HEAD: rightly(60, 100), words(LATE): rightly(90, 100), words("c1"): rightly(95, 100)}

    def tune(shown: Ground, plan: Candidate, *others: Any) -> _Made:
        if plan.words() == words("c1"):
            raise ExplodedError("Expected at most 3. Received: nan.")
        return machine.fine_tune(shown, plan, *others)

    monkeypatch.setattr(tuned, "fine_tune", tune)
    found = run(machine, plans("small-similar", "large-similar", "large-different"), ground())
    assert found.chosen == 1
    assert [(heat.accuracy, heat.note) for heat in found.heats] == [
        (0.6, None),
        (0.9, None),
        (0.0, "the loss exploded"),
    ]


def test_what_is_raced_at_a_lower_rate_is_trained_at_it(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.right = {HEAD: rightly(60, 100), words(LATE): rightly(90, 100)}
    lower = saw(0.01).model_copy(update={"lowered": 2})
    answered = machine.fine_tune

    def tune(*asked: Any) -> _Made:
        made = answered(*asked)
        made.tuned.record.settings.range_test = lower
        return made

    monkeypatch.setattr(tuned, "fine_tune", tune)
    raced = plans("small-similar", "large-similar")
    found = race.race(ground(), raced, UNADVISED, machine.frozen(), 1000.0, quiet(99), machine.ledger())
    # What follows has its own tries.
    assert found.tested == saw(0.01)
    assert found.race.heats[1].note == "the loss exploded until the rate was 0.01"


def test_a_plan_that_came_apart_does_not_lower_the_rate_of_the_one_that_won(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.right = {words(LATE): rightly(60, 100), words("c1"): rightly(90, 100)}
    lower, answered = saw(0.001).model_copy(update={"lowered": 2}), machine.fine_tune

    def tune(shown: Ground, plan: Candidate, *others: Any) -> _Made:
        made = answered(shown, plan, *others)
        if plan.words() == words(LATE):
            made.tuned.record.settings.range_test = lower
        return made

    monkeypatch.setattr(tuned, "fine_tune", tune)
    raced = plans("large-similar", "large-different")
    found = race.race(ground(), raced, UNADVISED, machine.frozen(), 1e6, quiet(99), machine.ledger())
    assert (found.race.chosen, found.tested) == (1, saw(1))


def test_the_time_that_finds_the_rate_is_taken_once_from_all(machine: Machine) -> None:
    """At 10 images a second 40 steps of 64, each asked about once more, take 341 s, of which no plan has less."""
    machine.images_per_s = 10.0
    machine.right = {words(LATE): rightly(60, 100), words("c1"): rightly(90, 100)}
    raced = [changed(plan, rate="range test") for plan in plans("large-similar", "large-different", images=12_800)]
    run(machine, raced, ground(train=4000), limit_s=2 * 4000 / (10 * 0.15) + 341.4)
    assert [shown for _, *shown in machine.tuned[:2]] == [[4000, 1]] * 2
    machine.tuned.clear()
    run(machine, raced, ground(train=4000), limit_s=2 * 4000 / (10 * 0.15) + 300)
    assert all(images < 4000 for _, images, _ in machine.tuned[:2])


def test_a_rate_is_found_once_on_the_plan_that_trains_most(machine: Machine) -> None:
    machine.right = {words(LAST): rightly(60, 100), words(LATE): rightly(70, 100), words("c1"): rightly(80, 100)}
    machine.images_per_s = 1.0
    raced = [plan for plan in plans("small-different", "large-different", images=10_000) if plan.tuning]
    found = race.race(ground(train=10_000), raced, UNADVISED, machine.frozen(), 100_000.0, quiet(99), machine.ledger())
    # All others have it from there, and so has the training after the race.
    assert [heat.plan for heat in found.race.heats] == [0, 1, 2, 1, 2]
    assert machine.tested == [None, saw(1), saw(1), saw(1), saw(1)]
    assert (found.race.chosen, found.tested) == (2, saw(1))


def test_where_the_time_is_too_short_for_all_what_trains_most_is_tried(machine: Machine) -> None:
    machine.right = {HEAD: rightly(60, 100), words("c1"): rightly(70, 100)}
    machine.images_per_s = 1.0
    raced = plans("small-similar", "large-similar", "large-different", images=10_000)
    # A quarter of two epochs of 10,000 images is 5,000, and 15 % of the time 7,500.
    found = run(machine, raced, ground(train=10_000), limit_s=50_000.0)
    assert [(heat.round, heat.trains) for heat in found.heats] == [(1, HEAD), (1, words("c1"))]
    assert machine.tuned == [(words("c1"), 10_000, 2)]  # in the time of both rounds
    assert found.reason.endswith(f"more; the time was too short to try large-similar ({words(LATE)})")


def test_half_of_what_it_has_won_with_is_the_least_or_a_quarter_of_a_plan_that_was_not_tried(machine: Machine) -> None:
    machine.right = {HEAD: rightly(60, 99), STAGES: rightly(65, 99), words("c1"): rightly(70, 99)}
    raced = [*plans("small-similar", "small-different")[:2], *plans("large-different")]
    machine.images_per_s = 1.0
    # Of what was tried the best head is at hand, and the cheapest of those that were not.
    for limit_s, shown, head in ((1e6, 200 * 20 / 2, 1), (1.0, 200 * 20 / 4, 0)):
        asked = ground(validation=99)
        found = race.race(asked, raced, UNADVISED, machine.frozen(), limit_s, quiet(99), machine.ledger())
        assert (found.race.chosen, found.least, found.head) == (2, shown, head)
    without = race.race(asked, raced[2:], UNADVISED, machine.frozen(), 1e6, quiet(99), machine.ledger())
    assert without.head is None


@pytest.mark.parametrize("until", range(5))
def test_a_race_that_was_broken_off_goes_on_behind_what_it_had_tried(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, until: int
) -> None:
    """On a machine that has become slower meanwhile, and the time that is left another one."""
    machine.right = {words(LAST): rightly(60, 100), words(LATE): rightly(70, 100), words("c1"): rightly(80, 100)}
    machine.images_per_s = 1.0
    raced = [plan for plan in plans("small-different", "large-different", images=10_000) if plan.tuning]
    whole = run(machine, raced, shown := ground(train=10_000), 100_000.0)
    before = list(machine.tuned)
    machine.tuned.clear()
    machine.measured.clear()
    answered = 0

    def killed(*asked: Any) -> Answers:
        nonlocal answered
        if answered == until:
            raise KeyboardInterrupt
        answered += 1
        return machine.answers(*asked)

    again = partial(race.race, shown, raced, UNADVISED, machine.frozen())
    monkeypatch.setattr(tuned, "answers", killed)
    with pytest.raises(KeyboardInterrupt):
        again(100_000.0, quiet(99), machine.ledger("kept"))
    monkeypatch.setattr(tuned, "answers", machine.answers)
    machine.images_per_s = 0.5
    resumed = again(90_000.0, quiet(99), machine.ledger("kept")).race
    # How fast each of them trains is measured once.
    assert sorted(machine.measured) == sorted(plan.words() for plan in raced)
    # What was under way when it was killed is tried by the same plan on as many images, so that it is gone on with.
    assert machine.tuned[: until + 1] == before[: until + 1]
    assert machine.tuned[until] == machine.tuned[until + 1]
    assert len(machine.tuned) == len(before) + 1
    assert [heat.accuracy for heat in resumed.heats] == [heat.accuracy for heat in whole.heats]
    assert resumed.chosen == whole.chosen


def test_where_unequal_classes_are_treated_each_counts_alike(machine: Machine) -> None:
    labels = np.repeat([0, 1, 2, 3], [90, 5, 3, 2])
    asked = tuple(replace(each, label=int(label)) for each, label in zip(samples(100, 900), labels, strict=True))
    shown = replace(ground(), train=tuple(replace(each, sha256=bytes(31) + each.sha256[-1:]) for each in asked))
    shown = replace(shown, validation=asked)
    # One names the common class always, the other tells the rare ones.
    machine.right = {HEAD: labels == 0, words("c1"): (labels != 0) | rightly(60, 100)}
    raced = plans("small-similar", "large-different")
    machine.treated = imbalance.choose((90, 5, 3, 2))
    found = run(machine, raced, shown)
    assert [heat.accuracy for heat in found.heats] == pytest.approx([1 / 4, (60 / 90 + 3) / 4])
    assert found.chosen == 1
    assert "answered 91.7% of 100 validation images right, all classes counting alike" in found.reason
    machine.treated = imbalance.treat("none", (90, 5, 3, 2))
    untreated = run(machine, raced, shown)
    assert [heat.accuracy for heat in untreated.heats] == pytest.approx([0.9, 0.7])
    assert untreated.chosen == 0


def test_a_race_has_as_many_steps_as_it_says_at_most(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    fine_tune, answers, counted = machine.fine_tune, machine.answers, quiet(0)

    def tune(shown: Ground, plan: Candidate, _: object, steps: Steps, known: Known) -> "_Made":
        for name in ("decode", "fine-tune"):
            with steps.step(name):
                told.append(name)
        return fine_tune(shown, plan, None, steps, known)

    def answer(module: str, shown: Ground, asked: Sequence[Sample], steps: Steps) -> Answers:
        with steps.step("ask"):
            told.append("ask")
        return answers(module, shown, asked)

    monkeypatch.setattr(tuned, "fine_tune", tune)
    monkeypatch.setattr(tuned, "answers", answer)
    machine.right = {STAGES: rightly(60, 100), words(LAST): rightly(70, 100), words(LATE): rightly(80, 100)}
    machine.images_per_s = 1.0
    raced = plans("small-different")
    race.race(ground(), raced, UNADVISED, machine.frozen(), 14_000.0, counted, machine.ledger())
    tried = sum(name.startswith("try ") for name in counted.seconds)
    assert len(told) + tried == race.steps(raced) == 1 + 3 * (2 + 1)


def test_a_random_start_begins_with_no_head(machine: Machine) -> None:
    everything = "everything, from a random start"
    machine.right = {HEAD: rightly(60, 100), everything: rightly(90, 100)}
    found = run(machine, plans("small-similar", "scratch"), ground())
    assert found.heats[1].trains == everything
    assert len(machine.learnt) == 2  # the head that is raced, and the fine-tuning
    assert found.chosen == 1
    assert found.reason.endswith("and nothing else that was tried more")


@pytest.mark.parametrize("rare", [1, 2])
def test_of_a_class_with_nothing_to_spare_all_is_learnt(machine: Machine, rare: int) -> None:
    few = [each for each in samples(41) if each.label == 1][:rare]
    shown = replace(ground(), train=(*(each for each in samples(41) if each.label != 1), *few), validation=())
    machine.right = {HEAD: rightly(5, 16)}
    found = run(machine, plans("small-similar"), shown)
    assert found.validation == 16
    assert [each.label for each in machine.learnt[0]].count(1) == rare
    assert {each.label for each in machine.asked[0]} == {0, 2, 3}


def test_where_nothing_can_be_spared_the_cheapest_plan_is_taken(machine: Machine) -> None:
    shown = replace(ground(), train=samples(2 * CLASSES), validation=())
    found = run(machine, plans("small-different"), shown)
    assert (found.chosen, found.heats, found.images, found.validation) == (0, (), 2 * CLASSES, 0)
    assert found.reason.startswith("there are too few images to hold any out")
