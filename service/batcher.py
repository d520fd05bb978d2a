"""One queue of images per model, run in batches the moment the engine is free; knows neither the wire nor the labels.

Work-conserving: nothing waits for a batch to fill. Images leave in the order of their deadlines; those whose caller has
gone or whose deadline has passed leave without being computed. Only batch sizes that were warmed up are run.
"""

import asyncio
import bisect
import heapq
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.engine import Arrays
from service.errors import BadRequest, DeadlinePassed, DeadlineUnreachable, EngineFailed, NotReady, Overloaded

logger = logging.getLogger(__name__)

# How much of the estimate of the engine's speed the newest batch makes up, and how far above it a batch counts at most:
# one stall of the whole machine is no reason to refuse what comes after it.
_NEWEST = 0.1
_HIGHEST = 2.0
# How long close() waits for the batch that runs. By then all callers have their answers or have been cut off.
_CLOSE_S = 1.0


@dataclass(frozen=True)
class Row:
    """One image's answers.

    Attributes:
        arrays: For each output of the graph the float32 array of this image, without the batch dimension.
        queue_s: How long the image waited for the engine.
        infer_s: How long the engine took for the batch that the image was in.
    """

    arrays: Mapping[str, NDArray[np.float32]]
    queue_s: float
    infer_s: float


class Slot:
    """The right to run on a device: one batch at a time, whichever model it belongs to.

    Two sessions that run side by side on the same cores each get less than half of them, so the models of a process
    share one slot per device.
    """

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="engine")

    def close(self) -> None:
        """End the thread once the batch that runs has ended, without waiting for it."""
        self.thread.shutdown(wait=False, cancel_futures=True)


@dataclass(order=True)
class _Entry:
    deadline_s: float
    number: int  # first come, first served among equal deadlines
    pixels: NDArray[np.uint8] = field(compare=False)
    answer: asyncio.Future[Row] = field(compare=False)
    since_s: float = field(compare=False)


def _ignore(_: object) -> None:
    pass


