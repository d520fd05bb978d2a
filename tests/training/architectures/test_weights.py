"""Files of weights as they come: wrapped, renamed, incomplete, damaged and hostile."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from training import backbones
from training.architectures import building, weights
from training.architectures.weights import LoadReport
from training.errors import BackboneError


def module(columns: int = 5, architecture: str = "test_efficientnet") -> nn.Module:
    return backbones.build(architecture, columns)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return building.untrained("test_efficientnet", 5, seed=1).state_dict()


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    def save(contents: Any) -> Path:
        torch.save(contents, tmp_path / "weights.pth")
        return tmp_path / "weights.pth"

    return save


def test_tensors_arrive_one_to_one(state: dict[str, Tensor], saved: Callable[..., Path]) -> None:
    made = module()
    report = weights.load(made, weights.read(saved(state)))
    assert report == LoadReport(loaded=len(state))
    assert report.lines() == [f"{len(state)} tensors loaded"]
    assert all(torch.equal(each, state[name]) for name, each in made.state_dict().items())


def test_safetensors_are_read(state: dict[str, Tensor], tmp_path: Path) -> None:
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    assert weights.load(module(), weights.read(tmp_path / "a.safetensors")) == LoadReport(loaded=len(state))


@pytest.mark.parametrize(
    ("wrap", "unwrapped"),
    [
        (lambda state: {"state_dict": state, "epoch": 3}, ("state_dict",)),
        (lambda state: {"model": {"state_dict": state}, "optimizer": {"a": 1}}, ("model", "state_dict")),
        (lambda state: {f"module.{name}": each for name, each in state.items()}, ("module.",)),
        (
            lambda state: {"model_state_dict": {f"_orig_mod.module.{name}": each for name, each in state.items()}},
            ("model_state_dict", "_orig_mod.", "module."),
        ),
    ],
)
def test_what_trainers_put_around_is_taken_off_and_told(
    wrap: Callable[[Any], Any], unwrapped: tuple[str, ...], state: dict[str, Tensor], saved: Callable[..., Path]
) -> None:
    report = weights.load(module(), weights.read(saved(wrap(state))))
    assert report.unwrapped == unwrapped
    assert f"taken out of: {', '.join(unwrapped)}" in report.lines()


def test_names_of_another_implementation_are_matched_by_position(state: dict[str, Tensor]) -> None:
    theirs = {f"_{index}.{name.rpartition('.')[2]}": each for index, (name, each) in enumerate(state.items())}
    made = module()
    report = weights.load(made, weights.Contents(theirs, ()))
    assert report.by_position
    assert any("by position" in line for line in report.lines())
    assert all(torch.equal(each, state[name]) for name, each in made.state_dict().items())


def test_tensors_of_another_count_or_role_are_refused() -> None:
    one, two = torch.zeros(1), torch.zeros(2)
    with pytest.raises(BackboneError, match=r"Expected 2 tensors. Received: 1"):
        weights.renamed({"a.weight": one}, {"b.weight": one, "b.bias": two})
    with pytest.raises(BackboneError, match=r"Expected the tensor b.bias \[1\]. Received: a.weight \[1\]"):
        weights.renamed({"a.weight": one}, {"b.bias": one})


def test_missing_tensors_are_named_and_counted(state: dict[str, Tensor]) -> None:
    less = {name: each for name, each in state.items() if not name.startswith("blocks.1.")}
    with pytest.raises(
        BackboneError, match=r"Expected a tensor for every name. Received: none for blocks.1.0.*, .*, .* and \d+ more."
    ):
        weights.load(module(), weights.Contents(less, ()))


def test_tensors_without_a_place_are_named(state: dict[str, Tensor]) -> None:
    more = {**state, "blocks.9.weight": torch.zeros(1)}
    with pytest.raises(BackboneError, match=r"Expected a place for every tensor. Received: none for blocks.9.weight\."):
        weights.load(module(), weights.Contents(more, ()))


def test_tensors_of_another_shape_are_named(state: dict[str, Tensor]) -> None:
    other = {**state, "bn2.weight": torch.zeros(7)}
    message = r"Expected tensors of the module's shapes. Received: bn2.weight \[7\] for \[256\]\."
    with pytest.raises(BackboneError, match=message):
        weights.load(module(), weights.Contents(other, ()))


def test_a_classifier_of_other_classes_fits_no_module_with_classes(state: dict[str, Tensor]) -> None:
    with pytest.raises(BackboneError, match=r"Received: classifier.weight \[5, 256\] for \[3, 256\]"):
        weights.load(module(3), weights.Contents(state, ()))


def test_a_classifier_is_left_out_where_the_module_has_none_and_told(state: dict[str, Tensor]) -> None:
    report = weights.load(module(0), weights.Contents(state, ()))
    assert report.unexpected == ("classifier.weight", "classifier.bias")
    assert "unexpected: classifier.weight, classifier.bias" in report.lines()


def test_what_the_card_says_is_left_out_and_told(state: dict[str, Tensor]) -> None:
    more = {**state, "aux1.fc.weight": torch.zeros(1)}
    assert weights.load(module(), weights.Contents(more, ()), ("aux1.",)).unexpected == ("aux1.fc.weight",)


def test_counters_of_batches_may_be_missing(state: dict[str, Tensor]) -> None:
    old = {name: each for name, each in state.items() if not name.endswith("num_batches_tracked")}
    report = weights.load(module(), weights.Contents(old, ()))
    assert len(report.missing) == len(state) - len(old) > 0
    assert report.loaded == len(old)


def test_weights_of_another_architecture_are_told_as_such(state: dict[str, Tensor]) -> None:
    with pytest.raises(
        BackboneError, match=r"the architecture ResNet, 122 tensors. Received: those of another one: 1 of"
    ):
        weights.load(module(1000, "torchvision:resnet18"), weights.Contents(state, ()))
    deeper = building.untrained("torchvision:resnet50", 5, seed=0).state_dict()
    with pytest.raises(BackboneError, match=r"the architecture ResNet, 122 tensors. Received: those of another one: "):
        weights.load(module(5, "torchvision:resnet18"), weights.Contents(deeper, ()))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(
    number: float, state: dict[str, Tensor], saved: Callable[..., Path]
) -> None:
    broken = {name: each.clone() for name, each in state.items()}
    broken["bn1.running_var"][3] = number
    with pytest.raises(BackboneError, match=r"Received: NaN or infinity in bn1.running_var of .*weights.pth"):
        weights.read(saved(broken))


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._path),)


def test_code_in_a_file_is_refused_and_not_run(
    state: dict[str, Tensor], saved: Callable[..., Path], tmp_path: Path
) -> None:
    path = saved({**state, "hook": Hostile(tmp_path / "owned")})
    with pytest.raises(BackboneError, match=r"damaged or that holds code, which is not run. Have its author save"):
        weights.read(path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
@pytest.mark.parametrize("part", [0, 0.5, 0.99])
def test_a_truncated_file_is_refused(name: str, part: float, state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / name
    if path.suffix == ".pth":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(BackboneError, match=r"Expected .*a\."):
        weights.read(path)


@pytest.mark.parametrize("name", ["none.pth", "none.safetensors", "folder.pth"])
def test_a_file_that_cannot_be_opened_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(BackboneError, match=rf"Expected a file of weights that can be read. Received: .*{name}"):
        weights.read(tmp_path / name)


@pytest.mark.parametrize(
    ("contents", "received"),
    [
        ({"epoch": 3, "loss": 0.1}, "epoch, loss"),
        ({}, "none"),
        ([1, 2], "none"),
        (torch.zeros(3), "none"),
        ({1: torch.zeros(1)}, "1"),
        ({"state_dict": {}}, "none"),
    ],
)
def test_a_file_without_tensors_is_refused(contents: Any, received: str, saved: Callable[..., Path]) -> None:
    with pytest.raises(BackboneError, match=rf"weights.pth to hold tensors by their names. Received: {received}\."):
        weights.read(saved(contents))


def test_half_precision_is_widened(state: dict[str, Tensor], saved: Callable[..., Path]) -> None:
    half = {name: each.half() if each.is_floating_point() else each for name, each in state.items()}
    made = module()
    weights.load(made, weights.read(saved(half)))
    assert made.state_dict()["bn2.weight"].dtype == torch.float32


def test_a_stem_is_adapted_to_other_channels_and_told(state: dict[str, Tensor]) -> None:
    made = module(5, "test_efficientnet@4")
    report = weights.load(made, weights.Contents(state, ()))
    assert report.adapted == ("conv_stem.weight",)
    theirs, ours = state["conv_stem.weight"], made.state_dict()["conv_stem.weight"]
    # Red, green, blue and red again, weaker by three fourths: an even grey is answered as before.
    torch.testing.assert_close(ours, theirs[:, [0, 1, 2, 0]] * 0.75)


def test_a_stem_of_the_wanted_channels_is_left_as_it_is() -> None:
    grey = building.untrained("test_efficientnet@1", 5, seed=2).state_dict()
    made = module(5, "test_efficientnet@1")
    assert weights.load(made, weights.Contents(grey, ())).adapted == ()
    assert torch.equal(made.state_dict()["conv_stem.weight"], grey["conv_stem.weight"])
