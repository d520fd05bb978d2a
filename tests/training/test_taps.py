"""A backbone gives what the card names, once, and leaves nothing behind."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from training import backbones, taps
from training.backbones import Card
from training.taps import FrozenBackbone, TappedBackbone, Taps


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def backbone(small: Card) -> FrozenBackbone:
    return FrozenBackbone(backbones.pretrained(small), small.backbone, small.scaling)


@pytest.fixture(scope="module")
def answers(backbone: FrozenBackbone, pixels: Tensor) -> dict[str, Tensor]:
    with torch.inference_mode():
        found: dict[str, Tensor] = backbone(pixels)
    return found


def test_every_stage_probe_and_the_embedding_have_the_shapes_of_the_card(
    answers: dict[str, Tensor], small: Card
) -> None:
    assert tuple(answers) == small.backbone.taps()
    for stage in small.backbone.stages:
        assert answers[stage.name].shape == (3, stage.channels, 64 // stage.stride, 64 // stage.stride)
    assert answers["b4"].shape[:2] == (3, 64)
    assert answers["embedding"].shape == (3, 256)
    assert all(answer.dtype == torch.float32 for answer in answers.values())


def test_a_probe_is_what_its_module_gives(
    backbone: FrozenBackbone, pixels: Tensor, answers: dict[str, Tensor], small: Card
) -> None:
    module = backbones.pretrained(small)
    seen: list[Tensor] = []
    (probe,) = small.backbone.probes
    module.get_submodule(probe.module).register_forward_hook(lambda *given: seen.append(given[2]))
    x = (pixels.permute(0, 3, 1, 2).float() - backbone.mean) / backbone.deviation
    with torch.inference_mode():
        module(x)
    torch.testing.assert_close(answers[probe.name], seen[0])


@pytest.fixture
def raising(backbone: FrozenBackbone) -> Iterator[FrozenBackbone]:
    """A backbone whose last block fails."""

    def fail(*_: object) -> None:
        raise RuntimeError("here")

    hook = backbone.module.blocks[-1].register_forward_pre_hook(fail)
    yield backbone
    hook.remove()


def test_no_hook_is_left_behind(backbone: FrozenBackbone, pixels: Tensor) -> None:
    with torch.inference_mode():
        backbone(pixels)
    assert not any(module._forward_hooks for module in backbone.modules())


def test_no_hook_is_left_behind_by_a_failure(raising: FrozenBackbone, pixels: Tensor) -> None:
    with pytest.raises(RuntimeError, match="here"):
        raising(pixels)
    assert not any(module._forward_hooks for module in raising.modules())


def test_a_tap_for_a_head_is_the_mean_over_the_cells_of_its_map(
    pixels: Tensor, answers: dict[str, Tensor], small: Card
) -> None:
    with torch.inference_mode():
        found = Taps(backbones.pretrained(small), small.backbone, small.scaling)(pixels)
    assert list(found) == list(answers)
    for name, vector in found.items():
        expected = answers[name].mean(dim=(2, 3)) if answers[name].ndim == 4 else answers[name]
        torch.testing.assert_close(vector, expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(taps.pooled({"e": answers["embedding"]})["e"], answers["embedding"])


def test_an_image_alone_is_answered_as_among_others(
    backbone: FrozenBackbone, pixels: Tensor, answers: dict[str, Tensor]
) -> None:
    with torch.inference_mode():
        alone = backbone(pixels[1:2])
    for name, answer in answers.items():
        torch.testing.assert_close(alone[name], answer[1:2], rtol=1e-5, atol=1e-5 * float(answer.abs().max()))


def test_scaling_is_taken_from_its_words_and_not_kept_beside_the_weights(backbone: FrozenBackbone, small: Card) -> None:
    torch.testing.assert_close(backbone.mean.flatten(), torch.tensor(small.scaling.mean) * 255)
    torch.testing.assert_close(backbone.deviation.flatten(), torch.tensor(small.scaling.deviation) * 255)
    assert not {"mean", "deviation"} & set(backbone.state_dict())


def test_a_backbone_that_is_not_frozen_learns_and_gives_the_same(
    small: Card, pixels: Tensor, answers: dict[str, Tensor]
) -> None:
    free = TappedBackbone(backbones.parted(backbones.pretrained(small))[0], small.backbone, small.scaling).eval()
    found = free(pixels)
    for name, answer in answers.items():
        torch.testing.assert_close(found[name], answer)
    found["embedding"].sum().backward()
    assert all(each.grad is not None for each in free.parameters())
    assert free.train().module.training
    assert all(name.startswith("module.") for name in free.state_dict())


def test_one_channel_is_the_mean_of_three_and_of_more_each_is_scaled(small: Card) -> None:
    shown = torch.randint(0, 256, (2, 64, 64, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))
    grey, four = (backbones.with_channels(small, count) for count in (1, 4))
    tapped = TappedBackbone(backbones.scratch(grey, 0)[1], grey.backbone, grey.scaling).eval()
    more = TappedBackbone(backbones.scratch(four, 0)[1], four.backbone, four.scaling).eval()
    assert more.mean.flatten().tolist() == pytest.approx([value * 255 for value in (0.4, 0.5, 0.6, 0.4)])
    with torch.inference_mode():
        assert more(shown)["embedding"].shape == (2, 256)
        x = (shown[..., :3].permute(0, 3, 1, 2).float() - tapped.mean) / tapped.deviation
        torch.testing.assert_close(tapped(shown[..., :3])["embedding"], tapped.module(x.mean(dim=1, keepdim=True)))
