"""AsyncClient against a real gRPC server; what both clients do with messages is tested with Client."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import pairwise

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message

from vertebra import client as vertebra
from vertebra.client import AsyncClient, Client

Refuse = Callable[[int, grpc.StatusCode, str | None], None]
CALLS = ["classify", "embed", "analyze", "get_model", "list_models", "close"]


@pytest.fixture
async def client(address: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(address) as client:
        yield client


@pytest.mark.parametrize("call", CALLS)
def test_both_clients_have_the_same_calls(call: str) -> None:
    assert inspect.signature(getattr(AsyncClient, call)) == inspect.signature(getattr(Client, call))
    assert inspect.getdoc(getattr(AsyncClient, call)) == inspect.getdoc(getattr(Client, call))


def test_there_are_no_other_calls() -> None:
    for kind in (Client, AsyncClient):
        assert sorted(name for name in vars(kind) if not name.startswith("_")) == sorted([*CALLS, "embed_stream"])


def test_both_streams_are_alike_but_for_what_they_iterate_over() -> None:
    kinds = [inspect.signature(kind.embed_stream) for kind in (Client, AsyncClient)]
    without = [
        (list(kind.parameters), [each.annotation for each in kind.parameters.values() if each.name != "images"])
        for kind in kinds
    ]
    assert without[0] == without[1]
    assert inspect.getdoc(AsyncClient.embed_stream) == inspect.getdoc(Client.embed_stream)


async def test_every_call_answers(client: AsyncClient) -> None:
    (classified,) = (await client.classify([b"jpeg"], top_k=1)).answers()
    assert [label.name for label in classified.labels] == ["tabby"]
    (embedded,) = (await client.embed([b"jpeg"])).answers()
    np.testing.assert_array_equal(embedded.vector, np.arange(5, dtype=np.float32))
    (analyzed,) = (await client.analyze([b"jpeg"], answers=["logits"])).answers()
    assert analyzed.logits is not None
    assert (await client.get_model("cats")).labels == ("tabby", "tiger cat", "lynx")
    assert [model.name for model in await client.list_models()] == ["cats", "dogs"]


async def test_a_response_may_be_larger_than_grpcs_default(client: AsyncClient) -> None:
    (answer,) = (await client.embed([b"jpeg"], model="wide")).answers()
    assert answer.vector.shape == (2_000_000,)


async def test_an_error_has_its_class_and_its_cause(client: AsyncClient) -> None:
    with pytest.raises(vertebra.NotFound, match=r"NOT_FOUND: Expected a model out of \['cats'\]") as caught:
        await client.classify([b"jpeg"], model="nowhere")
    assert isinstance(caught.value.__cause__, grpc.RpcError)


async def test_a_refusal_with_pushback_is_tried_again_when_it_says(
    client: AsyncClient, refuse: Refuse, arrivals_s: Sequence[float]
) -> None:
    refuse(2, grpc.StatusCode.RESOURCE_EXHAUSTED, "30")
    assert len((await client.classify([b"jpeg"])).answers()) == 1
    assert len(arrivals_s) == 3
    assert all(later - earlier >= 0.03 for earlier, later in pairwise(arrivals_s))


async def test_a_refusal_without_pushback_is_final(
    client: AsyncClient, refuse: Refuse, received: Sequence[Message]
) -> None:
    refuse(1, grpc.StatusCode.UNAVAILABLE, None)
    with pytest.raises(vertebra.Unavailable, match=r"UNAVAILABLE: Refused as told\."):
        await client.classify([b"jpeg"])
    assert len(received) == 1


async def test_the_deadline_passes(client: AsyncClient) -> None:
    with pytest.raises(vertebra.DeadlineExceeded, match="DEADLINE_EXCEEDED"):
        await client.classify([b"jpeg"], model="slow", deadline_s=0.1)


async def test_a_call_can_be_cancelled(client: AsyncClient, received: Sequence[Message]) -> None:
    call = asyncio.create_task(client.classify([b"jpeg"], model="slow"))
    async with asyncio.timeout(30):
        while not received:  # noqa: ASYNC110 - the server is in another thread, and sets no event of this loop
            await asyncio.sleep(0.001)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_calls_run_side_by_side(client: AsyncClient) -> None:
    responses = await asyncio.gather(*(client.classify([b"jpeg"] * count) for count in range(1, 17)))
    assert [len(response.answers()) for response in responses] == list(range(1, 17))
