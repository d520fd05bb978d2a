"""The places of a backbone whose numbers are served or learnt from; does not know what is made of them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from export.run import EMBEDDING, Backbone, Scaling
from training.architectures import building
from training.architectures.building import RGB
from training.freezing import Frozen


class TappedBackbone(nn.Module):
    """A backbone without its head: pixels in, the map of every stage and probe and the embedding out.

    The embedding is what the classifier read in pretraining. Everything in it learns, unless it is frozen.

    Args:
        backbone: A module as backbones.build makes it; its head, if it has one, is not used.
        card: Names its stages and probes.
        scaling: How its input is made of pixels; its three channels are gone through again for a backbone of more.
    """

    module: Any  # torch's types do not know the methods that timm's modules have beside forward
    mean: Tensor
    deviation: Tensor

    def __init__(self, backbone: nn.Module, card: Backbone, scaling: Scaling) -> None:
        super().__init__()
        self.module = backbone
        self._stages = {stage.name: stage.module for stage in card.stages}
        self._probes = {probe.name: probe.module for probe in card.probes}
        self._classifier = building.classifier(backbone)
        self._grey = building.channels(card.architecture) == 1
        channels = RGB if self._grey else building.channels(card.architecture)
        # A run keeps its scaling in words; beside the weights it would be a second truth.
        self.register_buffer("mean", _channels(scaling.mean, channels), persistent=False)
        self.register_buffer("deviation", _channels(scaling.deviation, channels), persistent=False)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Run the backbone once.

        Args:
            pixels: uint8 `[N, H, W, 3]`, RGB; a backbone of one channel sees the mean of the three, once they are
                scaled. One of another count takes as many as it has.

        Returns:
            float32: the feature map of every stage `[N, channels, H / stride, W / stride]`, that of every probe
            `[N, channels, h, w]`, and the embedding `[N, D]`, by name.
        """
        x = self.scaled(pixels)
        return self._of_timm(x) if building.of_timm(self.module) else self._of_another(x)

    def scaled(self, pixels: Tensor) -> Tensor:
        """The backbone's input, float32 `[N, channels, H, W]`, of pixels uint8 `[N, H, W, 3]`."""
        x = pixels.permute(0, 3, 1, 2).float()  # [N, 3, H, W], 0 to 255
        x = (x - self.mean) / self.deviation
        return x.mean(dim=1, keepdim=True) if self._grey else x

    def _of_timm(self, x: Tensor) -> dict[str, Tensor]:
        places = [each["module"] for each in self.module.feature_info]
        indices = [places.index(module) for module in self._stages.values()]
        with watched(self.module, self._probes) as probed:
            features, maps = self.module.forward_intermediates(x, indices=indices)
        embedding = self.module.forward_head(features, pre_logits=True)  # [N, D]
        return {**dict(zip(self._stages, maps, strict=True)), **probed, EMBEDDING: embedding}

    def _of_another(self, x: Tensor) -> dict[str, Tensor]:
        read: list[Tensor] = []
        classifier = self.module.get_submodule(self._classifier)
        hook = classifier.register_forward_pre_hook(lambda _, given: read.extend(given))
        try:
            with watched(self.module, {**self._stages, **self._probes}) as maps:
                self.module(x)
        finally:
            hook.remove()
        return {**maps, EMBEDDING: read[0]}


class FrozenBackbone(Frozen, TappedBackbone):
    """A TappedBackbone that learns nothing, whatever is done to what holds it.

    Args:
        backbone: As a TappedBackbone takes it, like the others.
        card: Names its stages and probes.
        scaling: How its input is made of pixels.
    """

    def __init__(self, backbone: nn.Module, card: Backbone, scaling: Scaling) -> None:
        super().__init__(backbone, card, scaling)
        self.freeze()


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
def watched(module: nn.Module, places: Mapping[str, str]) -> Iterator[dict[str, Tensor]]:
    """What modules give while the block runs; `places` has their paths by the names of what they give."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_: nn.Module, __: object, answer: Tensor) -> None:
            seen[name] = answer

        return hook

    # Only for the block: a tensor that stays behind in a module is nothing that torch.export can record.
    hooks = [module.get_submodule(path).register_forward_hook(keep(name)) for name, path in places.items()]
    try:
        yield seen
    finally:
        for each in hooks:
            each.remove()


def _channels(values: tuple[float, float, float], count: int) -> Tensor:
    return (torch.tensor([values[channel % RGB] for channel in range(count)]) * 255).reshape(1, count, 1, 1)
