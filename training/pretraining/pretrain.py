"""From images without labels to a backbone that has learnt from them, every step in a file of its own."""

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from export import staging
from export.progress import Steps
from export.run import geometry_message
from service.bundle import CropGeometry, sha256_of
from training import backbones
from training.backbones import Card
from training.dataset import OnBad
from training.named import find
from training.pretraining import images, loop, methods, record
from training.pretraining.batches import Look, Views
from training.pretraining.images import FEWEST, Unlabelled
from training.pretraining.loop import Schedule
from training.pretraining.methods import Method
from training.pretraining.record import Epoch, Parent, Pretraining
from training.taps import TappedBackbone
from training.tuning import pixels
from training.tuning.augmentation import Augmentation
from training.tuning.journal import BOARD, METRICS
from training.tuning.order import Order as Drawn
from training.tuning.pixels import Pixels

STEPS = 4
_TRAININGS = "trainings"
# Raised when the same facts come to give other weights.
_REVISION = "1"
# For AdamW, by the batch of _RATE_BATCH images; what is pretrained already is moved a tenth as far.
_RATES = {"random": 1e-3, "pretrained": 1e-4}
_RATE_BATCH = 128
# Below this the embeddings of different images are as good as one.
_COLLAPSED = 0.01
_LOOKS: dict[Method, tuple[float, bool]] = {  # least part of the frame that a view shows, and whether it is recoloured
    "autoencoder": (0.6, False),
    "denoising": (0.6, False),
    "vicreg": (0.2, True),
}


@dataclass(frozen=True)
class Order:
    """What to learn from which images.

    Attributes:
        source: A folder with images anywhere below it, a table, or a name that `named.find.table` knows; labels are not
            looked at.
        on_bad: Whether to stop at files that cannot be used, or to leave them out.
        backbone: The backbone's name.
        method: How it learns.
        start: What it begins with.
        weights: A file to take instead of the published weights, where it begins with weights.
        download: Whether weights and a data set may be fetched.
        resize_px: What the shorter side becomes; None for the backbone's own.
        crop_px: The side of the square that is cut out; None for the backbone's own.
        epochs: How often each image is shown.
        batch_size: Images a step, at least 2.
        rate: The highest learning rate; None for what suits the start.
        turns: Whether no side of the images is up.
        seed: Every random number follows from it.
        cache: The folder of what is computed once.
        out: The folder of what comes of it, which must not exist.
    """

    source: Path
    on_bad: OnBad
    backbone: str
    method: Method
    start: Literal["random", "pretrained"]
    weights: Path | None
    download: bool
    resize_px: int | None
    crop_px: int | None
    epochs: int
    batch_size: int
    rate: float | None
    turns: bool
    seed: int
    cache: Path
    out: Path


@dataclass(frozen=True)
class _Lesson:
    """What is learnt, and from what."""

    order: Order
    card: Card
    parent: Parent | None
    geometry: CropGeometry
    data: Unlabelled
    chosen: Schedule


def pretrain(order: Order, steps: Steps) -> Pretraining:
    """Let a backbone learn from images without labels; what a killed process had done of it is gone on from.

    Args:
        order: What to make.
        steps: Tells of STEPS steps.

    Returns:
        What was made, its folder written whole.

    Raises:
        BackboneError: There is no such backbone, or its weights are not what its card says.
        CacheError: The cache cannot be read or written.
        DataError: The images are not what they must be.
        TargetError: The folder exists.
        TuningError: What the method needs is not installed, or the loss has exploded.
    """
    staging.refuse_existing(order.out)
    methods.check(order.method)
    card, parent, backbone = _begun(order)
    geometry = backbones.sized(card, order.resize_px, order.crop_px)
    listed = images.read(find.table(order.source, order.cache, order.download, steps))
    with steps.step("check the images", len(listed)) as advance:
        data = images.prepare(listed, order.on_bad, order.cache, advance)
    with steps.step("decode the images", len(data.images)) as advance:
        framed = pixels.framed(data.images, geometry, order.cache, advance)
    lesson = _Lesson(order, card, parent, geometry, data, _schedule(order, len(data.images)))
    views = _views(lesson, framed)
    folder = order.cache / _TRAININGS / _digest(lesson)
    with steps.step("learn without labels", order.epochs * views.order.steps) as advance:
        history = loop.learn(_method(lesson, backbone), views, lesson.chosen, folder, advance)
    with steps.step("write the pretraining"):
        made = _write(lesson, history, backbone, folder)
    shutil.rmtree(folder)
    return made


