"""Our own faults on the wire: a fixed text, an identity, and the details in the log alone."""

import asyncio
import logging
from collections.abc import AsyncIterator
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
    """Does in ListModels what the test asks for; the other methods are never called."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.arrived = asyncio.Event()

    def __getattr__(self, name: str) -> object:
        return name

    async def ListModels(self, request: vision_pb2.ListModelsRequest, context: Any) -> vision_pb2.ListModelsResponse:
        del request, context
        self.arrived.set()
        if self.error is None:
            await asyncio.Event().wait()
        assert self.error is not None
        raise self.error


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
async def servicer() -> Servicer:
    return Servicer()


@pytest.fixture
async def stub(servicer: Servicer, registry: CollectorRegistry) -> AsyncIterator[Any]:
    server = aio.server(interceptors=[CallInterceptor(Metrics(registry))])
    vision_pb2_grpc.add_VisionServicer_to_server(cast(vision_pb2_grpc.VisionServicer, servicer), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_retries", 0)]) as channel:
        yield vision_pb2_grpc.VisionStub(channel)
    await server.stop(None)


def ended(registry: CollectorRegistry, code: str) -> float | None:
    labels = {"method": "ListModels", "model": "_unknown", "version": "0", "code": code}
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
