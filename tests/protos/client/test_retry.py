"""When a refused request is tried again; no server is asked."""

import math

import grpc
import pytest

from vertebra.client import retry


@pytest.mark.parametrize(("value", "expected_s"), [("0", 0.0), ("40", 0.04), ("1500", 1.5)])
def test_pushback_is_read_as_milliseconds(value: str, expected_s: float) -> None:
    assert retry.pushback_s([("x-other", "7"), ("grpc-retry-pushback-ms", value)]) == expected_s


@pytest.mark.parametrize("value", ["-1", "", "soon", "1.5", "+5", " 5", "9" * 5000, b"40"])
def test_what_is_no_pushback_asks_for_no_retry(value: str | bytes) -> None:
    assert retry.pushback_s([("grpc-retry-pushback-ms", value)]) is None


def test_no_trailer_asks_for_no_retry() -> None:
    assert retry.pushback_s([]) is None


@pytest.mark.parametrize("code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE])
def test_waits_as_long_as_the_server_says(code: grpc.StatusCode) -> None:
    assert retry.wait_s(code, 0.5, 10.0) == 0.5


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code not in retry.RETRYABLE])
def test_no_other_code_is_retried(code: grpc.StatusCode) -> None:
    assert retry.wait_s(code, 0.5, 10.0) is None


@pytest.mark.parametrize(("after_s", "left_s"), [(None, 10.0), (0.5, 0.5), (0.5, 0.4), (0.0, 0.0), (0.0, -1.0)])
def test_no_retry_without_pushback_or_room(after_s: float | None, left_s: float) -> None:
    assert retry.wait_s(grpc.StatusCode.UNAVAILABLE, after_s, left_s) is None


@pytest.mark.parametrize("deadline_s", [0.0, -1.0, 1e10, math.inf, math.nan])
def test_a_deadline_is_finite_and_positive(deadline_s: float) -> None:
    with pytest.raises(
        ValueError, match=rf"Expected a deadline of more than 0 and at most 1000000000 seconds. Received: {deadline_s}"
    ):
        retry.checked_deadline_s(deadline_s)
