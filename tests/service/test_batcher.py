"""The batcher against a fake engine and a fake clock: what it promises to each caller, whatever the others do."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from service.batcher import Batcher, Row, Slot
from service.engine import Arrays
from service.errors import BadRequest, DeadlinePassed, DeadlineUnreachable, EngineFailed, NotReady, Overloaded

Pixels = NDArray[np.uint8]


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class FakeEngine:
    """Answers each image with its first number, and waits at a gate while that is closed."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.running = threading.Event()
        self.batches: list[list[int]] = []
        self.failure: Exception | None = None

    def __call__(self, pixels: Pixels) -> Arrays:
        self.batches.append([int(image[0, 0, 0]) for image in pixels])
        self.running.set()
        assert self.gate.wait(timeout=30)
        if self.failure is not None:
            raise self.failure
        return {"value": pixels[:, 0, 0, 0].astype(np.float32)}


def picture(value: int) -> Pixels:
    return np.full((2, 2, 3), value, np.uint8)


def value(row: Row) -> float:
    return float(row.arrays["value"])


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop turn until the condition holds."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  # the code under test has no event for what is waited for
            await asyncio.sleep(0)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def batcher(engine: FakeEngine, clock: Clock) -> AsyncIterator[Batcher]:
    slot = Slot()
    batcher = Batcher(engine, slot, batch_sizes=(1, 2, 4), limit=6, seconds_per_image=1.0, clock=clock)
    batcher.start()
    yield batcher
    engine.gate.set()
    await batcher.close()
    slot.close()


async def busy(batcher: Batcher, engine: FakeEngine) -> asyncio.Task[Row]:
    """Put one image (value 100) into the engine and hold it there."""
    engine.gate.clear()
    first = asyncio.ensure_future(batcher.submit(picture(100), deadline_s=2000.0))
    await until(engine.running.is_set)
    return first


async def test_a_cancelled_neighbour_costs_the_others_nothing(batcher: Batcher, engine: FakeEngine) -> None:
    first = await busy(batcher, engine)
    waiting = [asyncio.ensure_future(batcher.submit(picture(number), deadline_s=2000.0)) for number in range(3)]
    await until(lambda: batcher.waiting == 3)

    waiting[1].cancel()
    engine.gate.set()

    assert value(await first) == 100
    assert value(await waiting[0]) == 0
    assert value(await waiting[2]) == 2
    assert waiting[1].cancelled()
    assert [100] in engine.batches
    assert all(1 not in batch for batch in engine.batches), "the engine ran an image whose caller had gone"


async def test_callers_who_go_leave_nothing_in_the_queue(batcher: Batcher, engine: FakeEngine) -> None:
    first = await busy(batcher, engine)
    for number in range(100):
        waiting = asyncio.ensure_future(batcher.submit(picture(number), deadline_s=1e9))
        await until(lambda: batcher.waiting == 1)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert batcher.waiting == 0
    engine.gate.set()
    assert value(await first) == 100
    assert engine.batches == [[100]]


async def test_a_caller_that_goes_while_the_engine_runs_costs_the_others_nothing(
    batcher: Batcher, engine: FakeEngine
) -> None:
    first = await busy(batcher, engine)
    waiting = [asyncio.ensure_future(batcher.submit(picture(number), deadline_s=2000.0)) for number in range(4)]
    await until(lambda: batcher.waiting == 4)
    first.cancel()
    engine.running.clear()
    engine.gate.set()
    await until(lambda: len(engine.batches) == 2)

    waiting[0].cancel()

    assert [value(row) for row in await asyncio.gather(*waiting[1:])] == [1, 2, 3]
    assert value(await batcher.submit(picture(9), deadline_s=2000.0)) == 9


async def test_what_waits_is_taken_together_the_moment_the_engine_is_free(batcher: Batcher, engine: FakeEngine) -> None:
    first = await busy(batcher, engine)
    waiting = [asyncio.ensure_future(batcher.submit(picture(number), deadline_s=2000.0)) for number in range(5)]
    await until(lambda: batcher.waiting == 5)
    engine.gate.set()
    await asyncio.gather(first, *waiting)
    assert engine.batches == [[100], [0, 1, 2, 3], [4]]


async def test_only_batch_sizes_that_were_warmed_up_are_run(batcher: Batcher, engine: FakeEngine) -> None:
    first = await busy(batcher, engine)
    waiting = [asyncio.ensure_future(batcher.submit(picture(number), deadline_s=2000.0)) for number in range(3)]
    await until(lambda: batcher.waiting == 3)
    engine.gate.set()
    await asyncio.gather(first, *waiting)
    assert engine.batches == [[100], [0, 1], [2]]


