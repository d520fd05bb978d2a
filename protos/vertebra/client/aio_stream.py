"""A stream of images for asyncio; the same steps as sync_stream.py, and like it knows nothing of what messages hold."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar, cast

import grpc

from vertebra.client import errors
from vertebra.client.errors import Cancelled, VertebraError
from vertebra.client.messages import ImageSource
from vertebra.client.stream import ENDING_S, Ledger, Result
from vertebra.v1 import vision_pb2

T = TypeVar("T")

# What gRPC itself says of a write into a call that has ended; no server says it.
_FAILED_WRITE = "Internal error from Core"
_LOOK_S = 0.001

# Generic in its types alone.
Call: TypeAlias = "grpc.aio.StreamStreamCall[vision_pb2.EmbedStreamRequest, vision_pb2.EmbedStreamResponse]"


class AsyncStream:
    """Takes images, sends them and receives answers, each in a task; hands results back in the caller's.

    Args:
        start: Starts a call.
        images: The images.
        ledger: The books.
    """

    def __init__(self, start: Callable[[], Call], images: AsyncIterable[ImageSource], ledger: Ledger) -> None:
        self._start = start
        self._images = images
        self._ledger = ledger
        self._changed = asyncio.Event()
        self._call: Call | None = None
        self._tasks: list[asyncio.Task[None]] = []  # of the call
        self._ended = False
        self._error: VertebraError | None = None  # what the call ended with, where it did not end well
        self._status: grpc.aio.AioRpcError | None = None

    async def results(self) -> AsyncGenerator[Result, None]:
        """One result an image, in order."""
        taking = asyncio.create_task(self._take())
        try:
            while (result := await self._next()) is not None:
                yield result
        finally:
            await self._end(taking)

    async def _next(self) -> Result | None:
        while (result := self._ledger.hand_back()) is None:
            if self._ledger.is_settled:
                if self._tasks:
                    await asyncio.wait(self._tasks, timeout=ENDING_S)
                self._ledger.check_end()
                return None
            if self._ended:
                await asyncio.sleep(self._ledger.wait_s(self._error))
                await self._leave_call()
            elif self._call is None and self._ledger.has_unsent:
                self._begin()
            else:
                await self._wait()
        self._tell()  # there is room for another one
        return result

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._ledger.left_s()):
                await self._changed.wait()
        except TimeoutError:
            self._ledger.check_left()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _leave_call(self) -> None:
        await self._end()
        self._ledger.begin_again()
        self._ended, self._error, self._status = False, None, None
        self._call, self._tasks = None, []

    def _begin(self) -> None:
        self._call = self._start()
        self._call.add_done_callback(self._keep_status)
        self._tasks = [asyncio.create_task(self._send(self._call)), asyncio.create_task(self._receive(self._call))]

    async def _end(self, *others: asyncio.Task[None]) -> None:
        if self._call is not None:
            self._call.cancel()
        for task in (*self._tasks, *others):
            task.cancel()
        await asyncio.gather(*self._tasks, *others, return_exceptions=True)

    async def _take(self) -> None:
        failure: BaseException | None = None
        try:
            images = aiter(self._images)
            while True:
                while not self._ledger.has_room:
                    await self._changed.wait()
                self._ledger.take(await anext(images))
                self._tell()
        except StopAsyncIteration:
            pass
        except BaseException as error:
            failure = error
            if is_cancelled():
                raise
        finally:
            self._ledger.end(failure)
            self._tell()

    async def _send(self, call: Call) -> None:
        while True:
            while not (self._ledger.has_unsent or self._ledger.is_all_sent):
                await self._changed.wait()
            if not self._ledger.has_unsent:
                break
            tag, source = self._ledger.send()
            try:
                request = await asyncio.to_thread(self._ledger.request, tag, source)
            except Exception as error:
                self._ledger.fail(tag, error)
                self._tell()
            else:
                await call.write(request)
        await call.done_writing()

    async def _receive(self, call: Call) -> None:
        # What gRPC makes of a channel that its owner closes is a cancelled task.
        error: VertebraError | None = Cancelled(grpc.StatusCode.CANCELLED, "Expected an open client. Received: closed.")
        try:
            async for response in call:
                self._ledger.answer(response)
                self._tell()
            error = None
        except grpc.aio.AioRpcError as cause:
            error = self._ended_with(await self._ending(call, cause))
        except VertebraError as unreadable:
            call.cancel()
            error = unreadable
        finally:
            self._ended, self._error = True, error
            self._tell()

    def _keep_status(self, call: Call) -> None:
        # A write that fails because the call has ended overwrites how it ended: https://github.com/grpc/grpc/issues/36066
        # In this moment, and no later for certain, it is still there.
        self._status = self._status or status_of(call)

    async def _ending(self, call: Call, cause: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        # The same the other way round: the write fails first, and how the call ended comes in a moment, untold.
        status = self._status or cause
        with suppress(TimeoutError):
            async with asyncio.timeout(ENDING_S):
                while status.details() == _FAILED_WRITE:
                    await asyncio.sleep(_LOOK_S)
                    status = status_of(call)
        return status

    def _ended_with(self, status: grpc.aio.AioRpcError) -> VertebraError | None:
        if status.code() is grpc.StatusCode.OK:
            return None
        error = errors.from_grpc(status)
        error.__cause__ = status
        return error


def is_cancelled() -> bool:
    """Whether it is this task that is cancelled: who awaits another one that is gets the same error."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def status_of(call: Call) -> grpc.aio.AioRpcError:
    """How a call ended that has ended."""
    code, details, trailers = at_once(call.code()), at_once(call.details()), at_once(call.trailing_metadata())
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, details)


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return cast(T, end.value)
    raise RuntimeError("Expected a coroutine that does not wait. Received: one that does.")
