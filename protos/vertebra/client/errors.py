"""What can go wrong, as one tree; knows nothing of the request that it went wrong in.

VertebraError
├── ImageError              one image has no answer; the others of its request may have one
├── AnswerError             the server sent something that this client cannot read
├── FolderError             a folder is not what a command needs, or has classes that the model does not know
├── OutputError             a file of embeddings cannot be written, or was begun in another space or by somebody else
└── RpcError                the request has no answer; .code, .message, .retry_after_s
    ├── InvalidArgument     the request is malformed or over a limit
    ├── NotFound            no such model or version
    ├── FailedPrecondition  the model answers in another embedding space than the one expected
    ├── ResourceExhausted   no room now, nor in what was left of the deadline
    ├── DeadlineExceeded    the deadline passed, or could not have been met
    ├── Unavailable         nobody there, starting, draining, or the model failed to load
    ├── Cancelled           the server gave the request up
    ├── Unimplemented       a server that does not know the call
    ├── Unauthenticated     no credentials, or wrong ones
    ├── PermissionDenied    not with these credentials
    └── Internal            the server's fault; its log says more

The names are those of gRPC's codes, so that one word means one thing on both sides of the wire.
"""

from collections.abc import Iterable
from typing import cast

import grpc

from vertebra.client import retry


class VertebraError(Exception):
    """Everything that the client raises of its own; values of a wrong type or shape are TypeError and ValueError."""


class ImageError(VertebraError):
    """One image has no answer. The index is its place in the request."""

    def __init__(self, index: int, code: grpc.StatusCode, message: str) -> None:
        super().__init__(index, code, message)
        self.index = index
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"Image {self.index}: {self.message}"


class AnswerError(VertebraError):
    """The server sent something that this client cannot read."""


class FolderError(VertebraError):
    """A folder does not hold images as they are needed, or has classes that the model does not know."""


class OutputError(VertebraError):
    """A file of embeddings cannot be written, or was begun in another embedding space or by another process."""


class RpcError(VertebraError):
    """The request has no answer; retry_after_s is the server's word on when to try again, where it gave one."""

    def __init__(self, code: grpc.StatusCode, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(code, message, retry_after_s)
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"


class InvalidArgument(RpcError):
    """The request is malformed or over a limit."""


class NotFound(RpcError):
    """No such model or version."""


class FailedPrecondition(RpcError):
    """The model answers in another embedding space than the one expected."""


class ResourceExhausted(RpcError):
    """The server had no room, and retry_after_s did not fit into what was left of the deadline."""


class DeadlineExceeded(RpcError):
    """The deadline passed, or could not have been met."""


class Unavailable(RpcError):
    """Nobody is there, the server is starting or draining, or the model failed to load."""


class Cancelled(RpcError):
    """The server gave the request up."""


class Unimplemented(RpcError):
    """The server does not know the call."""


class Unauthenticated(RpcError):
    """No credentials, or wrong ones."""


class PermissionDenied(RpcError):
    """Not with these credentials."""


class Internal(RpcError):
    """The server's fault; its log says more."""


BY_CODE: dict[grpc.StatusCode, type[RpcError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.INTERNAL: Internal,
}


def from_grpc(error: grpc.RpcError) -> RpcError:
    code = error.code()
    # Pairs in both of gRPC's APIs, though the types say so of neither.
    trailers = cast(Iterable[tuple[str, str | bytes]], error.trailing_metadata() or ())
    return BY_CODE.get(code, RpcError)(code, error.details() or "", retry.pushback_s(trailers))
