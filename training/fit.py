"""From labelled images to a run: evidence, a race of plans, the training that won; every step in a file of its own."""

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from export import labelled, program, run, score, staging
from export.labelled import LabelledImage, Split
from export.progress import Steps
from export.run import EMBEDDING, Head
from service.bundle import CropGeometry
from training import backbones, baselines, features, freezing, opening, published, race, report, tuned
from training.advice import advise as advisor
from training.advice.candidates import Candidate, candidates
from training.advice.decide import DECISION, UNADVISED, Decision, Leaning
from training.advice.explain import explain
from training.backbones import Card
from training.dataset import Dataset, Sample
from training.errors import ExplodedError, FrozenError
from training.features import Counts
from training.fitting import Fitted, Kind
from training.ledger import Ledger
from training.opening import Opened
from training.parts import parts, trained_from
from training.pretraining import record
from training.question import AUTO, Question
from training.race import Raced
from training.report import HeldOut, Material
from training.result import CURVES, FROZEN_HEAD, IMAGES, METRICS, REPORT, Baseline, Features, Frozen, Race, Result, Way
from training.served import Served, describe
from training.source import Source
from training.tuned import FineTuned, Ground, Probed
from training.tuning import augmentation, batches, cut, devices, rates
from training.tuning.imbalance import Treatment
from training.tuning.journal import BOARD
from training.tuning.plan import Plan
from training.tuning.record import Known
from training.views import views

Augmentation: TypeAlias = Literal["none", "light", "medium", "strong"]

STEPS = 8
_BACKBONE, _HEAD = "backbone.", "head."  # as Served has them
_DECIDED = "decided"
# Raised when what was decided before is no use any more.
_LEDGER = 5


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
    augmentation: Augmentation | None = None
    turns: bool = False


@dataclass(frozen=True)
class Trained:
    """A run that was written, what was measured, the answers to the held-out images, and the evidence, where asked."""

    run: run.Run
    result: Result
    held_out: Mapping[Split, HeldOut]
    decision: Decision | None


@dataclass(frozen=True)
class _Start:
    """What every way of training begins with; a random start has no features."""

    order: Order
    opened: Opened
    source: Source | None
    plans: tuple[Candidate, ...]
    counts: Counts
    deadline_s: float
    fitted: dict[tuple[object, ...], Fitted] = field(default_factory=dict)

    @property
    def data(self) -> Dataset:
        return self.opened.data

    @property
    def card(self) -> Card:
        return self.opened.card

    @property
    def geometry(self) -> CropGeometry:
        return self.opened.geometry

    @cached_property
    def treated(self) -> Treatment:
        """How unequal classes are treated, where any of the plans learns how common they are."""
        asked = Plan.model_validate({"unfreeze_from": None, **self.order.changes})
        return tuned.treatment(self.ground(), asked.imbalance if _treats(self.order, self.plans) else "none")

    @property
    def held_out(self) -> dict[Split, tuple[Sample, ...]]:
        return {split: samples for split, samples in self.data.splits.items() if split != "train"}

    def ground(self) -> Ground:
        return Ground(
            card=self.card,
            geometry=self.geometry,
            train=self.data.splits["train"],
            validation=self.data.splits.get("validation", ()),
            classes=len(self.data.data.labels),
            turns=self.order.turns,
            cache=self.order.question.cache,
            seed=self.order.question.plan.seed,
        )

    def left_s(self) -> float:
        return self.deadline_s - time.monotonic()

    def ledger(self) -> Ledger:
        """Where the same order of the same plans and images finds what it has decided before."""
        order, backbone = self.order, self.card.backbone
        facts = (_LEDGER, backbone.name, backbone.architecture, backbone.weights_sha256, self.geometry)
        asked = (order.question.limit_s, order.turns, order.head, order.views, order.question.plan.seed)
        named = hashlib.sha256(repr((facts, asked)).encode())
        for split, samples in sorted(self.data.splits.items()):
            for each in samples:
                named.update(each.sha256 + f"{split} {each.label} {each.weight} {each.group}".encode())
        for plan in self.plans:
            named.update(plan.model_dump_json().encode())
        return Ledger(order.question.cache / _DECIDED / f"{named.hexdigest()}.json")


