"""What every way of training begins with, and the heads that are fitted on the way; does not know which way wins."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.labelled import Split
from export.run import EMBEDDING
from service.bundle import CropGeometry
from training import dataset, published, tuned
from training.advice.candidates import Candidate
from training.backbones import Card
from training.dataset import Dataset, Sample
from training.features import Counts
from training.fitting import Fitted, Kind
from training.ledger import Ledger
from training.opening import Opened
from training.question import Question
from training.source import Source
from training.tuned import Ground
from training.tuning.augmentation import Preset
from training.tuning.imbalance import Treatment
from training.tuning.plan import Plan

_DECIDED = "decided"
# Raised when what was decided before is no use any more.
_LEDGER = 8


@dataclass(frozen=True)
class Order:
    """What to make of which images.

    Attributes:
        question: Which images, and which backbone; its regime is what is trained, "auto" for what the evidence names
            and the race confirms.
        head: What reads the backbone.
        views: How many more views of each training image there are than the plain one, for heads on frozen features.
        out: The run's folder, which must not exist.
        changes: What a person wants otherwise in the plans that fine-tune, by the names of tuning.plan.Plan.
        augmentation: How far training images are changed; None for what the plan has.
        turns: Whether no side of the images is up.
    """

    question: Question
    head: Kind
    views: int
    out: Path
    changes: Mapping[str, object] = field(default_factory=dict)
    augmentation: Preset | None = None
    turns: bool = False


@dataclass(frozen=True)
class Start:
    """What every way of training begins with.

    Attributes:
        order: What was asked for.
        opened: The images and the backbone.
        source: The features of the training images; None for a random start, which has none.
        plans: What is worth trying.
        counts: How many features there were before.
        deadline_s: When the time is over, on the monotonic clock.
        fitted: The heads that were fitted before.
    """

    order: Order
    opened: Opened
    source: Source | None
    plans: tuple[Candidate, ...]
    counts: Counts
    deadline_s: float
    fitted: dict[tuple[object, ...], Fitted] = field(default_factory=dict)

    @property
    def data(self) -> Dataset:
        """The images, in their splits."""
        return self.opened.data

    @property
    def card(self) -> Card:
        """The backbone's."""
        return self.opened.card

    @property
    def geometry(self) -> CropGeometry:
        """How the service makes pixels."""
        return self.opened.geometry

    @cached_property
    def treated(self) -> Treatment:
        """How unequal classes are treated, where any of the plans learns how common they are."""
        asked = Plan.model_validate({"unfreeze_from": None, **self.order.changes})
        return tuned.treatment(self.ground(), asked.imbalance if treats(self.order, self.plans) else "none")

    @property
    def held_out(self) -> dict[Split, tuple[Sample, ...]]:
        """All that is not learnt from, by split."""
        return self.data.held_out

    def ground(self) -> Ground:
        """What a fine-tuning has to go by."""
        train = self.data.splits["train"]
        return Ground(
            card=self.card,
            geometry=self.geometry,
            train=train,
            validation=self.data.splits.get("validation", ()),
            counts=tuned.counts(train, len(self.data.data.labels)),
            turns=self.order.turns,
            cache=self.order.question.cache,
            seed=self.order.question.plan.seed,
        )

    def left_s(self) -> float:
        """How many seconds are left; below 0 when the time is over."""
        return self.deadline_s - time.monotonic()

    def ledger(self) -> Ledger:
        """Where the same order of the same plans and images finds what it has decided before."""
        return ledger(self.order, self.opened, self.plans)

    def head(self, plan: Candidate, train: Sequence[Sample]) -> Fitted:
        """The head that a plan ends or begins with, fitted once to the same images."""
        asked = (plan.start, plan.taps, plan.tuning is None, tuple(train))
        if asked not in self.fitted:
            self.fitted[asked] = self._fit(plan, train)
        return self.fitted[asked]

    def right(self, fitted: Fitted, samples: Sequence[Sample]) -> NDArray[np.bool_]:
        """Which of these images a head answers rightly, bool `[N]`."""
        assert self.source is not None  # plans that begin with a head on features come with them
        found = self.source.answer(fitted, samples)
        return np.asarray(found.logits.argmax(1) == found.expected)

    def _fit(self, plan: Candidate, train: Sequence[Sample]) -> Fitted:
        assert self.source is not None  # as above
        source = self.source.only(train)
        if plan.start == "pretrained classifier":
            return published.head(self.card, self.data.data.labels)
        if plan.tuning is not None:
            return source.fit("linear", [plan.taps])
        # A head alone may read more than the embedding, where cross-validation says so.
        return source.fit(self.order.head, [(EMBEDDING,), self.card.backbone.taps()], self.treated)


def ledger(order: Order, opened: Opened, plans: Sequence[Candidate] = ()) -> Ledger:
    """Find what the same order has decided before.

    Args:
        order: What was asked for.
        opened: The images and the backbone.
        plans: What is worth trying; nothing before that is known.

    Returns:
        Where it is kept.

    Raises:
        CacheError: The cache cannot be read.
    """
    backbone, question = opened.card.backbone, order.question
    facts = (_LEDGER, backbone.name, backbone.architecture, backbone.weights_sha256, opened.geometry)
    asked = (question.limit_s, order.turns, order.head, order.views, question.plan.seed)
    plan = (question.regime, sorted(order.changes.items()), order.augmentation)
    named = hashlib.sha256(repr((facts, asked, plan)).encode())
    for split, samples in sorted(opened.data.splits.items()):
        named.update(split.encode() + dataset.named(samples))
    for each in plans:
        named.update(each.model_dump_json().encode())
    return Ledger(question.cache / _DECIDED / f"{named.hexdigest()}.json")


def reads_frozen(plan: Candidate) -> bool:
    """Whether it is a head that is fitted to the features of a frozen backbone, and no more."""
    return plan.tuning is None and plan.start == "linear probe"


def treats(order: Order, plans: Sequence[Candidate]) -> bool:
    """Whether any of the plans learns how common a class is, which the published head and a cosine head do not."""
    return any(plan.tuning or (reads_frozen(plan) and order.head != "cosine") for plan in plans)
