"""Writes pictures of a model to a folder: its first filters, its stages, what its answers rest on; makes no report."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from export import labelled, run, staging
from export.command import printable
from export.errors import DataError
from export.progress import Steps
from export.run import LOGITS, Backbone
from export.score import softmax
from service import image
from service.bundle import CropGeometry
from service.errors import BadImage
from training import backbones, refresh, regimes
from training.errors import BackboneError
from training.insight import colours, filters, gradcam, maps
from training.served import Served
from training.taps import FrozenBackbone, TappedBackbone

STEPS = 2
MOST = 16
FILTERS, PICTURE, GRAD_CAM = "filters.png", "image.png", "grad-cam.png"
# With the mean over all, a sheet of four by four.
_CHANNELS, _TILES_A_ROW = 15, 4
_FILTER_PX, _FILTERS_A_ROW = 48, 8
# A file system takes 255 bytes, and a character has up to four.
_LONGEST_NAME = 60


@dataclass(frozen=True)
class Order:
    """What to draw.

    Attributes:
        model: A run's folder, or a backbone's name.
        images: A folder of images, or a table.
        out: The folder to write, which must not exist.
        weights: Of a backbone: a file of weights to take instead of the published ones.
        download: Whether published weights may be fetched.
    """

    model: str
    images: Path
    out: Path
    weights: Path | None = None
    download: bool = False


@dataclass(frozen=True)
class Answer:
    """What a model answered, how sure it was, and the stage whose cells that rests on."""

    label: str
    probability: float
    stage: str


@dataclass(frozen=True)
class Drawn:
    """An image that was drawn, and the answer; None of a backbone without classes."""

    path: Path
    answer: Answer | None

    def words(self) -> str:
        """A line for a terminal, which obeys some of what a name may hold."""
        if self.answer is None:
            return printable(self.path.name)
        label = printable(self.answer.label)
        return f"{printable(self.path.name)}: {label} {self.answer.probability:.1%}, seen on {self.answer.stage}"


@dataclass(frozen=True)
class _Subject:
    """What is drawn; a backbone without classes has no whole model."""

    card: Backbone
    geometry: CropGeometry
    backbone: TappedBackbone
    model: Served | None
    labels: tuple[str, ...]


def visualize(order: Order, steps: Steps) -> tuple[Drawn, ...]:
    """Draw a model, and what it makes of 16 images at most.

    Of a folder, and those below it, they are taken from all over it; of a table the first that are held out.

    Writes filters.png, and a folder for each image: image.png as the model is shown it; a sheet for each stage, the
    mean over its channels and then those that differ most from cell to cell, each cell a square of as many pixels as
    the stage's stride; and grad-cam.png, what speaks for the answer.

    Args:
        order: What to draw.
        steps: Tells of STEPS steps.

    Returns:
        The images that were drawn.

    Raises:
        BackboneError: There is no such backbone, its weights are not there or not what its card says, or weights are
            named for a run.
        DataError: The images are not there, or one of them cannot be read.
        HeadError: The head of the run cannot be built as it is described.
        RunError: The folder is no run, or was changed.
        TargetError: The folder to write exists.
    """
    staging.refuse_existing(order.out)
    paths = _images(order.images)
    with steps.step("load the model"):
        subject = _subject(order)
    shown = [_pixels(path, subject.geometry) for path in paths]
    with steps.step("draw", len(paths)) as advance, staging.staged(order.out, beside=order.out.parent) as folder:
        drawn = filters.first_layer(subject.backbone.module)
        filters.sheet(drawn, _FILTER_PX, _FILTERS_A_ROW).save(folder / FILTERS)
        found = []
        for number, (path, pixels) in enumerate(zip(paths, shown, strict=True), start=1):
            own = folder / f"{number:02}-{path.stem[:_LONGEST_NAME]}"
            own.mkdir()
            found.append(Drawn(path, _draw(subject, pixels, own)))
            advance(1)
    return tuple(found)


def _subject(order: Order) -> _Subject:
    path = Path(order.model)
    if path.exists() or path.name != order.model:
        if order.weights is not None:
            raise BackboneError(
                f"Expected the name of a backbone for the weights {order.weights}. Received: the run {path}, which has "
                "its own."
            )
        described = run.read(path)
        model = refresh.rebuilt(path, described)
        return _Subject(described.backbone, described.geometry, model.backbone, model, described.labels)
    card = backbones.ready(backbones.card(order.model), order.weights, order.download)
    if labels := card.labels():
        model = regimes.original(card).eval()
        return _Subject(card.backbone, card.geometry, model.backbone, model, labels)
    backbone = FrozenBackbone(backbones.parted(backbones.pretrained(card))[0], card.backbone, card.scaling)
    return _Subject(card.backbone, card.geometry, backbone, None, ())


def _images(source: Path) -> list[Path]:
    if source.is_file():
        return [each.path for each in labelled.held_out(labelled.read(source))][:MOST]
    found = [path for path in labelled.images_below(source) if path.suffix.lower() in image.SUFFIXES]
    if not found:
        raise DataError(f"Expected {image.NAMES} files in {source}. Received: none.")
    # Of a folder for each class some of each.
    return [found[place] for place in np.linspace(0, len(found) - 1, min(MOST, len(found)), dtype=int)]


def _pixels(path: Path, geometry: CropGeometry) -> NDArray[np.uint8]:
    try:
        return image.read(path.read_bytes(), geometry, image.ImageLimits())
    except (OSError, BadImage) as error:
        raise DataError(f"Expected an image that can be read. Received: {path}: {error}") from error


def _draw(subject: _Subject, pixels: NDArray[np.uint8], folder: Path) -> Answer | None:
    Image.fromarray(pixels).save(folder / PICTURE)
    for seen in maps.look(subject.backbone, subject.card.stages, pixels, _CHANNELS):
        tiles = [colours.enlarged(colours.coloured(tile.values), seen.stage.stride) for tile in seen.tiles]
        colours.sheet(tiles, _TILES_A_ROW).save(folder / f"{seen.stage.name}.png")
    if subject.model is None:
        return None
    column, probability = _answer(subject.model, pixels)
    heat = gradcam.explain(subject.model, subject.card.stages, pixels, column)
    colours.overlaid(pixels, heat.values).save(folder / GRAD_CAM)
    return Answer(subject.labels[column], probability, heat.stage.name)


def _answer(model: Served, pixels: NDArray[np.uint8]) -> tuple[int, float]:
    """The column of the answer, and how probable it is."""
    with torch.inference_mode():
        probabilities = softmax(model(torch.tensor(pixels)[None])[LOGITS].numpy())[0]
    return int(probabilities.argmax()), float(probabilities.max())
