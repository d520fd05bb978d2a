"""Every backbone, on random weights: built, tapped, frozen, cut into parts, given another input, and exported."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from export import graph, program, verify
from export.run import EMBEDDING, LOGITS
from service.engine import Engine
from training import backbones, heads, parts
from training.architectures import building
from training.backbones import Card
from training.served import Served, describe
from training.taps import FrozenBackbone, TappedBackbone

ORDINARY = ("lenet5", "googlenet", "resnet18", "mobilenetv3_small", "vit_small")
EVERY = [name if name in ORDINARY else pytest.param(name, marks=pytest.mark.slow) for name in backbones.CARDS]
COLUMNS = 7


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=EVERY)
def card(request: pytest.FixtureRequest) -> Card:
    return backbones.card(request.param)


@pytest.fixture(scope="module")
def tensors(card: Card) -> dict[str, Tensor]:
    """Random weights, with batch norms that do something."""
    module = building.untrained(card.backbone.architecture, COLUMNS, seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, each in module.named_buffers():
        if name.endswith("running_mean"):
            each.copy_(torch.randn(each.shape, generator=generator) * 0.1)
    return module.state_dict()


@pytest.fixture
def module(card: Card, tensors: dict[str, Tensor]) -> nn.Module:
    """A module of its own for each test."""
    made = backbones.build(card.backbone.architecture, COLUMNS)
    made.load_state_dict(tensors)
    return made


def side(card: Card, least: int) -> int:
    """The smallest crop of at least so many pixels that it can see."""
    seen = card.seen()
    return next(px for px in range(least, seen.largest_px) if px in seen)


def pixels(count: int, px: int, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, px, px, channels), dtype=torch.uint8, generator=generator)


def test_the_classifier_reads_the_embedding(card: Card, module: nn.Module) -> None:
    shown = pixels(2, side(card, 64))
    tapped = TappedBackbone(module, card.backbone, card.scaling).eval()
    x = scaled(tapped, shown, card)
    with torch.inference_mode():
        expected = module(x)
        embedding = tapped(shown)[EMBEDDING]
        body, classifier = backbones.parted(module)
        assert classifier is not None
        assert classifier.out_features == COLUMNS
        torch.testing.assert_close(classifier(embedding), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(body(x), embedding)


def scaled(tapped: TappedBackbone, shown: Tensor, card: Card) -> Tensor:
    x = (shown.permute(0, 3, 1, 2).float() - tapped.mean) / tapped.deviation
    return x if building.channels(card.backbone.architecture) > 1 else x.mean(dim=1, keepdim=True)


def test_every_stage_gives_what_its_module_does(card: Card, module: nn.Module) -> None:
    px = side(card, 128)
    tapped = TappedBackbone(module, card.backbone, card.scaling).eval()
    seen: dict[str, Tensor] = {}
    hooks = [
        module.get_submodule(stage.module).register_forward_hook(
            lambda _, __, answer, name=stage.name: seen.setdefault(name, answer.clone())
        )
        for stage in card.backbone.stages
    ]
    with torch.inference_mode():
        answers = tapped(pixels(1, px))
    for hook in hooks:
        hook.remove()
    for stage in card.backbone.stages:
        found = answers[stage.name]
        assert found.shape[:2] == (1, stage.channels)
        # Convolutions without padding, and TensorFlow's with it, round a side in their own way.
        assert found.shape[2] == pytest.approx(px / stage.stride, abs=7 if "lenet" in card.backbone.name else 1)
        torch.testing.assert_close(found.flatten(2).sum(2), as_map(seen[stage.name], found).flatten(2).sum(2))


def as_map(answer: Tensor, like: Tensor) -> Tensor:
    """The map of a transformer's tokens `[N, tokens, D]`, of which the first is no cell."""
    return answer if answer.ndim == 4 else answer[:, 1:].transpose(1, 2).reshape(like.shape)


@pytest.mark.parametrize("least", [32, 64, 128])
def test_it_sees_small_pictures(card: Card, module: nn.Module, least: int) -> None:
    with torch.inference_mode():
        answers = TappedBackbone(module, card.backbone, card.scaling).eval()(pixels(1, side(card, least)))
    assert list(answers) == list(card.backbone.taps())
    assert all(bool(torch.isfinite(each).all()) for each in answers.values())


def test_the_parts_hold_every_tensor_once_and_run_in_their_order(card: Card, module: nn.Module) -> None:
    body, _ = backbones.parted(module)
    found = parts.parts(body, card.backbone)
    names = [name for part in found.values() for name in part]
    assert sorted(names) == sorted(body.state_dict())
    assert len(names) == len(set(names))
    stages = [stage.name for stage in card.backbone.stages]
    assert list(found) in (stages, [*stages, parts.TOP])
    assert all(found.values())
    of = {name: place for place, part in enumerate(found) for name in found[part]}
    ran = executed(body, card)
    assert ran == sorted(ran, key=lambda owner: of[owner])
    assert {of[name] for name in ran} == set(range(len(found)))


