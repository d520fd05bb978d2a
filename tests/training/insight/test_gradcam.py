"""What speaks for an answer lies where it lies, whatever a backbone is made of and a head reads."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from export.run import EMBEDDING, Scaling, Stage
from training import backbones, freezing, heads, regimes
from training.backbones import Card
from training.heads import LinearHead
from training.insight import gradcam
from training.served import Served

SCALING = Scaling(mean=(0.5, 0.5, 0.5), deviation=(0.5, 0.5, 0.5))
SIDE = 64


def passing(layer: nn.Conv2d | nn.Linear) -> None:
    """Let a layer pass on its first two channels, each by itself, from the middle of its kernel."""
    with torch.no_grad():
        layer.weight.zero_()
        assert layer.bias is not None
        layer.bias.zero_()
        for channel in range(2):
            layer.weight[(channel, channel, *(side // 2 for side in layer.weight.shape[2:]))] = 1.0


def red_or_green() -> tuple[Served, tuple[Stage, ...]]:
    """A LeNet that says how much red and how much green there is, wherever it is."""
    card = backbones.card("lenet5").backbone.model_copy(update={"architecture": "vertebra:lenet5@3"})
    backbone = backbones.build(card.architecture, 0)
    for layer in backbone.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            passing(layer)
    head = LinearHead((EMBEDDING,), 84, 2)
    passing(head.linear)
    return Served(backbone, head, card, SCALING).eval(), card.stages


def red_on_top_green_below() -> NDArray[np.uint8]:
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[: SIDE // 3, : SIDE // 3, 0] = 255
    pixels[-SIDE // 3 :, -SIDE // 3 :, 1] = 255
    return pixels


@pytest.mark.parametrize(("column", "corner"), [(0, (0, 0)), (1, (1, 1))])
def test_the_corner_that_an_answer_depends_on_is_lit_and_no_other(column: int, corner: tuple[int, int]) -> None:
    model, stages = red_or_green()
    heat = gradcam.explain(model, stages, red_on_top_green_below(), column)
    height, width = heat.values.shape
    assert heat.stage.name == "c3"
    lit = {
        (y, x): float(heat.values[y * height // 2 :, x * width // 2 :][: height // 2, : width // 2].max())
        for y in (0, 1)
        for x in (0, 1)
    }
    assert lit.pop(corner) > 0.9
    assert max(lit.values()) < 0.1


def test_of_a_linear_head_on_the_mean_of_the_last_map_it_is_the_class_activation_map() -> None:
    """Where the classifier reads the mean of the last map, Grad-CAM is CAM (arXiv:1512.04150): a weighted sum."""
    torch.manual_seed(0)
    card = backbones.card("resnet18").backbone
    model = Served(backbones.build(card.architecture, 0), LinearHead((EMBEDDING,), 512, 3), card, SCALING).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    with torch.no_grad():
        last = model(torch.tensor(pixels)[None])["c5"][0]  # [512, 2, 2]
    for column in range(3):
        heat = gradcam.explain(model, card.stages, pixels, column)
        weights = model.head.get_parameter("linear.weight")[column]
        expected = torch.einsum("c,chw->hw", weights, last).relu().detach()
        assert heat.stage.name == "c5"
        np.testing.assert_allclose(heat.values, (expected / expected.max().clamp(min=1e-12)).numpy(), atol=1e-5)


def test_a_head_on_early_stages_is_explained_by_the_last_that_it_reads(small: Card) -> None:
    torch.manual_seed(0)
    backbone, _ = backbones.parted(backbones.pretrained(small))
    model = Served(backbone, LinearHead(("c2", "c3"), 24 + 32, 3), small.backbone, small.scaling).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    heat = gradcam.explain(model, small.backbone.stages, pixels, 0)
    assert heat.stage.name == "c3"
    assert heat.values.shape == (8, 8)


@pytest.mark.parametrize(
    ("architecture", "width", "modules", "read"),
    [
        # The last block of a transformer that answers by a token of its own leaves the cells' numbers unread.
        ("test_vit", 64, ("blocks.2", "blocks.5"), "blocks.2"),
        ("test_convnext", 64, ("stages.2", "stages.3"), "stages.3"),
        # What follows this batch norm writes into its input.
        ("torchvision:mobilenet_v2", 1280, ("features.14", "features.18.1"), "features.18.1"),
    ],
)
def test_architectures_of_other_kinds(
    small: Card, architecture: str, width: int, modules: tuple[str, ...], read: str
) -> None:
    torch.manual_seed(0)
    module = backbones.build(architecture, 0)
    stages = tuple(Stage(name=each, stride=16, channels=64, module=each) for each in modules)
    card = small.backbone.model_copy(update={"architecture": architecture, "stages": stages, "probes": ()})
    head = heads.LinearHead((EMBEDDING,), width, 2)
    model = Served(module, head, card, SCALING).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    heat = gradcam.explain(model, stages, pixels, 0)
    with torch.no_grad():
        shape = model(torch.tensor(pixels)[None])[read].shape
    assert heat.stage.module == read
    assert heat.values.shape == tuple(shape[2:])
    assert max(heat.values.max(), gradcam.explain(model, stages, pixels, 1).values.max()) == 1


def test_where_nothing_speaks_for_an_answer_all_is_dark(small: Card) -> None:
    model = regimes.original(small)
    with torch.no_grad():
        model.head.get_parameter("linear.weight").zero_()
    heat = gradcam.explain(model, small.backbone.stages, np.full((SIDE, SIDE, 3), 99, np.uint8), 0)
    assert not heat.values.any()


def test_the_model_is_left_as_it_was(small: Card) -> None:
    model = regimes.original(small).requires_grad_(False)
    before = freezing.digest(model.state_dict())
    gradcam.explain(model, small.backbone.stages, np.zeros((SIDE, SIDE, 3), np.uint8), 0)
    assert freezing.digest(model.state_dict()) == before
    assert not any(each._forward_hooks for each in model.modules())
    assert all(each.grad is None and not each.requires_grad for each in model.parameters())
