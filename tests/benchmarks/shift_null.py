"""What the shift of batch norms is compared with: a null, measured on photographs of ImageNet, that the package ships.

    python -m tests.benchmarks.shift_null --images ../shared/data/imagenet-samples.tar [--backbone efficientnet_lite0]

One image for each of the 1,000 classes, in the order of their ids, in which classes lie beside those that are like
them. A data set of n images is n neighbours in that order; of 25 of them, which begin 40 classes apart, the mean and
the deviation of the logarithm of each layer's divergence are kept, for crops of several sizes, and nothing that tells
of a single image.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from service import image
from service.bundle import CropGeometry, sha256_of
from tests.benchmarks import pictures
from training import backbones
from training.advice import shift
from training.advice.null import Null
from training.backbones import Card
from training.taps import FrozenBackbone

CLASSES, APART, BATCH = 1000, 40, 32
COUNTS = (16, 32, 64, 128, 256)
CROPS_PX = (64, 96, 128, 160, 224)
Figures: TypeAlias = NDArray[np.float64]
FOLDER = Path(__file__).parents[2] / "training" / "advice" / "nulls"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="one image for each class: a folder or its .tar")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    arguments = parser.parse_args()
    card = backbones.card(arguments.backbone)
    null = measure(card, pictures.read(arguments.images, CLASSES))
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{card.backbone.name}.json"
    path.write_text(null.model_dump_json(indent=1) + "\n", encoding="utf-8")
    said = f"{', '.join(map(str, null.images))} images of {', '.join(map(str, null.crops_px))} px"
    print(f"wrote {path}: {len(null.layers)} layers, for {said}")


def measure(card: Card, files: Sequence[bytes]) -> Null:
    """The null of a backbone, from one image for each class in the order of the classes."""
    backbone, _ = backbones.parted(backbones.pretrained(card))
    frozen = FrozenBackbone(backbone, card.backbone, card.scaling)
    figures = []  # [crops, counts] of [runs, layers] each
    for crop_px in CROPS_PX:
        geometry = backbones.sized(card, None, crop_px)
        seen = shift.moments(backbone, frozen, _pixels(geometry, files))
        figures.append([_figures(backbone, seen, count, len(files)) for count in COUNTS])
    return Null(
        backbone=card.backbone.name,
        weights_sha256=sha256_of(card.weights()),
        origin=f"groups of neighbouring classes among {len(files)} photographs of ImageNet-1k, one of each class",
        crops_px=CROPS_PX,
        images=COUNTS,
        layers=tuple(shift.norms(backbone)),
        mean=_rounded(figures, lambda runs: runs.mean(axis=0)),
        deviation=_rounded(figures, lambda runs: runs.std(axis=0, ddof=1)),
    )


def _rounded(
    figures: Sequence[Sequence[Figures]], summary: Callable[[Figures], Figures]
) -> tuple[tuple[tuple[float, ...], ...], ...]:
    return tuple(tuple(tuple(summary(each).round(4).tolist()) for each in counts) for counts in figures)


def _pixels(geometry: CropGeometry, files: Sequence[bytes]) -> Iterator[torch.Tensor]:
    for start in range(0, len(files), BATCH):
        batch = [image.read(each, geometry, image.ImageLimits()) for each in files[start : start + BATCH]]
        yield torch.from_numpy(np.stack(batch))


def _figures(backbone: nn.Module, seen: dict[str, torch.Tensor], count: int, images: int) -> Figures:
    """The logarithms of every layer's divergence, for each run of neighbours: `[runs, layers]`."""
    rows = []
    for start in range(0, images, APART):
        places = (torch.arange(count) + start) % images
        found = shift.divergences(backbone, {name: each[places] for name, each in seen.items()})
        rows.append(np.log(list(found.values())))
    return np.array(rows)


if __name__ == "__main__":
    main()
