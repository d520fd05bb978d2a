"""One queue of images per model, run the moment a lane is free; knows neither the wire nor the labels.

Work-conserving: nothing waits for a batch to fill. Images leave in the order of their deadlines; those whose caller has
gone or whose deadline has passed leave without being computed. Only batch sizes that were warmed up are run.

On a CPU there are two ways to run a batch: *wide*, on all cores at once, and *narrow*, on one core beside other
batches. Wide answers a lonely image soonest; narrow wastes nothing, since no core waits for another at the end of
every layer (EfficientNet-Lite0 on two cores: 6.7 ms wide and 8.7 ms narrow, but 11.4 and 8.7 ms of CPU time).

Images come decoded or to be read. Where all lanes are busy the lane that takes an image reads it, right before it is
run: decoders beside the lanes would only take the cores from them, and every hand-over waits for the event loop.
"""

import asyncio
import heapq
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.device import Device, RunHung
from service.engine import Arrays
from service.errors import DeadlinePassed, EngineFailed, NotReady
from service.places import Places

logger = logging.getLogger(__name__)

# A run that takes longer than this, and ten times longer than it should, hangs. Health has to say so within 2 s.
_PATIENCE_S = 1.5
_PATIENCE = 10
# How long close() waits for the batches that run. By then all callers have their answers or have been cut off.
_CLOSE_S = 1.0
# When to ask again for a model whose engine is being replaced.
_RETRY_S = 0.5

_FAILED = "The engine failed on this image."
# For an image that was not read because nobody waits for it any more; nobody is told.
_GONE = DeadlinePassed("Expected a caller. Received: none.")

Death = Literal["hung", "broken", "fault"]
Pixels = NDArray[np.uint8]
Read = Callable[[], Pixels]


@dataclass(frozen=True)
class Row:
    """One image's answers.

    Attributes:
        arrays: For each output of the graph the float32 array of this image, without the batch dimension.
        queue_s: How long the image waited for a lane.
        read_s: How long the lane took to read it; 0 where it came decoded.
        infer_s: How long the engine took for the batch that the image was in.
    """

    arrays: Mapping[str, NDArray[np.float32]]
    queue_s: float
    read_s: float
    infer_s: float


@dataclass(frozen=True)
class Way:
    """One way to run a batch.

    Attributes:
        run: Answers `uint8 [N, H, W, 3]` with float32 `[N, ...]` arrays; called in a thread of the device.
        seconds_per_image: By batch size, from the warm-up. The sizes are 1 and each the double of the one before, as
            far as they pay.
    """

    run: Callable[[Pixels], Arrays]
    seconds_per_image: Mapping[int, float]

    @property
    def largest(self) -> int:
        """The largest batch size."""
        return max(self.seconds_per_image)

    def size(self, images: int) -> int:
        """The largest batch size that so many images fill."""
        return max(size for size in self.seconds_per_image if size <= images)


@dataclass(order=True)
class _Entry:
    deadline_s: float
    number: int  # first come, first served among equal deadlines
    image: Pixels | Read = field(compare=False)
    answer: asyncio.Future[Row] = field(compare=False)
    since_s: float = field(compare=False)
    read_s: float = field(compare=False, default=0.0)
    fault: Exception | None = field(compare=False, default=None)

    def pixels(self, clock: Callable[[], float]) -> Pixels | None:
        """The pixels, read where that is still to be done; None where there are none, or nobody waits for them."""
        if callable(self.image) and self.fault is None and not self.answer.done():
            started_s = clock()
            try:
                self.image = self.image()
            # Hostile files make decoders raise nearly anything, and it concerns this image alone.
            except Exception as error:
                self.fault = error
            self.read_s = clock() - started_s
        return None if callable(self.image) else self.image


class _Ran(NamedTuple):
    """What came of a batch: a row or an error for each entry, how many were run, and how long that took the lane."""

    rows: list[Row | Exception]
    images: int
    lane_s: float


@dataclass(frozen=True)
class _Batch:
    entries: list[_Entry]
    way: Way
    turns: int


def _ignore(_: object) -> None:
    pass


