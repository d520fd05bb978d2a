"""How large the images are that a step shows; does not know what is in them."""

from dataclasses import dataclass, replace
from itertools import pairwise

from service.bundle import CropGeometry
from training.errors import TuningError


@dataclass(frozen=True)
class Crops:
    """Crops that may grow as training goes on: small ones cost less.

    Attributes:
        geometry: What is served, and what training ends with.
        smaller: Until which part of all steps the crop has a smaller side, both rising: `((0.7, 96),)` is 96 pixels in
            the first 70 % of the steps. Of a crop that is no square it is the longer side.
        epochs: How many there are, in all of which the part is counted.

    Raises:
        TuningError: The parts or the sides do not rise, or the last of them is not below what training ends with.
    """

    geometry: CropGeometry
    smaller: tuple[tuple[float, int], ...] = ()
    epochs: int = 1

    def __post_init__(self) -> None:
        ends = ((0.0, 0), *self.smaller, (1.0, _side(self.geometry)))
        if any(before[0] >= after[0] or before[1] >= after[1] for before, after in pairwise(ends)):
            raise TuningError(
                "Expected crops that grow, with parts of the steps that rise from 0 to 1 and sides in pixels that rise "
                f"to {_side(self.geometry)}. Received: {self.smaller}."
            )

    def at(self, epoch: int, step: int, steps: int) -> CropGeometry:
        """The crop of a step, in epochs of so many steps."""
        done = (epoch * steps + step) / (self.epochs * steps)
        return next((_sized(self.geometry, side) for until, side in self.smaller if done < until), self.geometry)


def _side(geometry: CropGeometry) -> int:
    return max(geometry.crop_height_px, geometry.crop_width_px)


def _sized(geometry: CropGeometry, side_px: int) -> CropGeometry:
    part = side_px / _side(geometry)
    return replace(
        geometry,
        resize_shorter_px=max(1, round(geometry.resize_shorter_px * part)),
        crop_height_px=max(1, round(geometry.crop_height_px * part)),
        crop_width_px=max(1, round(geometry.crop_width_px * part)),
    )
