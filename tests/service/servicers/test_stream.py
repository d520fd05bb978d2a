"""The flow of a stream: how far it reads ahead, in which order it answers, and how it ends."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

import pytest

from service.allowance import Allowance
from service.errors import BadRequest, NotReady
from service.servicers.stream import Memory, flow

WINDOW = 3


class Traffic:
    """Numbers as messages, each answered when the test says so."""

    def __init__(self) -> None:
        self.draining = asyncio.Event()
        self.memory = Allowance("bytes", 1000)
        self.read: list[int] = []
        self.answers: dict[int, asyncio.Future[str]] = {}
        self.cancelled: list[int] = []

    async def numbers(self, count: int, error: Exception | None = None) -> AsyncIterator[int]:
        for number in range(count):
            self.read.append(number)
            self.answers[number] = asyncio.get_running_loop().create_future()
            yield number
        if error:
            raise error

    async def silence(self, count: int) -> AsyncIterator[int]:
        async for number in self.numbers(count):
            yield number
        await asyncio.Event().wait()

    async def answer(self, number: int) -> str:
        try:
            return await self.answers[number]
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise

    def flow(self, requests: AsyncIterator[int]) -> AsyncGenerator[str, None]:
        memory = Memory[int](self.memory, lambda _: 10)
        return flow(requests, self.answer, lambda first: WINDOW + first, memory, self.draining)

    def say(self, number: int) -> None:
        self.answers[number].set_result(str(number))


@pytest.fixture
async def traffic() -> Traffic:
    return Traffic()


async def settle() -> None:
    """Let everything happen that can happen without the test."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_answers_come_in_the_order_in_which_they_are_ready(traffic: Traffic) -> None:
    answers = traffic.flow(traffic.numbers(3))
    first = asyncio.ensure_future(anext(answers))
    await settle()
    for number in (2, 0, 1):
        traffic.say(number)
    assert [await first, *[each async for each in answers]] == ["2", "0", "1"]


async def test_no_more_is_read_than_the_window_holds(traffic: Traffic) -> None:
    answers = traffic.flow(traffic.numbers(10))
    first = asyncio.ensure_future(anext(answers))
    await settle()
    assert traffic.read == [0, 1, 2]
    traffic.say(1)
    assert await first == "1"
    # Who does not take the next answer has not let go of this one: its place is still his.
    await settle()
    assert traffic.read == [0, 1, 2]
    second = asyncio.ensure_future(anext(answers))
    await settle()
    assert traffic.read == [0, 1, 2, 3]
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second


async def test_an_error_in_the_messages_comes_after_the_answers_before_it(traffic: Traffic) -> None:
    answers = traffic.flow(traffic.numbers(2, BadRequest("Expected sense.")))
    first = asyncio.ensure_future(anext(answers))
    await settle()
    traffic.say(0)
    traffic.say(1)
    assert [await first, await anext(answers)] == ["0", "1"]
    with pytest.raises(BadRequest, match=r"Expected sense\."):
        await anext(answers)


async def test_an_error_in_an_answer_ends_the_stream_and_cancels_the_others(traffic: Traffic) -> None:
    answers = traffic.flow(traffic.silence(3))
    first = asyncio.ensure_future(anext(answers))
    await settle()
    traffic.answers[1].set_exception(NotReady("Expected a model."))
    with pytest.raises(NotReady, match=r"Expected a model\."):
        await first
    assert sorted(traffic.cancelled) == [0, 2]


async def test_at_drain_what_was_read_is_answered_and_the_rest_is_not_read(traffic: Traffic) -> None:
    answers = traffic.flow(traffic.silence(2))
    first = asyncio.ensure_future(anext(answers))
    await settle()
    traffic.draining.set()
    await settle()
    traffic.say(1)
    traffic.say(0)
    assert [await first, await anext(answers)] == ["1", "0"]
    with pytest.raises(NotReady, match=r"Expected a server that is serving\. Received: it is draining\.") as error:
        await anext(answers)
    assert error.value.retry_after_s == 0.5


async def test_a_stream_that_says_nothing_ends_at_drain(traffic: Traffic) -> None:
    answers = traffic.flow(traffic.silence(0))
    first = asyncio.ensure_future(anext(answers))
    await settle()
    traffic.draining.set()
    with pytest.raises(NotReady, match="draining"):
        await first


async def test_who_had_said_all_ends_well_at_drain(traffic: Traffic) -> None:
    answers = traffic.flow(traffic.numbers(1))
    first = asyncio.ensure_future(anext(answers))
    await settle()
    traffic.draining.set()
    await settle()
    traffic.say(0)
    assert [await first, *[each async for each in answers]] == ["0"]


async def test_an_empty_stream_has_no_answers(traffic: Traffic) -> None:
    assert [each async for each in traffic.flow(traffic.numbers(0))] == []


async def test_closing_it_leaves_no_task_behind(traffic: Traffic) -> None:
    before = asyncio.all_tasks()
    answers = traffic.flow(traffic.silence(5))
    first = asyncio.ensure_future(anext(answers))
    await settle()
    traffic.say(0)
    await first
    await answers.aclose()
    assert sorted(traffic.cancelled) == [1, 2]
    assert asyncio.all_tasks() == before


async def test_no_more_is_read_than_all_streams_may_hold(traffic: Traffic) -> None:
    with traffic.memory.hold(985):  # by others: there is room for one message of ten bytes
        answers = traffic.flow(traffic.numbers(10))
        first = asyncio.ensure_future(anext(answers))
        await settle()
        assert traffic.read == [0, 1], "a message too many waits for room, and none behind it is read"
        assert traffic.memory.held == 995
    await settle()
    assert traffic.read == [0, 1, 2]
    traffic.say(0)
    assert await first == "0"
    await answers.aclose()
    assert traffic.memory.held == 0


async def test_what_is_held_is_given_back_however_a_stream_ends(traffic: Traffic) -> None:
    answers = traffic.flow(traffic.numbers(3))
    traffic_of_three = [each async for each in _answered(traffic, answers, 3)]
    assert traffic_of_three == ["0", "1", "2"]
    assert traffic.memory.held == 0
    broken = traffic.flow(traffic.numbers(2, BadRequest("No.")))
    with pytest.raises(BadRequest, match="No"):
        _ = [each async for each in _answered(traffic, broken, 2)]
    assert traffic.memory.held == 0


async def _answered(traffic: Traffic, answers: AsyncGenerator[str, None], count: int) -> AsyncIterator[str]:
    waiting = asyncio.ensure_future(anext(answers))
    await settle()
    for number in range(count):
        traffic.say(number)
    yield await waiting
    async for answer in answers:
        yield answer
