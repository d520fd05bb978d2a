"""Chooses a backbone among those whose weights are here, by a linear layer on what each makes of some training images.

Trains none of them, and never sees an image that is held out.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from export.errors import Disagreement
from export.progress import Steps
from export.run import EMBEDDING
from service.bundle import CropGeometry
from training import backbones, dataset, features, fitting, rows
from training.advice import probes, subset
from training.advice.accuracy import gain
from training.advice.probes import TapProbe, Targets
from training.backbones import Card
from training.dataset import Dataset, Sample
from training.errors import BackboneError
from training.features import Extractor
from training.ledger import Ledger
from training.question import Question
from training.result import Looked, Selection
from training.tuning import devices
from training.views import PLAIN

# Where there is nothing to go by: images that nothing pretrained is to see, and machines on which nothing is.
USUAL = "efficientnet_lite0"
# About so many images tell apart what is worth telling apart.
_MOST = 500
# Of the time that there is for everything, after this part no other backbone is begun with.
_PART = 0.1
_SEED = 0
_CHOICE = 2
_LATE = "there was no time for it"
# Raised when the same facts come to give another choice.
_REVISION = 3


@dataclass(frozen=True)
class _Able:
    """A backbone that could be used, and the size of its weights."""

    card: Card
    geometry: CropGeometry
    file_bytes: int


@dataclass(frozen=True)
class _Asked:
    """The images that are looked at, and what is said of them."""

    samples: tuple[Sample, ...]
    known: Targets


def select(data: Dataset, question: Question, steps: Steps) -> Selection:
    """Choose one of the listed backbones whose published weights are on this machine.

    Args:
        data: The images, of which some of those to learn from are looked at where there is a choice.
        question: What else is asked for.
        steps: Tells of one step more for each.

    Returns:
        The one chosen, and how: the smallest of those that luck cannot tell from the best; the usual one where there is
        none. For the same images and backbones it is remembered.

    Raises:
        BackboneError: None of those that are here can be used.
        CacheError: The cache cannot be read or written.
        DataError: A file is gone or was changed since it was checked.
        HeadError: A class has fewer than two images that may be divided.
    """
    able, refused = _able(question, data.data.labels)
    if not able and refused:
        raise _none(refused)
    if not able:
        reason = f"{USUAL} is what to begin with where no weights are on the machine"
        return Selection(images=0, looked=(), chosen=USUAL, reason=reason)
    if len(able) < _CHOICE:
        name = able[0].card.backbone.name
        reason = f"{name} is the only backbone on this machine that can be used"
        return Selection(images=0, looked=refused, chosen=name, reason=reason)

    def look() -> Selection:
        # What one process computes the others find.
        with devices.launched().rank_zero_first():
            return _look(data, able, refused, question, steps)

    ledger = Ledger(question.cache / "selections" / f"{_digest(data, able, question)}.json")
    found = ledger.once("backbone", Selection, look)
    steps.say(f"Backbone: {found.reason}.")
    return found


def _able(question: Question, labels: tuple[str, ...]) -> tuple[list[_Able], tuple[Looked, ...]]:
    """Those that are here, smallest first, and those of them that cannot be used."""
    able, refused = [], []
    for name, found in backbones.available().items():
        if isinstance(found, str):
            continue
        try:
            card = backbones.ready(backbones.card(name))
            geometry = backbones.sized(card, question.resize_px, question.crop_px)
            if question.regime == "as-is" and len(rows.reused_rows(labels, card.labels())) < len(labels):
                raise BackboneError("it was not published with all of these classes")
        except BackboneError as error:
            refused.append(Looked(backbone=name, accuracy=None, refused=str(error)))
        else:
            able.append(_Able(card, geometry, found.stat().st_size))
    return sorted(able, key=lambda each: (each.file_bytes, each.card.backbone.name)), tuple(refused)


def _digest(data: Dataset, able: Sequence[_Able], question: Question) -> str:
    """Names all that a choice follows from but the clock."""
    # Groups, too: they decide what is learnt from in which fold.
    learnt = dataset.named(data.splits["train"])
    of = [(each.card.backbone.name, each.card.backbone.weights_sha256, each.geometry) for each in able]
    return hashlib.sha256(repr((_REVISION, learnt, of, question.limit_s)).encode()).hexdigest()


def _look(
    data: Dataset, able: Sequence[_Able], refused: tuple[Looked, ...], question: Question, steps: Steps
) -> Selection:
    samples = subset.choose(data.splits["train"], _MOST)
    asked = _Asked(samples, _known(samples, data))
    steps.more(len(able))
    started_s = time.monotonic()
    compared: list[tuple[_Able, TapProbe]] = []
    others: list[Looked] = []
    for each in able:
        name = each.card.backbone.name
        with steps.step(f"look with {name}", len(samples)) as advance:
            if compared and time.monotonic() - started_s > _PART * question.limit_s:
                others.append(Looked(backbone=name, accuracy=None, refused=_LATE))
                continue
            try:
                extractor = features.extractor(each.card, each.geometry, question.cache)
                features.extract(samples, (PLAIN,), extractor, question.cache, advance)
                compared.append((each, _probe(asked, extractor, question.cache)))
            # Nobody has asked for this one.
            except (BackboneError, Disagreement) as error:
                others.append(Looked(backbone=name, accuracy=None, refused=str(error)))
    if not compared:
        raise _none(others)
    chosen, reason = _winner(compared, asked.known)
    looked = tuple(
        Looked(backbone=each.card.backbone.name, accuracy=found.probe.accuracy.value, refused=None)
        for each, found in compared
    )
    return Selection(images=len(samples), looked=(*looked, *others, *refused), chosen=chosen, reason=reason)


def _known(samples: Sequence[Sample], data: Dataset) -> Targets:
    labels = torch.tensor([sample.label for sample in samples])
    weights = torch.tensor([sample.weight for sample in samples], dtype=torch.float64)
    folds = fitting.folds(labels, [sample.group for sample in samples], data.data.labels, _SEED)
    return Targets(labels, weights, folds, len(data.data.labels))


def _probe(asked: _Asked, extractor: Extractor, cache: Path) -> TapProbe:
    embedding: Tensor = torch.from_numpy(features.rows(asked.samples, PLAIN, extractor, cache, (EMBEDDING,))[EMBEDDING])
    return probes.probe(EMBEDDING, None, embedding, asked.known)


def _none(refused: Sequence[Looked]) -> BackboneError:
    said = "; ".join(f"{each.backbone}: {each.refused}" for each in refused)
    return BackboneError(f"Expected a backbone on this machine that can be used. Received: {said}")


def _winner(compared: Sequence[tuple[_Able, TapProbe]], known: Targets) -> tuple[str, str]:
    """The smallest that is no more than one standard error of the difference behind the best, and why."""
    best, most = max(compared, key=lambda each: each[1].probe.accuracy.value)
    for won, found in compared:
        behind = gain(most.right, found.right, known.weights)
        if won is best or behind.value <= behind.error:
            break
    name = won.card.backbone.name
    said = (
        f"a linear layer on {name} answers {found.probe.accuracy.value:.1%} of {len(known.labels)} training images "
        "right when it has not learnt from them"
    )
    if won is best:
        return name, f"{said}, and on no other backbone that is here more"
    return name, (
        f"{said}; on {best.card.backbone.name} {most.probe.accuracy.value:.1%}, which is within one standard error "
        f"({behind.error:.1%}), and it is larger"
    )
