"""Makes a backbone's module of its architecture's name, and takes it apart; knows no card and no weights.

A name is timm's ("tf_efficientnet_lite0"), or says who else made it ("torchvision:resnet18", "vertebra:lenet5"). "@1"
behind it means that the module takes one channel instead of three, and so on for other counts.
"""

from typing import Any

import timm
import torch
from timm.models import is_model_in_modules
from timm.models.efficientnet import EfficientNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torchvision import models

from training.architectures.lenet import LeNet5
from training.errors import BackboneError

RGB = 3
# The mean over both sides: one node in a graph, where timm's adaptive pooling takes eight.
_POOLING = "fast"
_TORCHVISION, _OWN = "torchvision:", "vertebra:"
# Where the classifier lies in what timm has not made.
_CLASSIFIERS: dict[type[nn.Module], str] = {
    models.AlexNet: "classifier.6",
    models.ConvNeXt: "classifier.2",
    models.EfficientNet: "classifier.1",
    models.GoogLeNet: "fc",
    models.MobileNetV2: "classifier.1",
    models.MobileNetV3: "classifier.3",
    models.ResNet: "fc",
    models.VGG: "classifier.6",
    LeNet5: "output",
}
# Of the others the embedding is a token, a normalised mean, or what more layers make of the map.
_AVERAGED = ("torchvision:efficientnet", "torchvision:googlenet", "torchvision:mobilenet_v2", "torchvision:resnet")


def channels(architecture: str) -> int:
    """How many channels the input of a module of this architecture has."""
    return int(architecture.partition("@")[2] or RGB)


def with_channels(architecture: str, count: int) -> str:
    """The name of the same architecture with an input of `count` channels."""
    name = architecture.partition("@")[0]
    return name if count == RGB else f"{name}@{count}"


def build(architecture: str, columns: int) -> nn.Module:
    """Build a backbone with untrained weights, to be filled at once.

    Args:
        architecture: Its name.
        columns: How many columns its logits have; 0 for no classifier.

    Returns:
        The module, in eval mode: float32 `[N, channels, H, W]` to logits `[N, columns]`, or to the embedding `[N, D]`.

    Raises:
        BackboneError: There is no such architecture, or not with so many channels.
    """
    name, count = architecture.partition("@")[0], channels(architecture)
    try:
        if name.startswith(_TORCHVISION):
            module = _of_torchvision(name.removeprefix(_TORCHVISION), columns, count)
        elif name.startswith(_OWN):
            module = LeNet5(columns or 1, count)
        else:
            return _of_timm(name, columns, count)
    except (RuntimeError, TypeError, ValueError) as error:
        raise BackboneError(f"Expected an architecture that can be built. Received: {architecture}: {error}") from error
    return (module if columns else parted(module)[0]).eval()


def _of_timm(name: str, columns: int, count: int) -> nn.Module:
    options: dict[str, Any] = {}
    if is_model_in_modules(name, ["efficientnet"]):
        options["global_pool"] = _POOLING
    if is_model_in_modules(name, ["vision_transformer"]):
        # Position embeddings are kept as they were pretrained, and resized to the input in the graph.
        options["dynamic_img_size"] = True
    if count != RGB:
        options["in_chans"] = count
    module: nn.Module = timm.create_model(name, num_classes=columns, **options)
    return module.eval()


def _of_torchvision(name: str, columns: int, count: int) -> nn.Module:
    # The side classifiers of GoogLeNet helped its pretraining alone; they are left off. Drawing its own start takes
    # seconds, and torch's does as well for a network with batch norms.
    options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    module: nn.Module = models.get_model(name, weights=None, num_classes=columns or 1, **options)
    if count != RGB:
        path = stem(module)
        module.set_submodule(path, _resized(module.get_submodule(path), count))
    return module


def _resized(conv: Any, count: int) -> nn.Conv2d:
    return nn.Conv2d(count, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, bias=conv.bias is not None)


def of_timm(module: nn.Module) -> bool:
    """Whether timm has made a module."""
    return type(module) not in _CLASSIFIERS


def resizes(module: nn.Module) -> bool:
    """Whether a module with position embeddings resizes them to its input."""
    return isinstance(module, VisionTransformer)


def stem(module: nn.Module) -> str:
    """The name of the convolution that reads the input."""
    convolutions: list[str] = [name for name, each in module.named_modules() if isinstance(each, nn.Conv2d)]
    if not convolutions:
        raise BackboneError(f"Expected a backbone that begins with a convolution. Received: {type(module).__name__}.")
    return convolutions[0]


def averages(architecture: str) -> bool:
    """Whether the embedding of an architecture is the plain mean over the cells of its last map."""
    name = architecture.partition("@")[0]
    return name.startswith(_AVERAGED) or (":" not in name and is_model_in_modules(name, ["efficientnet"]))


def classifier(module: nn.Module) -> str:
    """The name of the module that makes logits of the embedding, whether or not it was taken off.

    Args:
        module: As `build` makes it.

    Returns:
        Its path in the module.

    Raises:
        BackboneError: There is none, or more than one.
    """
    if not of_timm(module):
        return _CLASSIFIERS[type(module)]
    whole: Any = module  # torch's types do not know what timm's modules have beside forward
    named: str | tuple[str, ...] | None = whole.pretrained_cfg.get("classifier")
    if not isinstance(named, str):
        raise BackboneError(f"Expected a backbone with one classifier. Received: {type(module).__name__} with {named}.")
    return named


def parted(module: nn.Module) -> tuple[nn.Module, nn.Linear | None]:
    """Take the classifier off a backbone.

    Args:
        module: As `build` makes it; it is changed.

    Returns:
        The module without its classifier, which gives the embedding `[N, D]`, and the classifier: `[N, D]` to `[N,
        columns]`; None where it had none.

    Raises:
        BackboneError: The classifier is no linear layer.
    """
    path = classifier(module)
    found = module.get_submodule(path)
    if not isinstance(found, nn.Linear | nn.Identity):
        raise BackboneError(
            f"Expected the classifier of {type(module).__name__} to be linear. Received: {type(found).__name__}."
        )
    whole: Any = module
    if isinstance(module, EfficientNet):
        whole.reset_classifier(0, _POOLING)
    elif of_timm(module):
        whole.reset_classifier(0)
    else:
        module.set_submodule(path, nn.Identity())
    return module, found if isinstance(found, nn.Linear) else None


def untrained(architecture: str, columns: int, seed: int) -> nn.Module:
    """Build a backbone with the random weights that its makers start from.

    Args:
        architecture: Its name.
        columns: As for `build`.
        seed: Draws the weights; torch's own generator is left as it was.

    Returns:
        As `build` does.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(architecture, columns)
