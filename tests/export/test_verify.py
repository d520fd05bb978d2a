from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export import golden, program
from export.errors import Disagreement
from export.verify import verify
from service.engine import Engine
from tests.export.conftest import GEOMETRY, Traced

PIXELS = golden.generate(GEOMETRY).pixels


def perturbed(tiny_bundle: Path, target: Path, initializer: str, scale: float) -> Engine:
    """The bundle's graph with noise on one of its tensors."""
    model = onnx.load(tiny_bundle / "model.onnx")
    (tensor,) = (tensor for tensor in model.graph.initializer if initializer in tensor.name)
    values = numpy_helper.to_array(tensor)
    noise = np.random.default_rng(0).normal(0, scale, values.shape).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(values + noise, tensor.name))
    onnx.save(model, target)
    return Engine(target, threads=1)


def test_every_output_is_measured_at_every_batch_size(tiny: Traced, tiny_bundle: Path) -> None:
    found = verify(Engine(tiny_bundle / "model.onnx", 1), PIXELS, program.answers(tiny.model, PIXELS))
    assert [(each.output, each.batch_size) for each in found] == [
        (output, batch_size) for batch_size in (1, 3, 8) for output in ("logits", "embedding")
    ]
    for each in found:
        assert each.lowest_cosine == pytest.approx(1, abs=1e-9)
        assert each.mean_cosine == pytest.approx(1, abs=1e-9)
        assert 0 <= each.largest_difference < 1e-5
        assert each.top1_agreement == (1 if each.output == "logits" else 0)


def test_a_perturbed_head_fails_and_is_named(tiny: Traced, tiny_bundle: Path, tmp_path: Path) -> None:
    engine = perturbed(tiny_bundle, tmp_path / "model.onnx", "head.weight", 0.1)
    message = (
        r"Expected logits at batch 1 to have a cosine of at least 0.9999 \(mean 0.9999\) to torch's. "
        r"Received: 0\.\d{6} \(mean 0\.\d{6}\), the largest difference 0\.\d+"
    )
    with pytest.raises(Disagreement, match=message):
        verify(engine, PIXELS, program.answers(tiny.model, PIXELS))


def test_one_wrong_number_that_a_cosine_forgives_fails(tiny: Traced, tiny_bundle: Path) -> None:
    expected = dict(program.answers(tiny.model, PIXELS))
    expected["embedding"] = expected["embedding"].copy()
    expected["embedding"][3, 0] += 0.004 * np.abs(expected["embedding"]).max()
    message = r"Expected no number of embedding at batch 1 to differ .* more than [\d.]+\. Received: [\d.]+"
    with pytest.raises(Disagreement, match=message):
        verify(Engine(tiny_bundle / "model.onnx", 1), PIXELS, expected)


def test_an_answer_that_is_not_finite_fails(tiny: Traced, tiny_bundle: Path, tmp_path: Path) -> None:
    engine = perturbed(tiny_bundle, tmp_path / "model.onnx", "head.bias", float("nan"))
    with pytest.raises(Disagreement, match=r"Expected logits at batch 1 .* Received: -1\.0"):
        verify(engine, PIXELS, program.answers(tiny.model, PIXELS))


def test_another_shape_fails(tiny: Traced, tiny_bundle: Path) -> None:
    expected = dict(program.answers(tiny.model, PIXELS))
    expected["logits"] = expected["logits"][:, :2]
    with pytest.raises(Disagreement, match=r"Expected logits as \[16, 2\]. Received: \[16, 3\]"):
        verify(Engine(tiny_bundle / "model.onnx", 1), PIXELS, expected)
