"""The loss is torch's where torch has one, and leaves out what has no weight."""

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.nn import functional

from training.tuning.batches import Batch
from training.tuning.loss import Objective, cross_entropy

FABRIC = Fabric(accelerator="cpu", devices=1)
LOGITS = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 2, 1, 1])


def batch(weights: Tensor) -> Batch:
    return Batch(torch.zeros(4, 2, 2, 3, dtype=torch.uint8), torch.eye(3)[LABELS], weights)


def objective(smoothing: float = 0.0, offset: Tensor | None = None) -> Objective:
    return Objective(FABRIC, smoothing, offset, bf16=False, channels_last=True)


def test_soft_targets_against_torch() -> None:
    targets = torch.rand(4, 3, generator=torch.Generator().manual_seed(1)).softmax(1)
    expected = functional.cross_entropy(LOGITS, targets, reduction="none")
    torch.testing.assert_close(cross_entropy(LOGITS, targets), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_weights_smoothing_and_offset_against_torch(smoothing: float) -> None:
    weights, offset = torch.tensor([1.0, 2.0, 0.5, 1.0]), torch.tensor([0.3, -0.2, 0.1])
    each = functional.cross_entropy(LOGITS + offset, LABELS, label_smoothing=smoothing, reduction="none")
    found = objective(smoothing, offset).loss(lambda _: LOGITS, batch(weights))
    torch.testing.assert_close(found, (each * weights).sum())


def test_what_has_no_weight_may_be_anything() -> None:
    logits = LOGITS.clone()
    logits[3] = float("nan")
    logits.requires_grad_()
    found = objective().loss(lambda _: logits, batch(torch.tensor([1.0, 1, 1, 0])))
    torch.testing.assert_close(found, functional.cross_entropy(LOGITS[:3], LABELS[:3], reduction="sum"))


@pytest.mark.parametrize("channels_last", [False, True])
def test_pixels_reach_the_convolutions_as_they_like_it(channels_last: bool) -> None:
    seen: list[Tensor] = []

    def model(pixels: Tensor) -> Tensor:
        seen.append(pixels.permute(0, 3, 1, 2))
        return LOGITS

    random = torch.randint(0, 256, (4, 2, 2, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    asked = Batch(random, torch.eye(3)[LABELS], torch.ones(4))
    Objective(FABRIC, 0, None, bf16=False, channels_last=channels_last).loss(model, asked)
    assert torch.equal(seen[0].permute(0, 2, 3, 1), random)
    assert seen[0].is_contiguous(memory_format=torch.channels_last) == channels_last
    assert seen[0].is_contiguous() != channels_last
