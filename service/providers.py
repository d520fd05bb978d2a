"""What can run a graph on this machine, each tried with a small graph before it is trusted; reads no settings.

ONNX Runtime lists providers that cannot work here, and for one of those it hands out a session on the CPU and only
logs that it did. It does the same when a provider fails in the middle of a run. So nothing is believed here before a
session has answered, and no session may fall back.
"""

import base64
import ctypes
import importlib
import importlib.util
import io
import json
import logging
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from service.errors import ProviderMissing
from service.runtime import ort

logger = logging.getLogger(__name__)

Choice = Literal["auto", "cpu", "openvino", "cuda", "tensorrt"]

_OPENVINO = "OpenVINOExecutionProvider"
_OPENVINO_PACKAGE = "onnxruntime_ep_openvino"

# Where a GPU shows, by driver or not; under WSL as dxg.
_DEVICES = Path("/dev")
# Answers of the driver's cuInit.
_SUCCESS, _NO_DEVICE = 0, 100

# Cast, Transpose, Conv and MatMul with small whole numbers, which every precision holds: one right answer, whoever
# computes. tests/service/test_providers.py has how it was made; the onnx package is nothing that a service needs.
_PROBE = zlib.decompress(
    base64.b64decode(
        "eNrdUc1KAzEQTrJpmg4i66DSg0jZ44Iv4MVQoYdCb568pZBCMZsNSdQe+yh9E1/Dl/AJvJj9Ed/B+WN+PmaYGQn33wUsQPj9wdiIk51tdar4o4"
        "6pngFL7ZyeKIM7GCoovNXOxGr2FLSLvo2mvgDuTWgUUYWiip3oFG5gxIF4McEZi7zRPua+rXuDK+gj5DubZ01X2Sbj4Bb6BIhGp7A/oMgD3k2o"
        "xEanzavFiQ/t1tRfVDJZdFzS5dh+/UkJOX6Qno4P/8mvF3ld1q06nGVdDgiisqgO+fz3vmu4lAxLYJJmLX51O4fxmHgOZ5KiHBFsyYGU+AOkk2"
        "kN"
    )
)
_PROBE_PIXELS = np.arange(27, dtype=np.uint8).reshape(1, 3, 3, 3)
_PROBE_ANSWER = np.array([[216, 54]], np.float32)


@dataclass(frozen=True)
class Provider:
    """What runs a graph.

    Attributes:
        name: ONNX Runtime's name of it.
        one_run: Whether one run takes the whole device. ONNX Runtime's own CPU provider runs beside itself, a core a
            run; the others spread each run themselves.
        options: What it is told; OpenVINO is told the number of threads as well.
        behind: What takes the nodes that it does not take, before the CPU does.
    """

    name: str
    one_run: bool = True
    options: Mapping[str, str] = field(default_factory=dict)
    behind: tuple["Provider", ...] = ()


CPU = Provider("CPUExecutionProvider", one_run=False)

OPENVINO = Provider(_OPENVINO)

CUDA = Provider(
    "CUDAExecutionProvider",
    options={
        "device_id": "0",  # the first of CUDA_VISIBLE_DEVICES
        "use_tf32": "0",  # TF32 keeps ten bits of each factor, and embeddings would leave the space of their index
        "cudnn_conv_algo_search": "HEURISTIC",  # the default, EXHAUSTIVE, tries them all for seconds at each batch size
        "arena_extend_strategy": "kSameAsRequested",  # the default takes powers of two, most of it for nothing
    },
)

# No cache of engines on disk: it needs a folder that only we can write, and whoever writes there runs code here.
TENSORRT = Provider(
    "TensorrtExecutionProvider",
    options={
        "device_id": "0",
        "trt_fp16_enable": "0",  # the same answers as every other provider
        "trt_int8_enable": "0",
        "trt_engine_cache_enable": "0",
        "trt_timing_cache_enable": "0",
    },
    behind=(CUDA,),
)


