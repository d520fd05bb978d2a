"""Gathers the evidence of a data set from its training images; decides nothing, and reads no held-out image."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from export.progress import Advance, Steps
from export.run import EMBEDDING, Backbone
from service import image
from service.bundle import CropGeometry
from training import backbones, features, fitting
from training.advice import null, probes, shift, subset
from training.advice.evidence import Evidence, Layer, Shift, Size, SourceAnswers
from training.advice.neighbours import neighbours
from training.advice.probes import Targets
from training.advice.source import source
from training.backbones import Card
from training.dataset import Dataset, Sample
from training.features import Extractor
from training.taps import FrozenBackbone
from training.tuning import devices
from training.views import PLAIN

# Eager torch runs a third as many a second as the engine. What 256 images put at 9.5 deviations, 64 put at 7.8.
SHIFT_IMAGES = 128
_FEWEST = 16  # of which a mean and a variance are anything
_BATCH = 32
_SEED = 0


@dataclass(frozen=True)
class Given:
    """Training images as numbers, and what these came from.

    Attributes:
        taps: float32 `[N, D]` of every stage, every probe and the embedding, by name.
        labels: int64 `[N]`.
        weights: float64 `[N]`, above 0.
        groups: What must not be divided between folds, for each image; None for one that is on its own.
        classes: Their names, by column.
        size: Of the whole training split.
        backbone: Names stages and probes.
        weights_sha256: Of the backbone's pretrained file.
        geometry: How its pixels were made.
        data_sha256: Names the data set.
    """

    taps: Mapping[str, Tensor]
    labels: Tensor
    weights: Tensor
    groups: Sequence[str | None]
    classes: Sequence[str]
    size: Size
    backbone: Backbone
    weights_sha256: str
    geometry: CropGeometry
    data_sha256: str

    def known(self) -> Targets:
        """What a cross-validation must know; HeadError where a class cannot be divided."""
        folds = fitting.folds(self.labels, self.groups, self.classes, _SEED)
        return Targets(self.labels, self.weights, folds, len(self.classes))


def gather(data: Dataset, extractor: Extractor, card: Card, cache: Path, steps: Steps) -> Evidence:
    """Look at some of the training images in every way that tells of a regime.

    Args:
        data: The data set, of which only the training split is read.
        extractor: The backbone as the engine runs it.
        card: The same backbone's card.
        cache: The cache's folder; features that are there are not computed again.
        steps: Tells of three steps.

    Returns:
        The evidence: the same, to the last digit, for the same files.

    Raises:
        BackboneError: The weights are missing or not what the card says.
        CacheError: The cache cannot be read or written.
        DataError: A file is gone or was changed since it was checked.
        HeadError: A class has fewer than two images that may be divided.
    """
    samples = subset.choose(data.splits["train"])
    # What the first process writes the others find.
    with steps.step("look at the images", len(samples)) as advance, devices.launched().rank_zero_first():
        features.extract(samples, (PLAIN,), extractor, cache, advance)
    given = _given(data, samples, extractor, card, cache)
    known = given.known()
    backbone, classifier = backbones.parted(backbones.pretrained(card))
    shown = samples[:: -(-len(samples) // SHIFT_IMAGES)]
    with steps.step("compare with pretraining", len(shown)) as advance:
        asked = _source(given, known, classifier, card)
        shifted = _shift(backbone, card, shown, extractor, advance)
    with steps.step("probe every stage", len(given.taps)) as advance:
        return weigh(given, asked, shifted, advance)


def _given(data: Dataset, samples: Sequence[Sample], extractor: Extractor, card: Card, cache: Path) -> Given:
    rows = features.rows(samples, PLAIN, extractor, cache, card.backbone.taps())
    # Of those that are learnt from: the time may be too short for all that there are.
    each = Counter(sample.label for sample in data.splits["train"])
    counts = [each[column] for column in range(len(data.data.labels))]
    return Given(
        taps={tap: torch.from_numpy(tensor) for tap, tensor in rows.items()},
        labels=torch.tensor([sample.label for sample in samples]),
        weights=torch.tensor([sample.weight for sample in samples], dtype=torch.float64),
        groups=[sample.group for sample in samples],
        classes=data.data.labels,
        size=Size(
            images=sum(counts),
            classes=len(counts),
            scarcest=min(counts),
            commonest=max(counts),
            looked_at=len(samples),
        ),
        backbone=card.backbone,
        weights_sha256=extractor.facts["weights_sha256"],
        geometry=extractor.geometry,
        data_sha256=data.data.sha256,
    )


def weigh(given: Given, asked: SourceAnswers | None, shifted: Shift | None, advance: Advance) -> Evidence:
    """Probe every tap, and put all evidence together.

    Args:
        given: The images.
        asked: What the pretrained classifier makes of them, if there is one.
        shifted: How far they are from the pretraining's, where that could be measured.
        advance: Told of every tap.

    Returns:
        The evidence.

    Raises:
        HeadError: A class has fewer than two images that may be divided.
    """
    known = given.known()
    probed = probes.every(given.taps, given.backbone, known, advance)
    embedding = given.taps[EMBEDDING]
    shares = torch.zeros(known.classes, dtype=torch.float64).index_add_(0, known.labels, known.weights)
    chance = float(shares.max() / shares.sum())
    accuracy = probed[EMBEDDING].probe.accuracy.value
    in_depth = (*(stage.name for stage in given.backbone.stages), EMBEDDING)
    return Evidence(
        backbone=given.backbone.name,
        weights_sha256=given.weights_sha256,
        geometry=given.geometry,
        data_sha256=given.data_sha256,
        size=given.size,
        chance=chance,
        separability=(accuracy - chance) / (1 - chance),
        probes=tuple(each.probe for each in probed.values()),
        depth=probes.depth([probed[tap] for tap in in_depth], known),
        curve=probes.curve(embedding, known),
        neighbours=neighbours(embedding, given.labels, given.weights, given.groups),
        source=asked,
        shift=shifted,
        missing=tuple(_missing(asked, shifted, given)),
    )


def _source(given: Given, known: Targets, classifier: nn.Linear | None, card: Card) -> SourceAnswers | None:
    names = card.labels()
    if classifier is None or not names:
        return None
    return source(given.taps[EMBEDDING], classifier, names, given.classes, known)


def _shift(
    backbone: nn.Module, card: Card, samples: Sequence[Sample], extractor: Extractor, advance: Advance
) -> Shift | None:
    if not shift.norms(backbone) or len(samples) < _FEWEST:
        return None
    frozen, geometry = FrozenBackbone(backbone, card.backbone, card.scaling), extractor.geometry
    found = shift.divergences(backbone, shift.moments(backbone, frozen, _batches(samples, geometry, advance)))
    known = null.load(card.backbone.name, extractor.facts["weights_sha256"])
    z = known.z(found, len(samples), math.sqrt(geometry.crop_height_px * geometry.crop_width_px)) if known else None
    third = -(-len(found) // 3)
    return Shift(
        images=len(samples),
        z=_median(z),
        early=_median(z and z[:third]),
        late=_median(z and z[-third:]),
        null=known.origin if known else None,
        layers=tuple(
            Layer(name=name, divergence=each, z=z[place] if z else None)
            for place, (name, each) in enumerate(found.items())
        ),
    )


def _batches(samples: Sequence[Sample], geometry: CropGeometry, advance: Advance) -> Iterator[Tensor]:
    for start in range(0, len(samples), _BATCH):
        batch = samples[start : start + _BATCH]
        pixels = [image.crop(features.picture(each, geometry), geometry) for each in batch]
        yield torch.from_numpy(np.stack(pixels))
        advance(len(batch))


def _median(values: Sequence[float] | None) -> float | None:
    return None if values is None else float(np.median(values))


def _missing(asked: SourceAnswers | None, shifted: Shift | None, given: Given) -> Iterator[str]:
    name = given.backbone.name
    if asked is None:
        yield f"{name} has no classes of its own, so it could not be asked about these"
    if shifted is None and given.size.looked_at < _FEWEST:
        yield f"fewer than {_FEWEST} images, so nothing can be said of how far they are from those of the pretraining"
    elif shifted is None:
        yield f"{name} has no batch norms that could tell how far the images are from those of its pretraining"
    elif shifted.null is None:
        yield (
            f"what the batch norms of {name} make of ordinary photographs was never measured, so there is nothing to "
            "compare their shift with"
        )
