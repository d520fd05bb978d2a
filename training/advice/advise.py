"""From labelled images to a regime and its reasons: the advisor in one call; trains nothing."""

from collections.abc import Sequence
from pathlib import Path

from export.progress import Steps
from training import features, opening
from training.advice.decide import Decision, decide
from training.advice.explain import ALL_LAYERS, chosen
from training.advice.gather import gather
from training.backbones import Card
from training.dataset import Dataset
from training.features import Extractor
from training.question import Question

STEPS = 3  # of `advise`


def of(question: Question, steps: Steps, layers: Sequence[str] = ALL_LAYERS) -> Decision:
    """Check images, and say which regime suits them.

    Args:
        question: The images and the backbone.
        steps: Tells of the steps: two, and those of `advise`; more where a backbone is to be chosen.
        layers: Those that a person wants to be told of: one that the backbone has not is refused before the features
            are computed, which may take long.

    Returns:
        The decision.

    Raises:
        BackboneError: There is no such backbone, or its weights are not what its card says.
        CacheError: The cache cannot be read or written.
        DataError: The images are not what they must be.
        Disagreement: The engine does not answer as torch does.
        HeadError: A class has fewer than two images that may be divided.
        TrainingError: There is no such layer.
    """
    opened = opening.opened(question, steps)
    chosen(layers, opened.card.backbone.taps())
    with steps.step("load the backbone"):
        extractor = features.extractor(opened.card, opened.geometry, question.cache)
    return advise(opened.data, extractor, opened.card, question.cache, steps)


def advise(data: Dataset, extractor: Extractor, card: Card, cache: Path, steps: Steps) -> Decision:
    """Gather evidence from the training images, and decide by it.

    Args:
        data: The data set; what is held out is not read.
        extractor: The backbone as the engine runs it.
        card: The same backbone's card.
        cache: The cache's folder.
        steps: Tells of STEPS steps.

    Returns:
        The decision.

    Raises:
        BackboneError: The weights are missing or not what the card says.
        CacheError: The cache cannot be read or written.
        DataError: A file is gone or was changed since it was checked.
        HeadError: A class has fewer than two images that may be divided.
    """
    return decide(gather(data, extractor, card, cache, steps), card.backbone)