def find(choice: Choice) -> Provider:
    """Find out whether a provider works here, by running a small graph on it.

    Args:
        choice: Which one. `auto` is `cuda` where that works, else `cpu`; what it misses is logged, as a warning where
            there is a GPU. It is never `tensorrt`, which compiles for minutes at each start, nor `openvino`.

    Returns:
        The provider, ready for sessions.

    Raises:
        ProviderMissing: It does not work here. The message names what is missing.
    """
    if choice == "auto":
        return _automatic()
    provider, needs = _CHOICES[choice]
    if missing := list(needs()):
        raise ProviderMissing(f"Expected the provider {choice} to work here. Received: {'; '.join(missing)}.")
    _probe(choice, provider)
    return provider


def session(graph: bytes, provider: Provider, options: ort.SessionOptions) -> ort.InferenceSession:
    """Open a session that never falls back to another provider than those given.

    Args:
        graph: An ONNX file.
        provider: What shall run it.
        options: How. ONNX Runtime may change them.

    Returns:
        The session. Its CPU provider may run nodes that the given one does not take; `nodes` says how many.
    """
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if provider.name == _OPENVINO:
        told = openvino_options(options.intra_op_num_threads)
        options.add_provider_for_devices(_openvino_devices(), told)
        return ort.InferenceSession(graph, options, enable_fallback=0)
    chain = [(each.name, dict(each.options)) for each in (provider, *provider.behind)]
    return ort.InferenceSession(graph, options, providers=chain, enable_fallback=0)


def nodes(opened: ort.InferenceSession) -> dict[str, int]:
    """How many nodes of its graph each provider runs in a session, by the provider's name."""
    counts = Counter[str]()
    for part in opened.get_provider_graph_assignment_info():
        counts[part.ep_name] += len(part.get_nodes())
    return dict(counts)


def openvino_options(threads: int) -> dict[str, str]:
    """What OpenVINO is told.

    Left to itself it computes in bfloat16 on CPUs that can. That is up to twice as fast, but the nodes of one cluster
    would answer differently, and the demo's models fail their golden proof. It pins its threads to cores, too, where
    decoders already are.

    Args:
        threads: How many threads one run may use; 0 leaves that to OpenVINO.

    Returns:
        The options of the provider.
    """
    told: dict[str, str] = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": str(threads),
        "NUM_STREAMS": "1",
        "ENABLE_CPU_PINNING": "NO",
    }
    return {"load_config": json.dumps({"CPU": told})}


def _automatic() -> Provider:
    missing = next(_missing_cuda(), None)
    if missing is None:
        try:
            _probe("cuda", CUDA)
            return CUDA
        except ProviderMissing as error:
            missing = str(error)
    level = logging.WARNING if _gpu_wanted() else logging.INFO
    logger.log(level, "no GPU is used", extra={"provider": CPU.name, "reason": missing})
    return CPU


def _gpu_wanted() -> bool:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not hidden and any(any(_DEVICES.glob(name)) for name in ("nvidia[0-9]*", "dxg"))


def _missing_nothing() -> Iterator[str]:
    return iter(())


def _missing_openvino() -> Iterator[str]:
    try:
        path = importlib.import_module(_OPENVINO_PACKAGE).get_library_path()
        if not _openvino_devices():
            ort.register_execution_provider_library(_OPENVINO_PACKAGE, path)
    except ImportError:
        yield "no library, pip install 'vertebra[openvino]' brings it for x86-64"
        return
    # ONNX Runtime's exceptions have no common base below Exception.
    except Exception as error:
        yield f"no library that loads ({error})"
        return
    if not _openvino_devices():
        yield "no device, OpenVINO knows no CPU here"


