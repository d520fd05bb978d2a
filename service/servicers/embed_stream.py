"""One stream of images to embeddings; does not know how many are in flight, nor in which order they are answered."""

import asyncio
from collections.abc import Callable
from typing import Any

from grpc import aio

from service.errors import BadImage, BadRequest, DeadlinePassed, EngineFailed, Refused
from service.predictor import Answer, Question, Source
from service.repository import Repository
from service.servicers import messages
from service.servicers.asking import RequestLimits, ask, find
from vertebra.v1 import vision_pb2

# An image that finds no room asks again no sooner: asking costs time, and so many may be asking.
_SHORTEST_WAIT_S = 0.02


class EmbedStream:
    """Answers the messages of one stream, all by the model that the first one names.

    Args:
        repository: The models.
        limits: What is refused before anything is looked at.
        context: The call's.
        clock: Monotonic seconds; the same as the batchers'.
    """

    def __init__(
        self,
        repository: Repository,
        limits: RequestLimits,
        context: aio.ServicerContext[Any, Any],
        clock: Callable[[], float],
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
        ready = find(self._repository, first.model)
        self._asked = first.model
        self._introduction = messages.served(ready)
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
        return vision_pb2.EmbedStreamResponse(
            tag=request.tag, status=messages.status(answer), embedding=messages.embedding(answer)
        )

    def _checked(self, request: vision_pb2.EmbedStreamRequest) -> Source:
        if (size_bytes := request.ByteSize()) > self._limits.max_bytes:
            return BadImage(f"Expected at most {self._limits.max_bytes} bytes in a message. Received: {size_bytes}.")
        return messages.source(request.image)

    async def _embedded(self, source: Source) -> Answer | BadImage | EngineFailed | DeadlinePassed:
        deadline_s = self._deadline_s()
        while True:
            try:
                ready = find(self._repository, self._pinned)
                return (await ask(ready, Question([source], deadline_s), self._clock)).answers[0]
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
