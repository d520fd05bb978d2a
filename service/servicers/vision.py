"""The methods of vertebra.v1.Vision; decides nothing about images or models."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from google.protobuf.message import Message
from grpc import aio

from service.allowance import Allowance
from service.errors import BadRequest
from service.predictor import Analysis, Question
from service.repository import Model, Ready, Repository
from service.servicers import messages
from service.servicers.asking import RequestLimits, ask, find
from service.servicers.embed_stream import EmbedStream
from service.servicers.stream import Memory, flow
from vertebra.v1 import vision_pb2, vision_pb2_grpc

Context = aio.ServicerContext[Any, Any]

_DEFAULT_TOP_K = 5


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
            model=messages.served(ready),
            results=[
                vision_pb2.ClassifyResult(status=messages.status(answer), labels=messages.labels(answer))
                for answer in analysis.answers
            ],
            timing=messages.timing(analysis.timing),
        )

    async def Embed(self, request: vision_pb2.EmbedRequest, context: Context) -> vision_pb2.EmbedResponse:
        """See vision.proto."""
        ready, analysis = await self._analyze(request, context, top_k=0)
        return vision_pb2.EmbedResponse(
            model=messages.served(ready),
            results=[
                vision_pb2.EmbedResult(status=messages.status(answer), embedding=messages.embedding(answer))
                for answer in analysis.answers
            ],
            timing=messages.timing(analysis.timing),
        )

    async def EmbedStream(
        self, request_iterator: AsyncIterator[vision_pb2.EmbedStreamRequest], context: Context
    ) -> AsyncGenerator[vision_pb2.EmbedStreamResponse, None]:
        """See vision.proto."""
        stream = EmbedStream(self._repository, self._limits, context, self._clock)
        memory = Memory[vision_pb2.EmbedStreamRequest](self._memory, lambda request: request.ByteSize())
        responses = flow(request_iterator, stream.answer, stream.begin, memory, self._draining)
        async with aclosing(responses):
            async for response in responses:
                # Here and not where it is made: only now is it known which one goes out first.
                yield stream.introduced(response)

    async def Analyze(self, request: vision_pb2.AnalyzeRequest, context: Context) -> vision_pb2.AnalyzeResponse:
        """See vision.proto."""
        wanted = messages.wanted(request.answers)
        labels_wanted = vision_pb2.ANSWER_LABELS in wanted
        ready, analysis = await self._analyze(
            request, context, top_k=(request.top_k or _DEFAULT_TOP_K) if labels_wanted else 0
        )
        return vision_pb2.AnalyzeResponse(
            model=messages.served(ready),
            results=[
                vision_pb2.AnalyzeResult(
                    status=messages.status(answer),
                    logits=messages.logits(answer) if vision_pb2.ANSWER_LOGITS in wanted else None,
                    labels=messages.labels(answer),
                    embedding=messages.embedding(answer) if vision_pb2.ANSWER_EMBEDDING in wanted else None,
                )
                for answer in analysis.answers
            ],
            timing=messages.timing(analysis.timing),
        )

    async def GetModel(self, request: vision_pb2.GetModelRequest, context: Context) -> vision_pb2.GetModelResponse:
        """See vision.proto."""
        del context
        ready = find(self._repository, request.model)
        manifest = ready.bundle.manifest
        return vision_pb2.GetModelResponse(
            model=messages.model(Model(ready.bundle.name, ready.bundle.version, ready)),
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
        return vision_pb2.ListModelsResponse(models=[messages.model(model) for model in self._repository.models])

    async def _analyze(
        self,
        request: vision_pb2.ClassifyRequest | vision_pb2.EmbedRequest | vision_pb2.AnalyzeRequest,
        context: Context,
        *,
        top_k: int,
    ) -> tuple[Ready, Analysis]:
        deadline_s = self._clock() + self._time_left_s(context)
        size_bytes = self._checked_size(request, len(request.images))
        ready = find(self._repository, request.model)
        with self._memory.hold(size_bytes):
            min_probability = 0.0 if isinstance(request, vision_pb2.EmbedRequest) else request.min_probability
            question = Question(
                [messages.source(image) for image in request.images], deadline_s, top_k, min_probability
            )
            return ready, await ask(ready, question, self._clock)

    def _time_left_s(self, context: Context) -> float:
        left_s = context.time_remaining()
        return self._limits.default_deadline_s if left_s is None else left_s

    def _checked_size(self, request: Message, images: int) -> int:
        if images > self._limits.max_images:
            raise BadRequest(f"Expected at most {self._limits.max_images} images in a request. Received: {images}.")
        if (size_bytes := request.ByteSize()) > self._limits.max_bytes:
            raise BadRequest(f"Expected at most {self._limits.max_bytes} bytes in a request. Received: {size_bytes}.")
        return size_bytes
