"""vertebra.v1.Vision: messages to questions, answers to messages; decides nothing about images or models."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import Message
from grpc import aio
from numpy.typing import NDArray

from service import status
from service.allowance import Allowance
from service.call import current_call
from service.errors import (
    BadImage,
    BadRequest,
    DeadlinePassed,
    EngineFailed,
    Refused,
    VertebraError,
)
from service.predictor import Analysis, Answer, Label, Question, Source, Timing
from service.repository import Failed, Model, Ready, Repository
from service.servicers.stream import Memory, flow
from vertebra.v1 import vision_pb2, vision_pb2_grpc

Context = aio.ServicerContext[Any, Any]

_DEFAULT_TOP_K = 5
# An image of a stream that finds no room asks again no sooner: asking costs time, and so many may be asking.
_SHORTEST_WAIT_S = 0.02
_ANSWERS = (
    vision_pb2.ANSWER_LOGITS,
    vision_pb2.ANSWER_LABELS,
    vision_pb2.ANSWER_EMBEDDING,
)


@dataclass(frozen=True)
class RequestLimits:
    """What is refused before anything is looked at.

    Attributes:
        max_images: The most images in a request.
        max_bytes: The most bytes in a request.
        default_deadline_s: How long a caller who names no deadline waits.
    """

    max_images: int
    max_bytes: int
    default_deadline_s: float


class VisionServicer(vision_pb2_grpc.VisionServicer):
    """Answers vertebra.v1.Vision from a repository.

    Args:
        repository: The models.
        limits: What is refused before anything is looked at.
        memory: What all messages together may hold, in bytes.
        draining: Set when streams shall come to an end.
        clock: Monotonic seconds; the same as the batchers'.
    """

    def __init__(
        self,
        repository: Repository,
        limits: RequestLimits,
        memory: Allowance,
        draining: asyncio.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._repository = repository
        self._limits = limits
        self._memory = memory
        self._draining = draining
        self._clock = clock

    async def Classify(self, request: vision_pb2.ClassifyRequest, context: Context) -> vision_pb2.ClassifyResponse:
        """See vision.proto."""
        ready, analysis = await self._analyze(request, context, top_k=request.top_k or _DEFAULT_TOP_K)
        return vision_pb2.ClassifyResponse(
            model=_served(ready),
            results=[
                vision_pb2.ClassifyResult(status=_status(answer), labels=_labels(answer)) for answer in analysis.answers
            ],
            timing=_timing(analysis.timing),
        )

    async def Embed(self, request: vision_pb2.EmbedRequest, context: Context) -> vision_pb2.EmbedResponse:
        """See vision.proto."""
        ready, analysis = await self._analyze(request, context, top_k=0)
        return vision_pb2.EmbedResponse(
            model=_served(ready),
            results=[
                vision_pb2.EmbedResult(status=_status(answer), embedding=_embedding(answer))
                for answer in analysis.answers
            ],
            timing=_timing(analysis.timing),
        )

    async def EmbedStream(
        self, request_iterator: AsyncIterator[vision_pb2.EmbedStreamRequest], context: Context
    ) -> AsyncGenerator[vision_pb2.EmbedStreamResponse, None]:
        """See vision.proto."""
        stream = _EmbedStream(self._repository, self._limits, context, self._clock)
        memory = Memory[vision_pb2.EmbedStreamRequest](self._memory, lambda request: request.ByteSize())
        responses = flow(request_iterator, stream.answer, stream.begin, memory, self._draining)
        async with aclosing(responses):
            async for response in responses:
                # Here and not where it is made: only now is it known which one goes out first.
                yield stream.introduced(response)

    async def Analyze(self, request: vision_pb2.AnalyzeRequest, context: Context) -> vision_pb2.AnalyzeResponse:
        """See vision.proto."""
        wanted = _wanted(request.answers)
        labels_wanted = vision_pb2.ANSWER_LABELS in wanted
        ready, analysis = await self._analyze(
            request, context, top_k=(request.top_k or _DEFAULT_TOP_K) if labels_wanted else 0
        )
        return vision_pb2.AnalyzeResponse(
            model=_served(ready),
            results=[
                vision_pb2.AnalyzeResult(
                    status=_status(answer),
                    logits=_logits(answer) if vision_pb2.ANSWER_LOGITS in wanted else None,
                    labels=_labels(answer),
                    embedding=_embedding(answer) if vision_pb2.ANSWER_EMBEDDING in wanted else None,
                )
                for answer in analysis.answers
            ],
            timing=_timing(analysis.timing),
        )

    async def GetModel(self, request: vision_pb2.GetModelRequest, context: Context) -> vision_pb2.GetModelResponse:
        """See vision.proto."""
        del context
        ready = _ready(self._repository, request.model)
        manifest = ready.bundle.manifest
        return vision_pb2.GetModelResponse(
            model=_model(Model(ready.bundle.name, ready.bundle.version, ready)),
            labels=ready.bundle.labels,
            geometry=manifest.geometry,
            outputs=manifest.outputs,
            backbone=manifest.backbone,
        )

    async def ListModels(
        self, request: vision_pb2.ListModelsRequest, context: Context
    ) -> vision_pb2.ListModelsResponse:
        """See vision.proto."""
        del request, context
        return vision_pb2.ListModelsResponse(models=[_model(model) for model in self._repository.models])

    async def _analyze(
        self,
        request: vision_pb2.ClassifyRequest | vision_pb2.EmbedRequest | vision_pb2.AnalyzeRequest,
        context: Context,
        *,
        top_k: int,
    ) -> tuple[Ready, Analysis]:
        deadline_s = self._clock() + self._time_left_s(context)
        size_bytes = self._checked_size(request, len(request.images))
        ready = _ready(self._repository, request.model)
        with self._memory.hold(size_bytes):
            min_probability = 0.0 if isinstance(request, vision_pb2.EmbedRequest) else request.min_probability
            question = Question([_source(image) for image in request.images], deadline_s, top_k, min_probability)
            return ready, await _analysis(ready, question, self._clock)

    def _time_left_s(self, context: Context) -> float:
        left_s = context.time_remaining()
        return self._limits.default_deadline_s if left_s is None else left_s

    def _checked_size(self, request: Message, images: int) -> int:
        if images > self._limits.max_images:
            raise BadRequest(f"Expected at most {self._limits.max_images} images in a request. Received: {images}.")
        if (size_bytes := request.ByteSize()) > self._limits.max_bytes:
            raise BadRequest(f"Expected at most {self._limits.max_bytes} bytes in a request. Received: {size_bytes}.")
        return size_bytes


class _EmbedStream:
    """Answers the messages of one stream, all by the model that the first one names.

    Args:
        repository: The models.
        limits: What is refused before anything is looked at.
        context: The call's.
        clock: Monotonic seconds; the same as the batchers'.
    """

    def __init__(
        self, repository: Repository, limits: RequestLimits, context: Context, clock: Callable[[], float]
    ) -> None:
        self._repository = repository
        self._limits = limits
        self._context = context
        self._clock = clock
        self._asked = vision_pb2.ModelSelector()
        self._pinned = vision_pb2.ModelSelector()
        self._introduction: vision_pb2.ServedModel | None = None

    def begin(self, first: vision_pb2.EmbedStreamRequest) -> int:
        """Find the model, and say how many images of this stream may be in flight.

        Enough to keep every lane busy, and at most half of the places, so that other callers find some as well.
        """
        ready = _ready(self._repository, first.model)
        self._asked = first.model
        self._introduction = _served(ready)
        # Looked up for each image, because a model may be made anew under a stream; but it must be this one again.
        self._pinned = vision_pb2.ModelSelector(
            name=self._introduction.name,
            version=self._introduction.version,
            expected_embedding_space_id=self._introduction.embedding_space_id,
        )
        return max(1, min(ready.batcher.useful, ready.batcher.places.limit // 2))

    def introduced(self, response: vision_pb2.EmbedStreamResponse) -> vision_pb2.EmbedStreamResponse:
        """The response, with the model in it where it is the first one."""
        if self._introduction is not None:
            response.model.CopyFrom(self._introduction)
            self._introduction = None
        return response

    async def answer(self, request: vision_pb2.EmbedStreamRequest) -> vision_pb2.EmbedStreamResponse:
        """Embed one image, as soon as there is room for it.

        Args:
            request: The image.

        Returns:
            The embedding, or the status that says why there is none.

        Raises:
            BadRequest: The message names another model than the first one.
            VertebraError: The model answers no more.
        """
        if request.HasField("model") and request.model not in (vision_pb2.ModelSelector(), self._asked):
            raise BadRequest("Expected one model in a stream. Received: a message that names another one.")
        answer = await self._embedded(self._checked(request))
        return vision_pb2.EmbedStreamResponse(tag=request.tag, status=_status(answer), embedding=_embedding(answer))

    def _checked(self, request: vision_pb2.EmbedStreamRequest) -> Source:
        if (size_bytes := request.ByteSize()) > self._limits.max_bytes:
            return BadImage(f"Expected at most {self._limits.max_bytes} bytes in a message. Received: {size_bytes}.")
        return _source(request.image)

    async def _embedded(self, source: Source) -> Answer | BadImage | EngineFailed | DeadlinePassed:
        deadline_s = self._deadline_s()
        while True:
            try:
                ready = _ready(self._repository, self._pinned)
                return (await _analysis(ready, Question([source], deadline_s), self._clock)).answers[0]
            except (Refused, DeadlinePassed) as error:
                if error.retry_after_s is None:
                    if isinstance(error, DeadlinePassed):
                        return error
                    raise
                wait_s = max(_SHORTEST_WAIT_S, error.retry_after_s)
                if self._clock() + wait_s >= deadline_s:
                    return DeadlinePassed(f"Expected an answer within the deadline. Received: none yet. {error}")
            await asyncio.sleep(wait_s)

    def _deadline_s(self) -> float:
        left_s = self._context.time_remaining()
        default_s = self._limits.default_deadline_s
        return self._clock() + (default_s if left_s is None else min(default_s, left_s))


def _ready(repository: Repository, selector: vision_pb2.ModelSelector) -> Ready:
    model = repository.find(selector.name)
    call = current_call.get()
    call.model, call.version = model.name, model.version
    return model.ready(selector.version, selector.expected_embedding_space_id)


async def _analysis(ready: Ready, question: Question, clock: Callable[[], float]) -> Analysis:
    try:
        async with asyncio.timeout(max(0.0, question.deadline_s - clock())) as timeout:
            return await ready.predictor.analyze(question)
    except TimeoutError as error:
        if not timeout.expired():
            raise
        raise DeadlinePassed("Expected an answer within the deadline. Received: none yet.") from error


def _source(image: vision_pb2.Image) -> Source:
    match image.WhichOneof("source"):
        case "encoded":
            return image.encoded
        case "pixels":
            return _pixels(image.pixels)
        case _:
            return BadImage("Expected encoded or pixels. Received: neither.")


def _pixels(pixels: vision_pb2.Pixels) -> NDArray[np.uint8] | BadImage:
    shape = (pixels.height, pixels.width, 3)
    if len(pixels.data) != math.prod(shape):
        return BadImage(
            f"Expected {math.prod(shape)} bytes, {pixels.height} x {pixels.width} x 3. Received: {len(pixels.data)}."
        )
    return np.frombuffer(pixels.data, np.uint8).reshape(shape)


def _wanted(answers: Sequence[vision_pb2.Answer.ValueType]) -> frozenset[vision_pb2.Answer.ValueType]:
    unknown = [answer for answer in answers if answer not in _ANSWERS]
    if unknown or not answers:
        names = ", ".join(vision_pb2.Answer.Name(answer) for answer in _ANSWERS)
        raise BadRequest(f"Expected at least one answer out of {names}. Received: {unknown or 'none'}.")
    return frozenset(answers)


def _served(ready: Ready) -> vision_pb2.ServedModel:
    return vision_pb2.ServedModel(
        name=ready.bundle.name,
        version=ready.bundle.version,
        embedding_space_id=ready.bundle.embedding.embedding_space_id,
    )


def _status(answer: Answer | VertebraError) -> vision_pb2.Status:
    if isinstance(answer, Answer):
        return vision_pb2.Status()
    return vision_pb2.Status(code=status.number(status.CODES[type(answer)]), message=str(answer))


def _labels(answer: Answer | BadImage | EngineFailed) -> list[vision_pb2.Label]:
    labels: tuple[Label, ...] = answer.labels if isinstance(answer, Answer) else ()
    return [vision_pb2.Label(index=each.index, name=each.name, probability=each.probability) for each in labels]


def _embedding(answer: Answer | VertebraError) -> vision_pb2.Tensor | None:
    return _tensor(answer.embedding) if isinstance(answer, Answer) else None


def _logits(answer: Answer | BadImage | EngineFailed) -> vision_pb2.Tensor | None:
    return _tensor(answer.logits) if isinstance(answer, Answer) else None


def _tensor(array: NDArray[np.float32]) -> vision_pb2.Tensor:
    return vision_pb2.Tensor(
        data_type=vision_pb2.DataType.DATA_TYPE_FLOAT32,
        shape=array.shape,
        data=array.astype("<f4", copy=False).tobytes(),
    )


def _timing(timing: Timing) -> vision_pb2.Timing:
    return vision_pb2.Timing(
        decode_ms=timing.decode_s * 1000,
        queue_ms=timing.queue_s * 1000,
        infer_ms=timing.infer_s * 1000,
        total_ms=timing.total_s * 1000,
    )


def _model(model: Model) -> vision_pb2.Model:
    match model.state:
        case Ready() as ready:
            return vision_pb2.Model(
                name=model.name,
                version=model.version,
                state=vision_pb2.ModelState.MODEL_STATE_READY,
                embedding_space_id=ready.bundle.embedding.embedding_space_id,
                provider=ready.provider,
                precision=ready.bundle.precision,
                manifest_sha256=ready.bundle.manifest_sha256,
            )
        case Failed(error):
            state = vision_pb2.ModelState.MODEL_STATE_FAILED
            # A path in it need not be UTF-8, as a message must.
            text = error.encode("utf-8", "backslashreplace").decode()
            return vision_pb2.Model(name=model.name, version=model.version, state=state, error=text)
        case _:
            state = vision_pb2.ModelState.MODEL_STATE_LOADING
            return vision_pb2.Model(name=model.name, version=model.version, state=state)
