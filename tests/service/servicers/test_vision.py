"""What an image of a stream waits for, for how long, and what becomes of it; the model is a fake."""

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from service.allowance import Allowance
from service.call import Call, current_call
from service.errors import BadRequest, DeadlineUnreachable, EngineFailed, MemoryFull, NotFound, NotReady, Overloaded
from service.predictor import Analysis, Answer, Question, Timing
from service.repository import Repository
from service.servicers.asking import RequestLimits
from service.servicers.vision import VisionServicer
from vertebra.v1 import vision_pb2

LIMITS = RequestLimits(max_images=4, max_bytes=1000, default_deadline_s=30.0)
VECTOR = np.array([1, 2], np.float32)


class FakeModel:
    """A model that fails as it was told to, one time each, and then answers; the repository that holds it, too."""

    def __init__(self) -> None:
        self.name, self.version = "cats", 3
        self.failures: list[Exception] = []
        self.questions: list[Question] = []
        self.asked: list[tuple[int, str]] = []
        self.batcher = SimpleNamespace(useful=10, places=SimpleNamespace(limit=1000))
        embedding = SimpleNamespace(embedding_space_id="ab")
        self.bundle = SimpleNamespace(name=self.name, version=self.version, embedding=embedding)
        self.predictor = self

    def find(self, name: str) -> "FakeModel":
        if name not in ("", "cats"):
            raise NotFound(f"Expected 'cats'. Received: {name!r}.")
        return self

    def ready(self, version: int, space: str) -> "FakeModel":
        self.asked.append((version, space))
        return self

    async def analyze(self, question: Question) -> Analysis:
        self.questions.append(question)
        if self.failures:
            failure = self.failures.pop(0)
            if isinstance(failure, EngineFailed):
                return Analysis((failure,), Timing(0, 0, 0, 0))
            raise failure
        return Analysis((Answer((), VECTOR, VECTOR),), Timing(0, 0, 0, 0))


