"""Reckons how long a fine-tuning takes here, and cuts it down to a time; trains nothing."""

from dataclasses import replace
from functools import partial

import torch
from pydantic import BaseModel

from training import tuned
from training.advice import subset
from training.advice.candidates import Candidate
from training.ledger import Ledger
from training.tuned import Ground, Probed
from training.tuning import devices, pace, range_test
from training.tuning.plan import Plan
from training.tuning.record import Pace

# What training and testing may take of the time that is left; the rest is for writing it down, and for what was
# reckoned too short: on a GPU what is asked about is asked on the CPU.
SPENT = 0.85
# To ask about an image takes as long as this part of a step that learns from it.
_ASKING = 1 / 3
# To look at it twice more, and to fit a head to what is seen.
_REFITTING = 3 / 4


class _Cut(BaseModel):
    """What of a plan fits into a time: of how many images, how often."""

    images: int
    epochs: int


class _Paces(BaseModel):
    """How fast each way of computing a step of a plan is."""

    ways: tuple[Pace, ...]


def paces(ground: Ground, plan: Candidate, probed: Probed | None, ledger: Ledger) -> tuple[Pace, ...]:
    """Measure how fast a plan trains here, unless that was done.

    Args:
        ground: The images.
        plan: The plan; one that fine-tunes.
        probed: The head that it starts from.
        ledger: Keeps what was measured.

    Returns:
        Each way of computing its steps.

    Raises:
        CacheError: The cache cannot be read, or the ledger not be written.
        DataError: A file is gone or was changed since it was checked.
    """
    # Which way is the fastest, and right, is so on one machine.
    here = f"{devices.launched().device.type} with {torch.get_num_threads()} threads"
    measure = partial(tuned.paces, ground, plan, probed)
    return ledger.once(f"paces of {plan.words()} on {here}", _Paces, lambda: _Paces(ways=measure())).ways


def images_per_s(ground: Ground, plan: Candidate, probed: Probed | None, ledger: Ledger) -> float:
    """How many images a second all processes together train on."""
    assert plan.tuning is not None  # a head on frozen features takes what it takes
    one = pace.best(paces(ground, plan, probed, ledger), plan.tuning).images_per_s
    return one * devices.launched().world_size


def within(
    ground: Ground,
    plan: Candidate,
    probed: Probed | None,
    limit_s: float,
    ledger: Ledger,
    *,
    name: str = "the training",
    finds_rate: bool = False,
    asked: int = 0,
) -> tuple[Ground, Candidate]:
    """Cut a plan down to a time: to fewer epochs, and where one is too long, to fewer images.

    Args:
        ground: The images.
        plan: The plan; one that fine-tunes.
        probed: The head that it starts from.
        limit_s: How long it may take, in seconds.
        ledger: Keeps how far it was cut.
        name: What it is a cut for.
        finds_rate: Whether a range test takes of that time, too.
        asked: How many images are asked about in that time, after the training.

    Returns:
        The images and the plan that fit.

    Raises:
        CacheError: The ledger cannot be written.
    """
    assert plan.tuning is not None  # a head on frozen features takes what it takes
    tuning = plan.tuning

    def cut_now() -> _Cut:
        affordable = images_per_s(ground, plan, probed, ledger) * limit_s
        # Every process is asked about all of them.
        affordable = _less(affordable, asked * _ASKING * devices.launched().world_size)
        return _cut(ground, tuning, _less(affordable, finding_rate(tuning, len(ground.train)) if finds_rate else 0.0))

    cut = ledger.once(f"cut of {name}", _Cut, cut_now)
    fewer = subset.choose(ground.train, cut.images)
    shorter = plan.model_copy(update={"tuning": tuning.model_copy(update={"epochs": cut.epochs})})
    return replace(ground, train=fewer), shorter


def _less(affordable: float, taken: float) -> float:
    """How many images can be shown after something that takes the time of others."""
    # Where that takes nearly all of a short time, a training that shows next to nothing would be no use of it.
    return max(affordable - taken, affordable / 2)


def _cut(ground: Ground, plan: Plan, affordable: float) -> _Cut:
    """What of a plan fits, where so many images can be shown."""
    images, once = len(ground.train), _REFITTING if plan.refit_head else 0.0
    an_epoch = images + _ASKING * len(ground.validation)
    epochs = max(1, int(min(plan.epochs, (affordable - once * images) / an_epoch)))
    fewest = min(images, max(int(min(affordable / (1 + once), images)), subset.FEWEST_A_CLASS * ground.classes))
    return _Cut(images=fewest, epochs=epochs)


def finding_rate(plan: Plan, images: int) -> float:
    """How many images a range test, if there is one, costs as much time as, before a training begins."""
    # Each step asks a second model, too.
    steps = range_test.STEPS * (1 + _ASKING)
    return steps * range_test.shown(plan.batch_size, images) if plan.rate == "range test" else 0.0


def shown(plan: Candidate, images: int) -> int:
    """How often a plan shows one of so many images in all, where it is not cut short."""
    return plan.tuning.epochs * images if plan.tuning else 0
