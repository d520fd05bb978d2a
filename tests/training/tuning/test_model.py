"""Frozen means frozen while the rest learns: parameters, buffers, mode and graph."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.training.tuning.teacher import CARD, PARTS, drawn, plan, tunable
from training import backbones, heads
from training.errors import TuningError
from training.parts import parts
from training.served import Served
from training.taps import TappedBackbone
from training.tuning.model import Tunable

PIXELS, LABELS = drawn(8, 1)


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: each.clone() for name, each in tensors.items()}


def step(model: Tunable) -> set[str]:
    """Take a step with everything that a module can be told, and say which tensors changed."""
    before = copied(model.state_dict())
    descent = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(2):
        model.train()
        descent.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(model(PIXELS), LABELS))
        descent.step()
    return {name for name, each in model.state_dict().items() if not torch.equal(each, before[name])}


def test_at_first_nothing_learns() -> None:
    model = tunable()
    assert model.trained() == {}
    assert set(model.frozen()) == set(model.state_dict())


@pytest.mark.parametrize("unfreeze_from", [None, "top", "c4", "c1"])
@pytest.mark.parametrize("batch_norm", ["eval", "train"])
def test_exactly_what_is_unfrozen_changes(unfreeze_from: str | None, batch_norm: str) -> None:
    model = tunable()
    chosen = plan(unfreeze_from=unfreeze_from, batch_norm=batch_norm)
    model.arrange(chosen)
    learning = PARTS[PARTS.index(unfreeze_from) :] if unfreeze_from else ()
    assert model.trained_parts(chosen) == learning
    by_part = parts(model.backbone.module, CARD)
    tensors = {f"backbone.module.{name}" for part in learning for name in by_part[part]}
    statistics = {name for name in tensors if name.rpartition(".")[2] in ("running_mean", "running_var")}
    counts = {name for name in tensors if name.endswith("num_batches_tracked")}
    head = {"head.linear.weight", "head.linear.bias"}
    expected = head | (tensors if batch_norm == "train" else tensors - statistics - counts)
    assert step(model) == expected == set(model.learnt())
    assert set(model.frozen()) == set(model.state_dict()) - expected


def test_mode_of_frozen_parts_survives_train() -> None:
    model = tunable()
    model.arrange(plan(unfreeze_from="c4", batch_norm="train"))
    holder = nn.Sequential(model).train()
    blocks = model.backbone.module.blocks
    assert holder.training
    assert not any(each.training for block in blocks[:3] for each in block.modules())
    assert not model.backbone.module.bn1.training
    assert all(each.training for block in blocks[3:] for each in block.modules())
    holder.eval()
    assert not any(each.training for each in holder.modules())


def test_no_gradient_function_at_the_cut() -> None:
    model = tunable()
    model.arrange(plan(unfreeze_from="c4"))
    answers = model.train().backbone(PIXELS)
    graph = {name: answer.grad_fn is not None for name, answer in answers.items()}
    assert graph == {"c1": False, "c2": False, "c3": False, "c4": True, "c5": True, "embedding": True}


def test_another_plan_freezes_what_the_last_one_trained() -> None:
    model = tunable()
    model.arrange(plan(unfreeze_from="c1"))
    torch.autograd.backward(model(PIXELS).sum())
    model.arrange(plan(unfreeze_from=None))
    assert set(model.trained()) == {"head.linear.weight", "head.linear.bias"}
    assert all(each.grad is None for each in model.parameters())


def test_it_answers_as_what_is_served() -> None:
    model = tunable()
    module, _ = backbones.parted(backbones.build(CARD.architecture, 5))
    scaling = backbones.card("efficientnet_lite0").scaling.model_copy(update={"deviation": (0.3, 0.3, 0.3)})
    served = Served(module, heads.LinearHead(("c2", "c4", "embedding"), 24 + 48 + 256, 3), CARD, scaling)
    served.load_state_dict(model.state_dict())
    assert torch.equal(served.eval()(PIXELS)["logits"], model.eval()(PIXELS))


def test_dropout_is_for_training_alone() -> None:
    model = tunable()
    model.arrange(plan(dropout=0.5))
    model.eval()
    assert torch.equal(model(PIXELS), model(PIXELS))
    model.train()
    assert not torch.equal(model(PIXELS), model(PIXELS))


def test_parts_have_their_rates_and_the_head_its_own() -> None:
    model = tunable()
    model.arrange(plan(unfreeze_from="c5"))
    found = model.rates({"c5": 0.1, "top": 0.2}, 0.3)
    assert set(found) == set(model.trained())
    assert {name.split(".")[2] for name, rate in found.items() if rate == 0.1} == {"blocks"}
    assert {name.split(".")[2] for name, rate in found.items() if rate == 0.2} == {"conv_head", "bn2"}
    assert {name for name, rate in found.items() if rate == 0.3} == {"head.linear.weight", "head.linear.bias"}


def test_a_part_that_there_is_not_is_named() -> None:
    with pytest.raises(TuningError, match=r"Expected one of the parts c1, c2, c3, c4, c5, top to unfreeze .*: c9"):
        tunable().arrange(plan(unfreeze_from="c9"))


@pytest.mark.parametrize("reads", [("c2", "c4", "embedding"), ("embedding",), ("c1",)])
@pytest.mark.parametrize("unfreeze_from", ["c2", "c4", "top", None])
def test_in_two_halves_it_answers_as_a_whole(unfreeze_from: str | None, reads: tuple[str, ...]) -> None:
    model = tunable(reads)
    model.arrange(plan(unfreeze_from=unfreeze_from))
    model.train()
    at_cut, taps = model.before_cut(PIXELS)
    assert at_cut.grad_fn is None
    assert not any(each.requires_grad for each in taps.values())
    torch.testing.assert_close(model(at_cut, taps), model(PIXELS), rtol=0, atol=1e-6)


@pytest.mark.parametrize("architecture", ["resnet18", "mobilenetv3_small_050"])
def test_other_architectures_in_two_halves(architecture: str) -> None:
    module, _ = backbones.parted(backbones.build(architecture, 5))
    described: Any = module.feature_info
    card = CARD.model_copy(
        update={
            "architecture": architecture,
            "stages": tuple(
                CARD.stages[0].model_copy(
                    update={"name": f"c{place}", "module": each["module"], "channels": each["num_chs"]}
                )
                for place, each in enumerate(described, 1)
            ),
        }
    )
    backbone = TappedBackbone(module, card, backbones.card("efficientnet_lite0").scaling)
    width = backbone(PIXELS)["embedding"].shape[1]
    head = heads.LinearHead(("embedding",), width, 3)
    model = Tunable(backbone, head, ("embedding",), card, parts(module, card))
    model.arrange(plan(unfreeze_from="c4"))
    model.eval()
    torch.testing.assert_close(model(*model.before_cut(PIXELS)), model(PIXELS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        *("resnet18", "mobilenetv2", "mobilenetv3_small", "efficientnet_b0", "alexnet"),
        pytest.param("vgg16", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("place", [-2, None])
def test_those_of_torchvision_in_two_halves(name: str, place: int | None) -> None:
    listed = backbones.card(name)
    module, _ = backbones.parted(backbones.build(listed.backbone.architecture, 5))
    backbone = TappedBackbone(module, listed.backbone, listed.scaling)
    pixels = torch.randint(256, (2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    backbone.eval()
    head = heads.LinearHead(("embedding",), backbone(pixels)["embedding"].shape[1], 3)
    model = Tunable(backbone, head, ("embedding",), listed.backbone, parts(module, listed.backbone))
    model.arrange(plan(unfreeze_from=None if place is None else listed.backbone.stages[place].name))
    model.eval()
    torch.testing.assert_close(model(*model.before_cut(pixels)), model(pixels), rtol=1e-5, atol=1e-5)


def test_what_cannot_be_divided_says_so() -> None:
    module, _ = backbones.parted(backbones.build("vit_tiny_patch16_224", 5))
    card = CARD.model_copy(update={"architecture": "vit_tiny_patch16_224", "stages": ()})
    backbone = TappedBackbone(module, card, backbones.card("efficientnet_lite0").scaling)
    model = Tunable(backbone, nn.Linear(2, 2), ("embedding",), card, {"all": tuple(module.state_dict())})
    model.arrange(plan(unfreeze_from=None))
    with pytest.raises(
        TuningError, match=r"Expected a backbone that runs its modules one after the other: .*: VisionTransformer"
    ):
        model.cut()


def test_with_nothing_frozen_there_is_no_cut() -> None:
    model = tunable()
    model.arrange(plan(unfreeze_from="c1"))
    with pytest.raises(TuningError, match=r"Expected a frozen part before the cut"):
        model.cut()
