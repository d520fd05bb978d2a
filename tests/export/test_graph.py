from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from export import graph, program
from export.errors import GraphError
from service.bundle import CropGeometry, Interpolation
from service.engine import Engine
from tests.export.conftest import GEOMETRY, Traced


@pytest.fixture(scope="module")
def path(tiny: Traced, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    graph.convert(tiny.model, ("logits", "embedding"), GEOMETRY, path)
    return path


def shape(value: onnx.ValueInfoProto) -> list[str | int]:
    return [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim]


def test_the_signature_is_what_a_bundle_promises(path: Path) -> None:
    model = onnx.load(path)
    (pixels,) = model.graph.input
    assert pixels.name == "pixels"
    assert pixels.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert shape(pixels) == ["N", 32, 32, 3]
    assert [(value.name, shape(value)) for value in model.graph.output] == [
        ("logits", ["N", 3]),
        ("embedding", ["N", 8]),
    ]
    assert {value.type.tensor_type.elem_type for value in model.graph.output} == {onnx.TensorProto.FLOAT}


@pytest.mark.parametrize("images", [1, 2, 7])
def test_it_answers_like_torch_at_any_batch(path: Path, tiny: Traced, images: int) -> None:
    pixels = np.random.default_rng(images).integers(0, 256, (images, 32, 32, 3), np.uint8)
    answers, expected = Engine(path, threads=1).run(pixels), program.answers(tiny.model, pixels)
    assert list(answers) == ["logits", "embedding"]
    for name, answer in answers.items():
        assert answer.dtype == np.float32
        np.testing.assert_allclose(answer, expected[name], atol=1e-5)


def test_only_what_was_asked_for_is_left(tiny: Traced, path: Path, tmp_path: Path) -> None:
    graph.convert(tiny.model, ("embedding",), GEOMETRY, tmp_path / "embedding.onnx")
    model = onnx.load(tmp_path / "embedding.onnx")
    assert [value.name for value in model.graph.output] == ["embedding"]
    assert not any("head" in tensor.name for tensor in model.graph.initializer)
    for whole in (model, onnx.load(path)):
        used = {name for node in whole.graph.node for name in node.input}
        assert {tensor.name for tensor in whole.graph.initializer} <= used
        results = used | {value.name for value in whole.graph.output}
        assert all(set(node.output) & results for node in whole.graph.node)


def test_the_exporter_left_no_traces(path: Path) -> None:
    model = onnx.load(path)
    inner = model.graph
    everything: tuple[Any, ...] = (
        model,
        inner,
        *inner.node,
        *inner.input,
        *inner.output,
        *inner.value_info,
        *inner.initializer,
    )
    assert all(not each.metadata_props and not each.doc_string for each in everything)
    data = path.read_bytes()
    for trace in (b".py", b"site-packages", str(Path(__file__).parent).encode(), b"torch.export"):
        assert trace not in data


def test_weights_lie_in_the_one_file(path: Path) -> None:
    assert [each.name for each in path.parent.iterdir()] == ["model.onnx"]


def test_an_output_that_is_not_there_is_refused(tiny: Traced, tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"outputs \['logits', 'c9'\]. Received: none of the name \['c9'\]"):
        graph.convert(tiny.model, ("logits", "c9"), GEOMETRY, tmp_path / "model.onnx")


def test_another_geometry_is_refused(tiny: Traced, tmp_path: Path) -> None:
    other = CropGeometry(64, 64, 32, Interpolation.INTERPOLATION_BICUBIC)
    with pytest.raises(GraphError, match=r"uint8 \[N, 64, 32, 3\]. Received: \['uint8 \[N, 32, 32, 3\]'\]"):
        graph.convert(tiny.model, ("logits",), other, tmp_path / "model.onnx")


def test_an_output_that_is_not_float32_is_refused(tmp_path: Path) -> None:
    class Whole(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": pixels.to(torch.int64).sum((1, 2))}

    with pytest.raises(GraphError, match=r"Expected logits to be float32. Received: int64 \[N, 3\]"):
        graph.convert(program.trace(Whole(), GEOMETRY), ("logits",), GEOMETRY, tmp_path / "model.onnx")
