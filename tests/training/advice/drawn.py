"""Features of images that nobody has seen, drawn for a purpose; and what is said of them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from export.run import EMBEDDING, Backbone
from training import backbones
from training.advice.evidence import Size
from training.advice.gather import Given

BACKBONE: Backbone = backbones.card("efficientnet_lite0").backbone.model_copy(update={"probes": ()})
WIDTHS = {**{stage.name: stage.channels for stage in BACKBONE.stages}, EMBEDDING: 64}


def noise(images: int, columns: int, seed: int) -> Tensor:
    return torch.randn(images, columns, generator=torch.Generator().manual_seed(seed))


def telling(labels: Tensor, columns: int, apart: float, seed: int = 0) -> Tensor:
    """Features whose classes lie around centres of their own; the less they are apart, the more they overlap."""
    centres = noise(int(labels.max()) + 1, columns, 99)
    return apart * centres[labels] + noise(len(labels), columns, seed)


def given(
    images: int, classes: int, apart: Mapping[str, float], *, of: int | None = None, groups: bool = False
) -> Given:
    """Images that some taps tell apart, and others not at all.

    Args:
        images: How many are looked at.
        classes: How many classes there are.
        apart: How far the classes are apart, by tap; 0 for the others.
        of: How many training images there are; None for as many as are looked at.
        groups: Whether every four images are a group.
    """
    labels = torch.arange(images) % classes
    total = of or images
    return Given(
        taps={
            tap: telling(labels, width, apart.get(tap, 0.0), seed) for seed, (tap, width) in enumerate(WIDTHS.items())
        },
        labels=labels,
        weights=torch.ones(images, dtype=torch.float64),
        groups=[f"{place // 4}" if groups else None for place in range(images)],
        classes=[f"class {each}" for each in range(classes)],
        size=Size(
            images=total,
            classes=classes,
            scarcest=total // classes,
            commonest=-(-total // classes),
            looked_at=images,
        ),
        backbone=BACKBONE,
        weights_sha256="0" * 64,
        geometry=backbones.card("efficientnet_lite0").geometry,
        data_sha256="1" * 64,
    )
