"""Python values to request messages, response messages to answers; sends nothing and keeps nothing."""

import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias, TypeVar

import grpc
import numpy as np
from google.protobuf.descriptor import EnumDescriptor
from numpy.typing import NDArray

from vertebra.client.answers import (
    Analysis,
    Answer,
    Backbone,
    Classification,
    CropGeometry,
    Embedding,
    Label,
    ModelDescription,
    ModelSummary,
    Output,
    Response,
    ServedModel,
    StreamedEmbedding,
    Timing,
)
from vertebra.client.errors import AnswerError, ImageError
from vertebra.v1 import bundle_pb2, vision_pb2

# The path of an image file, the bytes of one, or decoded pixels: uint8 [H, W, 3] in RGB order, upright.
ImageSource: TypeAlias = str | os.PathLike[str] | bytes | NDArray[np.uint8]

ANSWERS: dict[Answer, vision_pb2.Answer.ValueType] = {
    "logits": vision_pb2.ANSWER_LOGITS,
    "labels": vision_pb2.ANSWER_LABELS,
    "embedding": vision_pb2.ANSWER_EMBEDDING,
}
CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
OK = 0


class Result(Protocol):
    """What ClassifyResult, EmbedResult and AnalyzeResult have in common."""

    @property
    def status(self) -> vision_pb2.Status: ...


ResultT = TypeVar("ResultT", bound=Result)
AnswerT = TypeVar("AnswerT")


def selector(model: str, version: int, expected_embedding_space_id: str = "") -> vision_pb2.ModelSelector:
    return vision_pb2.ModelSelector(
        name=model, version=version, expected_embedding_space_id=expected_embedding_space_id
    )


def images(sources: Sequence[ImageSource]) -> list[vision_pb2.Image]:
    """One message an image; reads the files. How many there may be is the server's to say."""
    if isinstance(sources, str | os.PathLike | bytes | np.ndarray):
        raise TypeError(
            f"Expected a sequence of images. Received: {described(sources)}. Write [image] for one image, "
            "list(array) for an array of several."
        )
    return [image(source) for source in sources]


def image(source: ImageSource) -> vision_pb2.Image:
    if isinstance(source, bytes):
        return vision_pb2.Image(encoded=source)
    if isinstance(source, str | os.PathLike):
        return vision_pb2.Image(encoded=Path(source).read_bytes())
    if not isinstance(source, np.ndarray):
        raise TypeError(f"Expected a path, bytes or an array as image. Received: {described(source)}.")
    if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3:
        raise ValueError(f"Expected pixels as a uint8 array [H, W, 3]. Received: {described(source)}.")
    height, width, _ = source.shape
    return vision_pb2.Image(pixels=vision_pb2.Pixels(data=source.tobytes(), height=height, width=width))


