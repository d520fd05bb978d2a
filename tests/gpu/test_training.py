"""A fine-tuning on a GPU learns what it learns on the CPU, and hands on tensors of the CPU."""

from pathlib import Path

import pytest
import torch

from tests.training.tuning.teacher import learner, lessons, nothing, plan
from training.tuning import loop

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_learns_and_what_it_learnt_is_handed_on_to_the_cpu(tmp_path: Path, precision: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU: not run. torch.cuda.is_available() is False")
    found = loop.tune(learner(), lessons(), plan(rate=0.02, epochs=4, precision=precision), tmp_path, nothing)
    score = found.record.history[-1].score
    assert score is not None
    assert score.accuracy > 0.9
    assert found.record.settings.precision == precision
    assert {each.device.type for each in found.state.values()} == {"cpu"}
