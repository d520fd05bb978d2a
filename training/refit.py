"""Refits the head behind a fine-tuning, to every tap of the backbone as it has become; moves no backbone.

The head of a fine-tuning has followed a backbone that moved under it, for a few epochs, and reads its last layer alone.
What the backbone has become can be read as a frozen one is: by a logistic regression on all stages, all probes and the
embedding, solved to its optimum. A classifier is so retrained behind its representation in arXiv:1910.09217, and a last
layer in arXiv:2204.02937. The strength of the penalty goes by the number of images alone: the backbone has learnt from
them, so that none of them, and no cross-validation over them, could say which is right for others.

Both heads are linear, and so is their mean, in which each is as sure as the regression. On a hundred photographs like
ImageNet's the head that was trained had up to ten points more right than the regression, on as many of CIFAR-10 up to
five less; the mean has most of what either has.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from export.progress import Advance
from export.run import Head
from training import fitting, heads
from training.advice import subset
from training.convergence import Convergence
from training.dataset import Sample
from training.heads import LinearHead, Scaler
from training.logistic import Problem
from training.taps import pooled
from training.tuning import batches
from training.tuning.augmentation import Augmentation
from training.tuning.batches import Augmented, Plain
from training.tuning.imbalance import Treatment
from training.tuning.loss import Objective
from training.tuning.model import Tunable
from training.tuning.record import Refit
from training.tuning.validation import Score, Validation, score

# Of few images: with 500 and with 2,500 from 1 to 0.1 it is all the same, and below that it is worse.
_L2 = 0.3
# Of many: what is believed of a layer beforehand weighs as much however many there are. With 10,000 images 0.1 had the
# lowest log loss, and with 16,000 0.1 and 0.03 had more right than 0.3.
PRIOR_IMAGES = 1000
# What the head that was trained has of the mean: with a quarter or a half of it, it was nearly the same.
TRAINED = 1 / 3
# A tenth of it answers no better, for ten times the iterations.
_TOLERANCE = 1e-3
# How many numbers are kept of all images: 2 GiB. Where there are more, a part of the images is looked at.
MOST = 2**29
_BATCH = 64


@dataclass(frozen=True)
class Refitted:
    """A head on every tap, what it is, and what came of it."""

    head: Head
    module: LinearHead
    record: Refit


def views(augmentation: Augmentation) -> int:
    """How often each image is looked at: as it is served, and where it was augmented once so. More bring nothing."""
    return 1 if augmentation == Augmentation() else 2


def l2(images: int) -> float:
    """The strength of L2, as a logistic.Problem takes it, for a head that is fitted to so many images."""
    return min(_L2, PRIOR_IMAGES / images)


def refit(  # noqa: PLR0917
    model: Tunable,
    objective: Objective,
    samples: Sequence[Sample],
    looks: Augmented,
    treated: Treatment,
    advance: Advance,
) -> Refitted:
    """Fit a linear head to what a fine-tuned backbone makes of the images that it has learnt from.

    It is the mean of the one that is solved and the one that the model has, which counts TRAINED.

    Args:
        model: The backbone and its linear head, on their device; both stay as they are.
        objective: How it is asked; each of several processes asks about a part.
        samples: The images, with their labels.
        looks: The same images, as they were augmented.
        treated: How unequal classes are treated: what a head has learnt of how common they are is taken off.
        advance: Told of every look at an image.

    Returns:
        The head, on the CPU.
    """
    model.eval()
    taps, widths = _widths(model, looks)
    count = views(looks.augmentation)
    chosen = subset.choose(samples, MOST // (count * sum(widths)))
    part = _of(chosen, looks, treated)
    rows = torch.zeros(count, len(chosen), sum(widths))
    for view, shown in enumerate((_plain(part), part.view(0))[:count]):
        _read_into(rows[view], model, objective, shown, advance)
    advance(count * (len(samples) - len(chosen)))
    matrix = _gathered(rows, objective).flatten(0, 1)
    trained = _on_all(model, dict(zip(taps, widths, strict=True)))
    spread = _spread(matrix, trained.linear.weight, trained.linear.bias)
    scaler = Scaler.of(matrix, widths)
    labels, weights = torch.from_numpy(part.data.labels), torch.tensor([each.weight for each in chosen]).double()
    problem = Problem(scaler.standardise_(matrix), labels.repeat(count), part.data.classes)
    solution = problem.solve(l2(len(chosen)), weights.repeat(count), tolerance=_TOLERANCE)
    module = fitting.linear_head(taps, solution, scaler)
    heads.take_off(module, treated.log_prior)
    _mix(module, trained, _spread(matrix, solution.weight, solution.bias) / spread)
    record = Refit(images=len(chosen), features=sum(widths), convergence=Convergence.of(solution))
    return Refitted(Head(kind="linear", taps=taps), module, record)


def against(
    refitted: Refitted, model: Tunable, objective: Objective, validation: Validation, before: Score
) -> Refitted:
    """Say whether a refitted head does as well on validation images as the one that was fine-tuned.

    Args:
        refitted: The head.
        model: The backbone that it was fitted to.
        objective: How that is asked.
        validation: The images.
        before: The score of the fine-tuned head.

    Returns:
        The same head; its record says what was found, and whether it is kept.
    """

    def answer(pixels: Tensor) -> Tensor:
        # The layer in fp32, as it is served: what standardises the features is folded into it.
        logits: Tensor = refitted.module.linear(_taps(model, objective, pixels))
        return logits

    after = score(answer, validation, objective.fabric)
    found = refitted.record.model_copy(update={"before": before, "after": after, "kept": not before.beats(after)})
    return replace(refitted, record=found)


@torch.no_grad()
def _on_all(model: Tunable, widths: Mapping[str, int]) -> LinearHead:
    """The head that a model has, which reads some taps, as one on all of them."""
    own = model.head
    assert isinstance(own, LinearHead)  # fine-tuning knows no other
    whole = LinearHead(tuple(widths), sum(widths.values()), len(own.linear.bias))
    read = torch.split(own.linear.weight.cpu(), [widths[tap] for tap in model.reads], dim=1)
    parts = dict(zip(model.reads, read, strict=True))
    zeros = {tap: torch.zeros(len(own.linear.bias), width) for tap, width in widths.items()}
    whole.linear.weight.copy_(torch.cat([parts.get(tap, zeros[tap]) for tap in widths], dim=1))
    whole.linear.bias.copy_(own.linear.bias)
    return whole


@torch.no_grad()
def _spread(matrix: Tensor, weight: Tensor, bias: Tensor) -> float:
    """How far apart the logits of a layer, weight `[C, D]` and bias `[C]`, lie on rows `[N, D]`."""
    logits = functional.linear(matrix, weight, bias)
    return float((logits - logits.mean(dim=1, keepdim=True)).std())


@torch.no_grad()
def _mix(module: LinearHead, trained: LinearHead, scale: float) -> None:
    """Make of a head its mean with the one that was trained, whose logits are scaled."""
    for tensor, other in zip(module.linear.parameters(), trained.linear.parameters(), strict=True):
        tensor.mul_(1 - TRAINED).add_(other, alpha=TRAINED * scale)


def _of(samples: Sequence[Sample], looks: Augmented, treated: Treatment) -> Augmented:
    """The looks of some of the images."""
    kept = replace(looks.data.pixels, keys=tuple(each.sha256 for each in samples))
    return replace(looks, data=batches.images(samples, kept, treated))


def _plain(looks: Augmented) -> Iterator[Tensor]:
    """The images as they are served, uint8 `[B, H, W, 3]`."""
    shown = replace(looks.data.pixels, shown=looks.geometry)
    labels = looks.data.labels
    return (batch.pixels for batch in Plain(shown, labels, np.ones(len(labels)), _BATCH).batches())


def _read_into(rows: Tensor, model: Tunable, objective: Objective, shown: Iterable[Tensor], advance: Advance) -> None:
    """Fill rows `[N, D]` with the taps of N images, but for those that are for other processes."""
    fabric, at = objective.fabric, 0
    for number, pixels in enumerate(shown):
        if number % fabric.world_size == fabric.global_rank:
            rows[at : at + len(pixels)] = _taps(model, objective, fabric.to_device(pixels))
        at += len(pixels)
        advance(len(pixels))


def _gathered(rows: Tensor, objective: Objective) -> Tensor:
    """The rows that all processes have filled together."""
    fabric = objective.fabric
    if fabric.world_size == 1:
        return rows
    summed: Tensor = fabric.all_reduce(fabric.to_device(rows), reduce_op="sum")
    return summed.cpu()


@torch.no_grad()
def _taps(model: Tunable, objective: Objective, pixels: Tensor) -> Tensor:
    """The taps of pixels uint8 `[B, H, W, 3]` on the device, one after the other: float32 `[B, D]` on the CPU."""
    taps = model.card.taps()
    return objective.answer(lambda given: heads.joined(pooled(model.backbone(given)), taps), pixels).cpu()


@torch.no_grad()
def _widths(model: Tunable, looks: Augmented) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The taps of a backbone, and how many numbers each has."""
    taps, size = model.card.taps(), looks.geometry
    blank = torch.zeros(1, size.crop_height_px, size.crop_width_px, 3, dtype=torch.uint8)
    found = pooled(model.backbone(blank.to(model.backbone.mean.device)))
    return taps, tuple(found[tap].shape[1] for tap in taps)