@dataclass(frozen=True)
class _Made:
    """A model, the plan and the race that it came of, and what it makes of the held-out images."""

    plan: Candidate
    race: Race | None
    card: Card
    head: Head
    module: Served
    fitted: Fitted | None
    fine_tuned: FineTuned | None
    images: int
    tested: Mapping[Split, HeldOut]


def fit(order: Order, steps: Steps) -> Trained:
    """Make a run of labelled images.

    Args:
        order: What to make.
        steps: Tells of the steps: STEPS of them, and those that a race or a fine-tuning adds.

    Returns:
        The run, its folder written whole, with metrics.json, decision.json, report.html and images.csv in it, and the
        curves of a fine-tuning.

    Raises:
        BackboneError: There is no such backbone, its weights are not what its card says, or its features no numbers.
        CacheError: The cache cannot be read or written.
        DataError: The images are not what they must be.
        Disagreement: The engine does not answer as torch does.
        FrozenError: What was to stay frozen did not stay as it was pretrained.
        HeadError: No head can be trained on them.
        TargetError: The folder exists.
        TuningError: A plan cannot be followed.
    """
    started_s = time.monotonic()
    staging.refuse_existing(order.out)
    random = order.question.regime == "scratch"
    opened = opening.opened(order.question, steps)
    data, card = opened.data, opened.card
    source = None if random else _source(order, opened, steps)
    decision, plans = _plans(order, data, card, source, steps)
    _check(order, data, card, plans, steps)
    counts = _extract(source, data, steps) if source else Counts(0, 0)
    start = _Start(order, opened, source, plans, counts, started_s + order.question.limit_s)
    if start.treated.kind != "none":
        steps.say(f"Unequal classes: {start.treated.reason}.")
    ledger = start.ledger()
    leans = decision.leans if decision else UNADVISED
    raced = _raced(start, leans, ledger, steps)
    made = _make(start, raced, ledger, steps)
    trained = _write(start, decision, made, steps)
    # What was written need not be gone on with.
    ledger.forget()
    if made.fine_tuned:
        tuned.forget(made.fine_tuned)
    return trained


def _check(order: Order, data: Dataset, card: Card, plans: Sequence[Candidate], steps: Steps) -> None:
    """Refuse what plans cannot do before the features of all images are computed, which may take long."""
    if any(plan.start == "pretrained classifier" for plan in plans):
        published.head(card, data.data.labels)
    if order.head != "linear" and not any(_reads_frozen(plan) for plan in plans):
        steps.say("Not used, because only a head on a frozen backbone is chosen: head.")
    tunings = [(plan, plan.tuning) for plan in plans if plan.tuning]
    asked = [name for name in order.changes if name != "imbalance" or not _treats(order, plans)]
    asked += ["augmentation"] if order.augmentation else []
    if asked and not tunings:
        names = ", ".join(each.replace("_", "-") for each in asked)
        steps.say(f"Not used, because nothing is to be fine-tuned: {names}.")
    if not tunings:
        return
    if "patience" in order.changes and not data.splits.get("validation"):
        steps.say("Not used, because there is no validation split: patience.")
    module, _ = backbones.parted(backbones.build(card.backbone.architecture, 0))
    known, images = parts(module, card.backbone), len(data.splits["train"])
    for plan, tuning in tunings:
        trained_from(known, tuning.unfreeze_from)
        if tuning.cached_views:
            cut.check(module)
        how = augmentation.preset(plan.augmentation, turns=order.turns, images=images, epochs=tuning.epochs)
        batches.check_views(tuning.cached_views, how)
    for said in dict.fromkeys(each for plan, tuning in tunings for each in _warnings(plan, tuning, card, images)):
        steps.say(said)


def _warnings(plan: Candidate, tuning: Plan, card: Card, images: int) -> tuple[str, ...]:
    """What a person should know of a rate that they chose before anything is trained with it."""
    if isinstance(tuning.rate, str):
        return ()
    batch_size, from_random = min(tuning.batch_size, images), plan.start == "random"
    return rates.warnings(tuning.rate, card.backbone.recipe, batch_size, from_random=from_random)


def _reads_frozen(plan: Candidate) -> bool:
    """Whether it is a head that is fitted to the features of a frozen backbone, and no more."""
    return plan.tuning is None and plan.start == "linear probe"


