"""Fine-tunes a backbone and the head that a probe of it gave, on checked images; chooses no plan and scores nothing."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export import staging
from export.progress import Advance, Steps
from export.run import EMBEDDING, LOGITS, Head, geometry_message
from service.bundle import CropGeometry
from training import backbones, dataset, freezing, heads, refit
from training.advice.candidates import Candidate
from training.backbones import Card
from training.dataset import Sample
from training.errors import ExplodedError
from training.parts import parts
from training.refit import Refitted
from training.served import Served
from training.taps import TappedBackbone, pooled
from training.tuning import activations, augmentation, batches, devices, imbalance, loop, pace, pixels
from training.tuning.activations import CutFeed, Shown
from training.tuning.batches import Augmented, Batch, Plain
from training.tuning.imbalance import Kind, Treatment
from training.tuning.journal import BOARD, METRICS
from training.tuning.loop import Learner, Lessons
from training.tuning.loss import Objective
from training.tuning.model import HEAD, Tunable
from training.tuning.order import Order
from training.tuning.origin import Origin
from training.tuning.plan import Auto, Plan
from training.tuning.record import NOTHING_KNOWN, Known, Pace, Record, Refit, Tuned

_TRAININGS = "trainings"
# Raised when the same plan of the same images would come to other weights.
_REVISION = 1
_BATCH = 64
# Batch norm in train mode cannot take one image alone.
_FEWEST = 2


@dataclass(frozen=True)
class Ground:
    """What a model is fine-tuned on.

    Attributes:
        card: The backbone; with weights, unless a plan starts from random numbers.
        geometry: How the service makes pixels.
        train: The images to learn from.
        validation: Images to choose the best epoch by; none to keep the last one.
        counts: What the images of each class count together, of all that there are to learn from: `train` may be a
            part of them.
        turns: Whether no side of the images is up.
        cache: The folder of what is computed once.
        seed: Every random number follows from it.
    """

    card: Card
    geometry: CropGeometry
    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    counts: tuple[float, ...]
    turns: bool
    cache: Path
    seed: int

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.counts)


@dataclass(frozen=True)
class Probed:
    """A head that is trained already, and what it is."""

    head: Head
    module: nn.Module


@dataclass(frozen=True)
class Answers:
    """What a model makes of images: logits float32 `[N, C]` and embeddings float32 `[N, D]`."""

    logits: NDArray[np.float32]
    embedding: NDArray[np.float32]


@dataclass(frozen=True)
class FineTuned:
    """A fine-tuned model, what its head is, and how it came about.

    Attributes:
        card: The backbone's card; one without weights where the start was random.
        module: The model as it is served.
        head: Its head.
        tuned: How it came about.
        curves: What was measured at every step and epoch, a line of JSON each.
        folder: Where its checkpoints and the files of TensorBoard lie until `forget` is called.
    """

    card: Card
    module: Served
    head: Head
    tuned: Tuned
    curves: str
    folder: Path

    @property
    def board(self) -> Path | None:
        """The folder of TensorBoard's event files; None where it is not installed."""
        return board if (board := self.folder / BOARD).is_dir() else None


def fine_tune(
    ground: Ground, candidate: Candidate, probed: Probed | None, steps: Steps, known: Known = NOTHING_KNOWN
) -> FineTuned:
    """Fine-tune a model by a plan; what a killed process had done of it is gone on from.

    Args:
        ground: The images and the backbone.
        candidate: What is trained, and how.
        probed: The head to start from; None for a random one, which starts with a random backbone only.
        steps: Tells of two steps, of one more where what the frozen parts make is kept, and where the head is refitted.
        known: What was measured before.

    Returns:
        The model.

    Raises:
        BackboneError: The weights are missing or not what the card says.
        CacheError: The cache cannot be read or written.
        DataError: A file is gone or was changed since it was checked.
        FrozenError: What was to stay as it was has changed.
        TuningError: The plan cannot be followed.
    """
    assert candidate.tuning is not None  # what trains nothing has no business here
    plan = candidate.tuning.model_copy(update={"seed": ground.seed})
    card, learner, head = _learner(ground, probed)
    # What the first process writes the others find.
    first = devices.launched().rank_zero_first()
    of_all = treatment(ground, plan.imbalance)
    # The same treatment, worked out for the images that are shown: it must not go by how far a plan was cut.
    treated = replace(imbalance.treat(of_all.kind, counts(ground.train, ground.classes)), reason=of_all.reason)
    with steps.step("decode the images", len(ground.train) + len(ground.validation)) as advance, first:
        framed = pixels.framed(ground.train, ground.geometry, ground.cache, advance)
        importance = imbalance.importance(treated, [sample.label for sample in ground.validation])
        validation = _plain(ground.validation, importance, ground, advance) if ground.validation else None
    looks = _looks(ground, candidate, plan, framed, treated)
    # Where each look is seen once, nothing is gained by keeping what is made of it.
    pays = plan.cached_views is not None and plan.epochs > plan.cached_views
    feed = _kept(learner, looks, plan, ground, steps) if pays else looks
    # What was measured was all of the model, not what lies behind a cut.
    known = known.model_copy(update={"paces": None}) if pays else known
    offset = torch.tensor(treated.offsets) if any(treated.offsets) else None
    if probed:
        # It was fitted to all images alike: training begins with the answers that it is to end with.
        heads.take_off(learner.model.head, of_all.log_prior)
    named = _digest(ground, candidate, probed)
    lessons = Lessons(feed, validation, named, offset, f"{candidate.regime}: {candidate.words()}, {named[:8]}")
    folder = ground.cache / _TRAININGS / named
    with steps.step("fine-tune", plan.epochs * looks.order.steps) as advance:
        try:
            tuned = loop.tune(learner, lessons, plan, folder, advance, known=known)
        except ExplodedError:
            # It would explode again.
            _remove(folder)
            raise
    refitted = _refitted(ground, learner, tuned.record, looks, treated, validation, steps) if plan.refit_head else None
    module = _served(learner, card, tuned)
    if refitted:
        tuned = replace(tuned, record=_with(tuned.record, refitted.record))
    if refitted and refitted.record.kept:
        head, module.head = refitted.head, refitted.module
    curves = (folder / METRICS).read_text(encoding="utf-8")
    return FineTuned(card, module, head, tuned, curves, folder)


