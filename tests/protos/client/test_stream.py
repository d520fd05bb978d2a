"""Streams of both clients against a real gRPC server with canned answers, and the books that they keep."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message

from tests.protos.client.conftest import FakeVision
from vertebra import client as vertebra
from vertebra.client import AsyncClient, Client, ImageError, ServedModel, StreamedEmbedding
from vertebra.client.aio_stream import AsyncStream
from vertebra.client.messages import ImageSource
from vertebra.client.stream import LOOK_AHEAD, Ledger
from vertebra.client.sync_stream import SyncStream
from vertebra.v1 import vision_pb2

Refuse = Callable[[int, grpc.StatusCode, str | None], None]
Result = StreamedEmbedding | ImageError
Embed = Callable[..., list[Result]]
SPACE = "a" * 64
EXHAUSTED, UNAVAILABLE = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE


async def each(images: Iterable[ImageSource]) -> AsyncIterator[ImageSource]:
    for image in images:
        yield image


@pytest.fixture(params=["Client", "AsyncClient"])
def embed(address: str, request: pytest.FixtureRequest) -> Embed:
    """Streams images with one of the clients, and gives all results."""

    def embed(images: Iterable[ImageSource], **options: Any) -> list[Result]:
        with Client(address) as client:
            return list(client.embed_stream(images, **options))

    def embed_async(images: Iterable[ImageSource], **options: Any) -> list[Result]:
        async def run() -> list[Result]:
            async with AsyncClient(address) as client:
                return [result async for result in client.embed_stream(each(images), **options)]

        return asyncio.run(run())

    return embed if request.param == "Client" else embed_async


def test_results_come_in_the_order_of_the_images(embed: Embed, received: Sequence[Message], tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(b"file")
    images = [b"late", b"jpeg", b"broken", tmp_path / "cat.jpg", tmp_path / "dog.jpg", np.zeros((2, 4, 3), np.uint8)]
    results = embed([*images, b"late"])
    assert [type(result) for result in results] == [
        StreamedEmbedding, StreamedEmbedding, ImageError, StreamedEmbedding, ImageError, StreamedEmbedding,
        StreamedEmbedding,
    ]  # fmt: skip
    assert str(results[2]) == "Image 2: Expected a JPEG, PNG or WebP file. Received: 6 other bytes."
    assert str(results[4]) == f"Image 4: {tmp_path / 'dog.jpg'}: No such file or directory"
    first = results[0]
    assert isinstance(first, StreamedEmbedding)
    assert first.model == ServedModel("cats", 3, SPACE)
    np.testing.assert_array_equal(first.vector, np.arange(5, dtype=np.float32))
    assert [cast(vision_pb2.EmbedStreamRequest, message).tag for message in received] == [0, 1, 2, 3, 5, 6]


def test_options_reach_the_server(embed: Embed, received: Sequence[Message]) -> None:
    embed([b"jpeg"], model="cats", version=7, expected_embedding_space_id=SPACE)
    request = cast(vision_pb2.EmbedStreamRequest, received[0])
    assert request.model == vision_pb2.ModelSelector(name="cats", version=7, expected_embedding_space_id=SPACE)


def test_no_images_ask_for_nothing(embed: Embed, received: Sequence[Message]) -> None:
    assert embed([]) == []
    assert received == []


def test_the_call_ends_as_it_should(embed: Embed, vision: FakeVision) -> None:
    embed([b"jpeg"] * 3)
    assert vision.half_closed == 1


def test_it_looks_ahead_and_no_further(embed: Embed, vision: FakeVision) -> None:
    taken = 0

    def images() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(3 * LOOK_AHEAD):
            taken += 1
            yield b"jpeg"

    vision.leave(0, grpc.StatusCode.INTERNAL, None)
    with pytest.raises(vertebra.Internal, match=r"Refused as told\."):
        embed(images())
    assert taken <= LOOK_AHEAD


@pytest.mark.parametrize("code", [EXHAUSTED, UNAVAILABLE])
def test_what_was_not_answered_is_sent_again(
    embed: Embed, vision: FakeVision, received: Sequence[Message], code: grpc.StatusCode
) -> None:
    vision.leave(5, code, "20")
    images = [b"late", *[b"jpeg"] * 5, b"late", *[b"jpeg"] * 13]
    assert [type(result) for result in embed(images)] == [StreamedEmbedding] * 20
    requests = [cast(vision_pb2.EmbedStreamRequest, message) for message in received]
    tags = [request.tag for request in requests]
    again = next(place for place, (before, after) in enumerate(pairwise(tags), start=1) if after <= before)
    # Six were answered: five and the late one.
    assert tags[again:] == list(range(6, 20))
    # The embeddings of one stream lie in one space, however many calls it takes.
    assert {request.model.expected_embedding_space_id for request in requests[:again]} == {""}
    assert {request.model.expected_embedding_space_id for request in requests[again:]} == {SPACE}


def test_a_refusal_at_the_beginning_is_tried_again_when_it_says(
    embed: Embed, refuse: Refuse, arrivals_s: Sequence[float]
) -> None:
    refuse(2, UNAVAILABLE, "30")
    assert len(embed([b"jpeg"])) == 1
    assert all(later - earlier >= 0.03 for earlier, later in pairwise(arrivals_s))


def test_who_was_told_to_come_again_goes_on_asking_where_nobody_is(
    embed: Embed, refuse: Refuse, vision: FakeVision, arrivals_s: Sequence[float]
) -> None:
    refuse(2, UNAVAILABLE, "30")
    original = vision.admit

    def admit(*arguments: Any) -> vision_pb2.ServedModel:
        vision.pushback = None if vision.refusals == 1 else "30"
        return original(*arguments)

    vision.admit = admit  # type: ignore[assignment,method-assign]
    assert len(embed([b"jpeg"])) == 1
    assert len(arrivals_s) == 3


@pytest.mark.parametrize("code", [UNAVAILABLE, grpc.StatusCode.DATA_LOSS])
def test_another_end_is_final(embed: Embed, vision: FakeVision, code: grpc.StatusCode) -> None:
    vision.leave(2, code, None)
    with pytest.raises(vertebra.RpcError, match=rf"{code.name}: Refused as told\.") as caught:
        embed([b"jpeg"] * 5)
    assert isinstance(caught.value.__cause__, grpc.RpcError)


def test_what_a_server_told_before_an_answer_is_forgotten(embed: Embed, refuse: Refuse, vision: FakeVision) -> None:
    refuse(1, UNAVAILABLE, "30")
    original = vision.admit

    def admit(*arguments: Any) -> vision_pb2.ServedModel:
        served = original(*arguments)
        vision.leave(1, UNAVAILABLE, None)
        return served

    vision.admit = admit  # type: ignore[assignment,method-assign]
    with pytest.raises(vertebra.Unavailable, match=r"Refused as told\."):
        embed([b"jpeg"] * 3)


def recorded(method: Callable[..., Any], name: str, steps: list[str]) -> Callable[..., Any]:
    """The method, whose calls are entered in the steps when they return or raise."""

    def record(*arguments: Any) -> Any:
        try:
            return method(*arguments)
        finally:
            steps.append(name)

    return record


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a stream has done: begun a "call", been "refused", had a look at its "patience" before it waits."""
    steps: list[str] = []
    for owner, method, name in (
        (Ledger, "wait_s", "refused"),
        (Ledger, "left_s", "patience"),
        (SyncStream, "_begin", "call"),
        (AsyncStream, "_begin", "call"),
    ):
        monkeypatch.setattr(owner, method, recorded(getattr(owner, method), name, steps))
    return steps


