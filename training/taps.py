"""The places of a frozen backbone whose numbers are served or learnt from; does not know what is made of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from export.run import EMBEDDING, Backbone, Probe, Scaling
from training.freezing import Frozen


class FrozenBackbone(Frozen):
    """A backbone without its head: pixels in, the map of every stage and probe and the embedding out.

    Args:
        backbone: A module of timm; its head, if it has one, is not used.
        card: Names its stages and probes.
        scaling: How its input is made of pixels.
    """

    module: Any  # torch's types do not know the methods that timm's modules have beside forward
    mean: Tensor
    deviation: Tensor

    def __init__(self, backbone: nn.Module, card: Backbone, scaling: Scaling) -> None:
        super().__init__(backbone)
        self._stages = tuple(stage.name for stage in card.stages)
        self._probes = card.probes
        # A run keeps its scaling in words; beside the weights it would be a second truth.
        self.register_buffer("mean", _channels(scaling.mean), persistent=False)
        self.register_buffer("deviation", _channels(scaling.deviation), persistent=False)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Run the backbone once.

        Args:
            pixels: uint8 `[N, H, W, 3]`, RGB.

        Returns:
            float32: the feature map of every stage `[N, channels, H / stride, W / stride]`, that of every probe
            `[N, channels, h, w]`, and the embedding `[N, D]`, by name.
        """
        x = pixels.permute(0, 3, 1, 2).float()  # [N, 3, H, W], 0 to 255
        with _probed(self.module, self._probes) as probed:
            features, maps = self.module.forward_intermediates((x - self.mean) / self.deviation)
        embedding = self.module.forward_head(features, pre_logits=True)  # [N, D]
        return {**dict(zip(self._stages, maps, strict=True)), **probed, EMBEDDING: embedding}


class Taps(nn.Module):
    """What heads learn from: every tap of a backbone as one vector an image.

    Args:
        backbone: As a FrozenBackbone takes it, like the others.
        card: Names its stages and probes.
        scaling: How its input is made of pixels.
    """

    def __init__(self, backbone: nn.Module, card: Backbone, scaling: Scaling) -> None:
        super().__init__()
        self.backbone = FrozenBackbone(backbone, card, scaling)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Run the backbone once.

        Args:
            pixels: uint8 `[N, H, W, 3]`, RGB.

        Returns:
            float32 `[N, channels]` for every stage and probe, and the embedding `[N, D]`, by name.
        """
        return pooled(self.backbone(pixels))


def pooled(answers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every answer of a backbone as one vector an image: of a map `[N, channels, h, w]` the mean over its cells."""
    return {name: each.mean(dim=(2, 3)) if each.ndim == 4 else each for name, each in answers.items()}


@contextmanager
def _probed(module: nn.Module, probes: Sequence[Probe]) -> Iterator[dict[str, Tensor]]:
    """What the probed modules give while the block runs, by the probes' names."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_: nn.Module, __: object, answer: Tensor) -> None:
            seen[name] = answer

        return hook

    # Only for the block: a tensor that stays behind in a module is nothing that torch.export can record.
    hooks = [module.get_submodule(each.module).register_forward_hook(keep(each.name)) for each in probes]
    try:
        yield seen
    finally:
        for each in hooks:
            each.remove()


def _channels(values: tuple[float, float, float]) -> Tensor:
    return (torch.tensor(values) * 255).reshape(1, 3, 1, 1)