def _missing_cuda() -> Iterator[str]:
    if CUDA.name not in ort.get_available_providers():
        yield (
            f"no library, {ort.package_name} {ort.__version__} is built without it; pip install 'vertebra[gpu]' brings "
            "the build with it for Linux on x86-64, where no package onnxruntime stands in its way"
        )
        return
    major = int(ort.cuda_version.split(".")[0])
    yield from _missing_gpu(major)
    with redirect_stdout(io.StringIO()):  # it prints what it does not find; what of that matters is yielded below
        ort.preload_dlls()
    names = [f"lib{each}.so.{major}" for each in ("cudart", "cublasLt", "cublas", "nvrtc")]
    if absent := _absent([*names, "libcurand.so.10", "libcudnn.so.9"]):
        yield f"no library {', '.join(absent)}; pip install 'vertebra[gpu]' brings them"


def _missing_gpu(major: int) -> Iterator[str]:
    try:
        driver = _library("libcuda.so.1")
    except OSError as error:
        yield f"no NVIDIA driver ({error}); a container gets it from its runtime: docker run --gpus all"
        return
    supported, count = ctypes.c_int(), ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(supported))
    if supported.value // 1000 < major:
        has = f"{supported.value // 1000}.{supported.value % 1000 // 10}"
        yield f"no driver for CUDA {major}, this one ends at {has}"
        return
    answer = driver.cuInit(0)
    if answer == _SUCCESS:
        driver.cuDeviceGetCount(ctypes.byref(count))
    if answer not in (_SUCCESS, _NO_DEVICE):
        yield f"no driver that starts (cuInit answers {answer})"
    elif count.value == 0:
        told = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")}
        said = ", ".join(f"{name}={value!r}" for name, value in told.items() if value is not None)
        yield f"no device, the driver shows no GPU{f' with {said}' if said else ''}"


def _missing_tensorrt() -> Iterator[str]:
    yield from _missing_cuda()
    names = [f"lib{each}.so.10" for each in ("nvinfer", "nvinfer_plugin", "nvonnxparser")]
    package = importlib.util.find_spec("tensorrt_libs")
    for folder in (package and package.submodule_search_locations) or ():
        _absent([str(Path(folder) / name) for name in names])  # what is loaded from there is found by its name alone
    if absent := _absent(names):
        yield f"no library {', '.join(absent)}; they are TensorRT 10, pip install 'tensorrt-cu13<11' brings them"


_CHOICES: Mapping[Choice, tuple[Provider, Callable[[], Iterator[str]]]] = {
    "cpu": (CPU, _missing_nothing),
    "openvino": (OPENVINO, _missing_openvino),
    "cuda": (CUDA, _missing_cuda),
    "tensorrt": (TENSORRT, _missing_tensorrt),
}


def _probe(choice: Choice, provider: Provider) -> None:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    try:
        opened = session(_PROBE, provider, options)
        (answer,) = opened.run(None, {"pixels": _PROBE_PIXELS})
    # ONNX Runtime's exceptions have no common base below Exception.
    except Exception as error:
        raise ProviderMissing(f"Expected the provider {choice} to run a small graph. Received: {error}.") from error
    ran = nodes(opened)
    if CPU.name in ran.keys() - {provider.name} or provider.name not in ran:
        raise ProviderMissing(f"Expected {provider.name} to run a small graph. Received: it was run by {ran}.")
    if not np.array_equal(answer, _PROBE_ANSWER):
        raise ProviderMissing(
            f"Expected {provider.name} to answer a small graph with {_PROBE_ANSWER.tolist()}. "
            f"Received: {answer.tolist()}."
        )


def _openvino_devices() -> list[Any]:
    # OpenVINO's own choice among its devices goes by another name.
    known = [device for device in ort.get_ep_devices() if device.ep_name == _OPENVINO]
    return [device for device in known if device.ep_metadata.get("ov_device") == "CPU"]


def _absent(names: list[str]) -> list[str]:
    absent = []
    for name in names:
        try:
            _library(name)
        except OSError:
            absent.append(name)
    return absent


def _library(name: str) -> Any:
    return ctypes.CDLL(name)
