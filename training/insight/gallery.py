"""The pictures of a model for a page: its first filters, its stages, what its answers rest on; chooses no image."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from export.run import Run
from service import image
from service.errors import BadImage
from training import pictures
from training.architectures import building
from training.insight import colours, filters, gradcam, maps
from training.pictures import Thumbnail
from training.served import Served

CHANNELS = 3
SCENES = 3
# More cells than a page shows pixels are weight alone.
_MOST_CELLS = 128
_FILTER_PX = 36
_FILTERS_A_ROW = 16


@dataclass(frozen=True)
class Asked:
    """An image that the model was asked about, with the columns of its class and of the answer."""

    path: Path
    expected: int
    answered: int


@dataclass(frozen=True)
class Filters:
    """The filters of the first layer on one sheet."""

    layer: str
    count: int
    trained: bool
    sheet: Thumbnail


@dataclass(frozen=True)
class Stage:
    """What a stage makes of an image: the mean over its channels, then those named."""

    name: str
    stride: int
    cells: str
    mean: Thumbnail
    channels: tuple[tuple[int, Thumbnail], ...]


@dataclass(frozen=True)
class Scene:
    """An image as the model is shown it, and as its stages see it."""

    path: Path
    picture: Thumbnail
    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class Ground:
    """What spoke for a label, on which stage."""

    label: str
    stage: str
    cells: str
    nothing: bool
    picture: Thumbnail


@dataclass(frozen=True)
class Explained:
    """An image, its label, and what spoke for the answer; where that was wrong, also what spoke for the label."""

    path: Path
    expected: str
    right: bool
    picture: Thumbnail
    grounds: tuple[Ground, ...]


@dataclass(frozen=True)
class Gallery:
    """All of them; `scenes` are of the first images, `explained` of all."""

    filters: Filters
    scenes: tuple[Scene, ...]
    explained: tuple[Explained, ...]


def hang(model: Served, run: Run, asked: Sequence[Asked]) -> Gallery:
    """Draw the pictures of a model.

    Args:
        model: The model of the run, in eval mode.
        run: Names its stages, labels and geometry.
        asked: Images to draw; those that are gone or broken by now are passed over.

    Returns:
        The pictures, as data URIs.
    """
    seen = [(each, pixels) for each in asked if (pixels := _pixels(each.path, run)) is not None]
    return Gallery(
        filters=_filters(model, run),
        scenes=tuple(_scene(model, run, each.path, pixels) for each, pixels in seen[:SCENES]),
        explained=tuple(_explained(model, run, each, pixels) for each, pixels in seen),
    )


def _pixels(path: Path, run: Run) -> NDArray[np.uint8] | None:
    try:
        return image.read(path.read_bytes(), run.geometry, image.ImageLimits())
    except (OSError, BadImage):
        return None


def _filters(model: Served, run: Run) -> Filters:
    layer = building.stem(model.backbone.module)
    drawn = filters.sheet(filters.first_layer(model.backbone.module), _FILTER_PX, _FILTERS_A_ROW)
    trained = f"backbone.module.{layer}.weight" in run.trained
    count = model.backbone.module.get_submodule(layer).out_channels
    return Filters(layer, count, trained, pictures.inlined(drawn, "PNG"))


def _scene(model: Served, run: Run, path: Path, pixels: NDArray[np.uint8]) -> Scene:
    looked = maps.look(model.backbone, run.backbone.stages, pixels, CHANNELS)
    return Scene(path, _photograph(pixels), tuple(_stage(each) for each in looked))


def _stage(seen: maps.StageMap) -> Stage:
    mean, *channels = seen.tiles
    return Stage(
        name=seen.stage.name,
        stride=seen.stage.stride,
        cells=_cells(mean.values),
        mean=_tile(mean),
        channels=tuple((each.channel, _tile(each)) for each in channels if each.channel is not None),
    )


def _tile(tile: maps.Tile) -> Thumbnail:
    picture = colours.coloured(tile.values)
    if max(picture.size) > _MOST_CELLS:
        picture = picture.convert("RGB")
        picture.thumbnail((_MOST_CELLS, _MOST_CELLS), Image.Resampling.BOX)
    return pictures.inlined(picture, "PNG")


def _explained(model: Served, run: Run, asked: Asked, pixels: NDArray[np.uint8]) -> Explained:
    columns = dict.fromkeys((asked.answered, asked.expected))
    grounds = tuple(_ground(model, run, pixels, column) for column in columns)
    right = asked.answered == asked.expected
    return Explained(asked.path, run.labels[asked.expected], right, _photograph(pixels), grounds)


def _ground(model: Served, run: Run, pixels: NDArray[np.uint8], column: int) -> Ground:
    heat = gradcam.explain(model, run.backbone.stages, pixels, column)
    picture = pictures.inlined(pictures.shrunk(colours.overlaid(pixels, heat.values)), "JPEG")
    return Ground(run.labels[column], heat.stage.name, _cells(heat.values), not heat.values.any(), picture)


def _photograph(pixels: NDArray[np.uint8]) -> Thumbnail:
    return pictures.inlined(pictures.shrunk(Image.fromarray(pixels)), "JPEG")


def _cells(values: NDArray[np.float32]) -> str:
    return f"{values.shape[1]} \N{MULTIPLICATION SIGN} {values.shape[0]}"
