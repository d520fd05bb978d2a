"""The model as it is served: pixels in, every output out; does not know how its weights came about."""

import torch
from torch import Tensor, nn

from export import program
from export.run import EMBEDDING, LOGITS, Backbone, Output, Scaling
from training.architectures import building
from training.architectures.building import RGB
from training.errors import BackboneError
from training.taps import FrozenBackbone, pooled


class Served(nn.Module):
    """A frozen backbone and the head that reads its taps.

    Args:
        backbone: As a FrozenBackbone takes it, like card and scaling.
        head: Makes logits `[N, labels]` of the pooled taps, by name.
        card: Names the stages, which are served, and the probes, which are not.
        scaling: How pixels are scaled.

    Raises:
        BackboneError: The backbone takes other pixels than the service has: RGB, or their mean.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, card: Backbone, scaling: Scaling) -> None:
        super().__init__()
        if (count := building.channels(card.architecture)) not in (1, RGB):
            raise BackboneError(
                f"Expected a backbone of {RGB} channels or one, because a service is sent RGB. Received: {card.name} "
                f"of {count}, which can be trained and not be served."
            )
        self.backbone = FrozenBackbone(backbone, card, scaling)
        self.head = head
        self._served = (*(stage.name for stage in card.stages), EMBEDDING)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Run backbone and head once.

        Args:
            pixels: uint8 `[N, H, W, 3]`, RGB.

        Returns:
            The feature map of every stage `[N, channels, H / stride, W / stride]`, the embedding `[N, D]` and the
            logits `[N, labels]`, by name.
        """
        answers = self.backbone(pixels)
        return {**{name: answers[name] for name in self._served}, LOGITS: self.head(pooled(answers))}


def describe(model: torch.export.ExportedProgram, card: Backbone) -> tuple[Output, ...]:
    """What the program of a Served module answers, in its order."""
    strides = {stage.name: stage.stride for stage in card.stages}
    averaged = building.averages(card.architecture)
    return tuple(_output(name, shape, strides, averaged) for name, shape in program.output_shapes(model).items())


def _output(name: str, shape: tuple[int, ...], strides: dict[str, int], averaged: bool) -> Output:
    if name == LOGITS:
        return Output(name=name, kind="logits", shape=shape)
    if name == EMBEDDING and averaged:
        return Output(name=name, kind="embedding", shape=shape, tap="pooled", pooling="avg")
    if name == EMBEDDING:
        return Output(name=name, kind="embedding", shape=shape, tap="pre_logits")
    return Output(name=name, kind="feature_map", shape=shape, tap=name, stride=strides[name])
