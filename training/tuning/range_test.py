"""Finds a learning rate by trying rising ones on a copy of the model (arXiv:1506.01186); does not train the model.

Where the loss falls fastest says little of a model whose head is fitted already: there is not much to fall. What is
read instead is the rate up to which steps did more good than harm, which is seen from any start.
"""

import math
from collections.abc import Iterator
from copy import deepcopy
from itertools import count, islice

import numpy as np
import torch

from training.errors import TuningError
from training.tuning import guards, optimizer
from training.tuning.feed import Feed, Shown
from training.tuning.loss import Objective
from training.tuning.model import Tunable
from training.tuning.plan import Plan
from training.tuning.record import RangeTest

STEPS = 40
# Four powers of ten, for AdamW, whose steps are as long as the rate says, a hundredth of those for SGD.
_LOWEST = {"sgd": 1e-4, "adamw": 1e-6}
_SPAN = 1e4
# What has been shown all images several times finds rates for learning them by heart.
_FEWEST, _PART = 16, 1 / 16
# So much of the last losses is remembered in the smoothed one.
_SMOOTHING = 0.8
# So many times the lowest loss is no noise any more.
_DIVERGED = 4.0
_SAFE = 0.1
# The smoothed loss says nothing before it has seen a few.
_BLIND = 5


def test(model: Tunable, plan: Plan, feed: Feed, objective: Objective) -> RangeTest:
    """Take steps with rates that rise from 0.0001 to 1 (AdamW: from 0.000001 to 0.01), or until the loss explodes.

    Args:
        model: Arranged for the plan; it is copied.
        plan: Its optimizer and clipping; all parts have the same rate.
        feed: What the steps are shown: of each batch as many images as `shown` says.
        objective: What they make smaller.

    Returns:
        What was seen.

    Raises:
        TuningError: The very first losses are no numbers.
    """
    # What drop-out leaves out is to be the same each time, too.
    torch.manual_seed(plan.seed)
    # Beside the copy that learns one that does not: of batches that differ only their difference says anything.
    copied, still = deepcopy(model), deepcopy(model)
    for each in (copied, still):
        objective.fabric.to_device(each)
        each.train()
    trained = copied.trained()
    descent = optimizer.build(plan, trained, dict.fromkeys(trained, 1.0), set())
    lowest = _LOWEST[plan.optimizer]
    rates: list[float] = []
    changes: list[float] = []
    smooth = base = 0.0
    for step, whole in enumerate(islice(_endless(feed), STEPS)):
        batch = guards.first(whole, shown(plan.batch_size, feed.images))
        rate = lowest * _SPAN ** (step / (STEPS - 1))
        optimizer.scale(descent, rate)
        descent.zero_grad()
        loss = objective.loss(copied, batch) / batch.weights.sum()
        with torch.no_grad():
            start = (objective.loss(still, batch) / batch.weights.sum()).item()
        base += (start - base) / (step + 1)
        smooth = _SMOOTHING * smooth + (1 - _SMOOTHING) * (loss.item() - start)
        change = smooth / (1 - _SMOOTHING ** (step + 1))
        if not math.isfinite(base + change):
            break
        rates.append(rate)
        changes.append(change)
        # Where a bad start has become a good one, four times the lowest is noise, and still better than the start.
        if change > 0 and base + change > _DIVERGED * (base + min(changes)):
            break
        objective.fabric.backward(loss)
        objective.fabric.clip_gradients(copied, descent, max_norm=plan.clip_norm, error_if_nonfinite=False)
        descent.step()
    if len(changes) <= _BLIND:
        raise TuningError(
            f"Expected losses to find a learning rate by. Received: {len(changes)} at rates from {lowest:g} on before "
            "they were no numbers any more. The model or the images are broken"
        )
    return read(rates, [base + change for change in changes])


def shown(batch_size: int, images: int) -> int:
    """How many images a step of the test shows of so many: of 256 and more 40 steps are 2.5 epochs at most."""
    return min(batch_size, max(_FEWEST, round(images * _PART)))


def read(rates: list[float], losses: list[float]) -> RangeTest:
    """Read a learning rate from smoothed losses at rising rates; the last one diverged if it is many times the lowest.

    Args:
        rates: More than five, rising.
        losses: One each.

    Returns:
        The rate and why.
    """
    exploded = losses[-1] > max(losses[0], _DIVERGED * min(losses)) or len(rates) < STEPS
    diverged = rates[-1] if exploded else None
    most = _SAFE * rates[-1]
    lowest = int(np.argmin(losses[_BLIND:])) + _BLIND
    # The first loss is that of the model as it came, which nothing has changed yet.
    fell = losses[lowest] < losses[0]
    worse = (rate for rate, loss in zip(rates[lowest:], losses[lowest:], strict=True) if loss > losses[0])
    harmless = next(worse, None) if fell else None
    return RangeTest(
        rates=tuple(rates),
        losses=tuple(losses),
        harmless=harmless,
        diverged=diverged,
        chosen=min(harmless, most) if harmless else most,
    )


def _endless(feed: Feed) -> Iterator[Shown]:
    for epoch in count():
        yield from feed.epoch(epoch)
