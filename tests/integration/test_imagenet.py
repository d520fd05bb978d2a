"""The real model in a real process: right on real images, and small."""

import tarfile
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from sklearn.datasets import load_sample_images

from tests.conftest import Service
from vertebra.client import Client

BATCH = 32


def read_samples(path: Path) -> list[tuple[str, bytes]]:
    """The files of imagenet-samples.tar or its folder, by name: in the order of their classes."""
    if path.is_dir():
        return sorted((file.name, file.read_bytes()) for file in path.glob("n*.JPEG"))
    with tarfile.open(path) as archive:
        members = [member for member in archive.getmembers() if member.name.endswith(".JPEG")]
        found = ((Path(member.name).name, archive.extractfile(member)) for member in members)
        return sorted((name, file.read()) for name, file in found if file is not None)


@pytest.fixture(scope="module")
def samples(request: pytest.FixtureRequest) -> list[tuple[str, bytes]]:
    path: Path | None = request.config.getoption("--imagenet-samples")
    if path is None:
        pytest.skip("no path was given: --imagenet-samples PATH or IMAGENET_SAMPLES=PATH")
    assert Path(path).exists(), f"--imagenet-samples: {path}, no such file or folder"
    samples = read_samples(Path(path))
    assert len(samples) == 1000, f"expected 1,000 files n*.JPEG in {path}, found {len(samples)}"
    return samples


@pytest.mark.data
@pytest.mark.timeout(300)
def test_top_1_of_the_thousand_samples_is_as_published(
    imagenet: Path, samples: list[tuple[str, bytes]], start_service: Callable[..., Service]
) -> None:
    service = start_service(imagenet)
    service.wait_for("serving")
    found: list[int] = []
    with Client(service.address, deadline_s=120) as client:
        for start in range(0, len(samples), BATCH):
            files = [data for _, data in samples[start : start + BATCH]]
            found += [answer.labels[0].index for answer in client.classify(files, top_k=1).answers()]
    right = sum(index == expected for expected, index in enumerate(found))
    print(f"top-1 over {len(found)} images: {right / len(found):.1%}")
    assert right / len(found) == pytest.approx(0.883, abs=0.007)


@pytest.mark.timeout(180)
def test_after_warm_up_the_process_holds_at_most_300_mb(imagenet: Path, start_service: Callable[..., Service]) -> None:
    service = start_service(imagenet)
    service.wait_for("serving")
    resident_mb = psutil.Process(service.process.pid).memory_info().rss / 1e6
    print(f"resident after warm-up: {resident_mb:.0f} MB")
    assert resident_mb <= 300


@pytest.mark.timeout(180)
def test_photographs_are_named(imagenet: Path, start_service: Callable[..., Service]) -> None:
    service = start_service(imagenet)
    service.wait_for("serving")
    with Client(service.address) as client:
        response = client.classify(list(load_sample_images().images), model="imagenet", top_k=1)
        description = client.get_model("imagenet")
    assert [answer.labels[0].name for answer in response.answers()] == ["palace", "daisy"]
    assert len(description.labels) == 1000
    assert description.backbone.licence == "Apache-2.0"
