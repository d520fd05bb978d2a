"""How a call ended, where a write that fails first says something else; the rest of the stream is in test_stream.py."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from vertebra import client as vertebra
from vertebra.client.aio_stream import AsyncStream
from vertebra.client.messages import ImageSource
from vertebra.client.stream import Ledger
from vertebra.v1 import vision_pb2

SPOILED = (grpc.StatusCode.INTERNAL, "Internal error from Core")


class SpoiledCall:
    """A call whose status is gRPC's word on a failed write for a few looks, and then the server's."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def __aiter__(self) -> "SpoiledCall":
        return self

    async def __anext__(self) -> None:
        metadata = grpc.aio.Metadata()
        raise grpc.aio.AioRpcError(SPOILED[0], metadata, metadata, SPOILED[1])

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        callback(self)

    async def code(self) -> grpc.StatusCode:
        return SPOILED[0] if self.looks > 0 else grpc.StatusCode.NOT_FOUND

    async def details(self) -> str:
        self.looks -= 1
        return SPOILED[1] if self.looks > -1 else "The server's own word."

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata()

    async def write(self, _: object) -> None:
        await asyncio.Event().wait()

    def cancel(self) -> None:
        pass


def stream(looks: int) -> None:
    """A stream of one image over a call that ends so."""

    async def images() -> AsyncIterator[ImageSource]:
        yield b"jpeg"

    async def run() -> None:
        ledger = Ledger(vision_pb2.ModelSelector(), deadline_s=10)
        call: Any = SpoiledCall(looks)
        async for _ in AsyncStream(lambda: call, images(), ledger).results():
            pass

    asyncio.run(run())


@pytest.mark.parametrize("looks", [0, 1, 5])
def test_a_failed_write_does_not_hide_how_the_call_ended(looks: int) -> None:
    with pytest.raises(vertebra.RpcError, match=r"NOT_FOUND: The server's own word\."):
        stream(looks)


def test_a_call_that_never_says_how_it_ended_is_not_waited_for_for_ever() -> None:
    with pytest.raises(vertebra.RpcError, match=r"INTERNAL: Internal error from Core"):
        stream(10**9)