class Batcher:
    """The queue of one model.

    Args:
        run: Answers `uint8 [N, H, W, 3]` with float32 `[N, ...]` arrays; called in the slot's thread.
        slot: Shared by all models on the device.
        batch_sizes: The sizes of N that may be run, rising from 1.
        limit: How many images may be admitted and not yet answered.
        seconds_per_image: The first estimate of the engine's speed, from the warm-up.
        clock: Monotonic seconds.
        on_batch: Told the size of each batch that is run.
        on_death: Told that the queue is served no more, which only a fault of ours can bring about.
    """

    def __init__(
        self,
        run: Callable[[NDArray[np.uint8]], Arrays],
        slot: Slot,
        *,
        batch_sizes: Sequence[int],
        limit: int,
        seconds_per_image: float,
        clock: Callable[[], float] = time.monotonic,
        on_batch: Callable[[int], None] = _ignore,
        on_death: Callable[[BaseException], None] = _ignore,
    ) -> None:
        self._run = run
        self._slot = slot
        self.batch_sizes = tuple(batch_sizes)
        self._clock = clock
        self._on_batch = on_batch
        self._on_death = on_death
        self._queue: list[_Entry] = []
        self._numbers = itertools.count()
        self._arrived = asyncio.Event()
        self._refusal: NotReady | None = None  # once there is one, nothing is queued any more
        self._task: asyncio.Task[None] | None = None
        self._deadlines_s: list[float] = []  # of the admitted images, rising
        self._running_s: list[float] = []  # deadlines of the images in the engine
        self.limit = limit
        self.seconds_per_image = seconds_per_image

    @property
    def admitted(self) -> int:
        """How many images are admitted and not yet answered."""
        return len(self._deadlines_s)

    @property
    def waiting(self) -> int:
        """How many images wait for the engine."""
        return len(self._queue)

    def start(self) -> None:
        """Begin to serve the queue. Needs a running event loop."""
        self._task = asyncio.create_task(self._serve(), name="batcher")
        self._task.add_done_callback(self._ended)

    async def close(self) -> None:
        """Answer those who wait with NotReady, and let the batch that runs finish if it does so within a second."""
        self._refuse(NotReady("Expected a server that is serving. Received: it is draining."))
        self._arrived.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=_CLOSE_S)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            logger.error("the queue is served no more", exc_info=error)
            self._refuse(NotReady("Expected a queue that is served. Received: it has failed."))
            self._on_death(error)

    def _refuse(self, refusal: NotReady) -> None:
        self._refusal = refusal
        while self._queue:
            _fail(heapq.heappop(self._queue), refusal)

    @contextmanager
    def admit(self, images: int, deadline_s: float) -> Iterator[None]:
        """Hold places for all images of a request, from before they are decoded until they are answered.

        Args:
            images: How many, at least 1.
            deadline_s: When the caller stops waiting, in seconds of the clock.

        Yields:
            Nothing; the places are given back when the block ends.

        Raises:
            BadRequest: There are not that many places.
            Overloaded: Not that many places are free now.
            DeadlineUnreachable: At its present speed the engine would finish after the deadline.
            NotReady: The batcher was closed.
        """
        if self._refusal:
            raise self._refusal
        self._check_room(images)
        self._check_deadline(images, deadline_s)
        for _ in range(images):
            bisect.insort(self._deadlines_s, deadline_s)
        try:
            yield
        finally:
            first = bisect.bisect_left(self._deadlines_s, deadline_s)
            del self._deadlines_s[first : first + images]

    async def submit(self, pixels: NDArray[np.uint8], deadline_s: float) -> Row:
        """Queue one image and wait for its answers. Cancelling the wait takes the image out of the queue.

        Args:
            pixels: `uint8 [H, W, 3]`.
            deadline_s: When the caller stops waiting, in seconds of the clock.

        Returns:
            The image's answers.

        Raises:
            DeadlinePassed: The deadline passed in the queue.
            EngineFailed: The engine raised on the batch.
            NotReady: The batcher was closed.
        """
        if self._refusal:
            raise self._refusal
        answer: asyncio.Future[Row] = asyncio.get_running_loop().create_future()
        entry = _Entry(deadline_s, next(self._numbers), pixels, answer, self._clock())
        heapq.heappush(self._queue, entry)
        self._arrived.set()
        try:
            return await answer
        except asyncio.CancelledError:
            self._forget(entry)
            raise

    def _forget(self, entry: _Entry) -> None:
        # At once: under a stream of callers who go, what is left to be dropped later would grow without bound.
        if entry in self._queue:
            self._queue.remove(entry)
            heapq.heapify(self._queue)

    def _check_room(self, images: int) -> None:
        if images > self.limit:
            raise BadRequest(f"Expected at most {self.limit} images. Received: {images}.")
        if self.admitted + images > self.limit:
            # The earliest that as many places can be free again.
            excess = self.admitted + images - self.limit
            raise Overloaded(
                f"Expected room for {images} images. Received: {self.admitted} of {self.limit} places taken.",
                retry_after_s=excess * self.seconds_per_image,
            )

    def _check_deadline(self, images: int, deadline_s: float) -> None:
        # What has an earlier deadline goes first, and so does what is in the engine already. An idle engine is worth a
        # try whatever the estimate: without one, an estimate that is too high would never be corrected.
        ahead = bisect.bisect_right(self._deadlines_s, deadline_s)
        ahead += sum(running_s > deadline_s for running_s in self._running_s)
        needed_s = (ahead + images) * self.seconds_per_image if self.admitted else 0.0
        left_s = deadline_s - self._clock()
        if left_s <= 0:
            raise DeadlineUnreachable(
                f"Expected a deadline to come. Received: one that passed {-left_s * 1000:.0f} ms ago."
            )
        if needed_s > left_s:
            raise DeadlineUnreachable(
                f"Expected at least {needed_s * 1000:.0f} ms until the deadline. Received: {left_s * 1000:.0f} ms."
            )

    async def _serve(self) -> None:
        while not self._refusal:
            await self._arrived.wait()
            # The batch is put together only once the engine is free: what comes until then goes with it.
            async with self._slot.lock:
                if not self._refusal and (batch := self._take()):
                    await self._answer(batch)

    def _take(self) -> list[_Entry]:
        alive: list[_Entry] = []
        now_s = self._clock()
        while self._queue and len(alive) < self.batch_sizes[-1]:
            entry = heapq.heappop(self._queue)
            if entry.answer.done():
                continue
            if entry.deadline_s < now_s:
                passed_ms = (now_s - entry.deadline_s) * 1000
                _fail(
                    entry,
                    DeadlinePassed(
                        f"Expected the engine within the deadline. Received: it passed {passed_ms:.0f} ms ago."
                    ),
                )
                continue
            alive.append(entry)
        size = max((size for size in self.batch_sizes if size <= len(alive)), default=0)
        for entry in alive[size:]:
            heapq.heappush(self._queue, entry)
        if not self._queue:
            self._arrived.clear()
        return alive[:size]

    async def _answer(self, batch: list[_Entry]) -> None:
        self._running_s = [entry.deadline_s for entry in batch]
        try:
            self._on_batch(len(batch))
            started_s = self._clock()
            arrays, infer_s = await asyncio.get_running_loop().run_in_executor(self._slot.thread, self._timed, batch)
            self._learn(infer_s / len(batch))
            for index, entry in enumerate(batch):
                row = {name: array[index] for name, array in arrays.items()}
                if not entry.answer.done():
                    entry.answer.set_result(Row(row, started_s - entry.since_s, infer_s))
        # Whatever goes wrong is answered to this batch and logged once; the queue goes on.
        except Exception:
            logger.exception("a batch failed", extra={"images": len(batch)})
            for entry in batch:
                _fail(entry, EngineFailed("The engine failed on the batch of this image."))
        finally:
            self._running_s = []
            for entry in batch:
                # Only where the task itself was cancelled in the middle of the batch.
                _fail(entry, EngineFailed("The engine was stopped in the batch of this image."))

    def _timed(self, batch: list[_Entry]) -> tuple[Arrays, float]:
        started_s = self._clock()
        arrays = self._run(np.stack([entry.pixels for entry in batch]))  # [N, H, W, 3] uint8
        return arrays, self._clock() - started_s

    def _learn(self, seconds_per_image: float) -> None:
        newest = min(seconds_per_image, _HIGHEST * self.seconds_per_image)
        self.seconds_per_image += _NEWEST * (newest - self.seconds_per_image)


def _fail(entry: _Entry, error: Exception) -> None:
    if not entry.answer.done():
        entry.answer.set_exception(error)
