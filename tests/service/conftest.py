"""The tiny bundle, loaded in this process."""

from collections.abc import Callable
from pathlib import Path

import pytest

from service import bundle as bundles
from service.bundle import Bundle
from service.engine import Engine
from tests.conftest import colours, write_bundle
from vertebra.v1 import bundle_pb2


@pytest.fixture
def bundle(repository: Path) -> Bundle:
    return bundles.load(repository / "colours" / "1")


@pytest.fixture
def engine(bundle: Bundle) -> Engine:
    return Engine(bundle.graph, threads=1)


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[Callable[[bundle_pb2.Manifest], None]], Path]:
    """Writes a bundle whose manifest was changed at the very end, and returns its folder."""
    return lambda change: write_bundle(tmp_path / "changed", colours(), change=change)
