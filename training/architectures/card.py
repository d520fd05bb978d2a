"""What must be known of a backbone to use it; neither builds it nor finds its weights."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from export.run import Backbone, Scaling
from service.bundle import CropGeometry
from training.errors import BackboneError

LARGEST_CROP_PX = 1024


@dataclass(frozen=True)
class Sizes:
    """Which squares of pixels a backbone can see: `smallest_px` to `largest_px`, a multiple of `step_px`."""

    smallest_px: int
    largest_px: int
    step_px: int

    def __contains__(self, crop_px: int) -> bool:
        return self.smallest_px <= crop_px <= self.largest_px and crop_px % self.step_px == 0


@dataclass(frozen=True)
class Card:
    """What must be known of a backbone to use it.

    Attributes:
        backbone: What every run made from it tells; its digest is None until the file of weights is at hand, where only
            the file's maker knows it.
        geometry: How pixels were made in pretraining.
        scaling: How they were scaled.
        labels: Gives the names of the pretrained classes, by column of the logits; none where it has no classes.
        weights: Gives the file of pretrained weights that is on this machine, or raises BackboneError, which says how
            to get it.
        download: Fetches that file, or raises BackboneError; None where it cannot be fetched.
        sha256_prefix: The first digits of the file's digest, where no more is known: torchvision writes 8 into a name.
        unused: How the names of tensors begin that are in the file and have no place in the module.
        sizes: What it can see; None for all multiples of its coarsest stride.
    """

    backbone: Backbone
    geometry: CropGeometry
    scaling: Scaling
    labels: Callable[[], tuple[str, ...]]
    weights: Callable[[], Path]
    download: Callable[[], Path] | None = None
    sha256_prefix: str = ""
    unused: tuple[str, ...] = ()
    sizes: Sizes | None = None

    def digest(self) -> str:
        """The SHA-256 of the file of weights; BackboneError where it is not known yet, as backbones.ready makes it."""
        if self.backbone.weights_sha256 is None:
            raise BackboneError(f"Expected weights that are at hand. Received: the card of {self.backbone.name} alone.")
        return self.backbone.weights_sha256

    def seen(self) -> Sizes:
        """Which squares of pixels it can see."""
        coarsest = max(stage.stride for stage in self.backbone.stages)
        return self.sizes or Sizes(coarsest, LARGEST_CROP_PX, coarsest)
