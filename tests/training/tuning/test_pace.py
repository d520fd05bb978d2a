"""The fastest way to compute a step is taken only where it is right."""

from collections import Counter
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

from tests.training.tuning.teacher import Colours, plan, tunable
from training.tuning import pace
from training.tuning.loss import Objective
from training.tuning.record import Pace

PLAIN = Objective(Fabric(accelerator="cpu", devices=1), 0.0, None, bf16=False, channels_last=False)


def way(images_per_s: float, precision: str = "fp32", channels_last: bool = False, refused: str | None = None) -> Pace:
    return Pace.model_validate(
        {
            "precision": precision,
            "channels_last": channels_last,
            "images_per_s": images_per_s,
            "cosine": 1.0,
            "refused": refused,
        }
    )


def test_all_that_a_plan_leaves_open_is_measured_and_compared() -> None:
    model = tunable()
    model.arrange(plan())
    before = {name: each.clone() for name, each in model.state_dict().items()}
    chosen = plan(precision="auto", channels_last="auto")
    paces = pace.measure(model, chosen, next(Colours().epoch(0)), PLAIN)
    assert [(each.precision, each.channels_last) for each in paces] == [
        ("fp32", False),
        ("fp32", True),
        ("bf16", False),
        ("bf16", True),
    ]
    assert all(each.images_per_s > 0 and each.refused is None for each in paces)
    assert paces[0].cosine > 0.99999
    assert paces[1].cosine > 0.9999
    assert 0.95 < paces[2].cosine < 0.99999
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_on_a_cpu_what_is_hopeless_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of bfloat16 takes more than four times as long as one of fp32: one of them is enough to see that."""
    model = tunable()
    model.arrange(plan())
    clock, asked = [0.0], Counter[bool]()
    loss = Objective.loss

    def timed(objective: Objective, *given: Any) -> Tensor:
        asked[objective.bf16] += 1
        clock[0] += 4.1 if objective.bf16 else 1.0
        return loss(objective, *given)

    monkeypatch.setattr(Objective, "loss", timed)
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    chosen = plan(precision="auto", channels_last="auto")
    paces = pace.measure(model, chosen, next(Colours().epoch(0)), PLAIN)
    images = pace.enough(64, PLAIN.fabric)
    assert asked == {False: 2 * 3, True: 2}
    assert [each.images_per_s for each in paces] == [images, images, round(images / 4.1, 1), round(images / 4.1, 1)]


def test_what_is_asked_for_is_not_chosen_again() -> None:
    model = tunable()
    model.arrange(plan())
    chosen = plan(precision="fp32", channels_last="auto")
    paces = pace.measure(model, chosen, next(Colours().epoch(0)), PLAIN)
    assert {each.precision for each in paces} == {"fp32"}
    assert pace.best((way(10), way(99, "bf16")), chosen) == way(10)
    assert pace.best((way(10), way(9, channels_last=True)), plan(precision="auto", channels_last=True)).channels_last


def test_a_wrong_gradient_is_refused() -> None:
    """bfloat16 that is made wrong: the gradient of another step."""
    model = tunable()
    model.arrange(plan())
    forward = type(model).forward

    class Wrong(type(model)):  # type: ignore[misc]
        def forward(self, shown: torch.Tensor) -> torch.Tensor:
            logits = forward(self, shown)
            return -logits if torch.is_autocast_enabled("cpu") else logits

    model.__class__ = Wrong
    paces = pace.measure(model, plan(precision="auto"), next(Colours().epoch(0)), PLAIN)
    assert paces[0].refused is None
    assert paces[1].refused is not None
    assert paces[1].refused.startswith("its gradient has a cosine of -")


def test_the_fastest_right_way_is_taken_if_it_is_clearly_faster() -> None:
    chosen = plan(precision="auto", channels_last="auto")
    assert pace.best((way(10), way(10.5, channels_last=True)), chosen) == way(10)
    assert pace.best((way(10), way(12, channels_last=True)), chosen).channels_last
    assert pace.best((way(10), way(20, "bf16", refused="wrong"), way(12, "bf16", True)), chosen).images_per_s == 12


@pytest.mark.parametrize(("batch", "shown"), [(8, 8), (40, 16)])
def test_on_a_cpu_sixteen_images_of_a_batch_are_measured(batch: int, shown: int) -> None:
    seen: list[int] = []
    model = tunable()
    model.arrange(plan())
    model.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    pace.measure(model, plan(), next(Colours(images=40, batch=batch).epoch(0)), PLAIN)
    assert set(seen) == {shown}