def _begun(order: Order) -> tuple[Card, Parent | None, nn.Module]:
    """The backbone as it starts, without its classifier."""
    card = backbones.card(order.backbone)
    if order.start == "random":
        return card, None, backbones.scratch(card, order.seed)[1]
    card = backbones.ready(card, order.weights, order.download)
    described = card.backbone
    parent = Parent(source=described.source, licence=described.licence, weights_sha256=card.digest())
    return card, parent, backbones.parted(backbones.pretrained(card))[0]


def _schedule(order: Order, count: int) -> Schedule:
    batch = min(order.batch_size, count)
    rate = order.rate or _RATES[order.start] * batch / _RATE_BATCH
    return Schedule(epochs=order.epochs, batch_size=batch, rate=rate, seed=order.seed)


def _method(lesson: _Lesson, backbone: nn.Module) -> nn.Module:
    card, geometry = lesson.card, lesson.geometry
    tapped = TappedBackbone(backbone, card.backbone, card.scaling)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(lesson.order.seed)
        side_px = (geometry.crop_height_px, geometry.crop_width_px)
        return methods.build(lesson.order.method, tapped, card.backbone.stages[-1].name, side_px)


def _views(lesson: _Lesson, framed: Pixels) -> Views:
    order, batch = lesson.order, lesson.chosen.batch_size
    area, recoloured = _LOOKS[order.method]
    # Statistics of a last batch that is much smaller are no good, and each epoch leaves others out.
    drawn = Drawn(np.zeros(len(framed), np.int64), batch, fewest=max(FEWEST, batch // 2))
    look = Look(Augmentation(area=area, mirrors=True, turns=order.turns), recoloured)
    count = methods.VIEWS[order.method]
    return Views(framed, drawn, look, count, lesson.geometry, order.seed, lesson.data.sha256)


def _digest(lesson: _Lesson) -> str:
    """Names all that the weights follow from."""
    facts = {
        "revision": _REVISION,
        "method": lesson.order.method,
        "architecture": lesson.card.backbone.architecture,
        "parent": lesson.parent.weights_sha256 if lesson.parent else None,
        "data": lesson.data.sha256,
        "turns": lesson.order.turns,
        "schedule": asdict(lesson.chosen),
    }
    hashed = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    hashed.update(geometry_message(lesson.geometry).SerializeToString(deterministic=True))
    return hashed.hexdigest()


def _write(lesson: _Lesson, history: tuple[Epoch, ...], backbone: nn.Module, folder: Path) -> Pretraining:
    order, card, data = lesson.order, lesson.card.backbone, lesson.data
    with staging.staged(order.out, beside=order.out.parent) as draft:
        tensors = {name: each.contiguous() for name, each in backbone.state_dict().items()}
        (draft / record.WEIGHTS).write_bytes(save(tensors))
        made = Pretraining(
            method=order.method,
            images=len(data.images),
            data=str(order.source),
            data_sha256=data.sha256,
            left_out=data.left_out,
            backbone=card.name,
            architecture=card.architecture,
            geometry=lesson.geometry,
            parent=lesson.parent,
            seed=order.seed,
            batch_size=lesson.chosen.batch_size,
            optimizer="AdamW",
            rate=lesson.chosen.rate,
            weight_decay=lesson.chosen.weight_decay,
            history=history,
            notes=_notes(history),
            seconds=sum(each.seconds for each in history),
            weights_sha256=sha256_of(draft / record.WEIGHTS),
        )
        (draft / record.PRETRAINING).write_text(made.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (draft / record.IMAGES).write_text("".join(f"{each.sha256.hex()}\n" for each in data.images), encoding="ascii")
        (draft / record.CURVES).write_bytes((folder / METRICS).read_bytes())
        if (folder / BOARD).is_dir():
            staging.copy_files(folder / BOARD, draft / BOARD)
    return made


def _notes(history: tuple[Epoch, ...]) -> tuple[str, ...]:
    first, last = history[0], history[-1]
    notes = []
    if last.spread < _COLLAPSED:
        notes.append(
            f"The embeddings of different images are as good as one: they lie {last.spread:.2%} of their length apart, "
            "and nothing can be told by them. Try a lower learning rate, or images that differ more."
        )
    if len(history) > 1 and last.loss >= first.loss:
        notes.append(f"The loss did not fall: {first.loss:.4g} in the first epoch, {last.loss:.4g} in the last.")
    return tuple(notes)
