"""Trains by the plan that won, or keeps the head that it could not better; does not know what is written of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from export.labelled import Split
from export.progress import Steps
from export.run import Head
from training import backbones, budget, tuned
from training.advice.candidates import Candidate
from training.backbones import Card
from training.dataset import Sample
from training.errors import ExplodedError
from training.fitting import Fitted
from training.ledger import Ledger
from training.race import Raced
from training.report import HeldOut
from training.result import Race
from training.served import Served
from training.start import Start
from training.tuned import FineTuned, Ground, Probed
from training.tuning.record import Known


@dataclass(frozen=True)
class Made:
    """A model, and how it came about.

    Attributes:
        plan: The plan that won.
        race: How it won; None where there was no other.
        card: The backbone's card; one without weights where the start was random.
        head: What its head is.
        module: The model as it is served.
        fitted: The head that it ends or began with; None where the start was random.
        fine_tuned: What a fine-tuning gave; None of a head on a frozen backbone.
        images: How many were learnt from.
        tested: What it makes of the held-out images.
    """

    plan: Candidate
    race: Race | None
    card: Card
    head: Head
    module: Served
    fitted: Fitted | None
    fine_tuned: FineTuned | None
    images: int
    tested: Mapping[Split, HeldOut]


def make(start: Start, raced: Raced | None, ledger: Ledger, steps: Steps) -> Made:
    """Train by the plan that won on all training images, and ask about the held-out ones.

    Args:
        start: What was asked for, the images and the plans.
        raced: How the race of the plans went; None where there is one plan.
        ledger: Where a process that was killed finds what it had decided.
        steps: Tells of two steps for a head, and of those of a fine-tuning, one of which may be to see how fast it is.

    Returns:
        The model: of the plan that won, or of the head where the time or the loss does not allow that.

    Raises:
        ExplodedError: The loss of what was asked for exploded.
        TuningError: A plan cannot be followed.
    """
    told = raced.race if raced else None
    plan = start.plans[told.chosen if told else 0]
    if plan.tuning is None:
        return _headed(start, plan, told, steps)
    fitted = None if plan.start == "random" else _head(start, plan, steps)
    probed = Probed(fitted.head, fitted.module) if fitted else None
    tested = raced.tested if raced else None
    whole, asked = start.ground(), sum(map(len, start.held_out.values()))
    if raced is None:
        # A race has seen it already.
        steps.more(1)
        with steps.step("see how fast it trains here"):
            budget.paces(whole, plan, probed, ledger)
    left_s = budget.SPENT * start.left_s()
    ground, within = budget.within(whole, plan, probed, left_s, ledger, finds_rate=tested is None, asked=asked)
    assert within.tuning is not None  # it has only become shorter
    if raced and raced.head is not None and len(ground.train) * within.tuning.epochs < raced.least:
        return _instead(start, raced, "the time that was left is too short for that on all images", steps)
    steps.more(1 + len(start.held_out))
    known = Known(tested=tested, paces=budget.paces(ground, within, probed, ledger))
    try:
        fine_tuned = tuned.fine_tune(ground, within, probed, steps, known)
    except ExplodedError:
        # What was asked for is not given up for something else.
        if raced is None or raced.head is None:
            raise
        return _instead(start, raced, "its loss exploded", steps)
    return Made(
        plan=plan,
        race=told,
        card=fine_tuned.card,
        head=fine_tuned.head,
        module=fine_tuned.module,
        fitted=fitted,
        fine_tuned=fine_tuned,
        images=len(ground.train),
        tested={split: _asked(ground, fine_tuned, samples, steps) for split, samples in start.held_out.items()},
    )


def _instead(start: Start, raced: Raced, reason: str, steps: Steps) -> Made:
    """The head that stays where what won cannot be trained."""
    assert raced.head is not None  # or there is nothing to fall back to
    told = {"chosen": raced.head, "reason": f"{raced.race.reason}; {reason}, so a head stays"}
    return _headed(start, start.plans[raced.head], raced.race.model_copy(update=told), steps)


def _headed(start: Start, plan: Candidate, raced: Race | None, steps: Steps) -> Made:
    """A head on the frozen backbone."""
    fitted = _head(start, plan, steps)
    assert start.source is not None  # a frozen plan has features
    with steps.step("test the head"):
        tested = {split: start.source.answer(fitted, samples) for split, samples in start.held_out.items()}
    backbone, _ = backbones.parted(backbones.pretrained(start.card))
    return Made(
        plan=plan,
        race=raced,
        card=start.card,
        head=fitted.head,
        module=Served(backbone, fitted.module, start.card.backbone, start.card.scaling),
        fitted=fitted,
        fine_tuned=None,
        images=len(start.data.splits["train"]),
        tested=tested,
    )


def _head(start: Start, plan: Candidate, steps: Steps) -> Fitted:
    with steps.step("train the head"):
        return start.head(plan, start.data.splits["train"])


def _asked(ground: Ground, fine_tuned: FineTuned, samples: Sequence[Sample], steps: Steps) -> HeldOut:
    found = tuned.answers(fine_tuned.module, ground, samples, steps)
    return HeldOut(
        paths=tuple(sample.path for sample in samples),
        expected=np.array([sample.label for sample in samples]),
        logits=found.logits,
        embedding=found.embedding,
    )
