"""A client of the service that a test file starts, and the real model, made by the programs that a person types."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tests.conftest import Service
from vertebra.client import Client


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client(service.address) as client:
        yield client


@pytest.fixture(scope="session")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository, made once for all workers, with EfficientNet-Lite0 as the model `imagenet`."""
    shared = tmp_path_factory.getbasetemp()
    if shared.name.startswith("popen-"):  # a worker's own folder, below the one that all workers share
        shared = shared.parent
    with FileLock(shared / "imagenet.lock"):
        repository = shared / "imagenet"
        if not (repository / "imagenet").exists():
            run = shared / "runs" / "imagenet"
            for command in (
                ["training", "as-is", "efficientnet_lite0", "--out", str(run)],
                ["export", "bundle", str(run), "--repository", str(repository)],
            ):
                subprocess.run([sys.executable, "-m", *command], check=True, timeout=110)
    return repository
