"""The engine runs a graph and refuses what is none."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from service.engine import Engine
from service.errors import BundleError


@pytest.mark.parametrize("size", [1, 3, 8])
def test_each_image_is_answered_at_any_batch_size(engine: Engine, size: int) -> None:
    pixels = np.random.default_rng(size).integers(0, 256, (size, 8, 8, 3), np.uint8)
    answers = engine.run(pixels)
    assert set(answers) == {"logits", "embedding"}
    expected = pixels.mean(axis=(1, 2)) / 255
    np.testing.assert_allclose(answers["embedding"], expected, atol=1e-6)
    assert answers["logits"].dtype == np.float32


def test_it_says_which_provider_runs(engine: Engine) -> None:
    assert engine.provider == "CPUExecutionProvider"


def test_warming_up_measures_an_image_at_every_batch_size(engine: Engine) -> None:
    measured = engine.warm_up((1, 2, 4))
    assert list(measured) == [1, 2, 4]
    assert all(0 < seconds < 1 for seconds in measured.values())


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(BundleError, match=r"Expected model.onnx to load in ONNX Runtime. Received: "):
        Engine(tmp_path / "model.onnx", threads=1)


def test_a_graph_that_takes_something_else_is_refused(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", [value], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(
        BundleError, match=r"Expected one input, uint8 \[N, H, W, 3\]. Received: \[\('x', 'tensor\(float\)'"
    ):
        Engine(tmp_path / "model.onnx", threads=1)
