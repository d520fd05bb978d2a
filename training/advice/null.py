"""How far ordinary photographs are from what a backbone was pretrained on; does not know whose images are compared.

nulls/<backbone>.json says it, made once by `python -m tests.benchmarks.shift_null`. Every data set is narrower than
the whole of what a backbone saw, so all of them are far from it in the sense of a significance test, dogs alone by
twelve deviations. What they are compared with is therefore equally narrow: images of classes that lie together.
"""

import math
from collections.abc import Mapping, Sequence
from importlib import resources

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import ValidationError

from export.document import Document
from export.run import Sha256
from training.errors import BackboneError


class Null(Document):
    """The logarithm of the divergence of every batch norm, for photographs like those of the pretraining.

    Attributes:
        backbone: The backbone's name.
        weights_sha256: Of its pretrained file.
        origin: What was measured, in words.
        crops_px: For crops of which sides, ascending: small ones show what was photographed smaller.
        images: For how many images, ascending.
        layers: The names of the batch norms, from early to late.
        mean: For each of the crops and of the counts, of each layer.
        deviation: Like the mean; above 0.
    """

    backbone: str
    weights_sha256: Sha256
    origin: str
    crops_px: tuple[int, ...]
    images: tuple[int, ...]
    layers: tuple[str, ...]
    mean: tuple[tuple[tuple[float, ...], ...], ...]
    deviation: tuple[tuple[tuple[float, ...], ...], ...]

    def z(self, divergences: Mapping[str, float], images: int, crop_px: float) -> tuple[float, ...]:
        """How unusual divergences are.

        Args:
            divergences: By the norm's name, one for each of the layers.
            images: How many were looked at; between the counts the null lies on a line over their logarithm.
            crop_px: The side of the square that was seen, in pixels; likewise.

        Returns:
            For each layer how many deviations its logarithm lies above the mean.
        """
        logs = np.array([math.log(max(divergences[layer], 1e-12)) for layer in self.layers])
        mean, deviation = (
            _between(self.crops_px, [_between(self.images, counts, images) for counts in crops], crop_px)
            for crops in (self.mean, self.deviation)
        )
        return tuple(((logs - mean) / deviation).tolist())


def _between(places: Sequence[int], rows: Sequence[ArrayLike], at: float) -> NDArray[np.float64]:
    """The row at a place between those of rows, on a line over the logarithm; beyond them the first or the last."""
    known, columns = np.log(places), np.array(rows).T
    return np.array([np.interp(np.log(at), known, column) for column in columns])


def load(backbone: str, weights_sha256: str) -> Null | None:
    """The null that is shipped for a backbone.

    Args:
        backbone: Its name.
        weights_sha256: The digest of its pretrained file.

    Returns:
        The null; None where none was measured for these weights.

    Raises:
        BackboneError: The file was changed and is none any more.
    """
    file = resources.files("training.advice") / "nulls" / f"{backbone}.json"
    if not file.is_file():
        return None
    try:
        null = Null.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise BackboneError(f"Expected {file} as it was shipped. Received: {error.errors()[0]['msg']}.") from error
    return null if null.weights_sha256 == weights_sha256 else None
