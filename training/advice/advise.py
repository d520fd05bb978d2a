"""From labelled images to a regime and its reasons: the advisor in one call; trains nothing."""

from dataclasses import dataclass
from pathlib import Path

from export import labelled
from export.progress import Steps
from training import backbones, dataset, features
from training.advice.decide import Decision, decide
from training.advice.gather import gather
from training.backbones import Card
from training.dataset import Dataset, Plan
from training.features import Extractor
from training.named import find

STEPS = 3  # of `advise`


@dataclass(frozen=True)
class Question:
    """Which images, and which backbone, an advice is asked for.

    Attributes:
        source: A folder or table of labelled images, or a name that `named.find.table` knows.
        plan: How they are checked and split.
        backbone: The backbone's name.
        weights: A file of weights to take instead of the published ones.
        download: Whether weights and a data set may be fetched.
        resize_px: What the shorter side becomes; None for the backbone's own.
        crop_px: The side of the square that is cut out; None for the backbone's own.
        cache: The folder of what is computed once.
    """

    source: Path
    plan: Plan
    backbone: str
    weights: Path | None
    download: bool
    resize_px: int | None
    crop_px: int | None
    cache: Path


def of(question: Question, steps: Steps) -> Decision:
    """Check images, and say which regime suits them.

    Args:
        question: The images and the backbone.
        steps: Tells of the steps: two, and those of `advise`.

    Returns:
        The decision.

    Raises:
        BackboneError: There is no such backbone, or its weights are not what its card says.
        CacheError: The cache cannot be read or written.
        DataError: The images are not what they must be.
        Disagreement: The engine does not answer as torch does.
        HeadError: A class has fewer than two images that may be divided.
    """
    card = backbones.ready(backbones.card(question.backbone), question.weights, question.download)
    geometry = backbones.sized(card, question.resize_px, question.crop_px)
    images = labelled.read(find.table(question.source, question.cache, question.download, steps))
    with steps.step("check the images", len(images)) as advance:
        data = dataset.prepare(images, question.source, question.plan, question.cache, advance)
    with steps.step("load the backbone"):
        extractor = features.extractor(card, geometry, question.cache)
    return advise(data, extractor, card, question.cache, steps)


def advise(data: Dataset, extractor: Extractor, card: Card, cache: Path, steps: Steps) -> Decision:
    """Gather evidence from the training images, and decide by it.

    Args:
        data: The data set; what is held out is not read.
        extractor: The backbone as the engine runs it.
        card: The same backbone's card.
        cache: The cache's folder.
        steps: Tells of STEPS steps.

    Returns:
        The decision; `decide` of its evidence gives the one that a person asks for instead.

    Raises:
        BackboneError: The weights are missing or not what the card says.
        CacheError: The cache cannot be read or written.
        DataError: A file is gone or was changed since it was checked.
        HeadError: A class has fewer than two images that may be divided.
    """
    return decide(gather(data, extractor, card, cache, steps), card.backbone)