def _treats(order: Order, plans: Sequence[Candidate]) -> bool:
    """Whether any of the plans learns how common a class is, which the published head and a cosine head do not."""
    return any(plan.tuning or (_reads_frozen(plan) and order.head != "cosine") for plan in plans)


def deterministic() -> dict[str, object]:
    """Make this process compute the same each time, on a GPU too; what is to be changed in plans for it.

    Returns:
        Changes, by the names of tuning.plan.Plan: nothing is decided by how fast it was just now.
    """
    # cuBLAS asks for it: https://docs.nvidia.com/cuda/cublas/#results-reproducibility
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    return {"precision": "fp32", "channels_last": False}


def _source(order: Order, opened: Opened, steps: Steps) -> Source:
    with steps.step("load the backbone"), devices.launched().rank_zero_first():
        extractor = features.extractor(opened.card, opened.geometry, order.question.cache)
    shown, data, asked = views(order.views), opened.data, order.question
    return Source(data.splits["train"], extractor, shown, data.data.labels, asked.cache, asked.plan.seed)


def _plans(
    order: Order, data: Dataset, card: Card, source: Source | None, steps: Steps
) -> tuple[Decision | None, tuple[Candidate, ...]]:
    """What is worth trying: what was asked for, or what the evidence says."""
    decision = None
    if order.question.regime == "auto":
        assert source is not None  # nothing but a random start has none
        steps.more(advisor.STEPS)
        decision = advisor.advise(data, source.extractor, card, order.question.cache, steps)
        steps.say(explain(decision))
        plans = decision.plans
    else:
        plans = candidates(order.question.regime, len(data.splits["train"]), card.backbone)
    changed = (_changed(plan, order, card.backbone.stages[0].name) for plan in plans)
    return decision, tuple(dict.fromkeys(changed))


def _changed(plan: Candidate, order: Order, first: str) -> Candidate:
    if plan.tuning is None:
        return plan
    # Not copied but made anew: what a person says is checked as the plan's own figures are.
    tuning = type(plan.tuning).model_validate({**plan.tuning.model_dump(), **order.changes})
    if tuning.unfreeze_from == first:
        # Of a plan that freezes nothing, which another one may race against, nothing can be kept.
        tuning = tuning.model_copy(update={"cached_views": None})
    return plan.model_copy(update={"tuning": tuning, "augmentation": order.augmentation or plan.augmentation})


def _extract(source: Source, data: Dataset, steps: Steps) -> Counts:
    held_out = [sample for split, samples in data.splits.items() if split != "train" for sample in samples]
    # What the first process writes the others find.
    first = devices.launched().rank_zero_first()
    with steps.step("extract features", len(source.shown) * len(source.train) + len(held_out)) as advance, first:
        return source.extract(held_out, advance)


def _raced(start: _Start, leans: Leaning, ledger: Ledger, steps: Steps) -> Raced | None:
    if len(start.plans) == 1:
        return None
    frozen = race.Frozen(partial(_fitted, start), partial(_right, start), start.treated)
    return race.race(start.ground(), start.plans, leans, frozen, start.left_s(), steps, ledger)


def _fitted(start: _Start, plan: Candidate, train: Sequence[Sample]) -> Fitted:
    """The head that a plan ends or begins with, fitted once to the same images."""
    asked = (plan.start, plan.taps, plan.tuning is None, tuple(train))
    if asked not in start.fitted:
        start.fitted[asked] = _fit(start, plan, train)
    return start.fitted[asked]


def _fit(start: _Start, plan: Candidate, train: Sequence[Sample]) -> Fitted:
    assert start.source is not None  # plans that begin with a head on features come with them
    source = start.source.only(train)
    if plan.start == "pretrained classifier":
        return published.head(start.card, start.data.data.labels)
    if plan.tuning is not None:
        return source.fit("linear", [plan.taps])
    # A head alone may read more than the embedding, where cross-validation says so.
    return source.fit(start.order.head, [(EMBEDDING,), start.card.backbone.taps()], start.treated)


def _right(start: _Start, fitted: Fitted, samples: Sequence[Sample]) -> NDArray[np.bool_]:
    assert start.source is not None  # as above
    found = start.source.answer(fitted, samples)
    return np.asarray(found.logits.argmax(1) == found.expected)


