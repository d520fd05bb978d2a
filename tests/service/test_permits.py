"""Permits go to those who ask first, all that they ask for or none."""

import asyncio

import pytest

from service.permits import Permits


async def settled() -> None:
    """Let everything that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_is_free_is_had_at_once() -> None:
    permits = Permits(3)
    await permits.acquire(2)
    assert permits.free == 1
    assert not permits.try_acquire(2)
    assert permits.try_acquire(1)
    assert permits.free == 0
    permits.release(3)
    assert permits.free == 3


async def test_a_large_share_is_not_starved_by_small_ones() -> None:
    permits = Permits(2)
    await permits.acquire()
    large, small = asyncio.ensure_future(permits.acquire(2)), asyncio.ensure_future(permits.acquire())
    await settled()
    assert not large.done()
    assert not small.done(), "it came later, and would have kept the large one waiting"
    permits.release()
    await settled()
    assert large.done()
    assert not small.done()
    permits.release(2)
    await asyncio.wait_for(small, timeout=30)
    assert permits.free == 1


async def test_who_goes_while_waiting_leaves_the_way_free() -> None:
    permits = Permits(2)
    await permits.acquire()
    large, small = asyncio.ensure_future(permits.acquire(2)), asyncio.ensure_future(permits.acquire())
    await settled()
    large.cancel()
    await asyncio.wait_for(small, timeout=30)
    assert permits.free == 0


async def test_who_goes_in_the_moment_of_getting_it_gives_it_back() -> None:
    permits = Permits(1)
    await permits.acquire()
    waiting = asyncio.ensure_future(permits.acquire())
    await settled()
    permits.release()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert permits.free == 1
