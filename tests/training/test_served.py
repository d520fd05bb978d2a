from pathlib import Path

import pytest
import torch

from export import graph, program, verify
from export.run import LOGITS
from service.engine import Engine
from training import backbones, heads, regimes
from training.backbones import Card
from training.errors import BackboneError
from training.served import Served, describe


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)


def test_it_answers_what_the_backbone_does_on_scaled_pixels(small: Card, pixels: torch.Tensor) -> None:
    module = backbones.pretrained(small)
    mean = torch.tensor(small.scaling.mean).reshape(1, 3, 1, 1)
    deviation = torch.tensor(small.scaling.deviation).reshape(1, 3, 1, 1)
    with torch.inference_mode():
        x = (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / deviation
        answers = regimes.original(small)(pixels)
        torch.testing.assert_close(answers["logits"], module(x), rtol=1e-5, atol=1e-5)
        assert list(answers) == ["c1", "c2", "c3", "c4", "c5", "embedding", "logits"]


def test_every_tap_has_the_shape_that_its_card_says(small: Card) -> None:
    model = program.trace(regimes.original(small), small.geometry)
    outputs = {output.name: output for output in describe(model, small.backbone)}
    for stage in small.backbone.stages:
        output = outputs[stage.name]
        assert (output.kind, output.tap, output.stride) == ("feature_map", stage.name, stage.stride)
        assert output.shape == (stage.channels, 64 // stage.stride, 64 // stage.stride)
    assert (outputs["embedding"].shape, outputs["embedding"].tap, outputs["embedding"].pooling) == (
        (256,),
        "pooled",
        "avg",
    )
    assert outputs["logits"].shape == (5,)


def test_a_head_on_an_early_stage_is_exported(small: Card, pixels: torch.Tensor, tmp_path: Path) -> None:
    backbone, _ = backbones.parted(backbones.pretrained(small))
    served = Served(backbone, heads.LinearHead(("c2",), 24, 3), small.backbone, small.scaling)
    model = program.trace(served, small.geometry)
    graph.convert(model, [LOGITS], small.geometry, tmp_path / "model.onnx")
    shown = pixels.numpy()
    found = verify.verify(Engine(tmp_path / "model.onnx", threads=1), shown, program.answers(model, shown))
    assert {each.output for each in found} == {LOGITS}
    assert min(each.lowest_cosine for each in found) > 1 - 1e-5


def test_scaling_is_not_among_the_weights(small: Card) -> None:
    module = regimes.original(small)
    assert all(name.startswith(("backbone.module.", "head.linear.")) for name in module.state_dict())


def test_a_backbone_of_four_channels_is_not_served(small: Card) -> None:
    four = backbones.with_channels(small, 4)
    _, module = backbones.scratch(four, 0)
    message = r"Expected a backbone of 3 channels or one, because a service is sent RGB. Received: small of 4"
    with pytest.raises(BackboneError, match=message):
        Served(module, heads.LinearHead(("embedding",), 256, 2), four.backbone, four.scaling)


def test_an_embedding_that_is_no_mean_is_not_called_one() -> None:
    card, module = backbones.scratch(backbones.card("lenet5"), 0)
    served = Served(module, heads.LinearHead(("embedding",), 84, 2), card.backbone, card.scaling)
    outputs = {output.name: output for output in describe(program.trace(served, card.geometry), card.backbone)}
    assert (outputs["embedding"].tap, outputs["embedding"].pooling) == ("pre_logits", None)
    assert outputs["c3"].shape == (120, 1, 1)
