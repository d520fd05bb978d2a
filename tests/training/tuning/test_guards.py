"""What must hold while a model is trained, and what a person is told where it does not."""

import math

import pytest
import torch
from lightning_fabric import Fabric

from tests.training.tuning.teacher import Colours, plan, tunable
from training.errors import FrozenError, TuningError
from training.tuning import guards
from training.tuning.guards import Guard, Seal
from training.tuning.loss import Objective

PLAIN = Objective(Fabric(accelerator="cpu", devices=1), 0.0, None, bf16=False, channels_last=False)


def test_to_look_for_them_changes_nothing() -> None:
    model = tunable()
    model.arrange(plan(unfreeze_from="c1", batch_norm="train", dropout=0.5))
    model.train()
    seal = Seal(model.state_dict())
    guards.unreached(model, PLAIN, next(Colours().epoch(0)))
    seal.check(model.state_dict())


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(broken: float) -> None:
    model = tunable()
    guards.check_numbers(model.state_dict())
    with torch.no_grad():
        model.backbone.module.bn1.running_var[3] = broken
    with pytest.raises(
        TuningError, match=r"Expected weights that are numbers. .* NaN or infinity in backbone.module.bn1.running_var"
    ):
        guards.check_numbers(model.state_dict())


def test_what_a_head_does_not_read_gets_no_gradient() -> None:
    batch = next(Colours().epoch(0))
    for reads, expected in ((("c2", "embedding"), set()), (("c4",), {"blocks.4", "conv_head", "bn2"})):
        model = tunable(reads)
        model.arrange(plan(unfreeze_from="c3"))
        names = guards.unreached(model, PLAIN, batch)
        found = {name.removeprefix("backbone.module.") for name in names}
        assert {next(each for each in expected if name.startswith(each)) for name in found} == expected
        assert all(parameter.grad is None for parameter in model.parameters())


def test_a_seal_names_what_changed() -> None:
    tensors = {"weight": torch.ones(2), "running_mean": torch.zeros(2), "other": torch.zeros(1)}
    seal = Seal({name: tensors[name] for name in ("weight", "running_mean")})
    tensors["other"] += 1
    seal.check(tensors)
    tensors["running_mean"] += 1e-20
    with pytest.raises(FrozenError, match=r"Expected 2 frozen tensors to stay as they were. .* in running_mean"):
        seal.check(tensors)


@pytest.mark.parametrize(("loss", "smooth"), [(float("nan"), 1.0), (float("inf"), 1.0), (20.0, 7.0)])
def test_a_loss_that_explodes_says_what_to_do(loss: float, smooth: float) -> None:
    guard = Guard(classes=10, steps=300)
    guard.check_loss(6.0, 6.9, first=0.1, step=0, rate=0.1)  # three times that of guessing
    guard.check_loss(20.0, 20.0, first=7.0, step=0, rate=0.1)
    with pytest.raises(
        TuningError,
        match=rf"Expected at most 6.908 in step 12 of 300. Received: {loss:.4g}, {smooth:.4g} smoothed, at the "
        "learning rate 0.1. The training has come apart: lower the learning rate",
    ):
        guard.check_loss(loss, smooth, first=0.1, step=11, rate=0.1)


def test_a_gradient_without_length_stops() -> None:
    guard = Guard(classes=10, steps=3)
    guard.check_gradient(1e9, 0, 0.1)
    with pytest.raises(
        TuningError, match=r"Expected a finite gradient in step 1 of 3. Received: a gradient of length nan"
    ):
        guard.check_gradient(float("nan"), 0, 0.1)


def test_a_loss_of_guessing_is_told() -> None:
    guard = Guard(classes=10, steps=3)
    assert guard.notes(2.0) == ()
    assert (
        "which is what guessing gives (the logarithm of the number of classes, 2.303)" in guard.notes(math.log(10))[0]
    )
    assert Guard(classes=1, steps=3).notes(0.0) == ()
