"""The client for threads; knows how to call and when to call again, nothing of what messages hold."""

import time
from collections.abc import Generator, Iterable, Sequence
from types import TracebackType
from typing import Self, TypeVar

import grpc

from vertebra.client import channel, errors, messages, retry
from vertebra.client.answers import (
    Analysis,
    Answer,
    Classification,
    Embedding,
    ModelDescription,
    ModelSummary,
    Response,
    StreamedEmbedding,
)
from vertebra.client.errors import ImageError
from vertebra.client.messages import ImageSource
from vertebra.client.stream import Ledger
from vertebra.client.sync_stream import SyncStream
from vertebra.v1 import vision_pb2, vision_pb2_grpc

RequestT = TypeVar("RequestT")
AnswerT = TypeVar("AnswerT")


class Client:
    """Asks a Vertebra server at "host:port", without encryption. May be shared by threads.

    A deadline covers a call with all of its tries, not the reading of files. Errors are those of
    vertebra.client.errors, and OSError for a file that cannot be read.
    """

    def __init__(self, address: str, *, deadline_s: float = 30.0) -> None:
        self._deadline_s = retry.checked_deadline_s(deadline_s)
        self._channel = grpc.insecure_channel(address, options=channel.OPTIONS)
        self._stub = vision_pb2_grpc.VisionStub(self._channel)

    def classify(
        self,
        images: Sequence[ImageSource],
        *,
        model: str = "",
        version: int = 0,
        top_k: int = 5,
        min_probability: float = 0.0,
        deadline_s: float | None = None,
    ) -> Response[Classification]:
        """The most probable labels of each image: at most top_k, none below min_probability."""
        request = vision_pb2.ClassifyRequest(
            model=messages.selector(model, version),
            images=messages.images(images),
            top_k=top_k,
            min_probability=min_probability,
        )
        return messages.classify_response(self._call(self._stub.Classify, request, deadline_s))

    def embed(
        self,
        images: Sequence[ImageSource],
        *,
        model: str = "",
        version: int = 0,
        expected_embedding_space_id: str = "",
        deadline_s: float | None = None,
    ) -> Response[Embedding]:
        """The embedding of each image; FailedPrecondition where it would lie in another space than the expected."""
        request = vision_pb2.EmbedRequest(
            model=messages.selector(model, version, expected_embedding_space_id),
            images=messages.images(images),
        )
        return messages.embed_response(self._call(self._stub.Embed, request, deadline_s))

    def embed_stream(
        self,
        images: Iterable[ImageSource],
        *,
        model: str = "",
        version: int = 0,
        expected_embedding_space_id: str = "",
        deadline_s: float | None = None,
    ) -> Generator[StreamedEmbedding | ImageError, None, None]:
        """The embeddings of as many images as there are, in order; an ImageError for each that has none.

        Images are taken and files read while answers come, at most 64 images ahead of the results that were taken. A
        file that cannot be read is an ImageError, too. When the server drains or asks to come again, what it has not
        answered is sent again; all embeddings lie in one space. The deadline is for the next answer, not for all of
        them: so long may the server leave images unanswered, with all tries.
        """
        patience_s = retry.checked_deadline_s(self._deadline_s if deadline_s is None else deadline_s)
        ledger = Ledger(messages.selector(model, version, expected_embedding_space_id), patience_s)
        return SyncStream(self._stub.EmbedStream, images, ledger).results()

    def analyze(
        self,
        images: Sequence[ImageSource],
        *,
        answers: Sequence[Answer],
        model: str = "",
        version: int = 0,
        top_k: int = 5,
        min_probability: float = 0.0,
        expected_embedding_space_id: str = "",
        deadline_s: float | None = None,
    ) -> Response[Analysis]:
        """Any of "logits", "labels" and "embedding" of each image, from one forward pass."""
        request = vision_pb2.AnalyzeRequest(
            model=messages.selector(model, version, expected_embedding_space_id),
            images=messages.images(images),
            answers=messages.answers(answers),
            top_k=top_k,
            min_probability=min_probability,
        )
        return messages.analyze_response(self._call(self._stub.Analyze, request, deadline_s))

    def get_model(
        self,
        model: str = "",
        *,
        version: int = 0,
        expected_embedding_space_id: str = "",
        deadline_s: float | None = None,
    ) -> ModelDescription:
        """What a model is, takes and answers, with all of its labels."""
        request = vision_pb2.GetModelRequest(model=messages.selector(model, version, expected_embedding_space_id))
        return messages.model_description(self._call(self._stub.GetModel, request, deadline_s))

    def list_models(self, *, deadline_s: float | None = None) -> tuple[ModelSummary, ...]:
        """The models of the repository by name, also those that failed to load."""
        answer = self._call(self._stub.ListModels, vision_pb2.ListModelsRequest(), deadline_s)
        return tuple(messages.model_summary(model) for model in answer.models)

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _call(
        self,
        method: "grpc.UnaryUnaryMultiCallable[RequestT, AnswerT]",  # generic in its types alone
        request: RequestT,
        deadline_s: float | None,
    ) -> AnswerT:
        ends_at = time.monotonic() + retry.checked_deadline_s(self._deadline_s if deadline_s is None else deadline_s)
        while True:
            try:
                return method(request, timeout=ends_at - time.monotonic())
            except grpc.RpcError as cause:
                error = errors.from_grpc(cause)
                wait_s = retry.wait_s(error.code, error.retry_after_s, ends_at - time.monotonic())
                if wait_s is None:
                    raise error from cause
            time.sleep(wait_s)
