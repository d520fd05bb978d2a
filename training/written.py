"""Writes a run of what was made: what was measured, what was decided and why, what stayed frozen; makes nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import nn

from export import labelled, program, run, score
from export.labelled import LabelledImage, Split
from export.progress import Steps
from training import backbones, baselines, freezing, lookalikes, published, report
from training.advice.candidates import head_words
from training.advice.decide import DECISION, Decision
from training.dataset import Dataset, Sample
from training.errors import FrozenError
from training.fitting import Fitted
from training.made import Made
from training.pretraining import record
from training.question import AUTO
from training.report import HeldOut, Material
from training.result import (
    CURVES,
    FROZEN_HEAD,
    IMAGES,
    METRICS,
    REPORT,
    Baseline,
    Features,
    FrozenBackbone,
    Lookalike,
    Race,
    Result,
    Way,
)
from training.served import describe
from training.source import Source
from training.start import Order, Start, reads_frozen, treats
from training.tuning import devices
from training.tuning.journal import BOARD

_Known: TypeAlias = tuple[torch.Tensor, torch.Tensor]  # embeddings float32 `[N, D]` and labels int64 `[N]`

_BACKBONE, _HEAD = "backbone.", "head."  # as Served has them


@dataclass(frozen=True)
class Trained:
    """A run that was written, what was measured, the answers to the held-out images, and the evidence, where asked."""

    run: run.Run
    result: Result
    held_out: Mapping[Split, HeldOut]
    decision: Decision | None


def write(start: Start, decision: Decision | None, made: Made, steps: Steps) -> Trained:
    """Write the folder of a run, whole or not at all.

    Args:
        start: What was asked for, and the images.
        decision: The evidence, where it was asked.
        made: The model.
        steps: Tells of three steps.

    Returns:
        What was written.

    Raises:
        FrozenError: What was to stay frozen did not stay as it was pretrained.
        TargetError: The folder exists.
    """
    data, order = start.data.data, start.order
    scores = {split: score.score(each.logits, each.expected, data.labels) for split, each in made.tested.items()}
    with steps.step("compare with simple ways"):
        known = {split: start.source.known(of) for split, of in start.data.splits.items()} if start.source else {}
        compared = _baselines(start, made, known)
        near = _near(start, made, known)
    with steps.step("trace the model"):
        model, trained, frozen = _assemble(start, made)
    result = Result(
        data=data,
        way=_way(start, decision, made),
        backbone=frozen,
        features=_features(start),
        head=made.fitted.result if made.fitted else None,
        lookalikes=near,
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
    """What there was to learn from and what was held out, as --data takes it."""
    labels = data.data.labels
    found = [(split, each) for split, samples in data.splits.items() for each in samples]
    left: list[tuple[Split, Sample]] = [("train", each) for each in data.left]
    return labelled.table(
        LabelledImage(each.path, labels[each.label], split, each.group, each.weight) for split, each in (*found, *left)
    )


def _assemble(start: Start, made: Made) -> tuple[torch.export.ExportedProgram, tuple[str, ...], FrozenBackbone]:
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
    counted = FrozenBackbone(
        parameters=sum(each.numel() for name, each in kept.items() if name in of_backbone),
        buffers=sum(each.numel() for name, each in kept.items() if name not in parameters),
        sha256_before=before,
        sha256_after=after,
    )
    return model, trained, counted


def _pretrained(start: Start, made: Made) -> dict[str, torch.Tensor]:
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


def _way(start: Start, decision: Decision | None, made: Made) -> Way:
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


def _imbalance(start: Start, made: Made) -> str | None:
    """How unequal classes were treated in what was made."""
    treats_them = start.treated.kind != "none" and treats(start.order, [made.plan])
    return start.treated.reason if treats_them else None


def _trains(made: Made) -> str:
    words = made.plan.words()
    if made.fine_tuned is None:
        # What a head reads was chosen when it was fitted.
        return head_words(made.head.taps) if reads_frozen(made.plan) else words
    refit = made.fine_tuned.tuned.record.refit
    anew = ", then the head anew, on the embedding and all stages" if refit and refit.kept else ""
    if made.fine_tuned.tuned.trained:
        return words + anew
    what = "the head alone" if made.fitted or anew else "nothing, so that all of it is random"
    return f"{what}, because no epoch of {words} was better on the validation images{anew}"


def _seen(start: Start) -> int:
    """How many held-out images the backbone has learnt from before, where that is known."""
    weights = start.order.question.weights
    if weights is None or record.of(weights) is None:
        return 0
    seen = record.seen(weights.parent)
    return sum(sample.sha256 in seen for samples in start.held_out.values() for sample in samples)


def _overridden(start: Start, made: Made) -> tuple[str, ...]:
    """What a person chose themselves, as far as it made a difference: most of it is for fine-tuning alone."""
    order, question, plan = start.order, start.order.question, made.plan
    fine_tunes = made.race is not None or plan.tuning is not None
    # In a race a head has to be beaten.
    reads = reads_frozen(plan) or (made.race is not None and any(not heat.epochs for heat in made.race.heats))
    asked: dict[str, object] = {} if question.regime == "auto" else {"regime": question.regime}
    asked |= {} if question.backbone == AUTO else {"backbone": question.backbone}
    asked |= {} if question.weights is None else {"weights": question.weights}
    asked |= {"head": order.head} if order.head != "linear" and reads else {}
    asked |= {"views": order.views} if order.views and (reads or plan.start == "linear probe") else {}
    asked |= {} if question.resize_px is None else {"resize_px": question.resize_px}
    asked |= {} if question.crop_px is None else {"crop_px": question.crop_px}
    if fine_tunes:
        asked |= {} if order.augmentation is None else {"augmentation": order.augmentation}
        # A plan that freezes nothing has nothing to cache.
        without = {"cached_views"} if plan.tuning is not None and plan.tuning.cached_views is None else set()
        without |= set() if "validation" in start.data.splits else {"patience"}
        asked |= {name: each for name, each in order.changes.items() if name not in without}
    elif "imbalance" in order.changes and treats(order, [plan]):
        asked["imbalance"] = order.changes["imbalance"]
    told = tuple(f"{name.replace('_', '-')} {value}" for name, value in asked.items())
    return (*told, "turns") if order.turns and fine_tunes else told


def _reason(order: Order, decision: Decision | None, raced: Race | None) -> str:
    if raced:
        return raced.reason
    if decision:
        return "; ".join(decision.reasons)
    return f"asked for: {order.question.regime}"


def _features(start: Start) -> Features | None:
    if start.source is None:
        return None
    return Features(
        taps=dict(start.source.extractor.taps),
        views=tuple(view.name for view in start.source.shown),
        provider=start.source.extractor.engine.provider,
        from_cache=start.counts.from_cache,
        computed=start.counts.computed,
    )


def _baselines(start: Start, made: Made, known: Mapping[Split, _Known]) -> tuple[Baseline, ...]:
    if start.source is None:
        return ()
    began: tuple[Baseline, ...] = ()
    if made.fine_tuned and made.fitted:
        began = (_before(start, start.source, made.fitted),)
    held_out = {split: known[split] for split in start.held_out}
    return (*began, *baselines.compare(*known["train"], held_out))


def _near(start: Start, made: Made, known: Mapping[Split, _Known]) -> tuple[Lookalike, ...] | None:
    """Where something was learnt that could be known by heart."""
    if start.source is None or made.plan.start == "pretrained classifier":
        return ()
    embeddings = {split: embedding for split, (embedding, _) in known.items()}
    return lookalikes.find(embeddings, start.data.splits, start.data.data.leaks)


def _before(start: Start, source: Source, fitted: Fitted) -> Baseline:
    """What a fine-tuning began with: where that is better the training was no use."""
    found = {split: source.answer(fitted, samples) for split, samples in start.held_out.items()}
    labels = start.data.data.labels
    scores = {split: score.score(each.logits, each.expected, labels) for split, each in found.items()}
    return Baseline(
        name=FROZEN_HEAD,
        description="on the frozen backbone; fine-tuning began with it",
        accuracy={split: each.accuracy for split, each in scores.items()},
        balanced={split: each.balanced_accuracy for split, each in scores.items()},
    )
