"""Everything that speaks for or against a regime, as decision.json has it; neither measures nor decides.

Accuracies are parts of one. Their error is the standard error, as if one image more had been answered right and one
more wrong: a handful of images, all answered right, shall not look certain.
"""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from export.document import Document
from export.run import Geometry, Sha256

# What lies further behind depends on how many threads added up, and the same data shall give the same file.
_DIGITS = 6


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


Figure = Annotated[float, BeforeValidator(_plain), AfterValidator(lambda value: round(value, _DIGITS) + 0.0)]


class Size(Document):
    """How much there is to learn from.

    Attributes:
        images: Training images.
        classes: Classes.
        scarcest: Training images of the class that has the fewest, as `commonest` of the one that has the most.
        looked_at: Images, some of every class, that all other figures are of.
    """

    images: int
    classes: int
    scarcest: int
    commonest: int
    looked_at: int

    @property
    def per_class(self) -> float:
        """How many images a class has on average."""
        return self.images / self.classes


class Accuracy(Document):
    """How many of the asked images were answered right, and the standard error of that."""

    value: Figure
    error: Figure


class Probe(Document):
    """A linear layer on one tap, by cross-validation.

    Attributes:
        tap: The stage, the probe inside a stage, or the embedding.
        stride: Of a stage, the pixels of the image between two cells; None elsewhere.
        width: How many numbers the tap has.
        accuracy: Of images that were not learnt from.
        learnt: Of the images that were learnt from.
        penalty: The strength that was best, of the mean loss.
        log_me: The evidence of a linear model of the labels, a number (arXiv:2102.11005): for the curious, nothing is
            decided by it.
    """

    tap: str
    stride: int | None
    width: int
    accuracy: Accuracy
    learnt: Figure
    penalty: Figure
    log_me: Figure


class Depth(Document):
    """Where in the backbone the labels are easiest to tell.

    Attributes:
        best: The most accurate of the stages and the embedding.
        last: The embedding.
        gain: How much more of the images the best answers right than the last.
        error: The standard error of the gain, by the images that the two answer differently.
        simplest: The earliest that is within one standard error of the best.
    """

    best: str
    last: str
    gain: Figure
    error: Figure
    simplest: str


class Point(Document):
    """The probe of the embedding on fewer images.

    Attributes:
        images: How many were learnt from, the mean over the folds.
        per_class: As many of each class; None where each class had the same part of its own.
    """

    images: int
    per_class: int | None
    accuracy: Accuracy


class Neighbours(Document):
    """What the nearest other images by cosine say of each image.

    Attributes:
        count: How many are asked.
        contradicted: The part of the images that at least nine tenths of their neighbours give one other label: labels
            to look at.
    """

    count: int
    accuracy: Accuracy
    contradicted: Figure


class SourceAnswers(Document):
    """What the pretrained classifier, with its own classes, makes of the images.

    Attributes:
        classes: How many classes it has.
        confidence: The mean of its highest probability.
        entropy: The mean of its answers' entropy, as a part of the highest possible.
        mutual_information: How far its answer tells the label: 0 as much as chance, 1 all (adjusted for chance, without
            which a few images in a thousand classes would look as if it did).
        leep: The mean log probability of the label given its answer, in nats (arXiv:2002.12462): for the curious.
        matched: How many of the labels are the names of its classes.
        as_is: How many images it answers right where all labels are; None elsewhere.
    """

    classes: int
    confidence: Figure
    entropy: Figure
    mutual_information: Figure
    leep: Figure
    matched: int
    as_is: Accuracy | None


class Layer(Document):
    """A batch norm: how far what it sees is from what it saw in pretraining.

    Attributes:
        divergence: The symmetric Kullback-Leibler divergence of two normal distributions, in nats, the mean over
            channels.
        z: How many deviations its logarithm lies above that of ordinary photographs; None without a null.
    """

    name: str
    divergence: Figure
    z: Figure | None


class Shift(Document):
    """How far the inputs of all batch norms are from those of pretraining.

    Attributes:
        images: How many were looked at.
        z: The median over all layers, as `early` over the first third of them and `late` over the last; None without a
            null.
        null: What the distances are compared with, in words; None where there is nothing.
    """

    images: int
    z: Figure | None
    early: Figure | None
    late: Figure | None
    null: str | None
    layers: tuple[Layer, ...]


class Evidence(Document):
    """All that was gathered, from training images alone.

    Attributes:
        data_sha256: Names the data set.
        chance: The accuracy of answering the commonest class always.
        separability: How far the probe of the embedding comes from chance, 0, to all right, 1.
        probes: Of every tap.
        curve: From few images to all that were looked at.
        missing: What could not be gathered, and why.
    """

    backbone: str
    weights_sha256: Sha256
    geometry: Geometry
    data_sha256: Sha256
    size: Size
    chance: Figure
    separability: Figure
    probes: tuple[Probe, ...]
    depth: Depth
    curve: tuple[Point, ...]
    neighbours: Neighbours
    source: SourceAnswers | None
    shift: Shift | None
    missing: tuple[str, ...]

    def probe(self, tap: str) -> Probe:
        """The probe of a tap; KeyError where there is none."""
        for each in self.probes:
            if each.tap == tap:
                return each
        raise KeyError(tap)

    @property
    def last(self) -> Probe:
        """The probe of the embedding."""
        return self.probe(self.depth.last)
