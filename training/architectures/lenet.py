"""LeNet-5 as a backbone: the small network of 1998, for comparison and for lessons; has no published weights.

LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", Proc. IEEE 86(11), 1998,
section II.B. Its subsampling is not max pooling: it is the mean of four cells, times a trained number a map, plus
another. Two things differ from the paper: C3 sees all six maps, where the paper joined 60 of the 96 pairs to save
work, and the output is linear, where the paper took distances to drawn figures.
"""

import torch
from torch import Tensor, nn

_SCALE, _SLOPE = 1.7159, 2 / 3


class Squash(nn.Module):
    """The paper's squashing function, 1.7159 tanh(2/3 x), which is near 1 at 1 and near -1 at -1."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same."""
        return _SCALE * torch.tanh(_SLOPE * x)


class Subsampling(nn.Module):
    """Halves the sides of maps by the mean of four cells, each map with a trained coefficient and bias.

    Args:
        channels: How many maps there are.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """`[N, channels, H, W]` to `[N, channels, H // 2, W // 2]`."""
        mean = nn.functional.avg_pool2d(x, 2)
        return mean * self.weight[:, None, None] + self.bias[:, None, None]


class LeNet5(nn.Module):
    """LeNet-5. Of pictures larger than 32 pixels, C5 gives a map, and F6 reads its mean.

    Args:
        columns: How many columns its logits have.
        channels: How many channels its input has; 1 in the paper.
    """

    def __init__(self, columns: int, channels: int = 1) -> None:
        super().__init__()
        self.c1 = nn.Sequential(nn.Conv2d(channels, 6, 5), Squash())
        self.s2 = nn.Sequential(Subsampling(6), Squash())
        self.c3 = nn.Sequential(nn.Conv2d(6, 16, 5), Squash())
        self.s4 = nn.Sequential(Subsampling(16), Squash())
        self.c5 = nn.Sequential(nn.Conv2d(16, 120, 5), Squash())
        self.f6 = nn.Sequential(nn.Linear(120, 84), Squash())
        self.output = nn.Linear(84, columns)

    def forward(self, x: Tensor) -> Tensor:
        """float32 `[N, channels, H, W]`, H and W at least 32, to `[N, columns]`."""
        maps = self.c5(self.s4(self.c3(self.s2(self.c1(x)))))  # [N, 120, H / 4 - 7, W / 4 - 7]
        answer: Tensor = self.output(self.f6(maps.mean(dim=(2, 3))))
        return answer
