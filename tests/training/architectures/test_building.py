import pytest
import torch
from torch import nn
from torchvision.models.googlenet import Inception

from training import backbones
from training.architectures import building
from training.errors import BackboneError


def layers(name: str) -> tuple[list[str], list[str]]:
    """The names of the convolutions and of the linear layers of a backbone, which takes no memory."""
    with torch.device("meta"):
        module = backbones.build(backbones.card(name).backbone.architecture, 1000)
    found = list(module.named_modules())
    return (
        [path for path, each in found if isinstance(each, nn.Conv2d)],
        [path for path, each in found if isinstance(each, nn.Linear)],
    )


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_a_resnet_is_as_deep_as_it_says(depth: int) -> None:
    convolutions, linear = layers(f"resnet{depth}")
    # Beside the layers that are counted there are those that fit a shortcut to the next stage.
    beside = [path for path in convolutions if "downsample" in path]
    assert len(beside) == (3 if depth < 50 else 4)
    assert len(convolutions) - len(beside) + len(linear) == depth


@pytest.mark.parametrize(("name", "depth"), [("vgg16", 16), ("vgg16_bn", 16), ("vgg19", 19), ("vgg19_bn", 19)])
def test_a_vgg_is_as_deep_as_it_says(name: str, depth: int) -> None:
    convolutions, linear = layers(name)
    assert (len(convolutions), len(linear)) == (depth - 3, 3)


def test_googlenet_has_nine_inception_blocks_of_four_branches_and_one_classifier() -> None:
    module = backbones.build("torchvision:googlenet", 1000)
    blocks = [each for each in module.modules() if isinstance(each, Inception)]
    assert len(blocks) == 9
    assert all(len(list(each.children())) == 4 for each in blocks)
    assert [path for path, each in module.named_modules() if isinstance(each, nn.Linear)] == ["fc"]
    with torch.inference_mode():
        answer = module.train()(torch.zeros(2, 3, 64, 64))
    assert isinstance(answer, torch.Tensor)


def test_googlenet_is_22_layers_deep() -> None:
    """On the longest way: two convolutions in each block, those before the blocks, and the classifier."""
    convolutions, linear = layers("googlenet")
    before = [path for path in convolutions if not path.startswith("inception")]
    branch = [path for path in convolutions if ".branch2." in path]
    assert (len(before), len(branch), len(linear)) == (3, 2 * 9, 1)
    assert len(before) + len(branch) + len(linear) == 22


def test_what_is_behind_a_name_is_told_by_it() -> None:
    assert building.channels("tf_efficientnet_lite0") == 3
    assert building.channels("torchvision:resnet18@5") == 5
    assert building.with_channels("resnet18", 1) == "resnet18@1"
    assert building.with_channels("resnet18@1", 3) == "resnet18"


@pytest.mark.parametrize(
    "architecture", ["test_efficientnet@5", "torchvision:mobilenet_v3_small@5", "vertebra:lenet5@5"]
)
def test_an_input_may_have_any_number_of_channels(architecture: str) -> None:
    module = backbones.build(architecture, 2)
    with torch.inference_mode():
        assert module(torch.zeros(1, 5, 64, 64)).shape == (1, 2)


@pytest.mark.parametrize("architecture", ["torchvision:resnet19", "resnet18000"])
def test_an_architecture_that_is_none_is_refused(architecture: str) -> None:
    with pytest.raises(BackboneError, match=f"Expected an architecture that can be built. Received: {architecture}: "):
        backbones.build(architecture, 2)


def test_without_a_classifier_there_is_none_to_take_off() -> None:
    module, classifier = backbones.parted(backbones.build("torchvision:resnet18", 0))
    assert classifier is None
    with torch.inference_mode():
        assert module(torch.zeros(1, 3, 32, 32)).shape == (1, 512)


def test_a_classifier_that_is_not_linear_is_refused() -> None:
    module = backbones.build("torchvision:resnet18", 2)
    module.set_submodule("fc", nn.Conv2d(512, 2, 1))
    with pytest.raises(BackboneError, match=r"Expected the classifier of ResNet to be linear. Received: Conv2d."):
        backbones.parted(module)


def test_two_classifiers_are_refused() -> None:
    module = backbones.build("deit_tiny_distilled_patch16_224", 2)
    with pytest.raises(BackboneError, match=r"Expected a backbone with one classifier. Received: .*'head_dist'"):
        backbones.parted(module)


def test_a_random_start_follows_from_its_seed_and_leaves_torchs_generator() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second, other = (building.untrained("test_efficientnet", 2, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["conv_stem.weight"], other["conv_stem.weight"])
