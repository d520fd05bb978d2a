"""What parts of wrong cards are; every registered backbone's are in architectures/test_every.py."""

import pytest

from export.run import Backbone, Stage
from training import backbones, parts
from training.backbones import Card
from training.errors import BackboneError


def test_the_stem_is_in_the_first_part_and_what_follows_the_last_stage_on_top(small: Card) -> None:
    module, _ = backbones.parted(backbones.pretrained(small))
    found = parts.parts(module, small.backbone)
    assert list(found) == ["c1", "c2", "c3", "c4", "c5", "top"]
    assert "conv_stem.weight" in found["c1"]
    assert all(name.startswith("blocks.2.") for name in found["c3"])
    assert {name.partition(".")[0] for name in found["top"]} == {"conv_head", "bn2"}
    assert "bn2.running_mean" in found["top"]


def staged(small: Card, *modules: str) -> Backbone:
    stages = tuple(Stage(name=f"c{n}", stride=2, channels=16, module=each) for n, each in enumerate(modules))
    return small.backbone.model_copy(update={"stages": stages})


def test_stages_that_do_not_follow_one_another_are_refused(small: Card) -> None:
    module, _ = backbones.parted(backbones.pretrained(small))
    with pytest.raises(BackboneError, match=r"Expected the stages of small one behind the other. Received: "):
        parts.parts(module, staged(small, "blocks.2", "blocks.1"))
    with pytest.raises(BackboneError, match=r"Expected the stages of small one behind the other"):
        parts.parts(module, staged(small, "blocks.2", "blocks.2"))
    with pytest.raises(BackboneError, match=r"Expected a module blocks.9, where the stage c1 ends. Received: none"):
        parts.parts(module, staged(small, "blocks.1", "blocks.9"))


def test_a_stage_may_be_one_layer(small: Card) -> None:
    module, _ = backbones.parted(backbones.pretrained(small))
    assert parts.parts(module, staged(small, "conv_stem", "blocks.1"))["c0"] == ("conv_stem.weight",)
