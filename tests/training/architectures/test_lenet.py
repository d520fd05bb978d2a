"""The figures of the paper, section II.B, where the two agree."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from training.architectures.lenet import LeNet5, Subsampling


@pytest.fixture(scope="module")
def lenet() -> LeNet5:
    torch.manual_seed(0)
    return LeNet5(10).eval()


def test_its_layers_have_the_shapes_of_the_paper(lenet: LeNet5) -> None:
    shapes: dict[str, tuple[int, ...]] = {}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_: nn.Module, __: object, answer: Tensor) -> None:
            shapes[name] = tuple(answer.shape[1:])

        return hook

    hooks = [layer.register_forward_hook(keep(name)) for name, layer in lenet.named_children()]
    lenet(torch.zeros(1, 1, 32, 32))
    for hook in hooks:
        hook.remove()
    assert shapes == {
        "c1": (6, 28, 28),
        "s2": (6, 14, 14),
        "c3": (16, 10, 10),
        "s4": (16, 5, 5),
        "c5": (120, 1, 1),
        "f6": (84,),
        "output": (10,),
    }


def test_its_layers_have_the_trained_numbers_of_the_paper(lenet: LeNet5) -> None:
    counts = {name: sum(each.numel() for each in layer.parameters()) for name, layer in lenet.named_children()}
    # The paper has 1,516 in C3, which sees 60 of the 96 pairs of maps there.
    assert counts == {"c1": 156, "s2": 12, "c3": 2416, "s4": 32, "c5": 48_120, "f6": 10_164, "output": 850}


def test_subsampling_is_a_trained_mean_and_no_maximum() -> None:
    layer = Subsampling(2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([2.0, 3.0]))
        layer.bias.copy_(torch.tensor([0.5, -1.0]))
    x = torch.tensor([[[[0.0, 1.0], [2.0, 5.0]], [[1.0, 1.0], [1.0, 9.0]]]])  # means 2 and 3
    torch.testing.assert_close(layer(x), torch.tensor([[[[4.5]], [[8.0]]]]))


@pytest.mark.parametrize("side", [32, 64, 128])
def test_a_larger_picture_is_answered_in_the_same_columns(lenet: LeNet5, side: int) -> None:
    answer: Tensor = lenet(torch.zeros(2, 1, side, side))
    assert answer.shape == (2, 10)


def test_it_learns_from_three_channels() -> None:
    lenet: nn.Module = LeNet5(3, channels=3)
    lenet(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(each.grad is not None for each in lenet.parameters())