def _refitted(  # noqa: PLR0917
    ground: Ground,
    learner: Learner,
    record: Record,
    looks: Augmented,
    treated: Treatment,
    validation: Plain | None,
    steps: Steps,
) -> Refitted:
    """Another head for the backbone as it has become, still on its device."""
    model = learner.model
    bf16, channels_last = record.settings.precision == "bf16", record.settings.channels_last
    objective = Objective(devices.launched(), 0.0, None, bf16=bf16, channels_last=channels_last)
    steps.more(1)
    with steps.step("refit the head", refit.views(looks.augmentation) * len(ground.train)) as advance:
        found = refit.refit(model, objective, ground.train, looks, treated, advance)
        before = record.start if record.best is None else record.history[record.best].score
        if validation and before:
            found = refit.against(found, model, objective, validation, before)
    return found


def _with(record: Record, found: Refit) -> Record:
    """What is told of a training and of the head that was refitted behind it."""
    notes = record.notes
    if found.before and found.after and not found.kept:
        notes += (
            f"Refitted to all stages, the head had {found.after.weighed:.1%} of the validation images right (log loss "
            f"{found.after.log_loss:.3f}), and {found.before.weighed:.1%} before ({found.before.log_loss:.3f}). It was "
            "left as it was.",
        )
    return record.model_copy(update={"notes": notes, "refit": found})


def forget(made: FineTuned) -> None:
    """Remove the checkpoints of a training, when what came of it is safe: until then it need not be done again."""
    _remove(made.folder)


def _remove(folder: Path) -> None:
    fabric = devices.launched()
    # Others may still be reading the curves.
    fabric.barrier()
    if fabric.is_global_zero:
        staging.remove(folder)


