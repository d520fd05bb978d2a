"""So many units of something, handed out in the order of asking; does not know what they stand for."""

import asyncio
from collections import deque


class Permits:
    """A semaphore whose holders may take several units at once, all of them or none.

    Whoever asks first is served first, also before those who ask for less: a large share is not starved by small ones.

    Args:
        total: How many units there are, at least 1.

    Attributes:
        total: How many units there are.
        free: How many of them nobody holds.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.free = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def acquire(self, units: int = 1) -> None:
        """Take units, once they are free and all who asked before have theirs.

        Args:
            units: How many, 1 to `total`.
        """
        if not self._waiting and units <= self.free:
            self.free -= units
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((units, granted))
        try:
            await granted
        except asyncio.CancelledError:
            # Either they were granted in this very turn, or those behind may have been waiting for this one alone.
            self.release(units if granted.done() and not granted.cancelled() else 0)
            raise

    def try_acquire(self, units: int = 1) -> bool:
        """Take units if they are free now; whether they were."""
        if units > self.free:
            return False
        self.free -= units
        return True

    def release(self, units: int = 1) -> None:
        """Give units back."""
        self.free += units
        while self._waiting and (self._waiting[0][1].done() or self._waiting[0][0] <= self.free):
            wanted, granted = self._waiting.popleft()
            if not granted.done():
                self.free -= wanted
                granted.set_result(None)
