import pytest
import torch

from training import backbones, parts
from training.architectures.card import Sizes
from training.errors import BackboneError
from training.taps import TappedBackbone


@pytest.mark.parametrize(
    ("name", "strides"),
    [
        ("timm:test_resnet", (2, 4, 8, 16, 32)),
        ("timm:test_convnext", (4, 8, 16, 32)),
        ("timm:test_efficientnet.r160_in1k", (2, 4, 8, 16, 32)),
        ("timm:test_vit", (16, 16, 16, 16)),
    ],
)
def test_a_model_of_timm_has_a_card_that_says_what_it_gives(name: str, strides: tuple[int, ...]) -> None:
    card = backbones.card(name)
    assert card.backbone.name == name
    assert tuple(stage.stride for stage in card.backbone.stages) == strides
    assert "assumed" in card.backbone.recipe.source
    assert card.backbone.source.startswith("huggingface.co/timm/")
    module = backbones.build(card.backbone.architecture, 0)
    px = card.geometry.crop_height_px
    with torch.inference_mode():
        answers = TappedBackbone(module, card.backbone, card.scaling).eval()(
            torch.zeros(1, px, px, 3, dtype=torch.uint8)
        )
    for stage in card.backbone.stages:
        assert answers[stage.name].shape == (1, stage.channels, px // stage.stride, px // stage.stride)
    found = parts.parts(module, card.backbone)
    assert sorted(name for part in found.values() for name in part) == sorted(module.state_dict())


def test_a_transformer_is_assumed_to_be_trained_as_one() -> None:
    rates = [backbones.card(name).backbone.recipe.optimizer for name in ("timm:test_resnet", "timm:test_vit")]
    assert rates == ["SGD, momentum 0.9", "AdamW"]


def test_a_model_of_one_size_sees_no_other() -> None:
    card = backbones.card("timm:eva02_tiny_patch14_224")
    assert card.seen() == Sizes(224, 224, 224)
    with pytest.raises(BackboneError, match=r"Expected a crop of 224 to 224 pixels"):
        backbones.sized(card, None, 112)


def test_an_unknown_model_is_refused_and_near_ones_are_named() -> None:
    with pytest.raises(BackboneError, match=r"Expected a model of timm. Received: timm:resnet18x\."):
        backbones.card("timm:resnet18x")
    with pytest.raises(BackboneError, match=r"Received: timm:resnet5\. Near it: .*resnet50"):
        backbones.card("timm:resnet5")
