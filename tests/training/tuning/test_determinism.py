from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from service.bundle import CropGeometry, Interpolation
from training.errors import TuningError
from training.tuning import determinism

GEOMETRY = CropGeometry(8, 6, 6, Interpolation.INTERPOLATION_BILINEAR)


class Backbone(nn.Module):
    def __init__(self, *, alike: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.alike = alike
        self.seen: list[tuple[int, ...]] = []

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        self.seen.append(tuple(pixels.shape))
        scaled = pixels.float() * self.weight
        if not self.alike:
            # Of what torch cannot compute twice alike this is one thing that a CPU has, too.
            scaled = scaled.put_(torch.zeros(1, dtype=torch.int64), torch.ones(1))
        return {"embedding": scaled}


@pytest.fixture
def _insisted() -> Iterator[None]:
    determinism.insist()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_insisted")
def test_a_backbone_that_this_device_cannot_learn_the_same_twice_is_refused() -> None:
    determinism.check(alike := Backbone(alike=True), GEOMETRY)
    assert alike.seen == [(1, 6, 6, 3)]
    wanted = r"Expected a backbone that learns the same each time on this device\. Received: put_ does not have .*"
    with pytest.raises(TuningError, match=wanted + r" Train it without --deterministic, or on the CPU\."):
        determinism.check(Backbone(alike=False), GEOMETRY)


def test_where_nobody_insists_nothing_is_tried() -> None:
    determinism.check(backbone := Backbone(alike=False), GEOMETRY)
    assert backbone.seen == []
