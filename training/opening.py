"""Opens images and the backbone that is to see them; does not know what either is for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from export import labelled
from export.progress import Steps
from service.bundle import CropGeometry
from training import backbones, dataset, selection
from training.advice.candidates import Regime
from training.backbones import Card
from training.dataset import Dataset, Plan
from training.errors import BackboneError
from training.named import find
from training.pretraining import record
from training.result import Selection
from training.selection import Wanted

AUTO = "auto"


@dataclass(frozen=True)
class Question:
    """Which images, and which backbone, are asked for.

    Attributes:
        source: A folder or table of labelled images, or a name that `named.find.table` knows.
        plan: How they are checked and split.
        backbone: The backbone's name, or "auto".
        weights: A file of weights to take instead of the published ones.
        download: Whether weights and a data set may be fetched.
        resize_px: What the shorter side becomes; None for the backbone's own.
        crop_px: The side of the square that is cut out; None for the backbone's own.
        cache: The folder of what is computed once.
        regime: What is to be done with the backbone: "scratch" needs no weights, "as-is" a backbone that knows all of
            the labels.
        limit_s: How long all of it may take, in seconds, of which the choice of a backbone takes a part.
    """

    source: Path
    plan: Plan
    backbone: str
    weights: Path | None
    download: bool
    resize_px: int | None
    crop_px: int | None
    cache: Path
    regime: Regime | Literal["auto"]
    limit_s: float


@dataclass(frozen=True)
class Opened:
    """Images, and the backbone that sees them.

    Attributes:
        data: The images.
        card: The backbone; ready, unless it starts from random numbers.
        selection: How it was chosen; None where a person did.
        geometry: How it sees them.
    """

    data: Dataset
    card: Card
    selection: Selection | None
    geometry: CropGeometry


def opened(question: Question, steps: Steps) -> Opened:
    """Check images, and find the backbone.

    Args:
        question: Which.
        steps: Tells of one step, and of one more for each backbone where there is a choice.

    Returns:
        Both.

    Raises:
        BackboneError: There is no such backbone, its weights are not there or not what its card says, or nobody knows
            of which backbone they are; or it cannot see such a crop.
        CacheError: The cache cannot be read or written.
        DataError: The images are not what they must be.
        HeadError: There is a choice, and a class has fewer than two images that may be divided.
    """
    card = _named(question)
    if card:
        # Before images are looked at, which may take long.
        backbones.sized(card, question.resize_px, question.crop_px)
    images = labelled.read(find.table(question.source, question.cache, question.download, steps))
    with steps.step("check the images", len(images)) as advance:
        data = dataset.prepare(images, question.source, question.plan, question.cache, advance)
    selected = None
    if card is None:
        selected = selection.select(data, _wanted(question), steps)
        card = backbones.ready(backbones.card(selected.chosen), download=question.download)
    return Opened(data, card, selected, backbones.sized(card, question.resize_px, question.crop_px))


def _named(question: Question) -> Card | None:
    """What a person asked for; None where that is anything."""
    name, weights = question.backbone, question.weights
    if question.regime == "scratch":
        return backbones.card(selection.USUAL if name == AUTO else name)
    if name == AUTO and weights is None:
        return None
    if name == AUTO:
        made = record.of(weights) if weights else None
        if made is None:
            raise BackboneError(f"Expected --backbone, the name of what {weights} holds weights of. Received: auto.")
        name = made.backbone
    return backbones.ready(backbones.card(name), weights, question.download)


def _wanted(question: Question) -> Wanted:
    return Wanted(
        resize_px=question.resize_px,
        crop_px=question.crop_px,
        cache=question.cache,
        knows_the_labels=question.regime == "as-is",
        limit_s=question.limit_s,
    )