def _make(start: _Start, raced: Raced | None, ledger: Ledger, steps: Steps) -> _Made:
    """Train by the plan that won on all training images, and ask about the held-out ones."""
    told = raced.race if raced else None
    plan = start.plans[told.chosen if told else 0]
    if plan.tuning is None:
        return _headed(start, plan, told, steps)
    fitted = None if plan.start == "random" else _head(start, plan, steps)
    probed = Probed(fitted.head, fitted.module) if fitted else None
    tested = raced.tested if raced else None
    left_s = race.SPENT * start.left_s()
    asked = sum(map(len, start.held_out.values()))
    ground, within = race.within(start.ground(), plan, probed, left_s, ledger, finds_rate=tested is None, asked=asked)
    assert within.tuning is not None  # it has only become shorter
    if raced and raced.head is not None and len(ground.train) * within.tuning.epochs < raced.least:
        return _instead(start, raced, "the time that was left is too short for that on all images", steps)
    steps.more(1 + len(start.held_out))
    known = Known(tested=tested, paces=race.paces(ground, within, probed, ledger))
    try:
        fine_tuned = tuned.fine_tune(ground, within, probed, steps, known)
    except ExplodedError:
        # What was asked for is not given up for something else.
        if raced is None or raced.head is None:
            raise
        return _instead(start, raced, "its loss exploded", steps)
    return _Made(
        plan=plan,
        race=told,
        card=fine_tuned.card,
        head=fine_tuned.head,
        module=fine_tuned.module,
        fitted=fitted,
        fine_tuned=fine_tuned,
        images=len(ground.train),
        tested={split: _asked(ground, fine_tuned, samples, steps) for split, samples in start.held_out.items()},
    )


def _instead(start: _Start, raced: Raced, reason: str, steps: Steps) -> _Made:
    """The head that stays where what won cannot be trained."""
    assert raced.head is not None  # or there is nothing to fall back to
    told = {"chosen": raced.head, "reason": f"{raced.race.reason}; {reason}, so a head stays"}
    return _headed(start, start.plans[raced.head], raced.race.model_copy(update=told), steps)


def _headed(start: _Start, plan: Candidate, raced: Race | None, steps: Steps) -> _Made:
    """A head on the frozen backbone."""
    fitted = _head(start, plan, steps)
    assert start.source is not None  # a frozen plan has features
    with steps.step("test the head"):
        tested = {split: start.source.answer(fitted, samples) for split, samples in start.held_out.items()}
    backbone, _ = backbones.parted(backbones.pretrained(start.card))
    return _Made(
        plan=plan,
        race=raced,
        card=start.card,
        head=fitted.head,
        module=Served(backbone, fitted.module, start.card.backbone, start.card.scaling),
        fitted=fitted,
        fine_tuned=None,
        images=len(start.data.splits["train"]),
        tested=tested,
    )


def _head(start: _Start, plan: Candidate, steps: Steps) -> Fitted:
    with steps.step("train the head"):
        return _fitted(start, plan, start.data.splits["train"])


def _asked(ground: Ground, fine_tuned: FineTuned, samples: Sequence[Sample], steps: Steps) -> HeldOut:
    found = tuned.answers(fine_tuned.module, ground, samples, steps)
    return HeldOut(
        paths=tuple(sample.path for sample in samples),
        expected=np.array([sample.label for sample in samples]),
        logits=found.logits,
        embedding=found.embedding,
    )


