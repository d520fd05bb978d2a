"""What a fine-tuning shall do, complete enough to do it again; does not know what came of it, and measures nothing."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from export.document import Document
from training.tuning.imbalance import Kind

Fraction: TypeAlias = Annotated[float, Field(ge=0, lt=1)]
RateRule: TypeAlias = Literal["recipe/10", "recipe", "range test"]
Precision: TypeAlias = Literal["fp32", "bf16"]
Auto: TypeAlias = Literal["auto"]


class Plan(Document):
    """What trains, how far each step goes, and when it ends.

    Attributes:
        unfreeze_from: The first part of the backbone that trains; everything before it is frozen. None for the head
            alone.
        rate: Where the learning rate of the last part and the head comes from: a tenth of the one that the backbone was
            pretrained with, that one itself (for a random start), a learning-rate range test, or a number.
        batch_size: Images a step, of all processes together.
        epochs: How often each image is shown.
        optimizer: "sgd" has a momentum of 0.9, after Nesterov.
        weight_decay: Never applied to norms and biases.
        layer_decay: The learning rate of each part as a multiple of the one behind it: earlier parts move less.
        warm_up: The fraction of all steps in which the rate rises; then it falls to zero along a cosine.
        clip_norm: The longest gradient that is followed; of a longer one only the direction.
        label_smoothing: The part of every target that goes to all classes alike.
        dropout: The part of the head's inputs that is left out of each step.
        l2_sp: How strongly the backbone's tensors are drawn back to where they started (arXiv:1802.01483); above 0 it
            takes the place of their weight decay.
        average: Which weights are kept: the last ones, their moving average, or the mean over the last steps.
        average_over: The fraction of all steps that an average looks back.
        cached_views: How many looks an image has, of which what the frozen parts make is kept for all epochs; None for
            another look in each epoch, of which nothing is kept.
        batch_norm: What the batch norms of trained parts go by: the statistics they came with, or each batch's.
        imbalance: How classes with unequally many images are treated; "auto" goes by how unequal they are.
        refit_head: Whether the head is fitted anew, to every tap, when the training is over: see training/refit.py.
        patience: After how many epochs without a better validation to stop; None for never.
        seed: Every random number follows from it, the epoch and the step.
        precision: "auto" takes what is faster here, measured at the start, and as right; so with the two below.
        channels_last: Whether the numbers of a cell lie side by side in memory.
        compile: Whether torch compiles the model; "auto" does not.
    """

    unfreeze_from: str | None
    rate: RateRule | Annotated[float, Field(gt=0)] = "recipe/10"
    batch_size: Annotated[int, Field(ge=1)] = 64
    epochs: Annotated[int, Field(ge=1)] = 1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.85
    warm_up: Fraction = 0.1
    clip_norm: Annotated[float, Field(gt=0)] = 2.0
    label_smoothing: Fraction = 0.0
    dropout: Fraction = 0.0
    l2_sp: Annotated[float, Field(ge=0)] = 0.0
    average: Literal["none", "ema", "tail"] = "ema"
    average_over: Annotated[float, Field(gt=0, le=1)] = 0.1
    cached_views: Annotated[int, Field(ge=1)] | None = None
    batch_norm: Literal["eval", "train"] = "eval"
    imbalance: Kind | Auto = "auto"
    refit_head: bool = True
    patience: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    precision: Precision | Auto = "auto"
    channels_last: bool | Auto = "auto"
    compile: bool | Auto = "auto"
