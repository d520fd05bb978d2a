"""Whether and when a refused request is tried again; does not send, sleep or read the clock."""

import re
from collections.abc import Iterable

import grpc

# The two codes with which a server says "not now": any other answer would be the same a moment later.
RETRYABLE = frozenset({grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE})

# gRPC's own word for it (gRFC A6). A negative number, or anything else that is not one, means: do not try again.
PUSHBACK_KEY = "grpc-retry-pushback-ms"
PUSHBACK_MS = re.compile(r"[0-9]{1,10}")

LONGEST_DEADLINE_S = 1e9


def checked_deadline_s(deadline_s: float) -> float:
    # gRPC takes infinity, NaN and some thousand years for a deadline that has passed, and its message does not say so.
    if not 0 < deadline_s <= LONGEST_DEADLINE_S:
        raise ValueError(
            f"Expected a deadline of more than 0 and at most {LONGEST_DEADLINE_S:.0f} seconds. Received: {deadline_s}."
        )
    return deadline_s


def pushback_s(trailers: Iterable[tuple[str, str | bytes]]) -> float | None:
    """In how many seconds the server says to try again, or None where it does not."""
    value = dict(trailers).get(PUSHBACK_KEY)
    return int(value) / 1000 if isinstance(value, str) and PUSHBACK_MS.fullmatch(value) else None


def wait_s(code: grpc.StatusCode, after_s: float | None, left_s: float) -> float | None:
    """How long to wait before the next try, or None where there shall be none."""
    if code not in RETRYABLE or after_s is None or after_s >= left_s:
        return None
    return after_s