def _write(start: _Start, decision: Decision | None, made: _Made, steps: Steps) -> Trained:
    data, order = start.data.data, start.order
    scores = {split: score.score(each.logits, each.expected, data.labels) for split, each in made.tested.items()}
    with steps.step("compare with simple ways"):
        compared = _baselines(start, made)
    with steps.step("trace the model"):
        model, trained, frozen = _assemble(start, made)
    result = Result(
        data=data,
        way=_way(start, decision, made),
        backbone=frozen,
        features=_features(start),
        head=made.fitted.result if made.fitted else None,
        scores=scores,
        baselines=compared,
        seconds=dict(steps.seconds),
    )
    with steps.step("write the run"):
        described = run.Run(
            regime=run.Decision(name=made.plan.regime, reason=_reason(order, decision, made.race)),
            backbone=made.card.backbone,
            geometry=start.geometry,
            scaling=made.card.scaling,
            head=made.head,
            trained=trained,
            labels=data.labels,
            labels_sha256=data.labels_sha256,
            outputs=describe(model, made.card.backbone),
            metrics={f"{split}_accuracy": each.accuracy.value for split, each in scores.items()},
            data_sha256=data.sha256,
            weights_sha256=run.digest(model),
        )
        curves = made.fine_tuned.curves if made.fine_tuned else ""
        material = Material(made.module, decision.evidence if decision else None, curves)
        page = report.render(result, described, made.tested.get("test") or made.tested["validation"], material)
        kept: dict[str, str | Path] = {
            METRICS: result.model_dump_json(indent=2) + "\n",
            REPORT: page,
            IMAGES: _images(start.data),
        }
        kept |= {DECISION: decision.text()} if decision else {}
        if made.fine_tuned:
            kept[CURVES] = made.fine_tuned.curves
            kept |= {BOARD: made.fine_tuned.board} if made.fine_tuned.board else {}
        # All processes come to the same, and one of them writes it.
        if devices.launched().is_global_zero:
            run.write(order.out, described, model, kept)
    return Trained(described, result, made.tested, decision)


def _images(data: Dataset) -> str:
    """What was learnt from and what was held out, as --data takes it."""
    labels = data.data.labels
    return labelled.table(
        LabelledImage(each.path, labels[each.label], split, each.group, each.weight)
        for split, samples in data.splits.items()
        for each in samples
    )


def _assemble(start: _Start, made: _Made) -> tuple[torch.export.ExportedProgram, tuple[str, ...], Frozen]:
    """The model, what of it was trained, and the proof that all else is the pretrained one, bit by bit."""
    tuned_names = set(made.fine_tuned.tuned.trained) if made.fine_tuned else set()
    model = program.trace(made.module, start.geometry)
    state, pretrained = model.state_dict, _pretrained(start, made)
    # A head that was fitted here has no tensors that were there before; the published one has.
    trained = tuple(name for name in state if name not in pretrained or name in tuned_names)
    kept = {name: each for name, each in state.items() if name not in trained}
    parameters = {name for name, _ in made.module.named_parameters()}
    of_backbone = {name for name in parameters if name.startswith(_BACKBONE)}
    after = freezing.digest(kept)
    before = freezing.digest({name: each for name, each in pretrained.items() if name in kept})
    if before != after:
        raise FrozenError(f"Expected what was frozen to keep the tensors {before}. Received: {after}.")
    counted = Frozen(
        parameters=sum(each.numel() for name, each in kept.items() if name in of_backbone),
        buffers=sum(each.numel() for name, each in kept.items() if name not in parameters),
        sha256_before=before,
        sha256_after=after,
    )
    return model, trained, counted


def _pretrained(start: _Start, made: _Made) -> dict[str, torch.Tensor]:
    """The tensors that there were before anything was trained, by their names in the model.

    Those of the backbone; and where the published model answers as it is, those of its head.
    """
    if made.fitted is None:
        _, backbone = backbones.scratch(start.card, start.order.question.plan.seed)
    else:
        backbone, _ = backbones.parted(backbones.pretrained(start.card))
    head: nn.Module = nn.Identity()
    if made.plan.start == "pretrained classifier":
        head = published.head(start.card, start.data.data.labels).module
    return {
        **{f"{_BACKBONE}module.{name}": each for name, each in backbone.state_dict().items()},
        **{f"{_HEAD}{name}": each for name, each in head.state_dict().items()},
    }


def _way(start: _Start, decision: Decision | None, made: _Made) -> Way:
    plan = made.plan
    return Way(
        regime=plan.regime,
        trains=_trains(made),
        images=made.images,
        epochs=plan.tuning.epochs if plan.tuning else None,
        advised=decision.regime if decision else None,
        reasons=decision.reasons if decision else (),
        overridden=_overridden(start, made),
        race=made.race,
        imbalance=_imbalance(start, made),
        tuning=made.fine_tuned.tuned.record if made.fine_tuned else None,
        selection=start.opened.selection,
        seen=_seen(start),
    )


