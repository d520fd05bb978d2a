"""Messages of vertebra.v1.Vision to questions, and answers to messages; knows no call and decides nothing."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service import status as codes
from service.errors import BadImage, BadRequest, EngineFailed, VertebraError
from service.predictor import Answer, Label, Source, Timing
from service.repository import Failed, Model, Ready
from vertebra.v1 import vision_pb2

_ANSWERS = (
    vision_pb2.ANSWER_LOGITS,
    vision_pb2.ANSWER_LABELS,
    vision_pb2.ANSWER_EMBEDDING,
)


def source(image: vision_pb2.Image) -> Source:
    """The image of a message, or why it is none."""
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


def wanted(answers: Sequence[vision_pb2.Answer.ValueType]) -> frozenset[vision_pb2.Answer.ValueType]:
    """The answers that a request asks for; BadRequest where there are none, or unknown ones."""
    unknown = [answer for answer in answers if answer not in _ANSWERS]
    if unknown or not answers:
        names = ", ".join(vision_pb2.Answer.Name(answer) for answer in _ANSWERS)
        raise BadRequest(f"Expected at least one answer out of {names}. Received: {unknown or 'none'}.")
    return frozenset(answers)


def served(ready: Ready) -> vision_pb2.ServedModel:
    """Which model answers."""
    return vision_pb2.ServedModel(
        name=ready.bundle.name,
        version=ready.bundle.version,
        embedding_space_id=ready.bundle.embedding.embedding_space_id,
    )


def status(answer: Answer | VertebraError) -> vision_pb2.Status:
    """OK for an answer, else the error's code and message."""
    if isinstance(answer, Answer):
        return vision_pb2.Status()
    return vision_pb2.Status(code=codes.number(codes.CODES[type(answer)]), message=str(answer))


def labels(answer: Answer | BadImage | EngineFailed) -> list[vision_pb2.Label]:
    """An answer's labels; none for an error."""
    labels: tuple[Label, ...] = answer.labels if isinstance(answer, Answer) else ()
    return [vision_pb2.Label(index=each.index, name=each.name, probability=each.probability) for each in labels]


def embedding(answer: Answer | VertebraError) -> vision_pb2.Tensor | None:
    """An answer's embedding; None for an error."""
    return _tensor(answer.embedding) if isinstance(answer, Answer) else None


def logits(answer: Answer | BadImage | EngineFailed) -> vision_pb2.Tensor | None:
    """An answer's logits; None for an error."""
    return _tensor(answer.logits) if isinstance(answer, Answer) else None


def _tensor(array: NDArray[np.float32]) -> vision_pb2.Tensor:
    return vision_pb2.Tensor(
        data_type=vision_pb2.DataType.DATA_TYPE_FLOAT32,
        shape=array.shape,
        data=array.astype("<f4", copy=False).tobytes(),
    )


def timing(timing: Timing) -> vision_pb2.Timing:
    """The seconds as milliseconds."""
    return vision_pb2.Timing(
        decode_ms=timing.decode_s * 1000,
        queue_ms=timing.queue_s * 1000,
        infer_ms=timing.infer_s * 1000,
        total_ms=timing.total_s * 1000,
    )


def model(model: Model) -> vision_pb2.Model:
    """A model and how it is doing."""
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
