"""What to do where classes have unequally many images; does not know how it is done to a batch or a loss.

Left alone, a model learns how common a class is along with how it looks, and names the rare ones less often than it
should where all classes matter alike. The more unequal they are, the stronger the treatment. The limits below are
rules of thumb, and each treatment can be asked for by name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from training.errors import TuningError

Kind: TypeAlias = Literal["none", "class weights", "logit adjustment", "balanced sampling"]

# How many times as many images the most common class may have as the rarest: for nothing to be done, as every treatment
# costs accuracy on data that are as unequal; and for class weights, which at more let single images shake a step.
# Chosen, not measured.
MOST_ALIKE = 3.0
MOST_WEIGHTED = 10.0
# Half way (in the logarithm) between counting every image alike, 0, and every class alike, 1.
_TEMPER = 0.5


@dataclass(frozen=True)
class Treatment:
    """How unequal classes are treated.

    Attributes:
        kind: "class weights" multiplies what an image counts by its class's weight; "logit adjustment" adds offsets to
            the logits in training alone, so that a rare class must win by more (arXiv:2007.07314); "balanced sampling"
            shows every class equally often.
        reason: Why, in plain words.
        weights: What an image of each class counts, on average 1 over the images; all 1 but for class weights.
        offsets: What to add to each class's logit in training; all 0 but for logit adjustment.
        log_prior: What to take off each class's logit where a head was trained on all images alike, for it to answer as
            one that was treated: the logarithm of how common the class is, as far as that is not to be learnt; all 0
            where nothing is done.
    """

    kind: Kind
    reason: str
    weights: tuple[float, ...]
    offsets: tuple[float, ...]
    log_prior: tuple[float, ...]


def importance(treatment: Treatment, labels: Sequence[int]) -> NDArray[np.float64]:
    """Say what each of some images counts where models are compared on them.

    Args:
        treatment: Where it does anything, what it aims at is that all classes are told equally well.
        labels: The class of each image.

    Returns:
        float64 `[N]`, 1 on average: the same for all images, or for all classes.
    """
    if treatment.kind == "none" or not len(labels):
        return np.ones(len(labels))
    _, places, counts = np.unique(np.array(labels), return_inverse=True, return_counts=True)
    return len(labels) / len(counts) / counts[places].astype(float)


def choose(counts: Sequence[float], unit: str = "images") -> Treatment:
    """Choose by how unequal the classes are.

    Args:
        counts: How many images each class has to learn from, above 0; or the sum of what they count.
        unit: What they are counts of, for the reason.

    Returns:
        The treatment.

    Raises:
        TuningError: A class has no images, or there is no class.
    """
    _check(counts)
    ratio = max(counts) / min(counts)
    said = f"the most common class has {ratio:.3g} times as many {unit} as the rarest"
    if ratio <= MOST_ALIKE:
        return treat("none", counts, f"{said}; up to {MOST_ALIKE:g} times nothing is to be done")
    if ratio <= MOST_WEIGHTED:
        return treat("class weights", counts, f"{said}: rare classes count more, by the square root")
    # Not sampling: it shows the rare images so often that they are learnt by heart.
    why = "weights so uneven would let single images shake a step"
    return treat("logit adjustment", counts, f"{said}: logits are adjusted for all classes to count alike; {why}")


def treat(kind: Kind, counts: Sequence[float], reason: str | None = None) -> Treatment:
    """Work a treatment out.

    Args:
        kind: Which.
        counts: As for `choose`.
        reason: Why; None where it was asked for.

    Returns:
        The treatment.

    Raises:
        TuningError: A class has no images, or there is no class or no such treatment.
    """
    _check(counts)
    if kind not in get_args(Kind):
        raise TuningError(f"Expected one of {', '.join(get_args(Kind))}. Received: {kind}.")
    part = np.array(counts, np.float64) / sum(counts)
    weights, offsets, log_prior = np.ones_like(part), np.zeros_like(part), np.zeros_like(part)
    if kind == "class weights":
        weights = part**-_TEMPER
        weights /= (weights * part).sum()
    if kind == "logit adjustment":
        offsets = np.log(part)
    reason = reason or f"{kind}, as asked for"
    if kind != "none":
        # Weights in a loss move the logits that minimise it by their logarithm.
        log_prior = (_TEMPER if kind == "class weights" else 1.0) * np.log(part)
        reason += "; models are compared with all classes alike"
    return Treatment(kind, reason, tuple(weights.tolist()), tuple(offsets.tolist()), tuple(log_prior.tolist()))


def _check(counts: Sequence[float]) -> None:
    empty = [str(column) for column, count in enumerate(counts) if not count > 0]
    if empty or not len(counts):
        named = f"none of the classes in the columns {', '.join(empty)}" if empty else "no class"
        raise TuningError(f"Expected images of every class. Received: {named}.")
