"""From a person's labelled images to a run, on a frozen backbone; every step in order, each in a file of its own."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from export import labelled, program, run, score, staging
from export.labelled import Split
from export.progress import Advance, Steps
from export.run import EMBEDDING
from service.bundle import CropGeometry
from training import backbones, baselines, dataset, features, fitting, freezing, report
from training.backbones import Card
from training.dataset import Dataset, Plan, Sample
from training.errors import FrozenError
from training.features import Counts, Extractor
from training.fitting import Examples, Fitted, Kind
from training.report import HeldOut
from training.result import METRICS, REPORT, Features, Frozen, Result
from training.served import Served, describe
from training.views import PLAIN, View, views

_BACKBONE = "backbone."  # as Served has it


@dataclass(frozen=True)
class Order:
    """What to make of which images.

    Attributes:
        source: A folder or table of labelled images.
        plan: How they are checked and split.
        backbone: The backbone's name.
        resize_px: What the shorter side becomes; None for the backbone's own.
        crop_px: The side of the square that is cut out; None for the backbone's own.
        head: What reads the backbone.
        views: How many more views of each training image there are than the plain one.
        cache: The folder of what is computed once.
        out: The run's folder, which must not exist.
    """

    source: Path
    plan: Plan
    backbone: str
    resize_px: int | None
    crop_px: int | None
    head: Kind
    views: int
    cache: Path
    out: Path


@dataclass(frozen=True)
class Trained:
    """A run that was written, what was measured, and the answers to the held-out images."""

    run: run.Run
    result: Result
    held_out: Mapping[Split, HeldOut]


class _Clock:
    """Keeps how long each step took, and tells a person."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str, total: int | None = None) -> Iterator[Advance]:
        started_s = time.perf_counter()
        with self._steps.step(name, total) as advance:
            yield advance
        self.seconds[name] = round(time.perf_counter() - started_s, 2)


@dataclass(frozen=True)
class _Source:
    """Where the features of one data set are read."""

    data: Dataset
    extractor: Extractor
    shown: tuple[View, ...]
    cache: Path

    @property
    def train(self) -> tuple[Sample, ...]:
        return self.data.splits["train"]

    @property
    def held_out(self) -> dict[Split, tuple[Sample, ...]]:
        return {split: samples for split, samples in self.data.splits.items() if split != "train"}

    def plain(self, samples: Sequence[Sample], taps: Sequence[str]) -> dict[str, Tensor]:
        return self._read(samples, PLAIN, taps)

    def matrix(self, taps: tuple[str, ...]) -> Tensor:
        """All views of the training images, view by view: float32 `[views * N, D]`."""
        width = sum(self.extractor.taps[tap] for tap in taps)
        matrix = torch.empty(len(self.shown) * len(self.train), width)
        for part, view in zip(torch.split(matrix, len(self.train)), self.shown, strict=True):
            found = self._read(self.train, view, taps)
            torch.cat([found[tap] for tap in taps], dim=1, out=part)
        return matrix

    def _read(self, samples: Sequence[Sample], view: View, taps: Sequence[str]) -> dict[str, Tensor]:
        found = features.rows(samples, view, self.extractor, self.cache, taps)
        return {tap: torch.from_numpy(rows) for tap, rows in found.items()}


def fit(order: Order, steps: Steps) -> Trained:
    """Make a run of labelled images: freeze the backbone, compute its features once, train a head on them.

    Args:
        order: What to make.
        steps: Tells of the seven steps.

    Returns:
        The run, its folder written whole, with metrics.json and report.html in it.

    Raises:
        BackboneError: There is no such backbone, its weights are not what its card says, or its features no numbers.
        CacheError: The cache cannot be read or written.
        DataError: The images are not what they must be.
        Disagreement: The engine does not answer as torch does.
        FrozenError: The backbone did not stay as it was pretrained.
        HeadError: No head can be trained on them.
        TargetError: The folder exists.
    """
    card = backbones.card(order.backbone)
    geometry = backbones.sized(card, order.resize_px, order.crop_px)
    staging.refuse_existing(order.out)
    clock = _Clock(steps)
    images = labelled.read(order.source)
    with clock.step("check the images", len(images)) as advance:
        data = dataset.prepare(images, order.source, order.plan, order.cache, advance)
    with clock.step("load the backbone"):
        extractor = features.extractor(card, geometry, order.cache)
    source = _Source(data, extractor, views(order.views), order.cache)
    total = len(source.shown) * len(source.train) + sum(map(len, source.held_out.values()))
    with clock.step("extract features", total) as advance:
        counts = _extract(source, advance)
    with clock.step("train the head"):
        fitted = fitting.fit(order.head, _candidates(card), _examples(source, order.plan.seed))
    with clock.step("test the head"):
        tested = {split: _answer(source, fitted, samples) for split, samples in source.held_out.items()}
        scores = {split: score.score(each.logits, each.expected, data.data.labels) for split, each in tested.items()}
        compared = baselines.compare(
            *_known(source, source.train),
            {split: _known(source, samples) for split, samples in source.held_out.items()},
        )
    with clock.step("trace the model"):
        model, frozen = _assemble(card, geometry, fitted)
    result = Result(
        data=data.data,
        backbone=frozen,
        features=Features(
            taps=dict(extractor.taps),
            views=tuple(view.name for view in source.shown),
            provider=extractor.engine.provider,
            from_cache=counts.from_cache,
            computed=counts.computed,
        ),
        head=fitted.result,
        scores=scores,
        baselines=compared,
        seconds=clock.seconds,
    )
    with clock.step("write the run"):
        made = _describe(card, geometry, fitted, model, result)
        page = report.render(result, made, tested.get("test") or tested["validation"])
        run.write(order.out, made, model, {METRICS: result.model_dump_json(indent=2) + "\n", REPORT: page})
    return Trained(made, result, tested)


