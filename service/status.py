"""The one table from the service's errors to gRPC's codes; knows how a code travels, not who raised the error."""

import math

import grpc

from service import errors

# How a client is told when to try again; a client that finds none does not.
PUSHBACK = "grpc-retry-pushback-ms"
# Sending a request again costs both sides more than the engine needs for an image of a small model.
_SHORTEST_PUSHBACK_MS = 20

CODES: dict[type[errors.VertebraError], grpc.StatusCode] = {
    errors.BadRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.BadImage: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.SpaceMismatch: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.MemoryFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.NotReady: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlinePassed: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.DeadlineUnreachable: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.EngineFailed: grpc.StatusCode.INTERNAL,
    errors.BundleError: grpc.StatusCode.INTERNAL,
}

# Why a request was refused before any work, as metrics name it.
REASONS: dict[type[errors.VertebraError], str] = {
    errors.BadRequest: "invalid",
    errors.NotFound: "not_found",
    errors.SpaceMismatch: "space_mismatch",
    errors.Overloaded: "queue_full",
    errors.MemoryFull: "memory",
    errors.NotReady: "not_ready",
    errors.DeadlineUnreachable: "deadline_unreachable",
}


def number(code: grpc.StatusCode) -> int:
    """The number of a code on the wire."""
    return int(code.value[0])


def trailers(error: errors.VertebraError) -> tuple[tuple[str, str], ...]:
    """What goes with an error: when to try again, in whole milliseconds, where the error knows."""
    if error.retry_after_s is not None:
        return ((PUSHBACK, str(max(_SHORTEST_PUSHBACK_MS, math.ceil(error.retry_after_s * 1000)))),)
    return ()
