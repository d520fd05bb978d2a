"""What all requests together may hold."""

import pytest

from service.allowance import Allowance
from service.errors import BadRequest, MemoryFull


def test_it_is_given_back_whatever_happens() -> None:
    allowance = Allowance("bytes", 10)

    def fail() -> None:
        with allowance.hold(7):
            assert allowance.held == 7
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert allowance.held == 0


def test_what_does_not_fit_now_may_later() -> None:
    allowance = Allowance("bytes", 10)
    with (
        allowance.hold(7),
        pytest.raises(MemoryFull, match=r"Expected room for 4 bytes. Received: 7 of 10 are held\.") as refusal,
        allowance.hold(4),
    ):
        pytest.fail("held over the limit")
    assert refusal.value.retry_after_s == 0.1
    with allowance.hold(4):
        assert allowance.held == 4


def test_what_can_never_fit_is_not_worth_retrying() -> None:
    with (
        pytest.raises(BadRequest, match=r"Expected at most 10 pixels in a request. Received: 11\."),
        Allowance("pixels", 10).hold(11),
    ):
        pytest.fail("held over the limit")
