"""Decides what a plan leaves open: the learning rate, and how this machine computes a step; trains nothing."""

from typing import Literal

import torch

from export.run import Recipe
from training.tuning import pace, range_test, rates
from training.tuning.feed import Feed, Shown
from training.tuning.loss import Objective
from training.tuning.model import Tunable
from training.tuning.plan import Plan
from training.tuning.record import Known, Pace, RangeTest, Settings


def decide(  # noqa: PLR0917
    model: Tunable,
    plan: Plan,
    recipe: Recipe,
    feed: Feed,
    plain: Objective,
    known: Known,
    *,
    from_random: bool,
) -> Settings:
    """Decide what a plan leaves open, by measuring where nothing else tells.

    Args:
        model: Arranged for the plan; it is not changed.
        plan: What is to be done.
        recipe: How the backbone was pretrained.
        feed: What it learns from.
        plain: How a step is computed as plain fp32.
        known: What was measured already.
        from_random: Whether nothing is pretrained.

    Returns:
        The settings.

    Raises:
        TuningError: No learning rate can be found.
    """
    way, paces = _way(model, plan, feed, plain, known.paces)
    chosen = Objective(plain.fabric, plain.smoothing, plain.offset, way.precision == "bf16", way.channels_last)
    batch_size = min(plan.batch_size, feed.images)
    tested = known.tested
    if plan.rate == "range test" and tested is None:
        tested = range_test.test(model, plan, feed, chosen)
    rule, rate = _rate(plan, recipe, batch_size, tested)
    # A range test has looked at what a rate does; of what a person says nobody has.
    notes = rates.warnings(rate, recipe, batch_size, from_random=from_random) if rule == "asked for" else ()
    if plan.batch_size > feed.images:
        notes += (
            f"A batch of {plan.batch_size} is more than the {feed.images} images: each step shows all of them, and the "
            f"learning rate is for {batch_size}.",
        )
    return Settings(
        precision=way.precision,
        channels_last=way.channels_last,
        # To try it takes longer than a small model gains by it.
        compile=plan.compile is True,
        paces=paces,
        rate=rate,
        rate_rule=rule,
        range_test=tested if rule == "range test" else None,
        notes=notes,
    )


def first(feed: Feed) -> Shown:
    """The first batch of the first epoch."""
    return next(iter(feed.epoch(0)))


def _way(
    model: Tunable, plan: Plan, feed: Feed, plain: Objective, paces: tuple[Pace, ...] | None
) -> tuple[Pace, tuple[Pace, ...]]:
    if plan.precision != "auto" and plan.channels_last != "auto":
        asked = Pace(
            precision=plan.precision, channels_last=plan.channels_last, images_per_s=0.0, cosine=1.0, refused=None
        )
        return asked, ()
    if paces is None:
        with torch.random.fork_rng(devices=[]):
            paces = pace.measure(model, plan, first(feed), plain)
    return pace.best(paces, plan), paces


def _rate(
    plan: Plan, recipe: Recipe, batch_size: int, tested: RangeTest | None
) -> tuple[Literal["recipe/10", "recipe", "range test", "asked for"], float]:
    match plan.rate:
        case "recipe/10":
            return "recipe/10", rates.fine_tuning(recipe, batch_size)
        case "recipe":
            return "recipe", rates.original(recipe, batch_size)
        case "range test":
            assert tested is not None
            return "range test", tested.chosen
        case asked:
            return "asked for", asked
