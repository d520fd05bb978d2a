"""A stream of images for threads; keeps the books of stream.py, and knows nothing of what messages hold."""

from collections.abc import Callable, Generator, Iterable, Iterator
from threading import Condition, Thread
from typing import TypeAlias

import grpc

from vertebra.client import errors
from vertebra.client.errors import VertebraError
from vertebra.client.messages import ImageSource
from vertebra.client.stream import ENDING_S, Ledger, Result
from vertebra.v1 import vision_pb2

Call: TypeAlias = "grpc._CallIterator[vision_pb2.EmbedStreamResponse]"  # a name of its types alone
Start: TypeAlias = Callable[[Iterator[vision_pb2.EmbedStreamRequest]], Call]


class SyncStream:
    """Takes images, sends them and receives answers, each in a thread; hands results back in the caller's.

    Args:
        start: Starts a call with its messages.
        images: The images.
        ledger: The books; touched under the lock alone.
    """

    def __init__(self, start: Start, images: Iterable[ImageSource], ledger: Ledger) -> None:
        self._start = start
        self._images = images
        self._ledger = ledger
        self._changed = Condition()
        self._closed = False
        self._calls = 0
        self._call: Call | None = None
        self._ended = False
        self._error: VertebraError | None = None  # what the call ended with, where it did not end well

    def results(self) -> Generator[Result, None, None]:
        """One result an image, in order."""
        Thread(target=self._take, name="images", daemon=True).start()
        try:
            while (result := self._next()) is not None:
                yield result
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()
            if self._call is not None:
                self._call.cancel()

    def _next(self) -> Result | None:
        with self._changed:
            while (result := self._ledger.hand_back()) is None:
                if self._ledger.is_settled:
                    self._changed.wait_for(lambda: self._ended or self._call is None, ENDING_S)
                    self._ledger.check_end()
                    return None
                if self._ended:
                    # The lock is open while this waits.
                    self._changed.wait_for(lambda: False, self._ledger.wait_s(self._error))
                    self._leave_call()
                elif self._call is None and self._ledger.has_unsent:
                    self._begin()
                elif not self._changed.wait(self._ledger.left_s()):
                    self._ledger.check_left()
            self._changed.notify_all()  # there is room for another one
            return result

    def _leave_call(self) -> None:
        self._ledger.begin_again()
        self._ended, self._error = False, None
        self._calls += 1
        self._call = None

    def _begin(self) -> None:
        self._call = self._start(self._requests(self._calls))
        Thread(target=self._receive, args=(self._call,), name="answers", daemon=True).start()

    def _take(self) -> None:
        failure: BaseException | None = None
        try:
            images = iter(self._images)
            while self._has_room():
                source = next(images)
                with self._changed:
                    self._ledger.take(source)
                    self._changed.notify_all()
        except StopIteration:
            pass
        except BaseException as error:  # even SystemExit: it would end this thread alone, and the caller would wait on
            failure = error
        with self._changed:
            self._ledger.end(failure)
            self._changed.notify_all()

    def _has_room(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._ledger.has_room)
            return not self._closed

    def _requests(self, call: int) -> Iterator[vision_pb2.EmbedStreamRequest]:
        """The messages of one call; gRPC reads them in a thread of its own."""
        while (sent := self._send(call)) is not None:
            try:
                request = self._ledger.request(*sent)
            except Exception as error:
                with self._changed:
                    self._ledger.fail(sent[0], error)
                    self._changed.notify_all()
            else:
                yield request

    def _send(self, call: int) -> tuple[int, ImageSource] | None:
        def is_over() -> bool:
            return self._closed or self._ended or call != self._calls

        with self._changed:
            self._changed.wait_for(lambda: is_over() or self._ledger.has_unsent or self._ledger.is_all_sent)
            return None if is_over() or not self._ledger.has_unsent else self._ledger.send()

    def _receive(self, call: Call) -> None:
        error: VertebraError | None = None
        try:
            for response in call:
                with self._changed:
                    self._ledger.answer(response)
                    self._changed.notify_all()
        except grpc.RpcError as cause:
            error = errors.from_grpc(cause)
            error.__cause__ = cause
        except VertebraError as unreadable:
            call.cancel()
            error = unreadable
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()
