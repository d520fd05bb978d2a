"""The tiny bundle, loaded in this process; a clock that is told, and a wait for what an event loop brings about."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from service import bundle as bundles
from service.bundle import Bundle
from service.engine import Engine
from tests.conftest import colours, write_bundle
from vertebra.v1 import bundle_pb2


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop turn until the condition holds."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  # the code under test has no event for what is waited for
            await asyncio.sleep(0)


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
