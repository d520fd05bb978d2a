"""The batcher against a fake engine and a fake clock: what it promises to each caller, whatever the others do."""

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from service.batcher import Batcher, Death, Read, Row, Way
from service.device import Device
from service.engine import Arrays
from service.errors import BadImage, BadRequest, DeadlinePassed, DeadlineUnreachable, EngineFailed, NotReady, Overloaded
from tests.service.conftest import Clock, until

Pixels = NDArray[np.uint8]


class FakeEngine:
    """Answers each image with its first number, and waits at a gate while that is closed."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.running = threading.Event()
        self.batches: list[list[int]] = []
        self.failure: Exception | None = None
        self.poison: int | None = None

    def __call__(self, pixels: Pixels) -> Arrays:
        self.batches.append([int(image[0, 0, 0]) for image in pixels])
        self.running.set()
        assert self.gate.wait(timeout=30)
        if self.failure is not None:
            raise self.failure
        if self.poison in self.batches[-1]:
            raise RuntimeError(f"no answer to {self.poison}")
        return {"value": pixels[:, 0, 0, 0].astype(np.float32)}


def way(engine: "FakeEngine", *sizes: int, seconds_per_image: float = 1.0) -> Way:
    return Way(engine, dict.fromkeys(sizes, seconds_per_image))


def picture(value: int) -> Pixels:
    return np.full((2, 2, 3), value, np.uint8)


def value(row: Row) -> float:
    return float(row.arrays["value"])


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def batcher(engine: FakeEngine, clock: Clock) -> AsyncIterator[Batcher]:
    device = Device(1)
    batcher = Batcher(device, way(engine, 1, 2, 4), limit=6, clock=clock)
    batcher.start()
    yield batcher
    engine.gate.set()
    await batcher.close()
    device.close()


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


async def test_a_lane_reads_what_comes_unread(batcher: Batcher, clock: Clock) -> None:
    threads: list[str] = []

    def read() -> Pixels:
        threads.append(threading.current_thread().name)
        clock.now_s += 3.0
        return picture(7)

    row = await batcher.submit(read, deadline_s=2000.0)

    assert (value(row), row.read_s, row.infer_s) == (7, 3.0, 0.0)
    assert len(threads) == 1
    assert threads[0].startswith("engine")
    # Reading took the lane as well, so it counts for what an image takes.
    assert batcher.places.seconds_per_image > 1.0


async def test_an_image_that_cannot_be_read_fails_alone(batcher: Batcher, engine: FakeEngine) -> None:
    def read() -> Pixels:
        raise BadImage("Expected an image. Received: none.")

    first = await busy(batcher, engine)
    images: list[Pixels | Read] = [picture(1), read, picture(2), read]
    waiting = [asyncio.ensure_future(batcher.submit(image, deadline_s=2000.0)) for image in images]
    await until(lambda: batcher.waiting == 4)
    engine.gate.set()
    await first
    for index in (1, 3):
        with pytest.raises(BadImage, match=r"^Expected an image. Received: none\.$"):
            await waiting[index]
    assert [value(await waiting[index]) for index in (0, 2)] == [1, 2]
    assert engine.batches == [[100], [1, 2]]


async def test_a_batch_of_nothing_that_can_be_read_is_not_run(engine: FakeEngine, clock: Clock) -> None:
    def read() -> Pixels:
        raise BadImage("Expected an image. Received: none.")

    deaths: list[Death] = []
    device = Device(1)
    batcher = Batcher(device, way(engine, 1), limit=6, clock=clock, on_death=deaths.append)
    batcher.start()
    with pytest.raises(BadImage):
        await batcher.submit(read, deadline_s=2000.0)
    assert (engine.batches, deaths, batcher.places.seconds_per_image) == ([], [], 1.0)
    await batcher.close()
    device.close()


async def test_an_image_is_read_once_however_often_its_batch_is_run(batcher: Batcher, engine: FakeEngine) -> None:
    reads: list[int] = []

    def reading(number: int) -> Read:
        def read() -> Pixels:
            reads.append(number)
            return picture(number)

        return read

    first = await busy(batcher, engine)
    waiting = [asyncio.ensure_future(batcher.submit(reading(number), deadline_s=2000.0)) for number in range(4)]
    await until(lambda: batcher.waiting == 4)
    engine.poison = 2
    engine.gate.set()
    await first
    with pytest.raises(EngineFailed, match=r"^The engine failed on this image\.$"):
        await waiting[2]
    assert [value(await waiting[number]) for number in (0, 1, 3)] == [0, 1, 3]
    assert sorted(reads) == [0, 1, 2, 3]


async def test_what_nobody_waits_for_is_not_read(batcher: Batcher, engine: FakeEngine) -> None:
    reads: list[str] = []
    blocked, gate = threading.Event(), threading.Event()

    def slow() -> Pixels:
        blocked.set()
        assert gate.wait(timeout=30)
        return picture(1)

    def read() -> Pixels:
        reads.append("read")
        return picture(2)

    first = await busy(batcher, engine)
    slowly = asyncio.ensure_future(batcher.submit(slow, deadline_s=1900.0))
    gone = asyncio.ensure_future(batcher.submit(read, deadline_s=1901.0))
    await until(lambda: batcher.waiting == 2)
    engine.gate.set()
    await first
    # Both are in one batch by now, and the lane is at the first of them.
    await until(blocked.is_set)
    gone.cancel()
    await asyncio.wait([gone])
    gate.set()
    assert value(await slowly) == 1
    assert (reads, engine.batches) == ([], [[100], [1]])


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
    with pytest.raises(DeadlinePassed, match=r"Expected an answer in time. Received: one 3200 ms too late\."):
        await late
    assert value(await timely) == 2
    assert engine.batches == [[100], [2]]


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
            assert batcher.places.taken == 6
    assert batcher.places.taken == 0


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
        assert batcher.places.taken == 3


async def test_what_waits_with_a_later_deadline_is_not_in_the_way(batcher: Batcher) -> None:
    with batcher.admit(5, deadline_s=2000.0), batcher.admit(1, deadline_s=1001.0):
        assert batcher.places.taken == 6


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
    assert batcher.places.seconds_per_image == pytest.approx(0.25, rel=0.02)


async def test_one_stall_does_not_close_the_door_on_all_who_come_after(
    batcher: Batcher, engine: FakeEngine, clock: Clock
) -> None:
    first = await busy(batcher, engine)
    clock.now_s += 500.0
    engine.gate.set()
    await first
    assert batcher.places.seconds_per_image == pytest.approx(1.1)
    # However slow the engine seems to be: while it is idle there is no other way to find out.
    batcher.places.seconds_per_image = 1e6
    with batcher.admit(1, deadline_s=clock.now_s + 0.1):
        assert value(await batcher.submit(picture(1), deadline_s=clock.now_s + 0.1)) == 1


async def test_a_fault_beside_the_engine_fails_its_batch_and_nothing_else(engine: FakeEngine, clock: Clock) -> None:
    faults = [MemoryError("no room for a histogram")]

    def on_batch(_: int) -> None:
        if faults:
            raise faults.pop()

    device = Device(1)
    batcher = Batcher(device, way(engine, 1), limit=2, clock=clock, on_batch=on_batch)
    batcher.start()
    with pytest.raises(EngineFailed):
        await batcher.submit(picture(1), deadline_s=2000.0)
    assert value(await batcher.submit(picture(2), deadline_s=2000.0)) == 2
    await batcher.close()
    device.close()


async def test_the_death_of_the_queue_is_told_and_nobody_waits_for_ever(engine: FakeEngine) -> None:
    deaths: list[Death] = []

    def broken_clock() -> float:
        if queue.waiting:
            raise OSError("no clock")
        return 1000.0

    device = Device(1)
    queue = Batcher(device, way(engine, 1), limit=9, clock=broken_clock, on_death=deaths.append)
    queue.start()
    with pytest.raises(NotReady, match=r"Expected an engine that runs. Received: it is being replaced") as refusal:
        await asyncio.wait_for(queue.submit(picture(1), deadline_s=2000.0), timeout=30)
    assert refusal.value.retry_after_s == 0.5
    assert deaths == ["fault"]
    with pytest.raises(NotReady):
        await queue.submit(picture(2), deadline_s=2000.0)
    assert device.turns.free == 1
    await queue.close()
    device.close()


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


async def test_two_batchers_on_one_lane_never_run_at_once(engine: FakeEngine, clock: Clock) -> None:
    device, other = Device(1), FakeEngine()
    pair = [Batcher(device, way(each, 1), limit=2, clock=clock) for each in (engine, other)]
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
    device.close()


async def test_what_cannot_be_answered_in_time_makes_way(batcher: Batcher, engine: FakeEngine, clock: Clock) -> None:
    first = await busy(batcher, engine)
    late = asyncio.ensure_future(batcher.submit(picture(1), deadline_s=1005.0))
    timely = asyncio.ensure_future(batcher.submit(picture(2), deadline_s=1100.0))
    await until(lambda: batcher.waiting == 2)
    clock.now_s = 1004.5
    engine.gate.set()
    await first
    with pytest.raises(DeadlinePassed, match=r"Expected an answer in time. Received: one 1700 ms too late\."):
        await late
    assert value(await timely) == 2
    assert engine.batches == [[100], [2]]


async def test_what_nobody_waits_behind_is_worth_a_try(batcher: Batcher, clock: Clock) -> None:
    assert value(await batcher.submit(picture(1), deadline_s=clock.now_s + 0.001)) == 1


@pytest.mark.parametrize("jump_s", [-1e6, 1e6])
async def test_a_clock_that_jumps_loses_nobody(
    batcher: Batcher, engine: FakeEngine, clock: Clock, jump_s: float
) -> None:
    first = await busy(batcher, engine)
    second = asyncio.ensure_future(batcher.submit(picture(2), deadline_s=2000.0))
    await until(lambda: batcher.waiting == 1)
    clock.now_s += jump_s
    engine.gate.set()
    outcomes = await asyncio.wait_for(asyncio.gather(first, second, return_exceptions=True), timeout=30)
    assert [type(each) for each in outcomes] == [Row, Row if jump_s < 0 else DeadlinePassed]
    with batcher.admit(1, deadline_s=clock.now_s + 10):
        assert value(await batcher.submit(picture(3), deadline_s=clock.now_s + 10)) == 3


async def test_an_image_that_the_engine_raises_on_fails_alone(batcher: Batcher, engine: FakeEngine) -> None:
    engine.poison = 2
    first = await busy(batcher, engine)
    waiting = [asyncio.ensure_future(batcher.submit(picture(number), deadline_s=2000.0)) for number in range(4)]
    await until(lambda: batcher.waiting == 4)
    engine.gate.set()
    answers = await asyncio.gather(first, *waiting, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Row, Row, Row, EngineFailed, Row]
    assert engine.batches == [[100], [0, 1, 2, 3], [0, 1], [2, 3], [2], [3]]
    assert value(await batcher.submit(picture(5), deadline_s=2000.0)) == 5


async def test_a_poisonous_image_alone_is_not_taken_for_a_broken_engine(engine: FakeEngine, clock: Clock) -> None:
    deaths: list[Death] = []
    device = Device(1)
    batcher = Batcher(device, way(engine, 1), limit=9, clock=clock, on_death=deaths.append)
    batcher.start()
    engine.poison = 7
    for _ in range(5):
        with pytest.raises(EngineFailed, match=r"^The engine failed on this image\.$"):
            await batcher.submit(picture(7), deadline_s=2000.0)
    assert value(await batcher.submit(picture(1), deadline_s=2000.0)) == 1
    assert deaths == []
    await batcher.close()
    device.close()


async def test_an_engine_that_fails_on_everything_is_given_up(engine: FakeEngine, clock: Clock) -> None:
    deaths: list[Death] = []
    device = Device(1)
    batcher = Batcher(device, way(engine, 1), limit=9, clock=clock, on_death=deaths.append)
    batcher.start()
    engine.failure = RuntimeError("CUDA error 700: an illegal memory access was encountered")
    with pytest.raises(EngineFailed, match=r"^The engine failed on this image\.$"):
        await batcher.submit(picture(1), deadline_s=2000.0)
    await until(lambda: deaths == ["broken"])
    with pytest.raises(NotReady, match=r"it is being replaced"), batcher.admit(1, deadline_s=2000.0):
        pytest.fail("admitted to an engine that is broken")
    assert device.turns.free == 1
    await batcher.close()
    device.close()


async def test_an_engine_that_hangs_is_given_up_and_its_lane_is_free(engine: FakeEngine, clock: Clock) -> None:
    deaths: list[Death] = []
    device = Device(1)
    batcher = Batcher(
        device, way(engine, 1, seconds_per_image=1e-6), limit=9, clock=clock, patience_s=0.01, on_death=deaths.append
    )
    batcher.start()
    engine.gate.clear()
    hung = asyncio.ensure_future(batcher.submit(picture(1), deadline_s=2000.0))
    await until(engine.running.is_set)
    behind = asyncio.ensure_future(batcher.submit(picture(2), deadline_s=2000.0))
    with pytest.raises(EngineFailed, match=r"^The engine hung on the batch of this image\.$"):
        await hung
    with pytest.raises(NotReady, match="it is being replaced"):
        await behind
    assert deaths == ["hung"]
    assert (device.turns.free, device.stuck) == (1, 1)
    assert await device.run(lambda: "another thread", allowed_s=30) == "another thread"
    engine.gate.set()
    await until(lambda: device.stuck == 0)
    await batcher.close()
    device.close()


@dataclass
class Ways:
    """Two lanes, and an engine for each way."""

    device: Device
    batcher: Batcher
    narrow: FakeEngine
    wide: FakeEngine


@pytest.fixture
async def ways(clock: Clock) -> AsyncIterator[Ways]:
    device, narrow, wide = Device(2), FakeEngine(), FakeEngine()
    batcher = Batcher(
        device, way(narrow, 1, 2, 4, seconds_per_image=1.0), way(wide, 1, seconds_per_image=0.75), limit=16, clock=clock
    )
    batcher.start()
    yield Ways(device, batcher, narrow, wide)
    for engine in (narrow, wide):
        engine.gate.set()
    await batcher.close()
    device.close()


async def test_a_lonely_image_is_run_on_all_cores(ways: Ways) -> None:
    assert value(await ways.batcher.submit(picture(1), deadline_s=2000.0)) == 1
    assert (ways.wide.batches, ways.narrow.batches) == ([[1]], [])
    assert ways.device.turns.free == 3


async def test_images_that_come_together_are_run_side_by_side(ways: Ways) -> None:
    for engine in (ways.narrow, ways.wide):
        engine.gate.clear()
    pair = [asyncio.ensure_future(ways.batcher.submit(picture(number), deadline_s=2000.0)) for number in range(2)]
    await until(lambda: len(ways.narrow.batches) == 2)
    ways.narrow.gate.set()
    assert [value(row) for row in await asyncio.gather(*pair)] == [0, 1]
    assert (sorted(ways.narrow.batches), ways.wide.batches) == ([[0], [1]], [])


async def test_what_is_being_decoded_counts_as_company(ways: Ways) -> None:
    with ways.batcher.admit(2, deadline_s=2000.0):
        assert value(await ways.batcher.submit(picture(1), deadline_s=2000.0)) == 1
    assert (ways.wide.batches, ways.narrow.batches) == ([], [[1]])


async def test_what_waits_is_shared_out_evenly_over_the_free_lanes(ways: Ways) -> None:
    ways.wide.gate.clear()
    first = asyncio.ensure_future(ways.batcher.submit(picture(100), deadline_s=2000.0))
    await until(ways.wide.running.is_set)
    waiting = [asyncio.ensure_future(ways.batcher.submit(picture(number), deadline_s=2000.0)) for number in range(4)]
    await until(lambda: ways.batcher.waiting == 4)
    ways.wide.gate.set()
    await asyncio.gather(first, *waiting)
    assert sorted(ways.narrow.batches) == [[0, 1], [2, 3]]


async def test_one_batch_waits_for_the_first_lane_that_is_free(ways: Ways) -> None:
    ways.narrow.gate.clear()
    asked = [asyncio.ensure_future(ways.batcher.submit(picture(number), deadline_s=2000.0)) for number in range(16)]
    # Four run in each lane, four more wait for the first lane, and the rest can still be overtaken.
    await until(lambda: ways.device.turns.free == 0 and len(ways.narrow.batches) == 2)
    assert ways.batcher.waiting == 4
    ways.narrow.gate.set()
    assert [value(row) for row in await asyncio.gather(*asked)] == list(range(16))
    assert ways.wide.batches == []
    assert ways.device.turns.free == 3


async def test_what_must_wait_for_a_lane_is_late_sooner(ways: Ways, clock: Clock) -> None:
    ways.narrow.gate.clear()
    running = [asyncio.ensure_future(ways.batcher.submit(picture(number), deadline_s=2000.0)) for number in range(2)]
    await until(lambda: len(ways.narrow.batches) == 2)
    # An image takes a lane 1 s, and the first of two lanes is free in half a second.
    late, timely = (
        asyncio.ensure_future(ways.batcher.submit(picture(9), deadline_s=clock.now_s + left_s)) for left_s in (2.5, 9.0)
    )
    with pytest.raises(DeadlinePassed, match=r"Received: one \d+ ms too late\."):
        await late
    ways.narrow.gate.set()
    assert value(await timely) == 9
    await asyncio.gather(*running)


@pytest.mark.parametrize(("free", "busy"), [(2, False), (1, False), (0, True), (-1, True)])
async def test_a_device_without_a_free_lane_is_busy(ways: Ways, free: int, busy: bool) -> None:
    await ways.device.turns.acquire(2 - free)
    assert ways.batcher.is_busy is busy
    ways.device.turns.release(2 - free)


async def test_a_device_of_one_lane_leaves_reading_to_others(batcher: Batcher, engine: FakeEngine) -> None:
    first = await busy(batcher, engine)
    assert not batcher.is_busy
    engine.gate.set()
    await first


async def test_two_lanes_are_twice_as_soon_done(ways: Ways) -> None:
    assert ways.batcher.places.seconds_per_image == 0.5
