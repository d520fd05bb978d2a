"""Runs on a device: what they return, what they raise, and what becomes of those that do not end."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from service.device import Device, RunHung


@pytest.fixture
async def device() -> AsyncIterator[Device]:
    device = Device(2)
    yield device
    device.close()


async def test_a_run_gives_what_it_returned_or_raised(device: Device) -> None:
    def fail() -> None:
        raise ZeroDivisionError("by zero")

    assert await device.run(lambda: threading.current_thread().name.startswith("engine"), allowed_s=30)
    with pytest.raises(ZeroDivisionError, match="by zero"):
        await device.run(fail, allowed_s=30)
    assert device.stuck == 0


async def test_a_run_that_does_not_end_is_left_to_itself(device: Device) -> None:
    gate = threading.Event()
    with pytest.raises(RunHung, match=r"Expected an end within 0\.1 s. Received: none"):
        await device.run(lambda: gate.wait(timeout=60), allowed_s=0.1)
    assert device.stuck == 1
    # Both lanes still have a thread.
    both = threading.Barrier(2)
    await asyncio.gather(*(device.run(lambda: both.wait(timeout=30), allowed_s=60) for _ in range(2)))
    gate.set()
    async with asyncio.timeout(30):
        while device.stuck:  # noqa: ASYNC110  # told by a callback of the event loop
            await asyncio.sleep(0)


async def test_a_run_that_never_began_costs_no_thread(device: Device) -> None:
    gate, began = threading.Event(), threading.Event()
    running = [asyncio.ensure_future(device.run(lambda: gate.wait(timeout=60), allowed_s=60)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(RunHung):
        await device.run(began.set, allowed_s=0.1)
    assert device.stuck == 0
    gate.set()
    assert await asyncio.gather(*running) == [True, True]
    assert await device.run(began.is_set, allowed_s=60) is False


async def test_one_more_run_than_there_are_lanes_may_wait_for_one(device: Device) -> None:
    assert (device.lanes, device.turns.total, device.free) == (2, 3, 2)
    for free in (1, 0, 0):
        await device.turns.acquire()
        assert device.free == free
    alone = Device(1)
    assert (alone.turns.total, alone.free) == (1, 1)
    alone.close()


async def test_a_process_that_was_stopped_has_not_waited(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    now_s, jump_s = loop.time, 0.0
    monkeypatch.setattr(loop, "time", lambda: now_s() + jump_s)
    gate, running = threading.Event(), threading.Event()

    def work() -> str:
        running.set()
        assert gate.wait(timeout=60)
        return "late, but there"

    waiting = asyncio.ensure_future(device.run(work, allowed_s=60))
    while not running.is_set():  # noqa: ASYNC110  # set by another thread
        await asyncio.sleep(0)
    jump_s = 3600.0
    for _ in range(20):
        await asyncio.sleep(0)
    gate.set()
    assert await waiting == "late, but there"


async def test_the_whole_device_is_free_again_afterwards(device: Device) -> None:
    async with device.whole():
        assert device.turns.free == 0
    assert device.turns.free == device.turns.total
