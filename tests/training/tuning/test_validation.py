"""A score counts every held-out image once."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.nn import functional

from training.errors import TuningError
from training.tuning.validation import Labelled, Score, score

FABRIC = Fabric(accelerator="cpu", devices=1)
ALIKE = torch.ones(5, dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 2, 1])


@dataclass(frozen=True)
class Five:
    """Five images whose first pixel says which they are, in batches of two."""

    images: int = 5
    weights: Tensor = ALIKE

    def batches(self) -> Iterator[Labelled]:
        for start in range(0, self.images, 2):
            places = torch.arange(start, min(start + 2, self.images))
            pixels = places.to(torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 2, 2, 3)
            yield Labelled(pixels, LABELS[places], self.weights[places])


def answer(pixels: Tensor) -> Tensor:
    """Right but for the last two."""
    logits = torch.eye(3)[LABELS]
    logits[3:] = torch.tensor([1.0, 0, 0])
    return logits[pixels[:, 0, 0, 0].long()]


def test_against_torch() -> None:
    found = score(answer, Five(), FABRIC)
    logits = answer(torch.arange(5).to(torch.uint8).reshape(-1, 1, 1, 1))
    assert (found.images, found.accuracy) == (5, 0.6)
    assert found.log_loss == pytest.approx(functional.cross_entropy(logits, LABELS).item())


def test_images_that_count_more() -> None:
    weights = torch.tensor([1, 1, 1, 3, 4], dtype=torch.float64)
    found = score(answer, Five(weights=weights), FABRIC)
    logits = answer(torch.arange(5).to(torch.uint8).reshape(-1, 1, 1, 1)).double()
    assert (found.images, found.accuracy, found.weighed) == (5, 0.6, 0.3)
    assert found.log_loss == pytest.approx(functional.cross_entropy(logits, LABELS).item())


def test_nothing_to_score_by() -> None:
    with pytest.raises(TuningError, match=r"Expected validation images. Received: none\."):
        score(answer, Five(0), FABRIC)


def test_answers_that_are_no_numbers() -> None:
    with pytest.raises(TuningError, match="Expected numbers as answers to the validation images"):
        score(lambda pixels: answer(pixels) / 0, Five(), FABRIC)


def test_more_right_is_better_and_then_surer() -> None:
    base = Score(images=9, accuracy=0.5, weighed=0.5, log_loss=1.0)
    assert Score(images=9, accuracy=0.4, weighed=0.6, log_loss=9.0).beats(base)
    assert Score(images=9, accuracy=0.5, weighed=0.5, log_loss=0.9).beats(base)
    assert not Score(images=9, accuracy=0.6, weighed=0.4, log_loss=0.1).beats(base)
    assert not base.beats(base)
