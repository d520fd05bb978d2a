"""How good a model is on images that it does not learn from; does not choose anything by it."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from export.document import Document
from training.errors import TuningError


@dataclass(frozen=True)
class Labelled:
    """Images as the service would see them, with their labels.

    Attributes:
        pixels: uint8 `[B, H, W, 3]`.
        labels: int64 `[B]`.
        weights: float64 `[B]`: how much each counts.
    """

    pixels: Tensor
    labels: Tensor
    weights: Tensor


class Validation(Protocol):
    """Images to compare models on, the same each time."""

    def batches(self) -> Iterator[Labelled]:
        """All of them, in an order that does not change."""
        ...


class Score(Document):
    """What a model made of validation images.

    Attributes:
        images: How many there were.
        accuracy: The part that it got right.
        weighed: The same, each image counting as it is said to: what models are compared by.
        log_loss: The mean of -log of what it gave the right class.
    """

    images: int
    accuracy: float
    weighed: float
    log_loss: float

    def beats(self, other: "Score") -> bool:
        """Whether this one is better: more right, or as many and surer."""
        return (self.weighed, -self.log_loss) > (other.weighed, -other.log_loss)


@torch.no_grad()
def score(answer: Callable[[Tensor], Tensor], validation: Validation, fabric: Any) -> Score:
    """Ask a model about every validation image.

    Args:
        answer: Gives logits `[B, C]` of pixels.
        validation: The images.
        fabric: Divides the batches between processes; each gets the same score.

    Returns:
        The score.

    Raises:
        TuningError: There are no images, or the model answers something else than numbers.
    """
    sums = torch.zeros(5, dtype=torch.float64)
    for batch in islice(validation.batches(), fabric.global_rank, None, fabric.world_size):
        logits = answer(fabric.to_device(batch.pixels)).double().cpu()
        right = (logits.argmax(1) == batch.labels).double()
        log_loss = functional.cross_entropy(logits, batch.labels, reduction="sum")
        found = [torch.tensor(len(logits)), right.sum(), batch.weights.sum(), right @ batch.weights, log_loss]
        sums += torch.stack(found)
    images, hits, counted, weighed, lost = fabric.all_reduce(sums, reduce_op="sum").tolist()
    if not images:
        raise TuningError("Expected validation images. Received: none.")
    if not math.isfinite(lost):
        raise TuningError("Expected numbers as answers to the validation images. Received: others. The model is broken")
    return Score(images=int(images), accuracy=hits / images, weighed=weighed / counted, log_loss=lost / images)
