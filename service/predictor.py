"""The use case: images in, labels, logits and embeddings out. Begin reading here; knows no gRPC and no file format.

admit  ─>  decode (threads)  ─>  batcher  ─>  engine  ─>  answers

While a core is free, decoders read images ahead of their run. While none is, the run reads its own images.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service import image
from service.allowance import Allowance
from service.batcher import Batcher, Row
from service.bundle import Bundle
from service.errors import BadImage, BadRequest, DeadlinePassed, EngineFailed, VertebraError
from service.metrics import ImageResult, Metrics, Stage

# What a lane reads itself. Larger pictures are the decoders': those share the cores with the lanes, so that a slow
# picture does not shut the others out, and an engine is never taken to hang for its sake.
_LIGHT_PIXELS = 2**20

# An image, or why the wire's form of it is none.
Source = bytes | NDArray[np.uint8] | BadImage


@dataclass(frozen=True)
class Question:
    """What a caller asks.

    Attributes:
        images: Files of image.NAMES, or upright RGB pixels `uint8 [h, w, 3]`; an error stands for an image that
            cannot be used.
        deadline_s: When the caller stops waiting, in seconds of the clock.
        top_k: How many labels to name at most; 0 where none are asked for.
        min_probability: Labels below it are left out. In [0, 1].
    """

    images: Sequence[Source]
    deadline_s: float
    top_k: int = 0
    min_probability: float = 0.0


@dataclass(frozen=True)
class Label:
    """A class and how probable it is, in [0, 1]."""

    index: int
    name: str
    probability: float


@dataclass(frozen=True)
class Answer:
    """What the model says of one image: labels in falling order, logits `[classes]` and embedding `[D]`, float32."""

    labels: tuple[Label, ...]
    logits: NDArray[np.float32]
    embedding: NDArray[np.float32]


@dataclass(frozen=True)
class Timing:
    """The seconds of the slowest image in each stage, and of the whole."""

    decode_s: float
    queue_s: float
    infer_s: float
    total_s: float


@dataclass(frozen=True)
class Analysis:
    """One answer an image, in order; an error where that image alone could not be answered."""

    answers: tuple[Answer | BadImage | EngineFailed, ...]
    timing: Timing


@dataclass(frozen=True)
class _Pass:
    row: Row
    decode_s: float


class Predictor:
    """Answers questions with one model.

    Args:
        bundle: Says how pixels are made and what the labels are called.
        batcher: The model's queue.
        decoders: The threads that decode.
        limits: What is refused before it is decoded.
        pixels: What all requests together may have decoded at once.
        metrics: Where stages and images are recorded.
        clock: Monotonic seconds; the same as the batcher's.
    """

    def __init__(
        self,
        bundle: Bundle,
        batcher: Batcher,
        *,
        decoders: Executor,
        limits: image.ImageLimits,
        pixels: Allowance,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.bundle = bundle
        self._batcher = batcher
        self._decoders = decoders
        self._limits = limits
        self._pixels = pixels
        self._metrics = metrics
        self._clock = clock

    async def analyze(self, question: Question) -> Analysis:
        """Answer a question, all of its images or none.

        Args:
            question: The images and what to say of them.

        Returns:
            One answer or error an image.

        Raises:
            BadRequest: No images, more than can ever be held, or a probability outside [0, 1].
            Overloaded: There is no room for all images now.
            MemoryFull: There is none for their pixels.
            DeadlinePassed: The deadline passed or cannot be met.
            NotReady: The model's queue is closed.
        """
        _check(question)
        started_s = self._clock()
        # The cheapest check comes first: most of what an overload brings is refused for want of places.
        with self._batcher.admit(len(question.images), question.deadline_s) as expected_s:
            weights = [self._weigh(source) for source in question.images]
            with self._pixels.hold(sum(weights)):
                asked = zip(question.images, weights, strict=True)
                passes = await _settled([self._pass(*each, question.deadline_s, expected_s) for each in asked])
        answers: list[Answer | BadImage | EngineFailed] = []
        for result in passes:
            if isinstance(result, BadImage | EngineFailed):
                answers.append(result)
            elif isinstance(result, BaseException):
                raise result
            else:
                answers.append(self._answer(result.row, question))
        return Analysis(tuple(answers), self._timing(passes, started_s))

    def _weigh(self, source: Source) -> int:
        return 0 if isinstance(source, BadImage) else image.weigh(source, self.bundle.geometry, self._limits)

    async def _pass(self, source: Source, weight: int, deadline_s: float, expected_s: float) -> _Pass:
        started_s = self._clock()
        image_format = _format(source)
        # Who reads takes the image out. Whose caller goes before that leaves an empty hand in the decoders' queue.
        hand = [source]
        read = partial(self._read, hand, deadline_s)
        ahead_s = read_s = 0.0
        try:
            if self._batcher.is_busy and weight <= _LIGHT_PIXELS:
                row = await self._batcher.submit(read, deadline_s)
            else:
                timed = partial(_timed, read, self._clock)
                pixels, read_s = await asyncio.get_running_loop().run_in_executor(self._decoders, timed)
                ahead_s = self._clock() - started_s
                row = await self._batcher.submit(pixels, deadline_s)
        except BaseException as error:
            if isinstance(error, DeadlinePassed):
                # Learnt from as well: were it only from those in time, too many would be admitted for ever.
                self._batcher.places.answered(max(self._clock(), deadline_s) - started_s - expected_s)
            self._metrics.image(self.bundle.name, image_format, _result_of(error, self._clock() >= deadline_s))
            raise
        finally:
            hand.clear()
        # How long an image is read ahead is its own matter, how long it waits for a decoder is everybody's.
        self._batcher.places.answered(self._clock() - started_s - read_s - expected_s)
        self._metrics.image(self.bundle.name, image_format, "ok")
        decode_s = ahead_s + row.read_s
        stages: tuple[tuple[Stage, float], ...] = (("decode", decode_s), ("queue", row.queue_s), ("infer", row.infer_s))
        for stage, duration_s in stages:
            self._metrics.stage(self.bundle.name, stage, duration_s)
        return _Pass(row, decode_s)

    def _read(self, hand: list[Source], deadline_s: float) -> NDArray[np.uint8]:
        source = hand.pop()
        if isinstance(source, BadImage):
            raise source
        if self._clock() > deadline_s:
            raise DeadlinePassed("Expected a decoder within the deadline. Received: it passed while all were busy.")
        return image.read(source, self.bundle.geometry, self._limits)

    def _answer(self, row: Row, question: Question) -> Answer | EngineFailed:
        started_s = self._clock()
        logits, embedding = row.arrays[self.bundle.logits.name], row.arrays[self.bundle.embedding.name]
        if not (np.isfinite(logits).all() and np.isfinite(embedding).all()):
            return EngineFailed("The engine answered this image with numbers that are not finite.")
        labels = _labels(logits, self.bundle.labels, question) if question.top_k else ()
        self._metrics.stage(self.bundle.name, "postprocess", self._clock() - started_s)
        return Answer(labels, logits, embedding)

    def _timing(self, passes: Sequence[_Pass | BaseException], started_s: float) -> Timing:
        done = [each for each in passes if isinstance(each, _Pass)]
        return Timing(
            decode_s=max((each.decode_s for each in done), default=0.0),
            queue_s=max((each.row.queue_s for each in done), default=0.0),
            infer_s=max((each.row.infer_s for each in done), default=0.0),
            total_s=self._clock() - started_s,
        )


def _timed(read: Callable[[], NDArray[np.uint8]], clock: Callable[[], float]) -> tuple[NDArray[np.uint8], float]:
    started_s = clock()
    return read(), clock() - started_s


async def _settled(passes: Sequence[Coroutine[Any, Any, _Pass]]) -> Sequence[_Pass | BaseException]:
    if len(passes) > 1:
        passed: list[_Pass | BaseException] = await asyncio.gather(*passes, return_exceptions=True)
        return passed
    # Most requests are about one image, and a task of its own would cost it as much as all the metrics do.
    try:
        return [await passes[0]]
    except Exception as error:
        return [error]


def _check(question: Question) -> None:
    if not question.images:
        raise BadRequest("Expected at least 1 image. Received: 0.")
    if not 0.0 <= question.min_probability <= 1.0:
        raise BadRequest(f"Expected min_probability in [0, 1]. Received: {question.min_probability}.")


def _labels(logits: NDArray[np.float32], names: Sequence[str], question: Question) -> tuple[Label, ...]:
    exponentials = np.exp(logits.astype(np.float64) - logits.max())
    probabilities = exponentials / exponentials.sum()
    order = np.argsort(-probabilities, kind="stable")[: question.top_k]
    return tuple(
        Label(int(index), names[index], float(probabilities[index]))
        for index in order
        if probabilities[index] >= question.min_probability
    )


def _format(source: Source) -> str:
    if isinstance(source, bytes):
        return image.format_of(source) or "unknown"
    return "unknown" if isinstance(source, BadImage) else "pixels"


def _result_of(error: BaseException, late: bool) -> ImageResult:
    match error:
        case BadImage():
            return "bad_image"
        case DeadlinePassed():
            return "expired"
        case asyncio.CancelledError():
            # gRPC cancels at the deadline as well as when the caller goes.
            return "expired" if late else "cancelled"
        case VertebraError() if not isinstance(error, EngineFailed):
            return "dropped"
        case _:
            return "engine_failed"
