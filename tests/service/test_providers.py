"""A provider is used where it works, and refused with the reason where it does not; nothing falls back unseen."""

import json
import logging
import mmap
import subprocess
import sys
from collections.abc import Callable
from ctypes import c_int
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service import proof, providers
from service.bundle import Bundle
from service.engine import Engine
from service.errors import BundleError, ProviderMissing
from service.runtime import ort
from tests.conftest import Service, encode, metric
from vertebra.client import Client

PLUGIN = "onnxruntime_ep_openvino"


def probe_graph() -> onnx.ModelProto:
    """How the graph in providers.py was made."""
    kernel = (np.arange(2 * 3 * 3 * 3) % 3 - 1).reshape(2, 3, 3, 3).astype(np.float32)
    matrix = np.array([[1, 2], [3, -1]], np.float32)
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "kernel"], ["maps"]),
        helper.make_node("Flatten", ["maps"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["answer"]),
    ]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, [1, 3, 3, 3])
    answer = helper.make_tensor_value_info("answer", TensorProto.FLOAT, [1, 2])
    weights = [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(matrix, "matrix")]
    graph = helper.make_graph(nodes, "probe", [pixels], [answer], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


class Driver:
    """NVIDIA's driver as far as it is asked; `cuda` is 13000 for CUDA 13.0."""

    def __init__(self, cuda: int = 13000, answer: int = 0, devices: int = 1) -> None:
        self._cuda, self._answer, self._devices = cuda, answer, devices

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802  # NVIDIA's name
        version._obj.value = self._cuda
        return 0

    def cuInit(self, flags: int) -> int:  # noqa: N802  # NVIDIA's name
        assert flags == 0
        return self._answer

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802  # NVIDIA's name
        assert isinstance(count._obj, c_int)
        count._obj.value = self._devices
        return 0


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The libraries that can be loaded, by name: at first all that CUDA and TensorRT need, on a machine with a GPU."""
    names = ["libcudart.so.13", "libcublasLt.so.13", "libcublas.so.13", "libnvrtc.so.13", "libcurand.so.10"]
    names += ["libcudnn.so.9", "libnvinfer.so.10", "libnvinfer_plugin.so.10", "libnvonnxparser.so.10"]
    found: dict[str, object] = {"libcuda.so.1": Driver(), **{name: object() for name in names}}

    def load(name: str) -> object:
        if name not in found:
            raise OSError(f"{name}: cannot open shared object file")
        return found[name]

    monkeypatch.setattr(providers, "_library", load)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [providers.CUDA.name, providers.CPU.name])
    monkeypatch.setattr(ort, "cuda_version", "13.0")
    monkeypatch.setattr(ort, "preload_dlls", lambda: print("Failed to load libcudnn.so.9"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("NVIDIA_VISIBLE_DEVICES", raising=False)
    return found


@pytest.fixture
def working(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the probe of a session succeed, or fail with a reason."""

    def work(reason: str = "") -> None:
        def probe(choice: str, provider: providers.Provider) -> None:
            if reason:
                raise ProviderMissing(f"Expected {choice}, {provider.name}. Received: {reason}.")

        monkeypatch.setattr(providers, "_probe", probe)

    return work


def test_the_small_graph_is_the_one_that_is_made_here() -> None:
    assert onnx.load_from_string(providers._PROBE) == probe_graph()


def test_the_cpu_works_everywhere() -> None:
    assert providers.find("cpu") == providers.CPU
    assert providers.CPU.name == "CPUExecutionProvider"
    assert not providers.CPU.one_run


def test_a_small_graph_that_is_answered_wrongly_refuses_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "_PROBE_ANSWER", np.array([[216, 55]], np.float32))
    answers = r"with \[\[216.0, 55.0\]\]. Received: \[\[216.0, 54.0\]\]\.$"
    with pytest.raises(ProviderMissing, match=rf"Expected CPUExecutionProvider to answer a small graph {answers}"):
        providers.find("cpu")


def test_a_session_that_fell_back_to_the_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # No machine has the device: ONNX Runtime raises, or, where there is no GPU at all, hands out a session on the CPU.
    nowhere = replace(providers.CUDA, options={"device_id": "99"})
    monkeypatch.setattr(providers, "_CHOICES", {"cuda": (nowhere, providers._missing_nothing)})
    with pytest.raises(
        ProviderMissing, match=r"(CUDAExecutionProvider|provider cuda) to run a small graph. Received: "
    ):
        providers.find("cuda")


def test_a_graph_that_fell_back_to_the_cpu_is_refused(bundle: Bundle) -> None:
    nowhere = replace(providers.CUDA, options={"device_id": "99"})
    with pytest.raises(BundleError, match=r"Expected (CUDAExecutionProvider to run nodes of |)model.onnx"):
        Engine(bundle.graph, 1, nowhere)


