"""The Python client of Vertebra; knows the wire and numpy, nothing of the server behind it."""

# The one package of the house whose __init__ re-exports: other programs import it, and where a name lives is not
# theirs to know.
from vertebra.client.aio import AsyncClient
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
    Timing,
)
from vertebra.client.errors import (
    AnswerError,
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    ImageError,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    RpcError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    VertebraError,
)
from vertebra.client.messages import ImageSource
from vertebra.client.sync import Client

__all__ = [
    "Analysis",
    "Answer",
    "AnswerError",
    "AsyncClient",
    "Backbone",
    "Cancelled",
    "Classification",
    "Client",
    "CropGeometry",
    "DeadlineExceeded",
    "Embedding",
    "FailedPrecondition",
    "ImageError",
    "ImageSource",
    "Internal",
    "InvalidArgument",
    "Label",
    "ModelDescription",
    "ModelSummary",
    "NotFound",
    "Output",
    "PermissionDenied",
    "ResourceExhausted",
    "Response",
    "RpcError",
    "ServedModel",
    "Timing",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "VertebraError",
]
