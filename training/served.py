"""The model as it is served: pixels in, every output out; does not know how its weights came about."""

from typing import Any

import torch
from torch import Tensor, nn

from export import program
from export.run import EMBEDDING, LOGITS, Backbone, Output, Scaling


class Served(nn.Module):
    """A backbone between its scaling and its outputs.

    Args:
        backbone: A module of timm with a head.
        card: Names its stages.
        scaling: How its input is made of pixels.
    """

    backbone: Any  # torch's types do not know the methods that timm's modules have beside forward
    mean: Tensor
    deviation: Tensor

    def __init__(self, backbone: nn.Module, card: Backbone, scaling: Scaling) -> None:
        super().__init__()
        self.backbone = backbone
        self._stages = tuple(stage.name for stage in card.stages)
        # A run keeps its scaling in words; beside the weights it would be a second truth.
        self.register_buffer("mean", _channels(scaling.mean), persistent=False)
        self.register_buffer("deviation", _channels(scaling.deviation), persistent=False)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Run the backbone once.

        Args:
            pixels: uint8 `[N, H, W, 3]`, RGB.

        Returns:
            The feature map of every stage `[N, channels, H / stride, W / stride]`, the embedding `[N, D]` and the
            logits `[N, labels]`, by name.
        """
        x = pixels.permute(0, 3, 1, 2).float()  # [N, 3, H, W], 0 to 255
        x = (x - self.mean) / self.deviation
        features, maps = self.backbone.forward_intermediates(x)
        embedding = self.backbone.forward_head(features, pre_logits=True)  # [N, D]
        logits = self.backbone.get_classifier()(embedding)  # [N, labels]
        return {**dict(zip(self._stages, maps, strict=True)), EMBEDDING: embedding, LOGITS: logits}


def describe(model: torch.export.ExportedProgram, card: Backbone) -> tuple[Output, ...]:
    """What the program of a Served module answers, in its order."""
    strides = {stage.name: stage.stride for stage in card.stages}
    return tuple(_output(name, shape, strides) for name, shape in program.output_shapes(model).items())


def _output(name: str, shape: tuple[int, ...], strides: dict[str, int]) -> Output:
    if name == LOGITS:
        return Output(name=name, kind="logits", shape=shape)
    if name == EMBEDDING:
        return Output(name=name, kind="embedding", shape=shape, tap="pooled", pooling="avg")
    return Output(name=name, kind="feature_map", shape=shape, tap=name, stride=strides[name])


def _channels(values: tuple[float, float, float]) -> Tensor:
    return (torch.tensor(values) * 255).reshape(1, 3, 1, 1)