def waits_again(steps: Sequence[str]) -> bool:
    return "refused" in steps and "patience" in steps[steps.index("refused") :]


def check_that_it_called_anew_for_the_second_image(steps: Sequence[str]) -> None:
    assert [step for step in steps if step != "patience"] == ["call", "refused", "image", "call"]


def test_a_server_that_leaves_while_no_image_is_out_is_called_with_the_next_one(
    address: str, vision: FakeVision, steps: list[str]
) -> None:
    vision.leave(1, UNAVAILABLE, "20")
    vision.leaves_unasked = True

    def images() -> Iterator[bytes]:
        yield b"jpeg"
        deadline_s = time.monotonic() + 30
        while not waits_again(steps) and time.monotonic() < deadline_s:
            pass
        steps.append("image")
        yield b"jpeg"

    with Client(address) as client:
        assert len(list(client.embed_stream(images()))) == 2
    check_that_it_called_anew_for_the_second_image(steps)


async def test_a_server_that_leaves_an_async_client_while_no_image_is_out_is_called_with_the_next_one(
    address: str, vision: FakeVision, steps: list[str]
) -> None:
    vision.leave(1, UNAVAILABLE, "20")
    vision.leaves_unasked = True

    async def images() -> AsyncIterator[bytes]:
        yield b"jpeg"
        async with asyncio.timeout(30):
            while not waits_again(steps):  # noqa: ASYNC110  # the steps set no event
                await asyncio.sleep(0.001)
        steps.append("image")
        yield b"jpeg"

    async with AsyncClient(address) as client:
        assert len([result async for result in client.embed_stream(images())]) == 2
    check_that_it_called_anew_for_the_second_image(steps)


