"""What each regime would do, as plans that can be raced; does not know which of them suits the data."""

import math
from typing import Literal, TypeAlias

from export.document import Document
from export.run import EMBEDDING, Backbone
from training.tuning.augmentation import Preset
from training.tuning.plan import Plan

Regime: TypeAlias = Literal["as-is", "small-similar", "small-different", "large-similar", "large-different", "scratch"]

_BATCH = 64
# BiT-HyperRule takes 500 steps for any data set of less than 20,000 images (arXiv:1912.11370). With 200 of 64 images
# fine-tuned solar cells were two points behind.
_FEWEST_STEPS = 600
_MOST_EPOCHS = 20


class Candidate(Document):
    """One plan of a regime.

    Attributes:
        regime: Which it is of.
        start: Where the head comes from: the pretrained classifier, a linear probe on cached features, or nowhere, like
            the rest of the backbone then.
        taps: What the head reads.
        augmentation: How far fine-tuning changes images. What a head on frozen features sees is no part of a plan.
        tuning: How backbone and head are trained after that; None where they are not.
    """

    regime: Regime
    start: Literal["pretrained classifier", "linear probe", "random"]
    taps: tuple[str, ...]
    augmentation: Preset
    tuning: Plan | None

    def words(self) -> str:
        """What it trains, for a person."""
        if self.regime == "as-is":
            return "nothing"
        if self.tuning is None:
            return head_words(self.taps)
        if self.start == "random":
            return "everything, from a random start"
        return f"the head and the backbone from {self.tuning.unfreeze_from} on"


def head_words(taps: tuple[str, ...]) -> str:
    """What a head on these taps is called."""
    return "the head on the embedding" if taps == (EMBEDDING,) else "the head on the embedding and all stages"


def candidates(regime: Regime, images: int, backbone: Backbone) -> tuple[Candidate, ...]:
    """The plans of a regime, cheapest first.

    Args:
        regime: The regime.
        images: How many training images there are.
        backbone: Names its stages, from early to late.

    Returns:
        At least one.
    """
    stages = [stage.name for stage in backbone.stages]
    if regime == "as-is":
        return (_candidate(regime, "pretrained classifier", "none"),)
    if regime == "small-similar":
        return (_candidate(regime, "linear probe", "none"),)
    if regime == "small-different":
        frozen = Candidate(regime=regime, start="linear probe", taps=backbone.taps(), augmentation="none", tuning=None)
        # How many of the last stages is a matter of the race.
        deeper = (_tuning(name, images, backbone) for name in (stages[-1], stages[-2]))
        return (frozen, *(_candidate(regime, "linear probe", "medium", plan) for plan in deeper))
    if regime == "large-similar":
        return (_candidate(regime, "linear probe", "light", _tuning(stages[-2], images, backbone)),)
    if regime == "large-different":
        # Batch norms keep their statistics however far the images are: see training/advice/README.md.
        return (_candidate(regime, "linear probe", "light", _tuning(stages[0], images, backbone)),)
    plan = _tuning(stages[0], images, backbone)
    # All of what a tenth of is for weights that are there already.
    rate = "recipe" if plan.rate == "recipe/10" else plan.rate
    plan = plan.model_copy(update={"rate": rate, "layer_decay": 1.0, "batch_norm": "train"})
    return (_candidate(regime, "random", "medium", plan),)


def _candidate(
    regime: Regime,
    start: Literal["pretrained classifier", "linear probe", "random"],
    augmentation: Preset,
    tuning: Plan | None = None,
) -> Candidate:
    return Candidate(regime=regime, start=start, taps=(EMBEDDING,), augmentation=augmentation, tuning=tuning)


def _tuning(unfreeze_from: str, images: int, backbone: Backbone) -> Plan:
    epochs = math.ceil(_FEWEST_STEPS * _BATCH / images)
    return Plan(
        unfreeze_from=unfreeze_from,
        # A rate is one of an optimizer: a tenth of RMSProp's was a tenth of what SGD needs (EfficientNet-Lite0).
        rate="recipe/10" if "SGD" in backbone.recipe.optimizer else "range test",
        batch_size=_BATCH,
        epochs=max(1, min(_MOST_EPOCHS, epochs)),
    )