@pytest.mark.parametrize(
    ("driver", "missing"),
    [
        (
            None,
            r"no NVIDIA driver \(libcuda.so.1: cannot open shared object file\); a container gets it from its runtime",
        ),
        (Driver(cuda=12080), r"no driver for CUDA 13, this one ends at 12.8"),
        (Driver(answer=100), r"no device, the driver shows no GPU"),
        (Driver(devices=0), r"no device, the driver shows no GPU"),
        (Driver(answer=999), r"no driver that starts \(cuInit answers 999\)"),
    ],
)
@pytest.mark.parametrize("choice", ["cuda", "tensorrt"])
def test_a_missing_driver_or_device_is_named(
    libraries: dict[str, object], choice: providers.Choice, driver: Driver | None, missing: str
) -> None:
    del libraries["libcuda.so.1"]
    if driver:
        libraries["libcuda.so.1"] = driver
    with pytest.raises(
        ProviderMissing, match=rf"Expected the provider {choice} to work here. Received: {missing}.*\.$"
    ):
        providers.find(choice)


def test_a_device_that_is_hidden_is_named_with_what_hides_it(
    libraries: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    libraries["libcuda.so.1"] = Driver(answer=100)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    monkeypatch.setenv("NVIDIA_VISIBLE_DEVICES", "void")
    told = "CUDA_VISIBLE_DEVICES='7', NVIDIA_VISIBLE_DEVICES='void'"
    with pytest.raises(ProviderMissing, match=rf"the driver shows no GPU with {told}\.$"):
        providers.find("cuda")


def test_missing_libraries_are_named_with_what_brings_them(
    libraries: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    del libraries["libcublas.so.13"], libraries["libcudnn.so.9"]
    brings = r"pip install 'vertebra\[gpu\]' brings them\.$"
    with pytest.raises(ProviderMissing, match=rf"no library libcublas.so.13, libcudnn.so.9; {brings}"):
        providers.find("cuda")
    assert capsys.readouterr().out == ""


def test_missing_tensorrt_is_named_beside_all_else_that_is_missing(libraries: dict[str, object]) -> None:
    del libraries["libcuda.so.1"], libraries["libnvonnxparser.so.10"]
    with pytest.raises(
        ProviderMissing, match=r"no NVIDIA driver .*; no library libnvonnxparser.so.10; .*tensorrt-cu13<11"
    ):
        providers.find("tensorrt")


def test_tensorrt_is_found_in_its_package(
    libraries: dict[str, object], working: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [name for name in libraries if name.startswith("libnv") and name.endswith(".10")]
    parts = {f"/site/tensorrt_libs/{name}": name for name in names}
    for name in names:
        del libraries[name]

    def load(name: str) -> object:
        if name in parts:
            libraries[parts[name]] = object()
        return libraries[parts.get(name, name)] if parts.get(name, name) in libraries else _absent(name)

    monkeypatch.setattr(providers, "_library", load)
    package = SimpleNamespace(submodule_search_locations=["/site/tensorrt_libs"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: package if name == "tensorrt_libs" else None)
    working()
    assert providers.find("tensorrt") == providers.TENSORRT


def _absent(name: str) -> object:
    raise OSError(name)


def test_a_build_without_the_provider_is_named(libraries: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    assert libraries
    monkeypatch.setattr(ort, "get_available_providers", lambda: [providers.CPU.name])
    monkeypatch.setattr(ort, "cuda_version", "")
    with pytest.raises(
        ProviderMissing, match=r"no library, onnxruntime\S* 1\.\S+ is built without it; pip install 'vert"
    ):
        providers.find("cuda")


def test_a_provider_that_misses_nothing_is_still_tried(
    libraries: dict[str, object], working: Callable[..., None]
) -> None:
    assert libraries
    working("out of memory")
    with pytest.raises(ProviderMissing, match=r"Expected cuda, CUDAExecutionProvider. Received: out of memory"):
        providers.find("cuda")


def test_auto_takes_a_gpu_that_works(libraries: dict[str, object], working: Callable[..., None]) -> None:
    assert libraries
    working()
    assert providers.find("auto") == providers.CUDA


@pytest.mark.parametrize(
    ("device", "visible", "level"),
    [
        ("nvidia0", None, logging.WARNING),
        ("dxg", None, logging.WARNING),
        ("nvidia0", "", logging.INFO),
        ("nvidia0", "-1", logging.INFO),
        ("null", None, logging.INFO),
    ],
)
def test_auto_says_why_it_uses_no_gpu_and_warns_where_there_is_one(
    libraries: dict[str, object],
    device: str,
    visible: str | None,
    level: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    del libraries["libcudnn.so.9"]
    (tmp_path / device).touch()
    monkeypatch.setattr(providers, "_DEVICES", tmp_path)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert providers.find("auto") == providers.CPU
    (record,) = caplog.records
    assert (record.levelno, record.message) == (level, "no GPU is used")
    assert vars(record)["provider"] == "CPUExecutionProvider"
    assert vars(record)["reason"] == "no library libcudnn.so.9; pip install 'vertebra[gpu]' brings them"


def test_auto_says_why_a_gpu_that_misses_nothing_fails(
    libraries: dict[str, object], working: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert libraries
    working("out of memory")
    assert providers.find("auto") == providers.CPU
    assert vars(caplog.records[0])["reason"] == "Expected cuda, CUDAExecutionProvider. Received: out of memory."


def test_what_each_provider_is_told() -> None:
    assert providers.CUDA.options == {
        "device_id": "0",
        "use_tf32": "0",
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
    }
    assert providers.TENSORRT.options == {
        "device_id": "0",
        "trt_fp16_enable": "0",
        "trt_int8_enable": "0",
        "trt_engine_cache_enable": "0",
        "trt_timing_cache_enable": "0",
    }
    assert providers.TENSORRT.behind == (providers.CUDA,)
    told = providers.openvino_options(3)
    assert json.loads(told.pop("load_config")) == {
        "CPU": {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": "3",
            "NUM_STREAMS": "1",
            "ENABLE_CPU_PINNING": "NO",
        }
    }
    assert told == {}


@pytest.mark.parametrize(("provider", "library"), [(providers.CUDA, "cuda"), (providers.TENSORRT, "tensorrt")])
def test_what_gpus_are_told_is_known_to_onnx_runtime(provider: providers.Provider, library: str) -> None:
    # It refuses an option that it does not know, but only where there is a GPU.
    file = Path(ort.__file__).parent / "capi" / f"libonnxruntime_providers_{library}.so"
    if not file.exists():
        pytest.skip(f"ONNX Runtime is built without {provider.name} here")
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as text:
        assert [name for name in provider.options if text.find(name.encode()) < 0] == []


@pytest.mark.parametrize("choice", ["cuda", "tensorrt"])
def test_the_service_refuses_to_start_in_one_line(
    repository: Path, choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    command = [sys.executable, "-m", "service", "--repository", str(repository), "--provider", choice]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"vertebra-serve: error: Expected the provider {choice} to work here. Received: no ")


def test_openvino_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, PLUGIN, None)
    brings = r"pip install 'vertebra\[openvino\]' brings it for x86-64"
    with pytest.raises(
        ProviderMissing, match=rf"the provider openvino to work here. Received: no library, {brings}\.$"
    ):
        providers.find("openvino")


def test_openvino_that_does_not_load_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "plugin.so").write_bytes(b"no library")
    monkeypatch.setitem(sys.modules, PLUGIN, SimpleNamespace(get_library_path=lambda: str(tmp_path / "plugin.so")))
    monkeypatch.setattr(providers, "_openvino_devices", list)
    with pytest.raises(ProviderMissing, match=r"no library that loads \(.*plugin.so"):
        providers.find("openvino")


def test_a_device_that_openvino_misses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, PLUGIN, SimpleNamespace(get_library_path=lambda: "plugin.so"))
    monkeypatch.setattr(providers, "_openvino_devices", list)
    monkeypatch.setattr(ort, "register_execution_provider_library", lambda *_: None)
    with pytest.raises(ProviderMissing, match=r"Received: no device, OpenVINO knows no CPU here\.$"):
        providers.find("openvino")


@pytest.fixture
def openvino() -> providers.Provider:
    pytest.importorskip(PLUGIN, reason="needs pip install 'vertebra[openvino]'")
    if "GenuineIntel" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("OpenVINO's plugin offers the processors of Intel alone")
    return providers.find("openvino")


def test_openvino_runs_all_of_a_graph_in_fp32(bundle: Bundle, openvino: providers.Provider) -> None:
    engine = Engine(bundle.graph, 2, openvino)
    assert engine.provider == "OpenVINOExecutionProvider"
    assert set(engine.nodes) == {"OpenVINOExecutionProvider"}
    assert 1 in engine.warm_up((1, 2))
    assert all(each.lowest_cosine > 0.999999 for each in proof.prove(bundle, engine))


def test_openvino_is_found_again(openvino: providers.Provider) -> None:
    assert providers.find("openvino") == openvino


def test_options_that_openvino_does_not_take_raise_instead_of_falling_back(
    openvino: providers.Provider, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], bundle: Bundle
) -> None:
    monkeypatch.setattr(providers, "openvino_options", lambda *_: {"load_config": "{"})
    with pytest.raises(
        BundleError, match=r"Expected model.onnx to load in ONNX Runtime. Received: .*JSON parsing error"
    ):
        Engine(bundle.graph, 1, openvino)
    assert capsys.readouterr().out == ""


def test_openvino_serves_and_says_so(
    openvino: providers.Provider, repository: Path, start_service: Callable[..., Service]
) -> None:
    service = start_service(repository, "--provider", "openvino")
    ready = service.wait_for("model ready")
    assert (ready["provider"], set(ready["nodes"])) == (openvino.name, {openvino.name})
    service.wait_for("serving")
    with Client(service.address) as client:
        (model,) = client.list_models()
        assert model.provider == openvino.name
        (answer,) = client.analyze([encode((0, 255, 0))], answers=["labels"], top_k=1).answers()
    assert answer.labels[0].name == "green"
    assert metric(service, "vertebra_model_info", model="colours", provider=openvino.name) == 1
    assert service.stop() == 0
