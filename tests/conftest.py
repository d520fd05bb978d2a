"""What tests of several rooms share: a tiny bundle made without torch, and a real service process."""

import hashlib
import io
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf import json_format
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from service import image
from service.bundle import CropGeometry, labels_sha256
from vertebra.v1 import bundle_pb2


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--imagenet-samples",
        type=Path,
        default=os.environ.get("IMAGENET_SAMPLES") or None,
        help="imagenet-samples.tar or its folder: one image for each of the 1,000 ImageNet classes",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "slow" in config.getoption("-m"):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: -m slow runs it"))


@pytest.fixture(scope="session", autouse=True)
def interrupts() -> None:
    """Ctrl-C means what it does on a terminal, for the tests and what they start, also where a shell ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class TinyModel:
    """A model small enough to be written by hand: its graph, and what the graph answers.

    Attributes:
        name: The model's name.
        labels: Its labels.
        geometry: How its pixels are made.
        graph: Takes `pixels`, gives `logits` and `embedding`.
        answer: The same in NumPy, of one image: `(logits, embedding)`.
    """

    name: str
    labels: tuple[str, ...]
    geometry: CropGeometry
    graph: onnx.ModelProto
    answer: Callable[[NDArray[np.uint8]], tuple[NDArray[np.float32], NDArray[np.float32]]]


def make_graph(geometry: CropGeometry, nodes: list[onnx.NodeProto], embedding: int, logits: int) -> onnx.ModelProto:
    """A graph of these nodes, from `pixels` to `embedding` and `logits`, with the constants that they use."""
    initializers = [
        helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2]),
        helper.make_tensor("white", TensorProto.FLOAT, [], [255.0]),
        helper.make_tensor("ten", TensorProto.FLOAT, [], [10.0]),
        helper.make_tensor("flat", TensorProto.INT64, [2], [0, -1]),
    ]
    used = {name for node in nodes for name in node.input}
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", columns])
        for name, columns in (("logits", logits), ("embedding", embedding))
    ]
    shape: list[str | int | None] = ["N", geometry.crop_height_px, geometry.crop_width_px, 3]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, shape)
    kept = [each for each in initializers if each.name in used]
    graph = helper.make_graph(nodes, "tiny", [pixels], outputs, kept)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def colours() -> TinyModel:
    """Names the brightest colour: embedding = the mean of each channel in [0, 1], logits = 10 * embedding."""
    geometry = CropGeometry(8, 8, 8, bundle_pb2.INTERPOLATION_BICUBIC)
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "white"], ["embedding"]),
        helper.make_node("Mul", ["embedding", "ten"], ["logits"]),
    ]

    def answer(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        embedding = pixels.astype(np.float32).mean(axis=(0, 1)) / 255
        return embedding * 10, embedding

    return TinyModel("colours", ("red", "green", "blue"), geometry, make_graph(geometry, nodes, 3, 3), answer)


def mirror(geometry: CropGeometry) -> TinyModel:
    """Answers with the very pixels that it was fed: embedding = all of them, row by row."""
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["float", "flat"], ["embedding"]),
        helper.make_node("ReduceMean", ["float", "axes"], ["logits"], keepdims=0),
    ]

    def answer(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        values = pixels.astype(np.float32)
        return values.mean(axis=(0, 1)), values.reshape(-1)

    numbers = geometry.crop_height_px * geometry.crop_width_px * 3
    return TinyModel("mirror", ("red", "green", "blue"), geometry, make_graph(geometry, nodes, numbers, 3), answer)


def sleeper() -> TinyModel:
    """Answers as `colours` does, at once; but an image that is all white keeps its engine busy for many seconds."""
    geometry = CropGeometry(8, 8, 8, bundle_pb2.INTERPOLATION_BICUBIC)
    value, count = TensorProto.FLOAT, TensorProto.INT64
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_in"], ["go_out"]),
            helper.make_node("Add", ["sum_in", "sum_in"], ["sum_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("step", count, []),
            helper.make_tensor_value_info("go_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum_in", value, []),
        ],
        [
            helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum_out", value, []),
        ],
    )
    nodes = [
        helper.make_node("Constant", [], ["many"], value=helper.make_tensor("many_", count, [], [50_000_000])),
        helper.make_node("Constant", [], ["few"], value=helper.make_tensor("few_", count, [], [1])),
        helper.make_node("Constant", [], ["zero"], value=helper.make_tensor("zero_", value, [], [0.0])),
        helper.make_node("Cast", ["pixels"], ["float"], to=value),
        helper.make_node("ReduceMin", ["float"], ["darkest"], keepdims=0),
        helper.make_node("Equal", ["darkest", "white"], ["is_white"]),
        helper.make_node("Where", ["is_white", "many", "few"], ["steps"]),
        helper.make_node("Loop", ["steps", "", "zero"], ["nothing"], body=body),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "white"], ["sum"]),
        helper.make_node("Add", ["sum", "nothing"], ["embedding"]),
        helper.make_node("Mul", ["embedding", "ten"], ["logits"]),
    ]
    return replace(colours(), name="sleeper", graph=make_graph(geometry, nodes, 3, 3))


def write_bundle(
    root: Path, model: TinyModel, version: int = 1, change: Callable[[bundle_pb2.Manifest], None] = lambda _: None
) -> Path:
    """Write the bundle `<root>/<model>/<version>`, its manifest changed by `change` at the very end."""
    path = root / model.name / str(version)
    (path / "golden").mkdir(parents=True)
    manifest = _manifest(model, version)
    (path / "model.onnx").write_bytes(model.graph.SerializeToString())
    random = np.random.default_rng(0)
    answers = []
    for index in range(16):
        picture = Image.fromarray(random.integers(0, 256, (9 + index, 20, 3), np.uint8))
        name = f"golden/{index:02}.png"
        picture.save(path / name)
        manifest.golden.images.append(name)
        answers.append(model.answer(image.read((path / name).read_bytes(), model.geometry, image.ImageLimits())))
    logits, embedding = (np.stack(each) for each in zip(*answers, strict=True))
    np.savez(path / "golden" / "expected.npz", logits=logits, embedding=embedding)
    for output, array in (("logits", logits), ("embedding", embedding)):
        next(each for each in manifest.outputs if each.name == output).shape.append(array.shape[1])
    for file in sorted(each for each in path.rglob("*") if each.is_file()):
        data = file.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        manifest.files.add(path=file.relative_to(path).as_posix(), sha256=digest, size_bytes=len(data))
    change(manifest)
    text = json_format.MessageToJson(manifest, preserving_proto_field_name=True)
    (path / "manifest.json").write_text(text)
    return path


def _manifest(model: TinyModel, version: int) -> bundle_pb2.Manifest:
    manifest = bundle_pb2.Manifest(format=1, model=model.name, version=version, labels=model.labels)
    manifest.labels_sha256 = labels_sha256(model.labels)
    manifest.created_time = "2026-01-01T00:00:00Z"
    manifest.geometry.crop.resize_shorter_px = model.geometry.resize_shorter_px
    manifest.geometry.crop.crop_height_px = model.geometry.crop_height_px
    manifest.geometry.crop.crop_width_px = model.geometry.crop_width_px
    manifest.geometry.crop.interpolation = model.geometry.interpolation
    manifest.outputs.add(name="logits", kind=bundle_pb2.OUTPUT_KIND_LOGITS)
    embedding = manifest.outputs.add(name="embedding", kind=bundle_pb2.OUTPUT_KIND_EMBEDDING)
    embedding.tap, embedding.pooling, embedding.embedding_space_id = "pooled", "avg", "c0" * 32
    manifest.graphs.add(precision=bundle_pb2.PRECISION_FP32, file="model.onnx")
    manifest.golden.source, manifest.golden.expected_file = "generated", "golden/expected.npz"
    manifest.golden.bounds.add(precision=bundle_pb2.PRECISION_FP32, lowest_cosine=0.9999, mean_cosine=0.9999)
    return manifest


def encode(colour: tuple[int, int, int], file_format: str = "PNG", size: tuple[int, int] = (12, 10)) -> bytes:
    """A file of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, file_format)
    return buffer.getvalue()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with the one model `colours`."""
    root = tmp_path / "models"
    write_bundle(root, colours())
    return root


@dataclass
class Service:
    """A real service process, and the log lines that it has written so far."""

    process: subprocess.Popen[str]
    lines: queue.Queue[str | None]
    log: list[dict[str, Any]] = field(default_factory=list)

    def wait_for(self, message: str, timeout_s: float = 60.0) -> dict[str, Any]:
        """Read the log until a line with this message comes, and return the line."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            line = self.lines.get(timeout=max(0.0, deadline_s - time.monotonic()))
            if line is None:
                pytest.fail(f"the service ended before it said {message!r}: {self.log}")
            try:
                self.log.append(json.loads(line))
            except json.JSONDecodeError:
                self.log.append({"message": line.rstrip()})
            if self.log[-1]["message"] == message:
                return self.log[-1]

    @property
    def address(self) -> str:
        return str(self._listening["address"])

    @property
    def metrics_url(self) -> str:
        return f"http://{self._listening['metrics_address']}/metrics"

    @property
    def _listening(self) -> dict[str, Any]:
        found = [line for line in self.log if line["message"] == "listening"]
        return found[0] if found else self.wait_for("listening")

    def stop(self) -> int:
        """Ask the process to end and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


def metric(service: Service, name: str, **labels: str) -> float:
    """The sum of a metric's samples with these labels, scraped now."""
    with urllib.request.urlopen(service.metrics_url, timeout=10) as page:
        families = text_string_to_metric_families(page.read().decode())
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


@pytest.fixture
def start_service() -> Iterator[Callable[..., Service]]:
    """Starts `python -m service` on free ports of the loopback interface; ends what is left at the end."""
    started: list[Service] = []

    def start(
        root: Path,
        *flags: str,
        program: Sequence[str] = ("service",),
        launcher: Sequence[str] = (sys.executable, "-m"),
    ) -> Service:
        command = [*launcher, *program, "--repository", str(root), "--address", "127.0.0.1:0"]
        process = subprocess.Popen(
            [*command, "--metrics-address", "127.0.0.1:0", *flags], stderr=subprocess.PIPE, text=True
        )
        service = Service(process, queue.Queue())
        started.append(service)
        threading.Thread(target=_read, args=(process, service.lines), daemon=True).start()
        return service

    yield start
    for service in started:
        if service.process.poll() is None:
            service.process.kill()
        service.process.wait(timeout=30)


def _read(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    assert process.stderr is not None
    with process.stderr as stream:
        for line in stream:
            lines.put(line)
    lines.put(None)