def _extract(source: _Source, advance: Advance) -> Counts:
    samples = [sample for each in source.held_out.values() for sample in each]
    learnt = features.extract(source.train, source.shown, source.extractor, source.cache, advance)
    asked = features.extract(samples, (PLAIN,), source.extractor, source.cache, advance)
    return Counts(learnt.from_cache + asked.from_cache, learnt.computed + asked.computed)


def _candidates(card: Card) -> list[tuple[str, ...]]:
    """The sets of taps that a head may read, cheapest first."""
    return [(EMBEDDING,), card.backbone.taps()]


def _examples(source: _Source, seed: int) -> Examples:
    return Examples(
        matrix=source.matrix,
        views=len(source.shown),
        labels=torch.tensor([sample.label for sample in source.train]),
        weights=torch.tensor([sample.weight for sample in source.train], dtype=torch.float64),
        groups=[sample.group for sample in source.train],
        classes=source.data.data.labels,
        seed=seed,
    )


def _answer(source: _Source, fitted: Fitted, samples: Sequence[Sample]) -> HeldOut:
    pooled = source.plain(samples, tuple(dict.fromkeys((*fitted.head.taps, EMBEDDING))))
    with torch.no_grad():
        logits = fitted.module(pooled)
    return HeldOut(
        paths=tuple(sample.path for sample in samples),
        expected=np.array([sample.label for sample in samples]),
        logits=logits.numpy(),
        embedding=pooled[EMBEDDING].numpy(),
    )


def _known(source: _Source, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """The plain embeddings of images `[N, D]`, and their labels `[N]`."""
    return source.plain(samples, (EMBEDDING,))[EMBEDDING], torch.tensor([sample.label for sample in samples])


def _assemble(card: Card, geometry: CropGeometry, fitted: Fitted) -> tuple[torch.export.ExportedProgram, Frozen]:
    """The model, and the proof that its backbone is the pretrained one, bit by bit."""
    backbone, _ = backbones.parted(backbones.pretrained(card))
    module = Served(backbone, fitted.module, card.backbone, card.scaling)
    before = freezing.digest(module.backbone.state_dict())
    model = program.trace(module, geometry)
    after = freezing.digest(
        {name.removeprefix(_BACKBONE): each for name, each in model.state_dict.items() if name.startswith(_BACKBONE)}
    )
    if before != after:
        raise FrozenError(f"Expected the frozen backbone to keep the tensors {before}. Received: {after}.")
    counted = Frozen(
        parameters=sum(each.numel() for each in module.backbone.parameters()),
        buffers=sum(each.numel() for each in backbone.buffers()),
        sha256_before=before,
        sha256_after=after,
    )
    return model, counted


def _describe(
    card: Card, geometry: CropGeometry, fitted: Fitted, model: torch.export.ExportedProgram, result: Result
) -> run.Run:
    return run.Run(
        regime=run.Decision(name="small-similar", reason="asked for: the backbone frozen, a head on its features"),
        backbone=card.backbone,
        geometry=geometry,
        scaling=card.scaling,
        head=fitted.head,
        trained=tuple(name for name in model.state_dict if not name.startswith(_BACKBONE)),
        labels=result.data.labels,
        labels_sha256=result.data.labels_sha256,
        outputs=describe(model, card.backbone),
        metrics={f"{split}_accuracy": each.accuracy.value for split, each in result.scores.items()},
        data_sha256=result.data.sha256,
        weights_sha256=run.digest(model),
    )
