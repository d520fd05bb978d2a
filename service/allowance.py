"""A bound on what all requests together may hold of something, such as bytes; who does not fit is refused at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from service.errors import BadRequest, MemoryFull

# Nobody knows when those who hold it will be done: about as long as a request takes.
_RETRY_S = 0.1


class Allowance:
    """So much of something for all requests of the process.

    Args:
        what: The unit, for messages: "bytes".
        limit: How much of it may be held at once.

    Attributes:
        held: How much of it is held.
    """

    def __init__(self, what: str, limit: int) -> None:
        self._what = what
        self.limit = limit
        self.held = 0

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
        if amount > self.limit:
            raise BadRequest(f"Expected at most {self.limit} {self._what} in a request. Received: {amount}.")
        if self.held + amount > self.limit:
            raise MemoryFull(
                f"Expected room for {amount} {self._what}. Received: {self.held} of {self.limit} are held.", _RETRY_S
            )
        self.held += amount
        try:
            yield
        finally:
            self.held -= amount


@dataclass(frozen=True)
class Allowances:
    """What the requests of a process may hold: bytes of images as they came, and pixels as decoding holds them."""

    image_bytes: Allowance
    image_pixels: Allowance