def executed(body: nn.Module, card: Card) -> list[str]:
    """The first tensor of every module that has one and no children, in the order in which they run."""
    order: list[str] = []
    leaves = {name: each for name, each in body.named_modules() if name and not list(each.children())}
    first = {name: f"{name}.{tensor}" for name, each in leaves.items() for tensor in list(each.state_dict())[:1]}
    hooks = [
        leaves[name].register_forward_hook(lambda *_, tensor=tensor: order.append(tensor))
        for name, tensor in first.items()
    ]
    with torch.inference_mode():
        TappedBackbone(body, card.backbone, card.scaling).eval()(pixels(1, side(card, 64)))
    for hook in hooks:
        hook.remove()
    return order


def test_frozen_it_stays_and_free_it_learns(card: Card, module: nn.Module, tensors: dict[str, Tensor]) -> None:
    body, _ = backbones.parted(module)
    shown = pixels(2, side(card, 64))
    frozen = FrozenBackbone(body, card.backbone, card.scaling).train()
    assert not frozen(shown)[EMBEDDING].requires_grad
    assert all(torch.equal(each, tensors[name]) for name, each in body.state_dict().items())
    free = TappedBackbone(body.requires_grad_(True), card.backbone, card.scaling).eval()
    # Weighed at random: of a vector with a layer norm behind it the plain sum does not change.
    embedding = free(shown)[EMBEDDING]
    (embedding * torch.randn(embedding.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    still = [name for name, each in free.named_parameters() if each.grad is None]
    assert not [name for name in still if "mask_token" not in name]
    assert sorted(free.state_dict()) == sorted(f"module.{name}" for name in body.state_dict())


def test_one_channel_answers_as_three_alike(card: Card, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    if building.channels(card.backbone.architecture) == 1:
        pytest.skip("its input has one channel as it is")
    path = tmp_path / "weights.pth"
    torch.save(tensors, path)
    grey = backbones.ready(backbones.with_channels(card, 1), path)
    colour = backbones.ready(card, path)
    px = side(card, 64)
    x = torch.randn(2, 1, px, px, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        one, three = backbones.pretrained(grey)(x), backbones.pretrained(colour)(x.repeat(1, 3, 1, 1))
    torch.testing.assert_close(one, three, rtol=1e-5, atol=1e-5 * float(three.abs().max()))


def test_one_channel_is_tapped_frozen_and_learns(card: Card) -> None:
    grey = backbones.with_channels(card, 1)
    body, _ = backbones.parted(building.untrained(grey.backbone.architecture, COLUMNS, seed=0))
    before = {name: each.clone() for name, each in body.state_dict().items()}
    shown = pixels(2, side(card, 64))
    frozen = FrozenBackbone(body, grey.backbone, grey.scaling).train()
    answers = frozen(shown)
    assert list(answers) == list(card.backbone.taps())
    assert not answers[EMBEDDING].requires_grad
    assert all(torch.equal(each, before[name]) for name, each in body.state_dict().items())
    free = TappedBackbone(body.requires_grad_(True), grey.backbone, grey.scaling).eval()
    free(shown)[EMBEDDING].square().sum().backward()
    stem = body.get_parameter(f"{building.stem(body)}.weight")
    assert stem.shape[1] == 1
    assert stem.grad is not None


@pytest.mark.timeout(400)
@pytest.mark.parametrize("channels", [3, 1])
def test_it_is_exported(card: Card, module: nn.Module, tmp_path: Path, channels: int) -> None:
    if channels == 1:
        card = backbones.with_channels(card, 1)
        module = building.untrained(card.backbone.architecture, COLUMNS, seed=0)
    geometry = backbones.sized(card, None, side(card, 64))
    body, classifier = backbones.parted(module)
    assert classifier is not None
    head = heads.LinearHead((EMBEDDING,), classifier.in_features, COLUMNS)
    head.linear = classifier
    model = program.trace(Served(body, head, card.backbone, card.scaling), geometry)
    outputs = {output.name: output for output in describe(model, card.backbone)}
    assert list(outputs) == [*(stage.name for stage in card.backbone.stages), EMBEDDING, LOGITS]
    path = tmp_path / "model.onnx"
    graph.convert(model, [LOGITS, EMBEDDING], geometry, path)
    shown = pixels(3, geometry.crop_height_px).numpy()
    found = verify.verify(Engine(path, threads=2), shown, program.answers(model, shown))
    assert {each.output for each in found} == {LOGITS, EMBEDDING}
    lowest, largest = min(each.lowest_cosine for each in found), max(each.largest_difference for each in found)
    print(
        f"{card.backbone.name}, {channels} channels: lowest cosine {lowest:.8f}, largest difference {largest:.1e}"
    )  # pytest -rP shows it
    assert lowest > 1 - 1e-5


def test_it_has_as_many_parameters_as_torchvision_published(card: Card) -> None:
    name = card.backbone.architecture.removeprefix("torchvision:")
    if name == card.backbone.architecture:
        pytest.skip("torchvision does not publish it")
    module = backbones.build(card.backbone.architecture, 1000)
    published = models.get_model_weights(name)["IMAGENET1K_V1"].meta["num_params"]
    assert sum(each.numel() for each in module.parameters()) == published
