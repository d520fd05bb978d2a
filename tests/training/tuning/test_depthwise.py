"""Depthwise convolutions of a bfloat16 step give bfloat16, and compute as fp32 what oneDNN is slow at."""

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

from training.tuning.batches import Batch
from training.tuning.depthwise import DepthwiseInFp32
from training.tuning.loss import Objective


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("stride", [1, 2])
def test_a_depthwise_convolution_computes_in_fp32_and_gives_bfloat16(stride: int) -> None:
    pixels, kernel = numbers(2, 8, 6, 6).bfloat16(), numbers(8, 1, 5, 5).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16), DepthwiseInFp32():
        found = functional.conv2d(pixels, kernel, None, stride, 2, groups=8)
    found.float().square().sum().backward()  # type: ignore[no-untyped-call]
    wide = kernel.detach().clone().requires_grad_()
    expected = functional.conv2d(pixels.float(), wide, None, stride, 2, 1, 8)
    expected.bfloat16().float().square().sum().backward()  # type: ignore[no-untyped-call]
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected.bfloat16(), rtol=0, atol=0)
    torch.testing.assert_close(kernel.grad, wide.grad, rtol=0, atol=0)


@pytest.mark.parametrize("groups", [1, 8])
def test_what_is_not_differentiated_and_other_convolutions_stay_bfloat16(groups: int) -> None:
    pixels, kernel = numbers(2, 8, 6, 6), numbers(8, 8 // groups, 3, 3).requires_grad_(groups == 1)
    with torch.autocast("cpu", torch.bfloat16):
        expected = functional.conv2d(pixels, kernel, groups=groups)
        with DepthwiseInFp32(), torch.set_grad_enabled(groups == 1):
            found = functional.conv2d(pixels, kernel, groups=groups)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize(("bf16", "last"), [(True, "ToCopyBackward0"), (False, "ConvolutionBackward0")])
def test_a_step_of_bfloat16_has_it(bf16: bool, last: str) -> None:
    seen: list[str] = []
    convolution = nn.Conv2d(3, 3, 3, groups=3)

    def model(pixels: Tensor) -> Tensor:
        found: Tensor = convolution(pixels.permute(0, 3, 1, 2).float())
        seen.append(type(found.grad_fn).__name__)
        return found.mean((2, 3))

    batch = Batch(torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.eye(3)[:2], torch.ones(2))
    Objective(Fabric(accelerator="cpu", devices=1), 0.0, None, bf16=bf16, channels_last=True).loss(model, batch)
    assert seen == [last]