class Clock:
    """Seconds that pass while somebody sleeps, and at no other time."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.sleeps_s: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.sleeps_s.append(seconds)
        self.now_s += seconds


Ask = Callable[..., Any]


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("service.servicers.vision.asyncio.sleep", clock.sleep)
    return clock


@pytest.fixture
async def ask(model: FakeModel, clock: Clock) -> Ask:
    """Streams the requests and gives all responses."""
    servicer = VisionServicer(cast(Repository, model), LIMITS, Allowance("bytes", 10**6), asyncio.Event(), clock)

    async def ask(
        *requests: vision_pb2.EmbedStreamRequest, left_s: float | None = None
    ) -> list[vision_pb2.EmbedStreamResponse]:
        async def messages() -> AsyncIterator[vision_pb2.EmbedStreamRequest]:
            for request in requests:
                yield request

        current_call.set(Call("id"))
        context: Any = SimpleNamespace(time_remaining=lambda: left_s)
        return [response async for response in servicer.EmbedStream(messages(), context)]

    return ask


def request(tag: int = 0, image: bytes = b"jpeg", **selector: Any) -> vision_pb2.EmbedStreamRequest:
    message = vision_pb2.EmbedStreamRequest(tag=tag, image=vision_pb2.Image(encoded=image))
    if selector:
        message.model.CopyFrom(vision_pb2.ModelSelector(**selector))
    return message


async def test_the_first_response_alone_names_the_model(ask: Ask) -> None:
    responses = await ask(request(5), request(6))
    assert sorted(response.tag for response in responses) == [5, 6]
    assert [response.HasField("model") for response in responses] == [True, False]
    assert responses[0].model == vision_pb2.ServedModel(name="cats", version=3, embedding_space_id="ab")
    assert np.frombuffer(responses[1].embedding.data, "<f4").tolist() == [1, 2]


async def test_all_images_are_answered_by_the_version_and_in_the_space_of_the_first(ask: Ask, model: FakeModel) -> None:
    await ask(request(), request())
    assert model.asked == [(0, ""), (3, "ab"), (3, "ab")]


async def test_a_later_message_may_repeat_the_model_or_leave_it_out(ask: Ask) -> None:
    assert len(await ask(request(name="cats"), request(), request(name=""), request(name="cats"))) == 4


async def test_a_later_message_may_not_name_another_model(ask: Ask) -> None:
    with pytest.raises(BadRequest, match=r"Expected one model in a stream\. Received: a message that names another"):
        await ask(request(), request(name="cats"))


async def test_an_unknown_model_ends_the_stream(ask: Ask) -> None:
    with pytest.raises(NotFound, match=r"Received: 'dogs'"):
        await ask(request(name="dogs"))


@pytest.mark.parametrize("refusal", [Overloaded("Full.", 0.3), NotReady("Being replaced.", 0.3)])
async def test_an_image_waits_for_room_and_for_a_model_that_comes_back(
    ask: Ask, model: FakeModel, clock: Clock, refusal: Exception
) -> None:
    model.failures = [refusal, refusal]
    (response,) = await ask(request())
    assert response.status.code == 0
    assert clock.sleeps_s == [0.3, 0.3]
    # The deadline is the image's, not each try's.
    assert {question.deadline_s for question in model.questions} == {130.0}


async def test_it_does_not_ask_again_at_once(ask: Ask, model: FakeModel, clock: Clock) -> None:
    model.failures = [Overloaded("Full.", 0.0001)]
    await ask(request())
    assert clock.sleeps_s == [0.02]


@pytest.mark.parametrize(("left_s", "tries"), [(None, 2), (1e9, 2), (15.0, 1)])
async def test_it_does_not_wait_past_the_deadline(ask: Ask, model: FakeModel, left_s: float | None, tries: int) -> None:
    model.failures = [Overloaded("Full.", 20.0)] * 9
    (response,) = await ask(request(), left_s=left_s)
    assert len(model.questions) == tries
    assert response.status.code == 4
    assert response.status.message == "Expected an answer within the deadline. Received: none yet. Full."
    assert not response.HasField("embedding")


async def test_an_engine_that_is_too_busy_for_the_deadline_is_asked_again(ask: Ask, model: FakeModel) -> None:
    model.failures = [DeadlineUnreachable("Too busy.", 0.5)]
    (response,) = await ask(request())
    assert (len(model.questions), response.status.code) == (2, 0)


async def test_bytes_are_held_for_all_of_a_request_or_none(clock: Clock, model: FakeModel) -> None:
    memory = Allowance("bytes", 1000)
    servicer = VisionServicer(cast(Repository, model), LIMITS, memory, asyncio.Event(), clock)
    context: Any = SimpleNamespace(time_remaining=lambda: None)
    asked = vision_pb2.EmbedRequest(images=[vision_pb2.Image(encoded=bytes(200))] * 2)
    current_call.set(Call("a test"))
    with memory.hold(700), pytest.raises(MemoryFull, match=r"Expected room for 412 bytes. Received: 700 of 1000"):
        await servicer.Embed(asked, context)
    await servicer.Embed(asked, context)
    assert memory.held == 0


async def test_a_model_that_does_not_come_back_ends_the_stream(ask: Ask, model: FakeModel) -> None:
    model.failures = [NotReady("It failed.")]
    with pytest.raises(NotReady, match=r"It failed\."):
        await ask(request())


async def test_an_image_that_the_engine_fails_on_costs_the_others_nothing(ask: Ask, model: FakeModel) -> None:
    model.failures = [EngineFailed("The engine failed on this image.")]
    responses = await ask(request(1), request(2))
    assert [(response.tag, response.status.code) for response in responses] == [(1, 13), (2, 0)]


async def test_a_message_that_is_too_large_costs_its_image_alone(ask: Ask, model: FakeModel) -> None:
    await ask(request(1, bytes(1000)), request(2))
    first, second = (question.images[0] for question in model.questions)
    assert str(first) == "Expected at most 1000 bytes in a message. Received: 1008."
    assert second == b"jpeg"


@pytest.mark.parametrize(("limit", "window"), [(1000, None), (8, 4), (1, 1)])
async def test_a_stream_leaves_half_of_the_queue_to_others(
    ask: Ask, model: FakeModel, limit: int, window: int | None
) -> None:
    model.batcher.places.limit = limit
    window = window or model.batcher.useful
    waiting: set[asyncio.Task[Any] | None] = set()
    most = 0
    enough = asyncio.Event()

    async def analyze(question: Question) -> Analysis:
        nonlocal most
        waiting.add(asyncio.current_task())
        most = max(most, len(waiting))
        if len(waiting) == window:
            enough.set()
        async with asyncio.timeout(30):
            await enough.wait()
        waiting.discard(asyncio.current_task())
        return await FakeModel.analyze(model, question)

    model.predictor = cast(FakeModel, SimpleNamespace(analyze=analyze))
    assert len(await ask(*[request(tag) for tag in range(2 * window)])) == 2 * window
    assert most == window
