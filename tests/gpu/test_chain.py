"""The whole chain on a GPU: probe, load, warm-up, proof, batches, answers; and what happens when it is full or gone."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service import bundle as bundles
from service import proof, providers
from service.engine import Engine
from service.errors import BundleError, ProviderMissing
from tests.conftest import Service, encode, metric
from vertebra.client import Client

pytestmark = pytest.mark.gpu

DEMO = Path(".demo/models/imagenet/1")
PHOTOGRAPHS = Path(".demo/golden/photographs")


@pytest.fixture
def demo() -> bundles.Bundle:
    if not (DEMO / "manifest.json").exists():
        pytest.skip(f"no {DEMO}: make demo writes it")
    return bundles.load(DEMO)


@pytest.mark.parametrize("choice", ["cuda", "auto"])
def test_the_service_answers_from_the_gpu_and_says_so(
    cuda: providers.Provider, choice: str, repository: Path, start_service: Callable[..., Service]
) -> None:
    service = start_service(repository, "--provider", choice)
    ready = service.wait_for("model ready", timeout_s=120)
    assert ready["provider"] == cuda.name
    assert ready["nodes"][cuda.name] > 0
    service.wait_for("serving")
    with Client(service.address) as client:
        assert [model.provider for model in client.list_models()] == [cuda.name]
        (answer,) = client.analyze([encode((0, 255, 0))], answers=["labels"], top_k=1).answers()
    assert answer.labels[0].name == "green"
    assert metric(service, "vertebra_model_info", model="colours", provider=cuda.name) == 1
    assert service.stop() == 0


def test_a_real_model_is_proved_and_answers_in_batches_as_the_cpu_does(
    cuda: providers.Provider, demo: bundles.Bundle
) -> None:
    engine = Engine(demo.graph, 1, cuda)
    assert engine.nodes[cuda.name] > engine.nodes.get(providers.CPU.name, 0)
    worth = engine.warm_up((1, 2, 4, 8, 16))
    for near in proof.prove(demo, engine, max(worth)):
        assert near.lowest_cosine > 0.9999
    images = proof.pixels(demo)
    answers, expected = engine.run(images), Engine(demo.graph, 1).run(images)
    for name in engine.outputs:
        # With TF32 the largest difference would be a thousandth of the largest number.
        np.testing.assert_allclose(answers[name], expected[name], atol=2e-4 * np.abs(expected[name]).max())


def test_a_real_model_is_served_in_batches(
    cuda: providers.Provider, demo: bundles.Bundle, start_service: Callable[..., Service], tmp_path: Path
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / demo.name).symlink_to(DEMO.parent.resolve())
    service = start_service(tmp_path / "models", "--provider", "cuda", "--max-batch", "32")
    assert service.wait_for("serving", timeout_s=120)
    files = [demo.path / name for name in demo.manifest.golden.images]
    with Client(service.address) as client:
        assert client.list_models()[0].provider == cuda.name
        answers = client.analyze([*files, *files], answers=["labels"], top_k=1).answers()
    assert [each.labels[0].name for each in answers[: len(files)]] == [
        each.labels[0].name for each in answers[len(files) :]
    ]
    batches = metric(service, "vertebra_batch_size_count", model=demo.name)
    assert 0 < batches < 2 * len(files)
    assert service.stop() == 0


def test_a_gpu_whose_memory_is_full_is_a_clear_error_and_another_engine_works(
    cuda: providers.Provider, demo: bundles.Bundle
) -> None:
    little = replace(cuda, options={**cuda.options, "gpu_mem_limit": str(64 * 2**20)})
    with pytest.raises(
        BundleError, match=r"Expected (a graph that runs a batch of \d+|model.onnx to load) .*Received: "
    ):
        Engine(demo.graph, 1, little).warm_up((1, 16, 128))
    assert Engine(demo.graph, 1, cuda).warm_up((1,))


def test_a_gpu_that_is_hidden_refuses_the_start_and_is_named(
    cuda: providers.Provider, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cuda
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    command = [sys.executable, "-m", "service", "--repository", str(repository), "--provider", "cuda"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "no device, the driver shows no GPU with CUDA_VISIBLE_DEVICES=''" in done.stderr


def test_tensorrt_is_proved(cuda: providers.Provider, demo: bundles.Bundle) -> None:
    assert cuda
    try:
        tensorrt = providers.find("tensorrt")
    except ProviderMissing as error:
        pytest.skip(f"no TensorRT: not run. {error}")
    engine = Engine(demo.graph, 1, tensorrt)
    assert engine.nodes[tensorrt.name] > 0
    proof.prove(demo, engine, max(engine.warm_up((1, 2))))