def described(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"a {value.dtype} array {list(value.shape)}"
    return type(value).__name__


def answers(names: Iterable[Answer]) -> list[vision_pb2.Answer.ValueType]:
    wanted = list(names)
    for name in wanted:
        if name not in ANSWERS:
            raise ValueError(f"Expected answers out of {sorted(ANSWERS)}. Received: {name!r}.")
    return [ANSWERS[name] for name in wanted]


def classify_response(message: vision_pb2.ClassifyResponse) -> Response[Classification]:
    return response(message.model, message.timing, message.results, classification)


def embed_response(message: vision_pb2.EmbedResponse) -> Response[Embedding]:
    return response(message.model, message.timing, message.results, embedding)


def analyze_response(message: vision_pb2.AnalyzeResponse) -> Response[Analysis]:
    return response(message.model, message.timing, message.results, analysis)


def response(
    model: vision_pb2.ServedModel,
    timing: vision_pb2.Timing,
    results: Iterable[ResultT],
    answer: Callable[[ResultT], AnswerT],
) -> Response[AnswerT]:
    return Response(
        model=served_model(model),
        timing=Timing(timing.decode_ms, timing.queue_ms, timing.infer_ms, timing.total_ms),
        results=tuple(
            answer(result) if result.status.code == OK else image_error(index, result.status)
            for index, result in enumerate(results)
        ),
    )


def streamed(message: vision_pb2.EmbedStreamResponse, model: ServedModel) -> StreamedEmbedding | ImageError:
    if message.status.code != OK:
        return image_error(message.tag, message.status)
    return StreamedEmbedding(array(message.embedding), model)


def served_model(message: vision_pb2.ServedModel) -> ServedModel:
    return ServedModel(message.name, message.version, message.embedding_space_id)


def image_error(index: int, status: vision_pb2.Status) -> ImageError:
    return ImageError(index, CODES.get(status.code, grpc.StatusCode.UNKNOWN), status.message)


def classification(result: vision_pb2.ClassifyResult) -> Classification:
    return Classification(labels(result.labels))


def embedding(result: vision_pb2.EmbedResult) -> Embedding:
    return Embedding(array(result.embedding))


def analysis(result: vision_pb2.AnalyzeResult) -> Analysis:
    return Analysis(
        logits=array(result.logits) if result.HasField("logits") else None,
        labels=labels(result.labels),
        embedding=array(result.embedding) if result.HasField("embedding") else None,
    )


def labels(messages: Iterable[vision_pb2.Label]) -> tuple[Label, ...]:
    return tuple(Label(label.index, label.name, label.probability) for label in messages)


def array(tensor: vision_pb2.Tensor) -> NDArray[np.float32]:
    """A read-only view of the message's bytes, in the shape that the message gives."""
    if tensor.data_type != vision_pb2.DATA_TYPE_FLOAT32:
        raise AnswerError(
            f"Expected a tensor of FLOAT32. Received: {enum_name(vision_pb2.DataType.DESCRIPTOR, tensor.data_type)}."
        )
    expected_bytes = 4 * math.prod(tensor.shape)
    if len(tensor.data) != expected_bytes:
        raise AnswerError(
            f"Expected {expected_bytes} bytes for a tensor of shape {list(tensor.shape)}. Received: {len(tensor.data)}."
        )
    return np.frombuffer(tensor.data, dtype="<f4").reshape(tensor.shape)


def model_description(message: vision_pb2.GetModelResponse) -> ModelDescription:
    backbone = message.backbone
    return ModelDescription(
        model=model_summary(message.model),
        labels=tuple(message.labels),
        geometry=geometry(message.geometry),
        outputs=tuple(output(each) for each in message.outputs),
        backbone=Backbone(backbone.name, backbone.source, backbone.licence, backbone.weights_sha256),
    )


def model_summary(message: vision_pb2.Model) -> ModelSummary:
    return ModelSummary(
        name=message.name,
        version=message.version,
        state=enum_name(vision_pb2.ModelState.DESCRIPTOR, message.state),
        error=message.error,
        embedding_space_id=message.embedding_space_id,
        provider=message.provider,
        precision=enum_name(bundle_pb2.Precision.DESCRIPTOR, message.precision),
        manifest_sha256=message.manifest_sha256,
    )


def geometry(message: bundle_pb2.Geometry) -> CropGeometry | None:
    if not message.HasField("crop"):
        return None
    crop = message.crop
    return CropGeometry(
        resize_shorter_px=crop.resize_shorter_px,
        crop_height_px=crop.crop_height_px,
        crop_width_px=crop.crop_width_px,
        interpolation=enum_name(bundle_pb2.Interpolation.DESCRIPTOR, crop.interpolation),
    )


def output(message: bundle_pb2.Output) -> Output:
    return Output(
        name=message.name,
        kind=enum_name(bundle_pb2.OutputKind.DESCRIPTOR, message.kind),
        shape=tuple(message.shape),
        tap=message.tap,
        pooling=message.pooling,
        embedding_space_id=message.embedding_space_id,
    )


def enum_name(enum: EnumDescriptor, number: int) -> str:
    """READY for MODEL_STATE_READY, and the number as text where the server knows a value that this client does not."""
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    value = enum.values_by_number.get(number)
    return str(number) if value is None else value.name.removeprefix(prefix)