@pytest.mark.parametrize("images", [[b"huge"], [b"jpeg", b"huge", b"jpeg", b"jpeg", b"huge"]])
def test_an_image_that_ends_the_call_by_its_size_is_found(embed: Embed, images: Sequence[bytes]) -> None:
    results = embed(images)
    assert [isinstance(result, ImageError) for result in results] == [image == b"huge" for image in images]
    assert {str(result.message) for result in results if isinstance(result, ImageError)} == {
        "Received message larger than max."
    }


def test_a_server_that_falls_silent_is_left(embed: Embed) -> None:
    started_s = time.monotonic()
    with pytest.raises(
        vertebra.DeadlineExceeded, match=r"Expected an answer within 0\.3 s\. Received: none to 2 images"
    ):
        embed([b"jpeg"] * 2, model="slow", deadline_s=0.3)
    assert time.monotonic() - started_s < 30


def test_an_answer_to_nothing_is_an_error(embed: Embed) -> None:
    with pytest.raises(vertebra.AnswerError, match=r"Expected the tag of an image that was sent\. Received: 1001\."):
        embed([b"jpeg", b"confused"])


def test_an_end_without_all_answers_is_an_error(embed: Embed, vision: FakeVision) -> None:
    vision.stops_short = True
    with pytest.raises(
        vertebra.AnswerError, match=r"Expected an answer for each image\. Received: an end, and none to 2"
    ):
        embed([b"jpeg"] * 3)


def test_what_the_images_raise_comes_after_the_answers_before_it(address: str) -> None:
    def images() -> Iterator[bytes]:
        yield b"jpeg"
        raise KeyError("the caller's own")

    with Client(address) as client:
        results = client.embed_stream(images())
        assert isinstance(next(results), StreamedEmbedding)
        with pytest.raises(KeyError, match="the caller's own"):
            next(results)


@pytest.mark.parametrize("end", [SystemExit, KeyboardInterrupt])
def test_images_that_end_with_more_than_an_error_end_the_stream(address: str, end: type[BaseException]) -> None:
    def images() -> Iterator[bytes]:
        yield b"jpeg"
        raise end("the caller's own")

    with Client(address) as client:
        results = client.embed_stream(images())
        assert isinstance(next(results), StreamedEmbedding)
        with pytest.raises(end, match="the caller's own"):
            next(results)


@pytest.mark.parametrize("end", [SystemExit, KeyboardInterrupt])
async def test_async_images_that_end_with_more_than_an_error_end_the_stream(
    address: str, end: type[BaseException]
) -> None:
    async def images() -> AsyncIterator[bytes]:
        yield b"jpeg"
        raise end("the caller's own")

    async with AsyncClient(address) as client, asyncio.timeout(30):
        results = client.embed_stream(images())
        assert isinstance(await anext(results), StreamedEmbedding)
        with pytest.raises(end, match="the caller's own"):
            await anext(results)


async def test_images_that_await_what_is_cancelled_end_the_stream(address: str) -> None:
    async def images() -> AsyncIterator[bytes]:
        yield b"jpeg"
        other = asyncio.ensure_future(asyncio.Event().wait())
        other.cancel("not the stream")
        await other

    async with AsyncClient(address) as client, asyncio.timeout(30):
        results = client.embed_stream(images())
        assert isinstance(await anext(results), StreamedEmbedding)
        with pytest.raises(asyncio.CancelledError, match="not the stream"):
            await anext(results)


async def test_who_stops_early_cancels_the_images(address: str) -> None:
    taking: list[asyncio.Task[Any] | None] = []

    async def images() -> AsyncIterator[bytes]:
        taking.append(asyncio.current_task())
        yield b"jpeg"
        await asyncio.Event().wait()

    async with AsyncClient(address) as client, asyncio.timeout(30):
        results = client.embed_stream(images())
        await anext(results)
        await results.aclose()
    (task,) = taking
    assert task is not None
    assert task.cancelled()


def test_a_value_that_is_no_image_is_raised_in_its_turn(address: str) -> None:
    with Client(address) as client:
        results = client.embed_stream([b"jpeg", cast(bytes, 5), b"jpeg"])
        assert isinstance(next(results), StreamedEmbedding)
        with pytest.raises(TypeError, match=r"Expected a path, bytes or an array as image\. Received: int\."):
            next(results)


