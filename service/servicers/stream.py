"""The flow of one stream: reads while there is room, answers side by side; knows no message and no model."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from service.allowance import Allowance
from service.errors import NotReady

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")

# By then a balancer sends the caller elsewhere. Who finds nobody goes on asking for a while: a server starts again.
_RECONNECT_S = 0.5


@dataclass(frozen=True)
class Memory(Generic[RequestT]):
    """What messages are held in, and how large each is."""

    allowance: Allowance
    size_bytes: Callable[[RequestT], int]


async def flow(
    requests: AsyncIterator[RequestT],
    answer: Callable[[RequestT], Awaitable[ResponseT]],
    window: Callable[[RequestT], int],
    memory: Memory[RequestT],
    draining: asyncio.Event,
) -> AsyncGenerator[ResponseT, None]:
    """Answer each message of a stream in a task of its own.

    A message counts until its answer has been taken, so a caller who reads no answers is not read from either. However
    the messages end, those that were read are answered first. Closing this closes all tasks.

    Args:
        requests: The messages.
        answer: Answers one of them; what it raises ends the stream.
        window: How many messages may be read and not yet answered, at least 1; asked with the first one.
        memory: Where a message's bytes are held until its answer has been taken; the next one is read when they are.
        draining: Set when no more messages shall be read.

    Yields:
        The answers, in the order in which they are ready.

    Raises:
        NotReady: The server drains, and the caller had not said that it was done.
    """
    room = asyncio.Semaphore(1)
    ready: asyncio.Queue[asyncio.Future[ResponseT] | None] = asyncio.Queue()
    answering: dict[asyncio.Future[ResponseT], int] = {}  # and the bytes that are held for it

    async def read() -> None:
        first = True
        await room.acquire()
        async for request in requests:
            if first:
                first = False
                for _ in range(window(request) - 1):
                    room.release()
            taken = await memory.allowance.take(memory.size_bytes(request))
            task = asyncio.ensure_future(answer(request))
            answering[task] = taken
            task.add_done_callback(ready.put_nowait)
            # Before the next message is read, not after: what is read is held in memory.
            await room.acquire()

    reading = asyncio.create_task(read())
    reading.add_done_callback(lambda _: ready.put_nowait(None))
    stopping = asyncio.create_task(draining.wait())
    stopping.add_done_callback(lambda _: reading.cancel())
    try:
        while answering or not reading.done():
            if task := await ready.get():
                try:
                    yield task.result()
                finally:
                    memory.allowance.give_back(answering.pop(task))
                room.release()
        if reading.cancelled():
            raise NotReady("Expected a server that is serving. Received: it is draining.", _RECONNECT_S)
        reading.result()
    finally:
        left: list[asyncio.Future[Any]] = [reading, stopping, *answering]
        for each in left:
            each.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        for taken in answering.values():
            memory.allowance.give_back(taken)
