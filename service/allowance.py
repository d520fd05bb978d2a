"""A bound on what all requests together may hold of something; who does not fit is refused at once, or waits."""

from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import BadRequest, MemoryFull
from service.permits import Permits

# Nobody knows when those who hold it will be done: about as long as a request takes.
_RETRY_S = 0.1


class Allowance:
    """So much of something for all requests of the process.

    Args:
        what: The unit, for messages: "bytes".
        limit: How much of it may be held at once.
    """

    def __init__(self, what: str, limit: int) -> None:
        self._what = what
        self._permits = Permits(limit)

    @property
    def held(self) -> int:
        """How much of it is held."""
        return self._permits.total - self._permits.free

    @contextmanager
    def hold(self, amount: int) -> Iterator[None]:
        """Hold an amount for as long as the block lasts.

        Args:
            amount: How much, at least 0.

        Yields:
            Nothing.

        Raises:
            BadRequest: It is more than there is at all.
            MemoryFull: It is more than is free now.
        """
        limit = self._permits.total
        if amount > limit:
            raise BadRequest(f"Expected at most {limit} {self._what} in a request. Received: {amount}.")
        if not self._permits.try_acquire(amount):
            raise MemoryFull(
                f"Expected room for {amount} {self._what}. Received: {self.held} of {limit} are held.", _RETRY_S
            )
        try:
            yield
        finally:
            self._permits.release(amount)

    async def take(self, amount: int) -> int:
        """Hold an amount once it is free, until it is given back; of what is more than there is at all, all there is.

        Args:
            amount: How much, at least 0.

        Returns:
            How much is to be given back.
        """
        taken = min(amount, self._permits.total)
        await self._permits.acquire(taken)
        return taken

    def give_back(self, taken: int) -> None:
        """Give back what was taken."""
        self._permits.release(taken)