async def test_the_earliest_deadline_goes_first(batcher: Batcher, engine: FakeEngine) -> None:
    first = await busy(batcher, engine)
    deadlines_s = {0: 1900.0, 1: 1500.0, 2: 1700.0}
    waiting = [asyncio.ensure_future(batcher.submit(picture(n), deadline_s=at)) for n, at in deadlines_s.items()]
    await until(lambda: batcher.waiting == 3)
    engine.gate.set()
    await asyncio.gather(first, *waiting)
    assert engine.batches == [[100], [1, 2], [0]]


async def test_a_deadline_that_passes_in_the_queue_is_not_computed(
    batcher: Batcher, engine: FakeEngine, clock: Clock
) -> None:
    first = await busy(batcher, engine)
    late = asyncio.ensure_future(batcher.submit(picture(1), deadline_s=1005.0))
    timely = asyncio.ensure_future(batcher.submit(picture(2), deadline_s=1100.0))
    await until(lambda: batcher.waiting == 2)
    clock.now_s = 1006.0
    engine.gate.set()
    await first
    with pytest.raises(
        DeadlinePassed, match=r"Expected the engine within the deadline. Received: it passed 1000 ms ago"
    ):
        await late
    assert value(await timely) == 2
    assert engine.batches == [[100], [2]]


async def test_the_engine_raising_fails_its_batch_and_nothing_else(batcher: Batcher, engine: FakeEngine) -> None:
    engine.failure = RuntimeError("the driver is gone, at 0xdeadbeef")
    with pytest.raises(EngineFailed, match=r"^The engine failed on the batch of this image\.$"):
        await batcher.submit(picture(1), deadline_s=2000.0)
    engine.failure = None
    assert value(await batcher.submit(picture(2), deadline_s=2000.0)) == 2


async def test_times_are_those_of_the_clock(batcher: Batcher, engine: FakeEngine, clock: Clock) -> None:
    first = await busy(batcher, engine)
    second = asyncio.ensure_future(batcher.submit(picture(2), deadline_s=2000.0))
    await until(lambda: batcher.waiting == 1)
    clock.now_s += 3.0
    engine.gate.set()
    assert (await first).infer_s == 3.0
    assert (await second).queue_s == 3.0


async def test_admission_takes_all_images_or_none(batcher: Batcher) -> None:
    with batcher.admit(4, deadline_s=2000.0):
        with (
            pytest.raises(Overloaded, match=r"Expected room for 3 images. Received: 4 of 6 places taken") as refusal,
            batcher.admit(3, deadline_s=2000.0),
        ):
            pytest.fail("admitted over the limit")
        assert refusal.value.retry_after_s == pytest.approx(1.0)
        with batcher.admit(2, deadline_s=2000.0):
            assert batcher.admitted == 6
    assert batcher.admitted == 0


async def test_more_images_than_there_are_places_is_never_worth_retrying(batcher: Batcher) -> None:
    with (
        pytest.raises(BadRequest, match=r"Expected at most 6 images. Received: 7"),
        batcher.admit(7, deadline_s=2000.0),
    ):
        pytest.fail("admitted over the limit")


async def test_a_deadline_that_cannot_be_met_is_refused_before_any_work(batcher: Batcher) -> None:
    with (
        batcher.admit(3, deadline_s=1003.0),
        pytest.raises(DeadlineUnreachable, match=r"Expected at least 4000 ms until the deadline. Received: 3500 ms"),
        batcher.admit(1, deadline_s=1003.5),
    ):
        pytest.fail("admitted work that cannot be done in time")
    with batcher.admit(3, deadline_s=1003.5):
        assert batcher.admitted == 3


async def test_what_waits_with_a_later_deadline_is_not_in_the_way(batcher: Batcher) -> None:
    with batcher.admit(5, deadline_s=2000.0), batcher.admit(1, deadline_s=1001.0):
        assert batcher.admitted == 6