class Batcher:
    """The queue of one model.

    Args:
        device: Shared by all models on it.
        narrow: How a batch is run in one lane.
        wide: How it is run in all lanes at once; None where there is one lane.
        limit: How many images may be admitted and not yet answered.
        clock: Monotonic seconds.
        patience_s: How long a run may take at least before it is held to hang, in seconds.
        on_batch: Told the size of each batch that is run.
        on_death: Told why the queue is served no more: the engine hung, is broken for good, or a fault of ours.

    Attributes:
        places: Who is admitted.
    """

    def __init__(
        self,
        device: Device,
        narrow: Way,
        wide: Way | None = None,
        *,
        limit: int,
        clock: Callable[[], float] = time.monotonic,
        patience_s: float = _PATIENCE_S,
        on_batch: Callable[[int], None] = _ignore,
        on_death: Callable[[Death], None] = _ignore,
    ) -> None:
        self._device = device
        self._narrow = narrow
        self._wide = wide
        self._clock = clock
        self._patience_s = patience_s
        self._on_batch = on_batch
        self._on_death = on_death
        self._queue: list[_Entry] = []
        self._numbers = itertools.count()
        self._arrived = asyncio.Event()
        self._refusal: NotReady | None = None  # once there is one, nothing is queued any more
        self._task: asyncio.Task[None] | None = None
        self._running: dict[asyncio.Task[None], _Batch] = {}
        self.places = Places(limit, min(narrow.seconds_per_image.values()) / device.lanes, clock)

    @property
    def waiting(self) -> int:
        """How many images wait for a lane."""
        return len(self._queue)

    @property
    def max_batch(self) -> int:
        """The most images that are run at once in one lane."""
        return self._narrow.largest

    @property
    def is_busy(self) -> bool:
        """Whether every core has a run to do, so that an image had better be read by the lane that takes it."""
        return self._wide is not None and not self._device.free

    @property
    def useful(self) -> int:
        """How many images keep every lane busy: a batch in each, another that waits for it, and one being decoded."""
        return self._device.lanes * (2 * self.max_batch + 1)

    def start(self) -> None:
        """Begin to serve the queue. Needs a running event loop."""
        self._task = asyncio.create_task(self._serve(), name="batcher")
        self._task.add_done_callback(self._ended)

    async def close(self) -> None:
        """Answer those who wait with NotReady, and let the batches that run finish if they do so within a second."""
        self._refuse(NotReady("Expected a server that is serving. Received: it is draining."))
        self._arrived.set()
        if self._task is not None:
            await asyncio.wait([self._task, *self._running], timeout=_CLOSE_S)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            logger.error("the queue is served no more", exc_info=error)
            self._die("fault")

    def _die(self, why: Death) -> None:
        if self._refusal is None:
            self._refuse(NotReady("Expected an engine that runs. Received: it is being replaced.", _RETRY_S))
            self._arrived.set()
            self._on_death(why)

    def _refuse(self, refusal: NotReady) -> None:
        self._refusal = refusal
        while self._queue:
            _fail(heapq.heappop(self._queue), refusal)

    @contextmanager
    def admit(self, images: int, deadline_s: float) -> Iterator[float]:
        """Hold places for all images of a request, from before they are decoded until they are answered.

        Args:
            images: How many, at least 1.
            deadline_s: When the caller stops waiting, in seconds of the clock.

        Yields:
            How long they are expected to wait and to run, in seconds. The places are given back when the block ends.

        Raises:
            BadRequest: There are not that many places.
            Overloaded: Not that many places are free now.
            DeadlineUnreachable: At its present speed the engine would finish after the deadline.
            NotReady: The batcher was closed, or its engine is being replaced.
        """
        if self._refusal:
            raise self._refusal
        running_s = (entry.deadline_s for batch in self._running.values() for entry in batch.entries)
        with self.places.hold(images, deadline_s, running_s) as expected_s:
            yield expected_s

    async def submit(self, image: Pixels | Read, deadline_s: float) -> Row:
        """Queue one image and wait for its answers. Cancelling the wait takes the image out of the queue.

        Args:
            image: `uint8 [H, W, 3]`, or what gives it; that is called once, in the thread of a lane, and what it
                raises is raised here.
            deadline_s: When the caller stops waiting, in seconds of the clock.

        Returns:
            The image's answers.

        Raises:
            DeadlinePassed: The deadline passed in the queue.
            EngineFailed: The engine raised on this image, or hung on its batch.
            NotReady: The batcher was closed, or its engine is being replaced.
        """
        if self._refusal:
            raise self._refusal
        answer: asyncio.Future[Row] = asyncio.get_running_loop().create_future()
        entry = _Entry(deadline_s, next(self._numbers), image, answer, self._clock())
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

    async def _serve(self) -> None:
        while not self._refusal:
            await self._arrived.wait()
            # The batch is put together only once there is a turn for it: what comes until then goes with it.
            await self._device.turns.acquire()
            try:
                batch = None if self._refusal else self._compose()
            except BaseException:
                self._device.turns.release()
                raise
            if batch is None:
                self._device.turns.release()
                continue
            task = asyncio.create_task(self._answer(batch))
            self._running[task] = batch
            task.add_done_callback(self._running.pop)

    def _compose(self) -> _Batch | None:
        """Take the next batch from the queue; the caller holds one turn, and gets all of them where wide is sooner."""
        self._drop_the_late()
        batch = self._choose(len(self._queue)) if self._queue else None
        if not self._queue:
            self._arrived.clear()
        return batch

    def _choose(self, waiting: int) -> _Batch:
        turns = self._device.turns
        idle = turns.free == turns.total - 1
        if self._wide and idle and self._is_sooner_wide(self._wide, waiting) and turns.try_acquire(turns.free):
            return self._take(self._wide, self._wide.size(waiting), turns.total)
        # An even share for each free lane: two images on two cores are not one batch on one of them.
        share = math.ceil(waiting / (self._device.free + 1))
        return self._take(self._narrow, self._narrow.size(share), 1)

    def _is_sooner_wide(self, wide: Way, waiting: int) -> bool:
        # What is still being decoded will be here before a wide run has ended.
        coming = max(waiting, self.places.taken)
        rounds = math.ceil(coming / self._device.lanes)
        return coming * wide.seconds_per_image[wide.size(coming)] < rounds * self._narrow.seconds_per_image[1]

    def _take(self, way: Way, size: int, turns: int) -> _Batch:
        return _Batch([heapq.heappop(self._queue) for _ in range(size)], way, turns)

    def _drop_the_late(self) -> None:
        # An answer that comes too late is worth nothing, and costs those behind it their deadlines. Where nobody is, it
        # is worth a try: the engine may be sooner than in the warm-up.
        now_s = self._clock()
        run_s = self._narrow.size(max(1, len(self._queue))) * self._soonest_s()
        while self._queue:
            late_s = now_s + (run_s if len(self._queue) > 1 else 0.0) - self._queue[0].deadline_s
            if late_s <= 0 and not self._queue[0].answer.done():
                return
            entry = heapq.heappop(self._queue)
            _fail(entry, DeadlinePassed(f"Expected an answer in time. Received: one {late_s * 1000:.0f} ms too late."))

    def _soonest_s(self) -> float:
        """How long an image takes from here at the speed of late: until a lane is free, and in it."""
        device = self._device
        must_wait = device.turns.total > device.lanes and not device.turns.free
        return self.places.seconds_per_image * (device.lanes + must_wait)

    async def _answer(self, batch: _Batch) -> None:
        rows: Sequence[Row | Exception] = ()
        failure = EngineFailed(_FAILED)
        death: Death | None = None
        try:
            self._on_batch(len(batch.entries))
            rows = await self._run(batch, batch.entries)
            if all(isinstance(row, EngineFailed) for row in rows) and not await self._still_runs(batch):
                death = "broken"
        except RunHung:
            logger.error("the engine hangs", extra={"images": len(batch.entries)})
            failure, death = EngineFailed("The engine hung on the batch of this image."), "hung"
        # Whatever else goes wrong is answered to this batch and logged once; the queue goes on.
        except Exception:
            logger.exception("a batch failed", extra={"images": len(batch.entries)})
        finally:
            # Before anybody is told: the next batch goes out ahead of all that an answer sets in motion.
            self._device.turns.release(batch.turns)
        for entry, row in zip(batch.entries, rows or [failure] * len(batch.entries), strict=True):
            _settle(entry, row)
        if death:
            self._die(death)

    async def _run(self, batch: _Batch, entries: Sequence[_Entry]) -> list[Row | Exception]:
        """Run a batch, halved for as long as the engine raises on it; an error for each image that has no answer."""
        try:
            ran = await self._device.run(partial(self._in_lane, batch.way, entries), self._allowed_s(batch))
        except RunHung:
            raise
        # The engine's exceptions have no common base below Exception.
        except Exception:
            if len(entries) > 1:
                half = len(entries) // 2
                return await self._run(batch, entries[:half]) + await self._run(batch, entries[half:])
            logger.exception("the engine failed on an image")
            return [EngineFailed(_FAILED)]
        if ran.images:
            beside = 1 if batch.way is self._wide else self._device.lanes
            self.places.learn(ran.lane_s / ran.images / beside)
        return ran.rows

    def _in_lane(self, way: Way, entries: Sequence[_Entry]) -> _Ran:
        """Read what is to be read and run it; called in a thread of the device."""
        started_s = self._clock()
        readable = [(entry, pixels) for entry in entries if (pixels := entry.pixels(self._clock)) is not None]
        run_s = self._clock()
        arrays = way.run(np.stack([pixels for _, pixels in readable])) if readable else {}  # [N, H, W, 3] uint8
        ended_s = self._clock()
        rows: dict[int, Row | Exception] = {entry.number: entry.fault or _GONE for entry in entries}
        for index, (entry, _) in enumerate(readable):
            row = {name: array[index] for name, array in arrays.items()}
            rows[entry.number] = Row(row, started_s - entry.since_s, entry.read_s, ended_s - run_s)
        return _Ran(list(rows.values()), len(readable), ended_s - started_s)

    async def _still_runs(self, batch: _Batch) -> bool:
        """Whether the engine answers an image that it has answered before: black, as in the warm-up."""
        black = next(np.zeros_like(entry.image) for entry in batch.entries if not callable(entry.image))
        try:
            await self._device.run(partial(batch.way.run, black[np.newaxis]), self._allowed_s(batch))
        except RunHung:
            raise
        except Exception:
            logger.exception("the engine fails on every image")
            return False
        return True

    def _allowed_s(self, batch: _Batch) -> float:
        expected_s = len(batch.entries) * batch.way.seconds_per_image[batch.way.size(len(batch.entries))]
        return max(self._patience_s, _PATIENCE * expected_s)


def _settle(entry: _Entry, row: Row | Exception) -> None:
    if isinstance(row, Exception):
        _fail(entry, row)
    elif not entry.answer.done():
        entry.answer.set_result(row)


def _fail(entry: _Entry, error: Exception) -> None:
    if not entry.answer.done():
        entry.answer.set_exception(error)