def paces(ground: Ground, candidate: Candidate, probed: Probed | None) -> tuple[Pace, ...]:
    """Measure how many images a second a plan trains on here, in each way that it leaves open: in a few seconds.

    Args:
        ground: The images; the first of them are shown, as many as one process has in a batch, on a CPU 16.
        candidate: The plan.
        probed: The head that it starts from.

    Returns:
        Plain fp32 first.

    Raises:
        CacheError: The cache cannot be read or written.
        DataError: A file is gone or was changed since it was checked.
    """
    assert candidate.tuning is not None  # as above
    plan, model = candidate.tuning, _learner(ground, probed)[1].model
    fabric = devices.launched()
    fabric.to_device(model)
    model.arrange(plan)
    some = ground.train[: pace.enough(max(1, plan.batch_size // fabric.world_size), fabric)]
    with fabric.rank_zero_first():
        shown = pixels.served(some, ground.geometry, ground.cache, lambda _: None).read(range(len(some)))
    targets = torch.eye(ground.classes)[[sample.label for sample in some]]
    plain = Objective(fabric, 0.0, None, bf16=False, channels_last=False)
    return pace.measure(model, plan, Batch(torch.from_numpy(shown), targets, torch.ones(len(some))), plain)


def answers(
    module: Callable[[Tensor], Mapping[str, Tensor]], ground: Ground, samples: Sequence[Sample], steps: Steps
) -> Answers:
    """Ask a model about images, as the service would show them to it.

    Args:
        module: Gives logits and embedding of pixels uint8 `[N, H, W, 3]`, as Served does.
        ground: Says how pixels are made and where they are kept.
        samples: The images.
        steps: Tells of one step.

    Returns:
        The answers, in the order of the samples.
    """
    found: list[dict[str, Tensor]] = []
    with steps.step("ask about held-out images", 2 * len(samples)) as advance, torch.inference_mode():
        with devices.launched().rank_zero_first():
            plain = _plain(samples, np.ones(len(samples)), ground, advance)
        for batch in plain.batches():
            given = module(batch.pixels)
            found.append({name: given[name] for name in (LOGITS, EMBEDDING)})
            advance(len(batch.labels))
    logits, embedding = (torch.cat([each[name] for each in found]).numpy() for name in (LOGITS, EMBEDDING))
    return Answers(logits, embedding)


def _learner(ground: Ground, probed: Probed | None) -> tuple[Card, Learner, Head]:
    start: Origin
    if probed is None:
        card, backbone = backbones.scratch(ground.card, ground.seed)
        head, start = Head(kind="linear", taps=(EMBEDDING,)), "random"
        module = _random_head(backbone, card, ground, head)
    else:
        card, backbone = ground.card, backbones.parted(backbones.pretrained(ground.card))[0]
        # A copy, because it is trained on, and the probe may be the start of another plan.
        head, start, module = probed.head, "pretrained", deepcopy(probed.module)
    tapped = TappedBackbone(backbone, card.backbone, card.scaling)
    model = Tunable(tapped, module, head.taps, card.backbone, parts(backbone, card.backbone))
    warmed: Origin = "random" if probed is None else "warmed"
    origins = {name: warmed if name.startswith(f"{HEAD}.") else start for name in model.state_dict()}
    return card, Learner(model, origins, card.backbone.recipe), head


def _random_head(backbone: nn.Module, card: Card, ground: Ground, head: Head) -> nn.Module:
    tapped = TappedBackbone(backbone, card.backbone, card.scaling).eval()
    shape = (1, ground.geometry.crop_height_px, ground.geometry.crop_width_px, 3)
    with torch.inference_mode():
        widths = {name: each.shape[1] for name, each in pooled(tapped(torch.zeros(shape, dtype=torch.uint8))).items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(ground.seed)
        return heads.build(head, widths, ground.classes)


def treatment(ground: Ground, kind: Kind | Auto) -> Treatment:
    """How classes that have unequally many images are treated: as asked for, or by how unequal all of them are."""
    if kind != "auto":
        return imbalance.treat(kind, ground.counts)
    is_weighed = any(sample.weight != 1 for sample in ground.train)
    return imbalance.choose(ground.counts, "weighted images" if is_weighed else "images")


def counts(samples: Sequence[Sample], classes: int) -> tuple[float, ...]:
    """What the images of each class count together: a table may have made them alike already."""
    found = [0.0] * classes
    for sample in samples:
        found[sample.label] += sample.weight
    return tuple(found)


def _looks(ground: Ground, candidate: Candidate, plan: Plan, framed: pixels.Pixels, treated: Treatment) -> Augmented:
    images = batches.images(ground.train, framed, treated)
    return Augmented(
        data=images,
        order=Order(
            images.labels,
            plan.batch_size,
            balanced=treated.kind == "balanced sampling",
            fewest=_FEWEST if plan.batch_norm == "train" else 1,
        ),
        augmentation=augmentation.preset(
            candidate.augmentation, turns=ground.turns, images=len(ground.train), epochs=plan.epochs
        ),
        geometry=ground.geometry,
        seed=ground.seed,
        views=plan.cached_views,
    )


def _kept(learner: Learner, looks: Augmented, plan: Plan, ground: Ground, steps: Steps) -> CutFeed:
    """What the frozen parts make of every look, from the cache or for it."""
    assert plan.cached_views is not None  # or there is nothing to keep
    model, fabric = learner.model, devices.launched()
    fabric.to_device(model)
    model.arrange(plan)
    shown = Shown(looks, plan.cached_views, len(ground.train), looks.sha256)
    steps.more(1)
    images = plan.cached_views * len(ground.train)
    with steps.step("keep what is frozen", images) as advance, fabric.rank_zero_first():
        kept = activations.kept(model, shown, "fp32", ground.cache, advance)
    return CutFeed(kept, model.cut().prefix, looks)


def _plain(samples: Sequence[Sample], counts: NDArray[np.float64], ground: Ground, advance: Advance) -> Plain:
    kept = pixels.served(samples, ground.geometry, ground.cache, advance)
    return Plain(kept, np.array([sample.label for sample in samples]), counts, _BATCH)


def _digest(ground: Ground, candidate: Candidate, probed: Probed | None) -> str:
    """Names all that the fine-tuned weights follow from."""
    hashed = hashlib.sha256(candidate.model_dump_json().encode())
    hashed.update(freezing.digest(probed.module.state_dict()).encode() if probed else b"")
    backbone = ground.card.backbone
    facts = (_REVISION, backbone.weights_sha256, backbone.architecture, ground.counts, ground.turns, ground.seed)
    hashed.update(json.dumps(facts).encode())
    hashed.update(geometry_message(ground.geometry).SerializeToString(deterministic=True))
    hashed.update(dataset.named(ground.train, ground.validation))
    return hashed.hexdigest()


def _served(learner: Learner, card: Card, tuned: Tuned) -> Served:
    module = Served(learner.model.backbone.module, learner.model.head, card.backbone, card.scaling)
    module.load_state_dict(tuned.state)
    # It was trained where the GPU is, and with channels last where that was faster; it is asked, traced and written on
    # the CPU, and as tensors usually lie.
    return module.cpu().to(memory_format=torch.contiguous_format).eval()