async def test_what_is_in_the_engine_is_counted_once(batcher: Batcher, engine: FakeEngine) -> None:
    engine.gate.clear()
    with batcher.admit(4, deadline_s=1010.0):
        running = [asyncio.ensure_future(batcher.submit(picture(n), deadline_s=1010.0)) for n in range(4)]
        await until(engine.running.is_set)
        with batcher.admit(2, deadline_s=1006.0):  # 2 and what is in the engine, whose deadline is later
            pass
        with (
            pytest.raises(
                DeadlineUnreachable, match=r"Expected at least 6000 ms until the deadline. Received: 5500 ms"
            ),
            batcher.admit(2, deadline_s=1005.5),
        ):
            pytest.fail("admitted work that cannot be done in time")
        with batcher.admit(2, deadline_s=1016.0):  # what is in the engine has an earlier deadline, too
            pass
        engine.gate.set()
        await asyncio.gather(*running)


async def test_the_estimate_follows_what_the_engine_really_takes(
    batcher: Batcher, engine: FakeEngine, clock: Clock
) -> None:
    for _ in range(50):
        engine.running.clear()
        first = await busy(batcher, engine)
        clock.now_s += 0.25
        engine.gate.set()
        await first
    assert batcher.seconds_per_image == pytest.approx(0.25, rel=0.02)


async def test_one_stall_does_not_close_the_door_on_all_who_come_after(
    batcher: Batcher, engine: FakeEngine, clock: Clock
) -> None:
    first = await busy(batcher, engine)
    clock.now_s += 500.0
    engine.gate.set()
    await first
    assert batcher.seconds_per_image == pytest.approx(1.1)
    # However slow the engine seems to be: while it is idle there is no other way to find out.
    batcher.seconds_per_image = 1e6
    with batcher.admit(1, deadline_s=clock.now_s + 0.1):
        assert value(await batcher.submit(picture(1), deadline_s=clock.now_s + 0.1)) == 1


async def test_a_fault_beside_the_engine_fails_its_batch_and_nothing_else(engine: FakeEngine, clock: Clock) -> None:
    faults = [MemoryError("no room for a histogram")]

    def on_batch(_: int) -> None:
        if faults:
            raise faults.pop()

    slot = Slot()
    batcher = Batcher(engine, slot, batch_sizes=(1,), limit=2, seconds_per_image=1.0, clock=clock, on_batch=on_batch)
    batcher.start()
    with pytest.raises(EngineFailed):
        await batcher.submit(picture(1), deadline_s=2000.0)
    assert value(await batcher.submit(picture(2), deadline_s=2000.0)) == 2
    await batcher.close()
    slot.close()


async def test_the_death_of_the_queue_is_told_and_nobody_waits_for_ever(engine: FakeEngine, clock: Clock) -> None:
    deaths: list[BaseException] = []
    slot = Slot()
    batcher = Batcher(
        engine, slot, batch_sizes=(1,), limit=9, seconds_per_image=1.0, clock=clock, on_death=deaths.append
    )
    batcher.batch_sizes = ()  # a fault of ours: there is no size to run
    batcher.start()
    with pytest.raises(NotReady):
        await asyncio.wait_for(batcher.submit(picture(1), deadline_s=2000.0), timeout=30)
    assert [type(error) for error in deaths] == [IndexError]
    with pytest.raises(NotReady):
        await batcher.submit(picture(2), deadline_s=2000.0)
    await batcher.close()
    slot.close()


async def test_closing_answers_those_who_wait(batcher: Batcher, engine: FakeEngine) -> None:
    first = await busy(batcher, engine)
    waiting = asyncio.ensure_future(batcher.submit(picture(1), deadline_s=2000.0))
    await until(lambda: batcher.waiting == 1)
    closing = asyncio.ensure_future(batcher.close())
    engine.gate.set()
    await closing
    assert value(await first) == 100
    with pytest.raises(NotReady, match="draining"):
        await waiting
    with pytest.raises(NotReady, match="draining"):
        await batcher.submit(picture(2), deadline_s=2000.0)
    with pytest.raises(NotReady, match="draining"), batcher.admit(1, deadline_s=2000.0):
        pytest.fail("admitted to a queue that is closed")


async def test_two_batchers_on_one_slot_never_run_at_once(engine: FakeEngine, clock: Clock) -> None:
    slot, other = Slot(), FakeEngine()
    pair = [
        Batcher(run, slot, batch_sizes=(1,), limit=2, seconds_per_image=1.0, clock=clock) for run in (engine, other)
    ]
    for each in pair:
        each.start()
    first = await busy(pair[0], engine)
    second = asyncio.ensure_future(pair[1].submit(picture(2), deadline_s=2000.0))
    await until(lambda: pair[1].waiting == 1)
    assert not other.running.is_set()
    engine.gate.set()
    assert value(await first) == 100
    assert value(await second) == 2
    for each in pair:
        await each.close()
    slot.close()
