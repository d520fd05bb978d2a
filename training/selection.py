"""Opens images and the backbone that is to see them: the one that was asked for, or the best of those that are here.

That is told by a linear layer on what each makes of some training images; no image that is held out is looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from export import labelled
from export.progress import Steps
from export.run import EMBEDDING
from service.bundle import CropGeometry
from training import backbones, dataset, features, fitting
from training.advice import probes, subset
from training.advice.accuracy import gain
from training.advice.probes import Known, Probed
from training.backbones import Card
from training.dataset import Dataset, Plan, Sample
from training.errors import BackboneError
from training.features import Extractor
from training.named import find
from training.pretraining import record
from training.result import Looked, Selection
from training.views import PLAIN

AUTO = "auto"
# Where there is nothing to go by: images that nothing pretrained is to see.
USUAL = "efficientnet_lite0"
# As many tell apart what is worth telling apart, and a large backbone sees them in a minute or two.
_MOST = 500
_SEED = 0
_CHOICE = 2


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
    """

    source: Path
    plan: Plan
    backbone: str
    weights: Path | None
    download: bool
    resize_px: int | None
    crop_px: int | None
    cache: Path


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


@dataclass(frozen=True)
class _Able:
    """A backbone that could be used, and the size of its weights."""

    card: Card
    geometry: CropGeometry
    file_bytes: int


def opened(question: Question, steps: Steps, *, random: bool = False) -> Opened:
    """Check images, and find the backbone.

    Args:
        question: Which.
        steps: Tells of one step, and of one more for each backbone where there is a choice.
        random: Whether the backbone needs no weights.

    Returns:
        Both. A backbone that was chosen is the smallest of those that luck cannot tell from the best.

    Raises:
        BackboneError: There is no such backbone, its weights are not there or not what its card says, or nobody knows
            of which backbone they are; or it cannot see such a crop.
        CacheError: The cache cannot be read or written.
        DataError: The images are not what they must be.
        HeadError: There is a choice, and a class has fewer than two images that may be divided.
    """
    card = _random(question) if random else _named(question)
    if card:
        # Before images are looked at, which may take long.
        backbones.sized(card, question.resize_px, question.crop_px)
    images = labelled.read(find.table(question.source, question.cache, question.download, steps))
    with steps.step("check the images", len(images)) as advance:
        data = dataset.prepare(images, question.source, question.plan, question.cache, advance)
    selected = None
    if card is None:
        card, selected = _select(data, question, steps)
    return Opened(data, card, selected, backbones.sized(card, question.resize_px, question.crop_px))


def _random(question: Question) -> Card:
    return backbones.card(USUAL if question.backbone == AUTO else question.backbone)


def _named(question: Question) -> Card | None:
    """What a person asked for; None where that is anything."""
    name, weights = question.backbone, question.weights
    if name == AUTO and weights is None:
        return None
    if name == AUTO:
        made = record.of(weights) if weights else None
        if made is None:
            raise BackboneError(f"Expected --backbone, the name of what {weights} holds weights of. Received: auto.")
        name = made.backbone
    return backbones.ready(backbones.card(name), weights, question.download)


def _select(data: Dataset, question: Question, steps: Steps) -> tuple[Card, Selection]:
    able, refused = _able(question)
    if len(able) < _CHOICE:
        card = able[0].card if able else backbones.ready(backbones.card(USUAL), download=question.download)
        name = card.backbone.name
        only = "the only backbone that is on this machine and sees such a crop" if able else "what is fetched to begin"
        return card, Selection(images=0, looked=refused, chosen=name, reason=f"{name} is {only}")
    samples = subset.choose(data.splits["train"], _MOST)
    known = _known(samples, data)
    steps.more(len(able))
    probed = [_probe(each, samples, known, question.cache, steps) for each in able]
    chosen, reason = _winner(able, probed, known)
    looked = tuple(
        Looked(backbone=each.card.backbone.name, accuracy=found.probe.accuracy.value, refused=None)
        for each, found in zip(able, probed, strict=True)
    )
    steps.say(f"Backbone: {reason}.")
    name = chosen.backbone.name
    return chosen, Selection(images=len(samples), looked=(*looked, *refused), chosen=name, reason=reason)


def _able(question: Question) -> tuple[list[_Able], tuple[Looked, ...]]:
    """Those that are here, smallest first, and those of them that cannot be used."""
    able, refused = [], []
    for name, found in backbones.available().items():
        if isinstance(found, str):
            continue
        try:
            card = backbones.ready(backbones.card(name))
            geometry = backbones.sized(card, question.resize_px, question.crop_px)
        except BackboneError as error:
            refused.append(Looked(backbone=name, accuracy=None, refused=str(error)))
        else:
            able.append(_Able(card, geometry, found.stat().st_size))
    return sorted(able, key=lambda each: (each.file_bytes, each.card.backbone.name)), tuple(refused)


def _known(samples: Sequence[Sample], data: Dataset) -> Known:
    labels = torch.tensor([sample.label for sample in samples])
    weights = torch.tensor([sample.weight for sample in samples], dtype=torch.float64)
    folds = fitting.folds(labels, [sample.group for sample in samples], data.data.labels, _SEED)
    return Known(labels, weights, folds, len(data.data.labels))


def _probe(each: _Able, samples: Sequence[Sample], known: Known, cache: Path, steps: Steps) -> Probed:
    with steps.step(f"look with {each.card.backbone.name}", len(samples)) as advance:
        extractor = features.extractor(each.card, each.geometry, cache)
        features.extract(samples, (PLAIN,), extractor, cache, advance)
        return probes.probe(EMBEDDING, None, _embedding(samples, extractor, cache), known)


def _embedding(samples: Sequence[Sample], extractor: Extractor, cache: Path) -> Tensor:
    return torch.from_numpy(features.rows(samples, PLAIN, extractor, cache, (EMBEDDING,))[EMBEDDING])


def _winner(able: Sequence[_Able], probed: Sequence[Probed], known: Known) -> tuple[Card, str]:
    """The smallest that is no more than one standard error of the difference behind the best."""
    best = max(range(len(able)), key=lambda place: probed[place].probe.accuracy.value)
    behind = [gain(probed[best].right, each.right, known.weights) for each in probed]
    place = next(place for place, each in enumerate(behind) if place == best or each.value <= each.error)
    won, first = able[place].card, able[best].card
    accuracy = probed[place].probe.accuracy.value
    said = f"a linear layer on {won.backbone.name} answers {accuracy:.1%} of {len(known.labels)} training images right"
    if place == best:
        return won, f"{said} when it has not learnt from them, more than on any other backbone that is here"
    return won, (
        f"{said} when it has not learnt from them; on {first.backbone.name} {probed[best].probe.accuracy.value:.1%}, "
        f"which is within one standard error ({behind[place].error:.1%}), and it is larger"
    )
