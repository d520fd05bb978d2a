"""Measures which arithmetic and which layout in memory are fastest for a model, and whether they are right.

On CPUs both bfloat16 and channels last can lose: by a factor, or by being wrong. Does not train.
"""

import math
import time
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from training.tuning import guards
from training.tuning.feed import Shown
from training.tuning.loss import Objective
from training.tuning.model import Tunable
from training.tuning.plan import Plan, Precision
from training.tuning.record import Pace

# With fewer images on a CPU every way is as slow as the next, because what it costs to begin an operation is most of
# it. With 64 they come in the same order as with 16, but twelve steps take four times as long.
_ENOUGH = 16
# What is no faster than this is noise, and plain fp32 is the better known.
_GAIN = 1.1
# On a CPU a way whose first step takes so many times as long as the best one is not waited for any further: without
# the instructions for it, bfloat16 takes twenty times as long as fp32. What a first step has to set up there is less.
_HOPELESS = 4
# The least cosine between a gradient and that of plain fp32.
_RIGHT = {"fp32": 0.9999, "bf16": 0.95}


def enough(batch_size: int, fabric: Any) -> int:
    """How many images of such a batch tell how fast a step is on a device."""
    return min(batch_size, _ENOUGH) if fabric.device.type == "cpu" else batch_size


def measure(model: Tunable, plan: Plan, batch: Shown, objective: Objective) -> tuple[Pace, ...]:
    """Take a few steps in every way that a plan leaves open, plain fp32 among them to compare with.

    Args:
        model: Arranged for the plan; it is copied.
        plan: What it leaves open is tried.
        batch: What the steps are shown; on a CPU 16 images of it.
        objective: What they compute, as plain fp32.

    Returns:
        Plain fp32 first.
    """
    precisions: tuple[Precision, ...] = ("fp32", "bf16") if plan.precision == "auto" else (plan.precision,)
    layouts = (False, True) if plan.channels_last == "auto" else (plan.channels_last,)
    first: tuple[Precision, bool] = ("fp32", False)
    ways = list(dict.fromkeys([first, *((precision, layout) for precision in precisions for layout in layouts)]))
    plain = replace(objective, bf16=False, channels_last=False)
    few = guards.first(batch, enough(len(batch.weights), objective.fabric))
    reference, fastest_s = _gradient(model, plain, few, math.inf)
    paces = [_pace(*first, len(few.weights) / fastest_s, 1.0)]
    for precision, layout in ways[1:]:
        way = replace(objective, bf16=precision == "bf16", channels_last=layout)
        patience_s = _HOPELESS * fastest_s if objective.fabric.device.type == "cpu" else math.inf
        gradient, seconds = _gradient(model, way, few, patience_s)
        fastest_s = min(fastest_s, seconds)
        cosine = functional.cosine_similarity(gradient, reference, dim=0, eps=1e-30).item()
        paces.append(_pace(precision, layout, len(few.weights) / seconds, cosine))
    return tuple(paces)


def best(paces: tuple[Pace, ...], plan: Plan) -> Pace:
    """The fastest way that is right and that the plan allows; plain fp32 where no other is clearly faster."""
    allowed = [
        each
        for each in paces
        if plan.precision in ("auto", each.precision) and plan.channels_last in ("auto", each.channels_last)
    ]
    plain = paces[0]
    chosen = max((each for each in allowed if not each.refused), key=lambda each: each.images_per_s, default=allowed[0])
    return plain if plain in allowed and chosen.images_per_s < plain.images_per_s * _GAIN else chosen


def _pace(precision: Precision, layout: bool, images_per_s: float, cosine: float) -> Pace:
    refused = None
    if not cosine >= _RIGHT[precision]:
        refused = f"its gradient has a cosine of {cosine:.3f} to that of plain fp32, less than {_RIGHT[precision]:g}"
    return Pace(
        precision=precision,
        channels_last=layout,
        images_per_s=round(images_per_s, 1),
        cosine=0.0 if math.isnan(cosine) else min(cosine, 1.0),  # NaN, where the way gives none
        refused=refused,
    )


def _gradient(model: Tunable, way: Objective, batch: Shown, patience_s: float) -> tuple[Tensor, float]:
    """The gradient of everything that learns, as one vector, and the seconds of the fastest of two steps.

    Where the step before them takes longer than there is patience for, it is the only one.
    """
    form = torch.channels_last if way.channels_last else torch.contiguous_format
    copied = deepcopy(model).to(memory_format=form)
    way.fabric.to_device(copied)
    # Drop-out would make two gradients differ whatever computed them; and batch norms have to lie still, too.
    copied.eval()
    seconds = []
    for _ in range(3):
        copied.zero_grad()
        started = time.perf_counter()
        torch.autograd.backward(way.loss(copied, batch))
        flat = torch.cat([each.grad.double().flatten() for each in copied.trained().values() if each.grad is not None])
        gradient = flat.cpu()  # waits for a GPU
        seconds.append(time.perf_counter() - started)
        if seconds[0] > patience_s:
            return gradient, seconds[0]
    return gradient, min(seconds[1:])
