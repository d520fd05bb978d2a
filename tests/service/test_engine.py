"""The engine runs a graph and refuses what is none."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from service.bundle import Bundle
from service.engine import Arrays, Engine
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


class Clocks:
    """A clock on the wall and one of CPU time, as a run of so many images moves them on, in milliseconds."""

    def __init__(self, wall: dict[int, float], thread: dict[int, float]) -> None:
        self._wall, self._thread = wall, thread
        self.wall_s = self.thread_s = 0.0
        self.ran: list[int] = []

    def run(self, pixels: NDArray[np.uint8]) -> Arrays:
        self.ran.append(len(pixels))
        self.wall_s += self._wall[len(pixels)] / 1000
        self.thread_s += self._thread[len(pixels)] / 1000
        return {}


STEADY = {1: 9.0, 2: 12.0, 4: 16.0, 8: 24.0}
TWO_PAY = {1: 9.0, 2: 16.0, 4: 32.4, 8: 88.0}
NONE_PAYS = {1: 9.0, 2: 17.9, 4: 20.0, 8: 20.0}


@pytest.mark.parametrize(
    ("threads", "wall", "thread", "worth"),
    [
        (2, TWO_PAY, STEADY, [1, 2]),
        (2, STEADY, NONE_PAYS, [1, 2, 4, 8]),
        (2, NONE_PAYS, STEADY, [1]),
        (1, STEADY, TWO_PAY, [1, 2]),
        (1, NONE_PAYS, STEADY, [1, 2, 4, 8]),
    ],
    ids=["two pay", "all pay", "none pays", "two pay a thread", "all pay a thread"],
)
def test_warming_up_stops_at_the_first_batch_size_that_does_not_pay(
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    threads: int,
    wall: dict[int, float],
    thread: dict[int, float],
    worth: list[int],
) -> None:
    engine, clocks = Engine(bundle.graph, threads), Clocks(wall, thread)
    monkeypatch.setattr(engine, "run", clocks.run)
    monkeypatch.setattr("service.engine.time.perf_counter", lambda: clocks.wall_s)
    monkeypatch.setattr("service.engine.time.thread_time", lambda: clocks.thread_s)
    measured = engine.warm_up((1, 2, 4, 8))
    assert list(measured) == worth
    assert measured == pytest.approx({size: wall[size] / size / 1000 for size in worth})
    assert set(worth) <= set(clocks.ran)


def test_batches_are_compared_over_as_many_images(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    # A run that takes half as long escapes a busy neighbour twice as easily, and would look better for it.
    engine, clocks = Engine(bundle.graph, threads=2), Clocks(STEADY, STEADY)
    monkeypatch.setattr(engine, "run", clocks.run)
    monkeypatch.setattr("service.engine.time.perf_counter", lambda: clocks.wall_s)
    engine.warm_up((1, 2, 4))
    rounds = clocks.ran[-5 * 3 :]
    assert rounds == [2, 2, 4] * 5


def test_a_slow_graph_is_measured_in_fewer_rounds(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = {1: 2000.0, 2: 3000.0}
    engine, clocks = Engine(bundle.graph, threads=2), Clocks(slow, slow)
    monkeypatch.setattr(engine, "run", clocks.run)
    monkeypatch.setattr("service.engine.time.perf_counter", lambda: clocks.wall_s)
    assert engine.warm_up((1, 2)) == pytest.approx({1: 2.0, 2: 1.5})
    assert clocks.ran == [1, 1, 2, 1, 1, 2]


def test_the_nodes_of_a_graph_are_counted(engine: Engine) -> None:
    assert list(engine.nodes) == ["CPUExecutionProvider"]
    assert engine.nodes["CPUExecutionProvider"] > 2


def save(path: Path, nodes: list[onnx.NodeProto], *outputs: onnx.ValueInfoProto, height: int | str = 8) -> Path:
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", height, 8, 3])
    graph = helper.make_graph(nodes, "odd", [pixels], list(outputs))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path)
    return path


def test_an_output_that_does_not_answer_each_image_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Constant", [], ["debug"], value=helper.make_tensor("c", TensorProto.FLOAT, [1], [0.5]))]
    path = save(tmp_path / "odd.onnx", nodes, helper.make_tensor_value_info("debug", TensorProto.FLOAT, [1]))
    with pytest.raises(BundleError, match=r"Expected debug to have a row for each of 2 images. Received: \[1\]"):
        Engine(path, threads=1).warm_up((2,))


def test_an_output_of_another_type_is_refused(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("same", TensorProto.UINT8, ["N", 8, 8, 3])
    path = save(tmp_path / "odd.onnx", [helper.make_node("Identity", ["pixels"], ["same"])], value)
    with pytest.raises(BundleError, match=r"Expected outputs of float32. Received: another type for \['same'\]"):
        Engine(path, threads=1)


def test_an_input_of_no_fixed_height_is_refused(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "H", 8, 3])
    node = helper.make_node("Cast", ["pixels"], ["y"], to=TensorProto.FLOAT)
    path = save(tmp_path / "odd.onnx", [node], value, height="H")
    with pytest.raises(BundleError, match=r"Expected an input of fixed height .* Received: \['H', 8, 3\]"):
        Engine(path, threads=1)


def test_weights_in_a_file_that_no_digest_covers_are_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # ONNX Runtime looks for them in the working directory, too.
    monkeypatch.chdir(tmp_path)
    weight = numpy_helper.from_array(np.ones(1000, np.float32), "weight")
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["weight"], ["scale"]),
        helper.make_node("Mul", ["float", "scale"], ["y"]),
    ]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", 8, 8, 3])
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8, 8, 3])
    graph = helper.make_graph(nodes, "external", [pixels], [value], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").exists()
    with pytest.raises(BundleError, match=r"Expected model.onnx to load in ONNX Runtime"):
        Engine(path, threads=1)


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
