"""What the client answers, as frozen values; knows nothing of messages or of gRPC."""

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from vertebra.client.errors import ImageError

# What can be asked of an image: the values of the wire's enum Answer.
Answer = Literal["logits", "labels", "embedding"]

AnswerT = TypeVar("AnswerT")


@dataclass(frozen=True, slots=True)
class Label:
    """One class and its softmax probability, in [0, 1]."""

    index: int
    name: str
    probability: float


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the server spent the time of a request; the wire is not in it."""

    decode_ms: float
    queue_ms: float
    infer_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The model that answered. Compare embeddings only where embedding_space_id is equal."""

    name: str
    version: int
    embedding_space_id: str


@dataclass(frozen=True, slots=True)
class Classification:
    """The most probable labels of one image, in falling order of probability."""

    labels: tuple[Label, ...]


# Values that hold arrays are compared by identity: == of two arrays is an array, and not an answer.
@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """The embedding of one image: float32 [D], read-only, not normalised to unit length."""

    vector: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class StreamedEmbedding:
    """The embedding of one image of a stream, as in Embedding, and the model that it is of."""

    vector: NDArray[np.float32]
    model: ServedModel


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """What was asked for of one image; what was not asked for is None, or empty for labels. Arrays are read-only."""

    logits: NDArray[np.float32] | None  # [classes]
    labels: tuple[Label, ...]
    embedding: NDArray[np.float32] | None  # [D]


@dataclass(frozen=True, slots=True)
class Response(Generic[AnswerT]):
    """One result an image, in the order of the request: its answer, or the error that says why there is none."""

    model: ServedModel
    timing: Timing
    results: tuple[AnswerT | ImageError, ...]

    def answers(self) -> tuple[AnswerT, ...]:
        """One answer an image; raises the first ImageError where an image has none."""
        answers = []
        for result in self.results:
            if isinstance(result, ImageError):
                raise result
            answers.append(result)
        return tuple(answers)


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """A model of the repository and how it is doing.

    The state is LOADING, READY or FAILED, the precision FP32, FP16, BF16 or INT8; both are UNSPECIFIED where the
    server leaves them out, and a number where the server is newer than this client.
    """

    name: str
    version: int
    state: str
    error: str
    embedding_space_id: str
    provider: str
    precision: str
    manifest_sha256: str


@dataclass(frozen=True, slots=True)
class CropGeometry:
    """Resize the shorter side with the filter BILINEAR or BICUBIC, then cut out the centre."""

    resize_shorter_px: int
    crop_height_px: int
    crop_width_px: int
    interpolation: str


@dataclass(frozen=True, slots=True)
class Output:
    """One output of the graph; the kind is LOGITS or EMBEDDING, the shape that of one image's answer."""

    name: str
    kind: str
    shape: tuple[int, ...]
    tap: str
    pooling: str
    embedding_space_id: str


@dataclass(frozen=True, slots=True)
class Backbone:
    """The backbone that a model was made from."""

    name: str
    source: str
    licence: str
    weights_sha256: str


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What a model is, takes and answers; the geometry is None where it is of a kind newer than this client."""

    model: ModelSummary
    labels: tuple[str, ...]
    geometry: CropGeometry | None
    outputs: tuple[Output, ...]
    backbone: Backbone
