"""Races the plans that are worth it on a part of the training images, within a time; the test images are never read.

Successive halving (arXiv:1502.07943): every plan gets a short training, the better half of them a longer one. Of those
within one standard error of the best the evidence chooses: a head, or the one that trains most, because a short
training shows less than it would gain. Where the time is too short to try all plans, those are tried that train most:
from a head that is fitted already they can do whatever the others can. Where it is too short for one, the evidence has
chosen.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from export.progress import Steps
from training import budget, splits, tuned
from training.advice.candidates import Candidate, head_words
from training.advice.decide import UNADVISED, Leaning
from training.dataset import Sample
from training.errors import ExplodedError
from training.fitting import Fitted
from training.ledger import Ledger
from training.result import Heat, Race
from training.tuned import FineTuned, Ground, Probed
from training.tuning import imbalance
from training.tuning.imbalance import Treatment
from training.tuning.record import Known, RangeTest

# Of the time that is left for everything, what the first and the second round may take.
_ROUNDS = (0.15, 0.25)
# A training that shows less of what its plan would show is no use: it says little of the plan, and gains little.
_TELLING = 0.25
# Of fewer answers the standard error of a difference is three points and more, which is what plans mostly differ by:
# such a race is worth time that the training of the winner does not need. Of what is left that may take so much.
_MANY = 200
_SPARED = 0.5
# A winner that can be shown less of what it has won with is no winner any more.
_ENOUGH = 0.5
# A fine-tuning has two, and asking about the validation images is one.
_STEPS_OF_A_TRIAL = 3

_NO_RACE = "there are too few images to hold any out for a comparison, so the cheapest plan was taken"
_IN_A_HURRY = "the time was too short for a race of so few images to tell more than luck, so there was none"
_OVER = "the time was over before a race could begin, so there was none"

Fit = Callable[[Candidate, tuple[Sample, ...]], Fitted]
Score = Callable[[Fitted, tuple[Sample, ...]], NDArray[np.bool_]]


@dataclass(frozen=True)
class HeadTrials:
    """How plans of a frozen backbone are tried.

    Attributes:
        fit: Trains the head that a plan begins or ends with. It is asked for the same one again before every trial, and
            is to remember it.
        right: Says which images a head answers rightly: bool `[N]`.
        treated: How unequal classes are treated, in heads as in fine-tunings; images are compared accordingly.
    """

    fit: Fit
    right: Score
    treated: Treatment


@dataclass(frozen=True)
class Raced:
    """A race, and what its winner is to be trained with.

    Attributes:
        race: What was tried, and what won.
        tested: The range test whose rate the winner had, if there was one: it need not be found again.
        least: How many images it is to be shown at least: half as many as it has won with, or, where it was not tried,
            a quarter of what its plan would show.
        head: The place of the plan that fine-tunes nothing which is taken where the winner cannot be trained: the best
            of those that were tried, or the first; None where there is none.
    """

    race: Race
    tested: RangeTest | None
    least: float
    head: int | None


@dataclass(frozen=True)
class _Runner:
    """A plan on the way: what it trains, which validation images it has right so far, and whether it is at its end."""

    plan: Candidate
    trains: str
    right: NDArray[np.bool_]
    is_whole: bool = True


@dataclass(frozen=True)
class _Course:
    """What all trials have in common, the images to learn from and those that are asked about, and what came of them.

    Attributes:
        heats: What was tried.
        runners: The plans that were, by their places.
    """

    ground: Ground
    asked: tuple[Sample, ...]
    frozen: HeadTrials
    told: Steps
    ledger: Ledger
    heats: list[Heat] = field(default_factory=list)
    runners: dict[int, _Runner] = field(default_factory=dict)

    @cached_property
    def counts(self) -> NDArray[np.float64]:
        """How much each of the images that are asked about counts, float64 `[N]`, on average 1."""
        return imbalance.importance(self.frozen.treated, [sample.label for sample in self.asked])

    def head(self, plan: Candidate, train: tuple[Sample, ...]) -> Probed | None:
        """What a plan begins with, fitted to these images."""
        if plan.start == "random":
            return None
        fitted = self.frozen.fit(plan, train)
        return Probed(fitted.head, fitted.module)


class _Room(BaseModel):
    """What there is time for.

    Attributes:
        places: The fine-tunings that can be tried.
        testing_s: What finding a rate takes, in seconds.
        for_all: Whether the one that trains most can be trained to its end without a race.
    """

    places: tuple[int, ...]
    testing_s: float
    for_all: bool


class _Tried(BaseModel):
    """What a short training came to: which validation images it has right, and what its range test saw."""

    heat: Heat
    right: tuple[bool, ...]
    tested: RangeTest | None
    is_whole: bool


def race(  # noqa: PLR0917
    ground: Ground,
    plans: Sequence[Candidate],
    leans: Leaning,
    frozen: HeadTrials,
    limit_s: float,
    told: Steps,
    ledger: Ledger,
) -> Raced:
    """Find the plan that does best on images that it does not learn from.

    Args:
        ground: The images; a part of those to learn from is held out, unless there are images to validate on.
        plans: The plans, cheapest first; at least one.
        leans: What is taken where luck or the time does not let them be told apart.
        frozen: How heads on the frozen backbone are tried.
        limit_s: The time that is left for the race and for the training after it, in seconds.
        told: Tells of the steps.
        ledger: Keeps what each short training came to: a race that was broken off goes on after the last of them.

    Returns:
        What was tried, what won, and at which rate.

    Raises:
        CacheError: The ledger cannot be written.
        HeadError: No head can be trained.
        TuningError: No plan can be followed.
    """
    learnt, asked = ground.train, ground.validation
    if not asked:
        learnt, asked = splits.hold_out(ground.train, ground.seed)
    if not asked:
        return _unraced(plans, len(learnt), 0, _NO_RACE)
    tunings = {place: plan for place, plan in enumerate(plans) if plan.tuning is not None}
    course = _Course(replace(ground, train=learnt, validation=()), asked, frozen, told, ledger)
    told.more(1)
    with told.step("see how fast it trains here"):
        room = ledger.once("room", _Room, partial(_room, course, ground, tunings, limit_s))
    if tunings and not room.places:
        chosen = _taken(plans, leans, for_all=room.for_all)
        why = _IN_A_HURRY if len(asked) < _MANY else _OVER
        return _unraced(plans, len(ground.train), chosen, f"{why}: {leans.reason}")
    told.more(steps(plans))
    _heads(course, plans)
    tested = _rounds(course, {place: tunings[place] for place in room.places}, limit_s - room.testing_s)
    heats, runners = course.heats, course.runners
    chosen, reason = _winner(course, leans)
    if untried := [_named(plan, plan.words()) for place, plan in tunings.items() if place not in runners]:
        reason += f"; the time was too short to try {', '.join(untried)}"
    told_of = Race(
        images=len(learnt),
        validation=len(asked),
        heats=tuple(sorted(heats, key=lambda heat: (heat.round, heat.plan))),
        chosen=chosen,
        reason=reason,
    )
    least = _ENOUGH * max(heat.images * heat.epochs for heat in heats if heat.plan == chosen)
    frozen_heats = [heat for heat in heats if not heat.epochs]
    best_head = max(frozen_heats, key=lambda heat: heat.accuracy).plan if frozen_heats else None
    return Raced(told_of, tested.get(chosen), least, best_head)


def _unraced(plans: Sequence[Candidate], images: int, chosen: int, reason: str) -> Raced:
    """What is taken without a race."""
    told_of = Race(images=images, validation=0, heats=(), chosen=chosen, reason=reason)
    frozen = [place for place, plan in enumerate(plans) if plan.tuning is None]
    return Raced(told_of, None, _TELLING * budget.shown(plans[chosen], images), frozen[0] if frozen else None)


def _taken(plans: Sequence[Candidate], leans: Leaning, *, for_all: bool) -> int:
    """The place of the plan that the evidence takes: the first head, or what trains most and can be trained to its end.

    What trains less is faster at it, and of few images as good (training/advice/README.md).
    """
    if leans.to == "head" and plans[0].tuning is None:
        return 0
    most, *others = _most_first(dict(enumerate(plans)))
    return most if for_all or not others or plans[others[0]].tuning is None else others[0]


def _heads(course: _Course, plans: Sequence[Candidate]) -> None:
    """Try the plans that fine-tune nothing, which are at their end as soon as they are tried."""
    learnt = course.ground.train
    for place, plan in enumerate(plans):
        if plan.tuning is not None:
            continue
        started_s = time.monotonic()
        with course.told.step(f"try {plan.words()}"):
            fitted = course.frozen.fit(plan, learnt)
            right = course.frozen.right(fitted, course.asked)
        # What a head reads was chosen when it was fitted.
        trains = head_words(fitted.head.taps) if plan.start == "linear probe" else plan.words()
        heat = Heat(
            plan=place,
            regime=plan.regime,
            trains=trains,
            round=1,
            images=len(learnt),
            epochs=0,
            accuracy=_accuracy(course, right),
            seconds=round(time.monotonic() - started_s, 1),
        )
        course.heats.append(heat)
        course.runners[place] = _Runner(plan, trains, right)


def _rounds(course: _Course, tunings: Mapping[int, Candidate], limit_s: float) -> dict[int | str, RangeTest]:
    """Try fine-tunings, the better half of them again for longer; the range tests, by place and by start."""
    tested: dict[int | str, RangeTest] = {}
    left, runners = list(tunings), course.runners
    for number, part in enumerate(_ROUNDS if len(left) > 1 else [sum(_ROUNDS)], start=1):
        # The one that trains most first: a rate that all of the backbone bears a part of it bears as well.
        for place in sorted(left, reverse=True):
            # What has been trained to its end already learns nothing from being trained again.
            if place in runners and runners[place].is_whole:
                continue
            plan = tunings[place]
            trial = _Trial(plan, place, number, part * limit_s / len(left), tested.get(place, tested.get(plan.start)))
            done: list[FineTuned] = []
            tried = course.ledger.once(trial.name, _Tried, partial(_try, course, trial, done))
            # Only when it is known what came of it.
            for made in done:
                tuned.forget(made)
            course.heats.append(tried.heat)
            if tried.tested:
                tested[place] = tried.tested
                # One that trains less and came apart says nothing of those that train more.
                tested.setdefault(plan.start, tried.tested)
            runners[place] = _Runner(plan, plan.words(), np.array(tried.right), tried.is_whole)
        left = sorted(
            sorted(left, key=lambda each: -_accuracy(course, runners[each].right))[: math.ceil(len(left) / 2)]
        )
    return tested


def steps(plans: Sequence[Candidate]) -> int:
    """How many steps a race has at most."""
    frozen = sum(plan.tuning is None for plan in plans)
    first = len(plans) - frozen
    return frozen + _STEPS_OF_A_TRIAL * (first + math.ceil(first / 2))


def _room(course: _Course, ground: Ground, tunings: Mapping[int, Candidate], limit_s: float) -> _Room:
    """Of which fine-tunings the first round can show a telling part, but at least one.

    None where the time is over, or where few images are asked and the winner would need it for its training on all of
    them.
    """
    if not tunings:
        return _Room(places=(), testing_s=0.0, for_all=True)
    started_s, order = time.monotonic(), _most_first(tunings)
    most = tunings[order[0]]
    assert most.tuning is not None  # it is one of the fine-tunings
    asked, learnt = len(course.asked), course.ground.train
    # With the head that is needed next: where few are asked there may be no race.
    probed = course.head(most, ground.train if asked < _MANY else learnt)
    images_per_s = budget.images_per_s(ground, most, probed, course.ledger)
    testing_s = budget.finding_rate(most.tuning, len(learnt)) / images_per_s
    can_show = images_per_s * (limit_s - testing_s)
    if can_show <= 0:
        return _Room(places=(), testing_s=testing_s, for_all=False)
    whole = budget.shown(most, len(ground.train))
    # To measure took of the time.
    for_all = budget.SPENT * (can_show - images_per_s * (time.monotonic() - started_s)) >= whole
    if asked < _MANY and _SPARED * (1 - sum(_ROUNDS)) * can_show < whole:
        return _Room(places=(), testing_s=testing_s, for_all=for_all)
    parts = _ROUNDS[0] * can_show / (_TELLING * budget.shown(most, len(learnt)))
    places = order[: max(1, int(min(parts, len(order))))]
    return _Room(places=tuple(sorted(places)), testing_s=testing_s, for_all=for_all)


def _most_first(plans: Mapping[int, Candidate]) -> list[int]:
    """The places of plans, what trains most first; a random start, which learns least of a little, is the last."""
    return sorted(plans, key=lambda place: (plans[place].start != "random", place), reverse=True)


@dataclass(frozen=True)
class _Trial:
    """A short training to be: of the plan in this place, in this round, in so many seconds."""

    plan: Candidate
    place: int
    round: int
    limit_s: float
    tested: RangeTest | None

    @property
    def name(self) -> str:
        return f"plan {self.place} in round {self.round}"


def _try(course: _Course, trial: _Trial, done: list[FineTuned]) -> _Tried:
    started_s = time.monotonic()
    probed, ledger, asked = course.head(trial.plan, course.ground.train), course.ledger, course.asked
    # What finds the rate for all is not taken from what one of them is shown.
    ground, plan = budget.within(course.ground, trial.plan, probed, trial.limit_s, ledger, name=trial.name)
    right, tested, note = np.zeros(len(asked), bool), trial.tested, None
    try:
        known = Known(tested=trial.tested, paces=budget.paces(ground, plan, probed, ledger))
        made = tuned.fine_tune(ground, plan, probed, course.told, known)
    except ExplodedError:
        # It has lost; what the others can do is not less for it.
        note = "the loss exploded"
    else:
        done.append(made)
        found = tuned.answers(made.module, ground, asked, course.told)
        right = np.asarray(found.logits.argmax(1) == [sample.label for sample in asked])
        tested = made.tuned.record.settings.range_test
        if tested and tested.lowered:
            note = f"the loss exploded until the rate was {tested.chosen:.3g}"
            # What comes after it begins with the lower rate.
            tested = tested.model_copy(update={"lowered": 0})
    heat = Heat(
        plan=trial.place,
        regime=plan.regime,
        trains=plan.words(),
        round=trial.round,
        images=len(ground.train),
        epochs=plan.tuning.epochs if plan.tuning else 0,
        accuracy=_accuracy(course, right),
        seconds=round(time.monotonic() - started_s, 1),
        note=note,
    )
    whole = plan == trial.plan and ground.train == course.ground.train
    return _Tried(heat=heat, right=tuple(right.tolist()), tested=tested, is_whole=whole)


def _named(plan: Candidate, trains: str) -> str:
    """A plan as the table of the report has it: what two train may be the same."""
    return f"{plan.regime} ({trains})"


def _accuracy(course: _Course, right: NDArray[np.bool_]) -> float:
    return float((course.counts * right).mean())


def _winner(course: _Course, leans: Leaning) -> tuple[int, str]:
    """Of the plans no more than one standard error of the difference behind the best, the one that the evidence takes.

    What a short training does for a backbone is less than what it will do; a head is as good as it gets.
    """
    runners = course.runners
    accuracy = {place: _accuracy(course, runner.right) for place, runner in runners.items()}
    best = max(sorted(runners), key=accuracy.__getitem__)
    most = sorted((place for place in runners if runners[place].plan.tuning), reverse=True)
    heads = sorted(runners.keys() - set(most))
    for place in (*most, *heads) if leans.to == "backbone" else (*heads, *most):
        behind = course.counts * (runners[best].right.astype(float) - runners[place].right)
        error = float(behind.std() / math.sqrt(len(behind)))
        if behind.mean() <= error:
            break
    won, first = runners[place], runners[best]
    # What the evidence says of heads and fine-tunings says nothing of two fine-tunings, or of two heads.
    leant = won.plan.tuning is not None if leans.to == "backbone" else won.plan.tuning is None
    why = leans.reason if leant and most else UNADVISED.reason if won.plan.tuning else "dearer"
    said = f"{_named(won.plan, won.trains)} answered {accuracy[place]:.1%} of {len(won.right)} validation images right"
    if (course.counts != 1).any():
        said += ", all classes counting alike"
    if place == best:
        return place, f"{said}, and nothing else that was tried more"
    return place, (
        f"{said}; {_named(first.plan, first.trains)}, the best, {accuracy[best]:.1%}, which is within one standard "
        f"error ({error:.1%}), and {why}"
    )
