"""Where engines run: so many runs at once as there are lanes, and none for ever; does not know what is run.

A lane is a core of a CPU, or all of a GPU. Two runs that each use every core get in each other's way, so the models of
a process share the lanes of one device. A core whose run has ended would idle until the event loop has heard of it and
sent the next, 6 % of the time, so beside the runs one more may wait in the lanes' own queue.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from service.permits import Permits

Answer = TypeVar("Answer")

# Patience is counted in turns of the event loop, not read off a clock: a process that was stopped, or a machine that
# slept, has not waited.
_TURN_S = 0.125


class RunHung(Exception):
    """A run has taken longer than it may. Its thread cannot be stopped, and was left to itself."""


class _Patience:
    def __init__(self, allowed_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._turns_left = math.ceil(allowed_s / _TURN_S)
        self._timer = self._loop.call_later(_TURN_S, self._turn)
        self.over = self._loop.create_future()

    def _turn(self) -> None:
        self._turns_left -= 1
        if self._turns_left > 0:
            self._timer = self._loop.call_later(_TURN_S, self._turn)
        elif not self.over.done():
            self.over.set_result(None)

    def end(self) -> None:
        self._timer.cancel()
        self.over.cancel()


class Device:
    """Lanes, and a thread for each.

    Args:
        lanes: How many runs there may be at once, at least 1.

    Attributes:
        lanes: How many runs there may be at once.
        turns: The permits to run; whoever runs something holds at least one. One more than there are lanes, except
            where there is one lane: there a batch had better grow until it is free.
        stuck: How many threads are lost to runs that have not ended.
    """

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        self.turns = Permits(lanes + 1 if lanes > 1 else lanes)
        self.stuck = 0
        self._threads = self._fresh_threads()

    @property
    def free(self) -> int:
        """How many lanes nobody has a turn for."""
        return max(0, self.turns.free - self.turns.total + self.lanes)

    @asynccontextmanager
    async def whole(self) -> AsyncIterator[None]:
        """Hold every lane."""
        await self.turns.acquire(self.turns.total)
        try:
            yield
        finally:
            self.turns.release(self.turns.total)

    async def run(self, work: Callable[[], Answer], allowed_s: float) -> Answer:
        """Run something in a thread of the device.

        Args:
            work: What is run.
            allowed_s: How long it may take, in seconds.

        Returns:
            What it returned.

        Raises:
            RunHung: It took longer. Its thread is replaced.
        """
        job = self._threads.submit(work)
        future = asyncio.wrap_future(job)
        patience = _Patience(allowed_s)
        try:
            await asyncio.wait((future, patience.over), return_when=asyncio.FIRST_COMPLETED)
        finally:
            patience.end()
            # Hung or cancelled. Where it had begun, its turn is over but its thread is not free.
            if (is_left := not future.done()) and not job.cancel():
                self._abandon(future)
        if is_left:
            raise RunHung(f"Expected an end within {allowed_s:.1f} s. Received: none.")
        return future.result()

    def close(self) -> None:
        """End the threads once what they run has ended, without waiting for it."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _fresh_threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.lanes, thread_name_prefix="engine")

    def _abandon(self, future: asyncio.Future[Answer]) -> None:
        self.stuck += 1
        future.add_done_callback(self._ended)
        # What else runs in the old threads ends there.
        self._threads.shutdown(wait=False)
        self._threads = self._fresh_threads()

    def _ended(self, future: asyncio.Future[Answer]) -> None:
        self.stuck -= 1
        if not future.cancelled():
            future.exception()  # looked at, so that asyncio does not complain that nobody has