def _imbalance(start: _Start, made: _Made) -> str | None:
    """How unequal classes were treated in what was made; what was learnt of fewer images may have gone by these."""
    treated = made.fine_tuned.treatment if made.fine_tuned else start.treated
    return treated.reason if treated.kind != "none" and _treats(start.order, [made.plan]) else None


def _trains(made: _Made) -> str:
    words = made.plan.words()
    if made.fine_tuned is None or made.fine_tuned.tuned.trained:
        return words
    what = "the head alone" if made.fitted else "nothing, so that all of it is random"
    return f"{what}, because no epoch of {words} was better on the validation images"


def _seen(start: _Start) -> int:
    """How many held-out images the backbone has learnt from before, where that is known."""
    weights = start.order.question.weights
    if weights is None or record.of(weights) is None:
        return 0
    seen = record.seen(weights.parent)
    return sum(sample.sha256 in seen for samples in start.held_out.values() for sample in samples)


def _overridden(start: _Start, made: _Made) -> tuple[str, ...]:
    """What a person chose themselves, as far as it made a difference: most of it is for fine-tuning alone."""
    order, question, plan = start.order, start.order.question, made.plan
    fine_tunes = made.race is not None or plan.tuning is not None
    # In a race a head has to be beaten.
    reads_frozen = _reads_frozen(plan) or (made.race is not None and any(not heat.epochs for heat in made.race.heats))
    asked: dict[str, object] = {} if question.regime == "auto" else {"regime": question.regime}
    asked |= {} if question.backbone == AUTO else {"backbone": question.backbone}
    asked |= {} if question.weights is None else {"weights": question.weights}
    asked |= {"head": order.head} if order.head != "linear" and reads_frozen else {}
    asked |= {"views": order.views} if order.views and (reads_frozen or plan.start == "linear probe") else {}
    asked |= {} if question.resize_px is None else {"resize_px": question.resize_px}
    asked |= {} if question.crop_px is None else {"crop_px": question.crop_px}
    if fine_tunes:
        asked |= {} if order.augmentation is None else {"augmentation": order.augmentation}
        # A plan that freezes nothing has nothing to cache.
        without = {"cached_views"} if plan.tuning is not None and plan.tuning.cached_views is None else set()
        without |= set() if "validation" in start.data.splits else {"patience"}
        asked |= {name: each for name, each in order.changes.items() if name not in without}
    elif "imbalance" in order.changes and _treats(order, [plan]):
        asked["imbalance"] = order.changes["imbalance"]
    told = tuple(f"{name.replace('_', '-')} {value}" for name, value in asked.items())
    return (*told, "turns") if order.turns and fine_tunes else told


def _reason(order: Order, decision: Decision | None, raced: Race | None) -> str:
    if raced:
        return raced.reason
    if decision:
        return "; ".join(decision.reasons)
    return f"asked for: {order.question.regime}"


def _features(start: _Start) -> Features | None:
    if start.source is None:
        return None
    return Features(
        taps=dict(start.source.extractor.taps),
        views=tuple(view.name for view in start.source.shown),
        provider=start.source.extractor.engine.provider,
        from_cache=start.counts.from_cache,
        computed=start.counts.computed,
    )


def _baselines(start: _Start, made: _Made) -> tuple[Baseline, ...]:
    if start.source is None:
        return ()
    began: tuple[Baseline, ...] = ()
    # Where unequal classes are treated it aims at something else than the head did, which plain accuracy does not tell.
    if made.fine_tuned and made.fitted and made.fine_tuned.treatment.kind == "none":
        began = _before(start.source, made.fitted, start.held_out)
    known = {split: start.source.known(samples) for split, samples in start.held_out.items()}
    return (*began, *baselines.compare(*start.source.known(start.source.train), known))


def _before(source: Source, fitted: Fitted, held_out: Mapping[Split, tuple[Sample, ...]]) -> tuple[Baseline, ...]:
    """What a fine-tuning began with: where that is better the training was no use."""
    found = {split: source.answer(fitted, samples) for split, samples in held_out.items()}
    accuracy = {
        split: score.wilson(int((each.logits.argmax(1) == each.expected).sum()), len(each.expected))
        for split, each in found.items()
    }
    return (
        Baseline(name=FROZEN_HEAD, description="on the frozen backbone; fine-tuning began with it", accuracy=accuracy),
    )
