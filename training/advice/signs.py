"""What evidence speaks for, sign by sign, each in a sentence; does not weigh them against each other."""

from collections.abc import Iterator
from typing import Literal, TypeAlias

from export.document import Document
from export.run import Backbone
from training.advice.evidence import Evidence

Side: TypeAlias = Literal["small", "large", "different"]


class Thresholds(Document):
    """Where a figure becomes a sign. Held against the data sets of README.md.

    Attributes:
        few_images: Training images below which a data set is small.
        few_per_class: The same for a class, on average.
        many_images: Training images from which on it is large (BiT's line, arXiv:1912.11370).
        learnt_by_heart: What a probe answers right of the images that it learnt from when it knows them by heart.
        overfit: How much less it then answers right of others for it to be limited by variance.
        underfit: Up to which difference it is limited by what a linear layer can tell.
        separable: The separability below which the frozen features do not tell the labels well.
        good: The separability from which on a small difference is no sign of a limit.
        enough: The separability from which on a head is not given up for a gain that may be luck.
        solved: The separability from which on there is nothing to gain.
        lost: The separability of the best tap below which pretrained features are no help at all.
        far: How many deviations further than ordinary photographs' the inputs of batch norms lie.
    """

    few_images: int = 2_000
    few_per_class: int = 100
    many_images: int = 20_000
    learnt_by_heart: float = 0.99
    overfit: float = 0.1
    underfit: float = 0.05
    separable: float = 0.5
    good: float = 0.9
    enough: float = 0.67
    solved: float = 0.98
    lost: float = 0.05
    far: float = 3.0


class Sign(Document):
    """Something that may speak for a side, whether it does, and the sentence that says it with its figures."""

    side: Side
    speaks: bool
    sentence: str


def signs(evidence: Evidence, backbone: Backbone, limits: Thresholds) -> tuple[Sign, ...]:
    """Read the evidence.

    Args:
        evidence: What was gathered.
        backbone: Names its stages, from early to late.
        limits: Where a figure becomes a sign.

    Returns:
        Every sign that could be asked for.
    """
    return (*_of_size(evidence, limits), *_of_fit(evidence, limits), *_of_difference(evidence, backbone, limits))


def _of_size(evidence: Evidence, limits: Thresholds) -> Iterator[Sign]:
    size = evidence.size
    yield Sign(
        side="small",
        speaks=size.images < limits.few_images,
        sentence=f"{size.images:,} training images; under {limits.few_images:,} are few",
    )
    yield Sign(
        side="small",
        speaks=size.per_class < limits.few_per_class,
        sentence=f"{size.per_class:,.0f} images a class on average; under {limits.few_per_class} are few",
    )
    yield Sign(
        side="large",
        speaks=size.images >= limits.many_images,
        sentence=f"{size.images:,} training images; {limits.many_images:,} and more are many",
    )


def _of_fit(evidence: Evidence, limits: Thresholds) -> Iterator[Sign]:
    learnt, asked = evidence.last.learnt, evidence.last.accuracy.value
    figures = f"a linear layer answers {learnt:.1%} of what it learnt from right and {asked:.1%} of other images"
    # What a part does not tell, more of it may: the gap closes as images are added.
    if 2 * evidence.size.looked_at >= evidence.size.images:
        yield Sign(
            side="small",
            speaks=learnt >= limits.learnt_by_heart and learnt - asked >= limits.overfit,
            sentence=f"{figures}; by heart (from {limits.learnt_by_heart:.0%}) and {100 * limits.overfit:.0f} points "
            "apart, it would take more images, not more layers",
        )
    yield Sign(
        side="large",
        speaks=learnt - asked <= limits.underfit and evidence.separability < limits.good,
        sentence=f"{figures}; at most {100 * limits.underfit:.0f} points apart and not good yet, it would take "
        "more layers, not more images",
    )


def _of_difference(evidence: Evidence, backbone: Backbone, limits: Thresholds) -> Iterator[Sign]:
    yield Sign(
        side="different",
        speaks=evidence.separability < limits.separable,
        sentence=f"a linear layer on the embedding comes {evidence.separability:.3f} of the way from always naming "
        f"the commonest class ({evidence.chance:.1%}) to all right; under {limits.separable:.1f} the pretrained "
        "features do not fit",
    )
    late = (backbone.stages[-1].name, evidence.depth.last)
    simplest, best = evidence.probe(evidence.depth.simplest), evidence.probe(evidence.depth.best)
    said = f"the stage {simplest.tap} alone gives {simplest.accuracy.value:.1%}"
    said += (
        ", and no other more"
        if simplest.tap == best.tap
        else f" where the best, {best.tap}, gives {best.accuracy.value:.1%}"
    )
    yield Sign(
        side="different",
        speaks=evidence.depth.simplest not in late,
        sentence=f"{said}; if the stages before {late[0]} tell as much (within one standard error), the later ones are "
        "about other things",
    )
    shift = evidence.shift
    if shift is not None and shift.z is not None:
        yield Sign(
            side="different",
            speaks=shift.z > limits.far,
            sentence=f"inside the backbone the images look {shift.z:.1f} deviations further from the pretraining's "
            f"than ordinary photographs do (early layers {shift.early:.1f}, late layers {shift.late:.1f}); over "
            f"{limits.far:.0f} is far",
        )
