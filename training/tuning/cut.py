"""Divides a backbone where its frozen prefix ends, so that what comes before is computed once for many epochs.

Only backbones that run their modules one after the other can be divided; does not know what is done with the halves.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from timm.models.resnet import ResNet
from torch import Tensor, nn
from torchvision import models

from export.run import EMBEDDING, Backbone, Probe, Stage
from training.architectures import building
from training.errors import TuningError
from training.taps import pooled, watched


@dataclass(frozen=True)
class Cut:
    """A place between two modules of a backbone.

    Attributes:
        prefix: The modules before it, in the order of execution.
        suffix: Those behind it.
        taps_before: The modules of the taps before it that a head reads, by the taps' names.
        taps_after: The same behind it; the embedding is not among them.
    """

    prefix: tuple[str, ...]
    suffix: tuple[str, ...]
    taps_before: Mapping[str, str]
    taps_after: Mapping[str, str]

    def before(self, module: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The map at the cut, and the taps before it, pooled.

        Args:
            module: The backbone.
            x: Its scaled input, float32 `[N, 3, H, W]`.

        Returns:
            `[N, channels, h, w]`, and `[N, D]` by name.
        """
        return _run(module, self.prefix, x, self.taps_before)

    def after(self, module: Any, x: Tensor) -> dict[str, Tensor]:
        """The taps behind the cut, pooled, and the embedding.

        Args:
            module: The backbone.
            x: The map at the cut.

        Returns:
            `[N, D]` by name.
        """
        features, taps = _run(module, self.suffix, x, self.taps_after)
        whole = building.of_timm(module)
        embedding = module.forward_head(features, pre_logits=True) if whole else _embedding(module, features)
        return {**taps, EMBEDDING: embedding}


def find(module: nn.Module, trained: Collection[str], card: Backbone, reads: Collection[str]) -> Cut:
    """Find the last place that only frozen modules come before.

    Args:
        module: The backbone.
        trained: Its parameters that learn.
        card: Names its stages and probes.
        reads: The taps that matter.

    Returns:
        The place.

    Raises:
        TuningError: Such a backbone cannot be divided, or there is nothing before the first module that learns.
    """
    order = _order(module)
    learns = [any(_within(name, place) for name in trained) for place in order]
    first = learns.index(True) if True in learns else len(order)
    if not first:
        raise TuningError("Expected a frozen part before the cut. Received: a plan that trains the first one.")
    prefix = order[:first]
    places = {each.name: each.module for each in _places(card) if each.name in reads}
    taken = {tap for tap, place in places.items() if any(_within(place, each) for each in prefix)}
    return Cut(
        prefix,
        order[first:],
        {tap: place for tap, place in places.items() if tap in taken},
        {tap: place for tap, place in places.items() if tap not in taken},
    )


def check(module: nn.Module) -> None:
    """Refuse what `find` cannot divide, wherever it were to be; TuningError."""
    _order(module)


def _places(card: Backbone) -> tuple[Stage | Probe, ...]:
    return (*card.stages, *card.probes)


def _order(module: nn.Module) -> tuple[str, ...]:
    """The modules that make the last map, as they are called one after the other."""
    match module:
        case models.ResNet():
            return ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
        case models.AlexNet() | models.EfficientNet() | models.MobileNetV2() | models.MobileNetV3() | models.VGG():
            return tuple(f"features.{index}" for index in range(len(module.features)))
        case EfficientNet():
            return ("conv_stem", "bn1", *_blocks(module), "conv_head", "bn2")
        case MobileNetV3():
            return ("conv_stem", "bn1", *_blocks(module))
        case ResNet():
            return ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3", "layer4")
        case _:
            raise TuningError(
                "Expected a backbone that runs its modules one after the other: an AlexNet, an EfficientNet, a "
                f"MobileNet, a ResNet or a VGG. Received: {type(module).__name__}, which cannot be divided: train it "
                "without keeping what a part of it makes"
            )


def _blocks(module: Any) -> tuple[str, ...]:
    return tuple(f"blocks.{index}" for index in range(len(module.blocks)))


def _embedding(module: Any, features: Tensor) -> Tensor:
    """What the classifier of a module of torchvision reads, of its last map."""
    pool = module.avgpool if hasattr(module, "avgpool") else nn.AdaptiveAvgPool2d(1)  # MobileNetV2 calls a function
    x: Tensor = pool(features).flatten(1)
    before, _, place = building.classifier(module).rpartition(".")
    # A ResNet's classifier reads the mean itself; before that of the others there are more layers.
    for layer in list(module.get_submodule(before))[: int(place)] if before else []:
        x = layer(x)
    return x


def _within(name: str, place: str) -> bool:
    return name == place or name.startswith(f"{place}.")


def _run(
    module: nn.Module, places: tuple[str, ...], x: Tensor, taps: Mapping[str, str]
) -> tuple[Tensor, dict[str, Tensor]]:
    with watched(module, taps) as seen:
        for place in places:
            x = module.get_submodule(place)(x)
    return x, pooled(seen)
