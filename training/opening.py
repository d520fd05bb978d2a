"""Opens images and the backbone that is to see them; does not know what either is for."""

from dataclasses import dataclass, replace

from export import labelled
from export.progress import Steps
from service.bundle import CropGeometry
from training import backbones, dataset, selection
from training.backbones import Card
from training.dataset import Dataset, Sample
from training.errors import BackboneError
from training.named import find
from training.pretraining import record
from training.question import AUTO, Question
from training.result import Selection
from training.tuning import devices


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

    def learning_from(self, train: tuple[Sample, ...]) -> "Opened":
        """The same with some of the training images."""
        return replace(self, data=self.data.learning_from(train))


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
    card = _named(question, steps)
    if card:
        # Before images are looked at, which may take long.
        backbones.sized(card, question.resize_px, question.crop_px)
    images = labelled.read(find.table(question.source, question.cache, question.download, steps))
    # What the first process finds in them the others need not.
    first = devices.launched().rank_zero_first()
    with steps.step("check the images", 2 * len(images)) as advance, first:
        data = dataset.prepare(images, question.source, question.plan, question.cache, advance)
    selected = None
    if card is None:
        selected = selection.select(data, question, steps)
        card = backbones.ready(backbones.card(selected.chosen), download=question.download)
    return Opened(data, card, selected, backbones.sized(card, question.resize_px, question.crop_px))


def _named(question: Question, steps: Steps) -> Card | None:
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
    card = backbones.ready(backbones.card(name), weights, question.download)
    if weights:
        # Nobody has vouched for this file: what was left out of it or matched by guessing is to be seen.
        steps.say(f"Weights of {weights}: {'; '.join(backbones.loaded(card)[1].lines())}.")
    return card
