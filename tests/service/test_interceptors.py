"""Our own faults on the wire: a fixed text, an identity, and the details in the log alone."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, cast

import grpc
import pytest
from grpc import aio
from prometheus_client import CollectorRegistry

from service.errors import NotReady, Overloaded
from service.interceptors import CallInterceptor
from service.metrics import Metrics
from vertebra.v1 import vision_pb2, vision_pb2_grpc


class Servicer:
    """Does in ListModels and EmbedStream what the test asks for; the other methods are never called."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.arrived = asyncio.Event()
        self.left = asyncio.Event()
        self.holds = False

    def __getattr__(self, name: str) -> object:
        return name

    async def ListModels(self, request: vision_pb2.ListModelsRequest, context: Any) -> vision_pb2.ListModelsResponse:
        del request, context
        self.arrived.set()
        if self.error is None:
            await asyncio.Event().wait()
        assert self.error is not None
        raise self.error

    async def EmbedStream(
        self, requests: AsyncIterator[vision_pb2.EmbedStreamRequest], context: Any
    ) -> AsyncGenerator[vision_pb2.EmbedStreamResponse, None]:
        del context
        try:
            async for request in requests:
                yield vision_pb2.EmbedStreamResponse(tag=request.tag)
                self.arrived.set()
                if self.holds:
                    await asyncio.Event().wait()
                if self.error is not None:
                    raise self.error
        finally:
            self.left.set()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
async def servicer() -> Servicer:
    return Servicer()


@pytest.fixture
async def channel(servicer: Servicer, registry: CollectorRegistry) -> AsyncIterator[aio.Channel]:
    server = aio.server(interceptors=[CallInterceptor(Metrics(registry))])
    vision_pb2_grpc.add_VisionServicer_to_server(cast(vision_pb2_grpc.VisionServicer, servicer), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_retries", 0)]) as channel:
        yield channel
    await server.stop(None)


@pytest.fixture
async def stub(channel: aio.Channel) -> Any:
    return vision_pb2_grpc.VisionStub(channel)


def ended(registry: CollectorRegistry, code: str, method: str = "ListModels") -> float | None:
    labels = {"method": method, "model": "_unknown", "version": "0", "code": code}
    return registry.get_sample_value("vertebra_requests_total", labels)


async def test_an_unexpected_error_tells_the_caller_nothing(
    stub: Any, servicer: Servicer, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    servicer.error = RuntimeError("password=hunter2")
    with pytest.raises(aio.AioRpcError) as error:
        await stub.ListModels(vision_pb2.ListModelsRequest(), metadata=(("x-request-id", "abc"),))
    assert error.value.code() == grpc.StatusCode.INTERNAL
    assert error.value.details() == "The server failed. Details are in its log under the request id."
    assert ("x-request-id", "abc") in tuple(error.value.trailing_metadata() or ())
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.__dict__["request_id"] == "abc"
    assert "hunter2" in caplog.text
    assert ended(registry, "INTERNAL") == 1


@pytest.mark.parametrize(
    ("refusal", "code", "pushback"),
    [
        (Overloaded("Expected room.", 0.2), grpc.StatusCode.RESOURCE_EXHAUSTED, ("grpc-retry-pushback-ms", "200")),
        (NotReady("Expected ready."), grpc.StatusCode.UNAVAILABLE, None),
    ],
)
async def test_a_refusal_carries_its_pushback(
    stub: Any,
    servicer: Servicer,
    registry: CollectorRegistry,
    refusal: Exception,
    code: grpc.StatusCode,
    pushback: tuple[str, str] | None,
) -> None:
    servicer.error = refusal
    with pytest.raises(aio.AioRpcError) as error:
        await stub.ListModels(vision_pb2.ListModelsRequest())
    assert (error.value.code(), error.value.details()) == (code, str(refusal))
    sent = [each for each in error.value.trailing_metadata() or () if each[0] == "grpc-retry-pushback-ms"]
    assert sent == ([pushback] if pushback else [])
    assert ended(registry, code.name) == 1


async def test_a_caller_that_goes_is_counted_as_cancelled(
    stub: Any, servicer: Servicer, registry: CollectorRegistry
) -> None:
    call = stub.ListModels(vision_pb2.ListModelsRequest())
    waiting = asyncio.ensure_future(call.code())
    await asyncio.wait_for(servicer.arrived.wait(), timeout=30)
    call.cancel()
    assert await waiting == grpc.StatusCode.CANCELLED
    async with asyncio.timeout(30):
        while ended(registry, "CANCELLED") != 1:  # noqa: ASYNC110  # the server's side ends on its own time
            await asyncio.sleep(0)


async def two(released: asyncio.Event | None = None) -> AsyncIterator[vision_pb2.EmbedStreamRequest]:
    yield vision_pb2.EmbedStreamRequest(tag=7)
    if released:
        await released.wait()
    yield vision_pb2.EmbedStreamRequest(tag=8)


async def test_a_stream_is_counted_when_it_ends_and_not_timed(stub: Any, registry: CollectorRegistry) -> None:
    call = stub.EmbedStream(two(), metadata=(("x-request-id", "abc"),))
    assert [answer.tag async for answer in call] == [7, 8]
    assert ("x-request-id", "abc") in tuple(await call.trailing_metadata())
    assert ended(registry, "OK", "EmbedStream") == 1
    assert registry.get_sample_value("vertebra_inflight_requests", {"method": "EmbedStream"}) == 0
    timed = {"method": "EmbedStream", "model": "_unknown"}
    assert registry.get_sample_value("vertebra_request_duration_seconds_count", timed) is None


@pytest.mark.parametrize(
    ("error", "code", "details", "pushback"),
    [
        (RuntimeError("password=hunter2"), grpc.StatusCode.INTERNAL, "The server failed.", []),
        (NotReady("Draining.", 0.5), grpc.StatusCode.UNAVAILABLE, "Draining.", ["500"]),
    ],
)
async def test_a_stream_that_fails_has_given_its_answers(
    stub: Any,
    servicer: Servicer,
    registry: CollectorRegistry,
    error: Exception,
    code: grpc.StatusCode,
    details: str,
    pushback: list[str],
) -> None:
    servicer.error = error
    call = stub.EmbedStream(two(asyncio.Event()))
    assert (await call.read()).tag == 7
    assert (await call.code(), (await call.details())[: len(details)]) == (code, details)
    trailers = tuple(await call.trailing_metadata())
    assert [value for key, value in trailers if key == "grpc-retry-pushback-ms"] == pushback
    assert ended(registry, code.name, "EmbedStream") == 1


async def test_bytes_that_are_no_message_end_a_stream(channel: aio.Channel, registry: CollectorRegistry) -> None:
    method: Any = channel.stream_stream("/vertebra.v1.Vision/EmbedStream")
    call = method(iter([b"\x10\x01", b"\xff\xff\xff"]))
    assert await call.read() == b"\x08\x01"
    assert await call.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert await call.details() == "Expected a message of vision.proto. Received: 3 bytes of none."
    assert ended(registry, "INVALID_ARGUMENT", "EmbedStream") == 1


async def test_a_stream_whose_caller_goes_is_closed_at_once(
    stub: Any, servicer: Servicer, registry: CollectorRegistry
) -> None:
    servicer.holds = True
    call = stub.EmbedStream(two(asyncio.Event()))
    await call.read()
    call.cancel()
    await asyncio.wait_for(servicer.left.wait(), timeout=30)
    async with asyncio.timeout(30):
        while ended(registry, "CANCELLED", "EmbedStream") != 1:  # noqa: ASYNC110  # the server's side, on its own time
            await asyncio.sleep(0)