def test_a_wrong_deadline_is_refused_before_anything_is_taken(address: str) -> None:
    with (
        Client(address) as client,
        pytest.raises(ValueError, match=r"Expected a deadline of more than 0 .* Received: 0"),
    ):
        client.embed_stream(iter([b"jpeg"]), deadline_s=0)


def test_who_stops_early_leaves_no_thread_behind(address: str) -> None:
    with Client(address) as client:
        results = client.embed_stream(iter(lambda: b"jpeg", b""))
        next(results)
        results.close()
        deadline_s = time.monotonic() + 30
        while {each.name for each in threading.enumerate()} & {"images", "answers"}:
            assert time.monotonic() < deadline_s, threading.enumerate()


async def test_who_stops_early_leaves_no_task_behind(address: str) -> None:
    before = asyncio.all_tasks()
    async with AsyncClient(address) as client:
        results = client.embed_stream(each(iter(lambda: b"jpeg", b"")))
        await anext(results)
        await results.aclose()
    async with asyncio.timeout(30):
        while asyncio.all_tasks() != before:  # noqa: ASYNC110  # gRPC's own take a turn or two
            await asyncio.sleep(0)


def test_a_client_that_is_closed_ends_its_streams(address: str, received: Sequence[Message]) -> None:
    client = Client(address)
    results = client.embed_stream([b"jpeg"] * 2, model="slow")

    def close() -> None:
        deadline_s = time.monotonic() + 30
        while not received and time.monotonic() < deadline_s:
            pass
        client.close()

    closing = threading.Thread(target=close)
    closing.start()
    with pytest.raises(vertebra.Cancelled, match="CANCELLED"):
        next(results)
    closing.join()


async def test_an_async_client_that_is_closed_ends_its_streams(address: str, received: Sequence[Message]) -> None:
    client = AsyncClient(address)
    results = client.embed_stream(each([b"jpeg"] * 2), model="slow")
    waiting = asyncio.ensure_future(anext(results))
    async with asyncio.timeout(30):
        while not received:  # noqa: ASYNC110  # the server is in another thread, and sets no event of this loop
            await asyncio.sleep(0.001)
    await client.close()
    with pytest.raises(vertebra.Cancelled, match="CANCELLED"):
        await waiting


@pytest.mark.parametrize("late", [False, True])
def test_the_books_give_a_server_its_time_anew_with_each_answer(late: bool) -> None:
    now_s = 0.0
    ledger = Ledger(vision_pb2.ModelSelector(), 10.0, lambda: now_s)
    assert ledger.left_s() is None
    ledger.take(b"one")
    ledger.take(b"two")
    ledger.send()
    now_s = 9.0
    assert ledger.left_s() == 1.0
    tensor = vision_pb2.Tensor(data_type=vision_pb2.DATA_TYPE_FLOAT32, shape=[0])
    ledger.answer(vision_pb2.EmbedStreamResponse(tag=0, embedding=tensor, model=vision_pb2.ServedModel(name="cats")))
    assert ledger.left_s() == 10.0
    now_s = 19.0 if late else 18.9
    if late:
        with pytest.raises(vertebra.DeadlineExceeded, match=r"Expected an answer within 10 s\. Received: none to 1"):
            ledger.check_left()
    else:
        ledger.check_left()
    ledger.fail(1, ValueError("none"))
    assert ledger.left_s() is None


def test_the_books_send_nothing_that_was_settled_before_its_turn() -> None:
    ledger = Ledger(vision_pb2.ModelSelector(), 10.0)
    for image in (b"one", b"two"):
        ledger.take(image)
        ledger.send()
    ledger.begin_again()
    # Its file cannot be read, which comes to light when it is already to be sent again.
    ledger.fail(0, FileNotFoundError(2, "No such file or directory", "cat.jpg"))
    assert ledger.send() == (1, b"two")
    assert not ledger.has_unsent


def test_the_books_have_the_whole_deadline_to_wait_where_nothing_is_out() -> None:
    ledger = Ledger(vision_pb2.ModelSelector(), 10.0)
    assert ledger.wait_s(vertebra.Unavailable(UNAVAILABLE, "Draining.", retry_after_s=9.0)) == 9.0
    with pytest.raises(vertebra.Unavailable, match="Draining"):
        ledger.wait_s(vertebra.Unavailable(UNAVAILABLE, "Draining.", retry_after_s=10.0))
