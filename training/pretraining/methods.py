"""What a backbone can learn from images without labels, each way as a loss; does not know how it is made smaller.

autoencoder    the picture has to be found again in what the backbone makes of it
denoising      so, and what it is shown is noisy and has holes (Vincent et al., 2010)
vicreg         two views of an image must be embedded alike, and images differently (arXiv:2105.04906)

Of the methods that compare views, VICReg needs no large batch, no second network and no memory: a step is two views and
a loss, and a checkpoint the weights. What others avoid by an arrangement that small networks break (SimSiam:
arXiv:2209.15007), that all images come to look alike, is a term of its loss, and seen there.
"""

import importlib.util
import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.run import EMBEDDING
from training.errors import TuningError
from training.taps import TappedBackbone

Method: TypeAlias = Literal["autoencoder", "denoising", "vicreg"]

# How many views of an image a step of each takes.
VIEWS: dict[Method, int] = {"autoencoder": 1, "denoising": 1, "vicreg": 2}
_WIDTH = 128
_NARROWEST = 16
# What is to be cleaned has noise of this deviation, in grey levels, and holes in a grid of so many cells a side.
_NOISE = 25.0
_GRID = 8
_HOLES = 0.25
_GREY = 128.0
# The paper's 8,192 are for a million images and 32 GPUs.
_PROJECTED = 1024


def check(method: Method) -> None:
    """Raise TuningError where what a method needs is not installed."""
    if method == "vicreg" and importlib.util.find_spec("lightly") is None:
        raise TuningError(
            "Expected lightly, to pretrain by vicreg. Received: it is not installed. Install it with: "
            "pip install 'vertebra[pretrain]', or take --method denoising"
        )


def build(method: Method, backbone: TappedBackbone, last: str, side_px: tuple[int, int]) -> nn.Module:
    """Put around a backbone what it learns with.

    Args:
        method: Which way it learns.
        backbone: What learns; it is changed by whoever trains what this returns.
        last: The name of its last stage.
        side_px: The height and the width of the pictures.

    Returns:
        A module that makes of views uint8 `[V, B, H, W, 3]` a loss, and the embeddings `[B, D]` of the first ones.
    """
    if method == "vicreg":
        return Siamese(backbone, side_px)
    return Autoencoder(backbone, last, side_px, is_denoising=method == "denoising")


class Autoencoder(nn.Module):
    """A backbone, and a decoder that finds the picture again in what it makes of it.

    The decoder reads the last stage's map, the embedding beside each of its cells: so places are not lost, and every
    part of the backbone learns, what runs behind the last stage as well.

    Args:
        backbone: What learns.
        last: The name of its last stage.
        side_px: The height and the width of the pictures.
        is_denoising: Whether what it is shown is noisy and has holes.
    """

    def __init__(self, backbone: TappedBackbone, last: str, side_px: tuple[int, int], is_denoising: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self._last = last
        self._is_denoising = is_denoising
        answers, wanted = _answers(backbone, side_px)
        self.of_map = nn.Conv2d(answers[last].shape[1], _WIDTH, 1)
        self.of_embedding = nn.Linear(answers[EMBEDDING].shape[1], _WIDTH)
        doublings = math.ceil(math.log2(max(side_px) / max(answers[last].shape[2:])))
        self.decoder = _decoder(doublings, wanted.shape[1])

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Compare pictures with what is found again of them.

        Args:
            views: uint8 `[1, B, H, W, 3]`.

        Returns:
            The mean squared difference of the scaled pictures, and the embeddings `[B, D]`.
        """
        pixels = views[0]
        answers = self.backbone(_spoilt(pixels) if self._is_denoising else pixels)
        embedding = answers[EMBEDDING]
        coarse = self.of_map(answers[self._last]) + self.of_embedding(embedding)[:, :, None, None]  # [B, _WIDTH, h, w]
        wanted = self.backbone.scaled(pixels)
        found = functional.interpolate(self.decoder(coarse), wanted.shape[2:], mode="bilinear", align_corners=False)
        return functional.mse_loss(found, wanted), embedding


class Siamese(nn.Module):
    """A backbone that sees two views of each image, and a projection in which they are compared.

    Args:
        backbone: What learns.
        side_px: The height and the width of the pictures.
    """

    def __init__(self, backbone: TappedBackbone, side_px: tuple[int, int]) -> None:
        # Here, because only who learns in this way has to have it.
        from lightly.loss.vicreg_loss import VICRegLoss  # noqa: PLC0415
        from lightly.models.modules.heads import VICRegProjectionHead  # noqa: PLC0415

        super().__init__()
        self.backbone = backbone
        width = _answers(backbone, side_px)[0][EMBEDDING].shape[1]
        self.projection = VICRegProjectionHead(width, _PROJECTED, _PROJECTED)
        self.criterion = VICRegLoss()

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Compare two views of images.

        Args:
            views: uint8 `[2, B, H, W, 3]`, B at least 2.

        Returns:
            VICReg's loss, and the embeddings of the first views `[B, D]`.
        """
        first, second = (self.backbone(each)[EMBEDDING] for each in views)
        loss: Tensor = self.criterion(self.projection(first), self.projection(second))
        return loss, first


@torch.no_grad()
def _answers(backbone: TappedBackbone, side_px: tuple[int, int]) -> tuple[dict[str, Tensor], Tensor]:
    """What a backbone makes of a picture of this size, and its input."""
    backbone.eval()
    shown = torch.zeros((1, *side_px, 3), dtype=torch.uint8)
    return backbone(shown), backbone.scaled(shown)


def _decoder(doublings: int, channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    width = _WIDTH
    for _ in range(doublings):
        narrower = max(_NARROWEST, width // 2)
        layers += [nn.ReLU(), nn.ConvTranspose2d(width, narrower, 4, stride=2, padding=1), nn.BatchNorm2d(narrower)]
        width = narrower
    return nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(width, channels, 3, padding=1))


def _spoilt(pixels: Tensor) -> Tensor:
    """Pixels with noise and holes, float32 `[B, H, W, 3]`, 0 to 255; drawn from torch's generator."""
    noisy = (pixels + _NOISE * torch.randn(pixels.shape, device=pixels.device)).clamp(0, 255)
    holes = (torch.rand(len(pixels), 1, _GRID, _GRID, device=pixels.device) < _HOLES).float()
    holes = functional.interpolate(holes, pixels.shape[1:3])  # [B, 1, H, W]
    return torch.where(holes[:, 0, :, :, None] > 0, _GREY, noisy)
