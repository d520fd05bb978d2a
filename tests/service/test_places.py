"""Who is admitted: as many as there are places, and only those that can be answered in time."""

import pytest

from service.errors import DeadlineUnreachable, Overloaded
from service.places import Places
from tests.service.conftest import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def places(clock: Clock) -> Places:
    return Places(limit=10, seconds_per_image=1.0, clock=clock)


def test_a_deadline_that_cannot_be_met_says_when_one_like_it_could(places: Places) -> None:
    with (
        places.hold(4, 1100.0, ()),
        pytest.raises(
            DeadlineUnreachable, match=r"Expected at least 6000 ms until the deadline. Received: 5500 ms"
        ) as refusal,
        places.hold(2, 1105.5 - 100.0, (1100.0,) * 4),
    ):
        pytest.fail("admitted work that cannot be done in time")
    assert refusal.value.retry_after_s == pytest.approx(0.5)


def test_nobody_who_has_been_admitted_is_pushed_past_his_deadline(places: Places) -> None:
    with (
        places.hold(4, 1005.0, ()),
        pytest.raises(
            Overloaded, match=r"Expected room for 2 images before those with a later deadline. Received: room for 1\."
        ) as refusal,
        places.hold(2, 1004.0, ()),
    ):
        pytest.fail("admitted at the cost of another")
    assert refusal.value.retry_after_s == pytest.approx(1.0)
    with places.hold(4, 1005.0, ()), places.hold(1, 1004.0, ()):
        assert places.taken == 5


def test_answers_that_come_late_make_admission_careful(places: Places, clock: Clock) -> None:
    for _ in range(400):
        places.answered(late_s=2.0)
    with (
        places.hold(1, clock.now_s + 100, ()),
        pytest.raises(DeadlineUnreachable, match=r"Expected at least 40\d\d ms until the deadline. Received: 3500 ms"),
        places.hold(1, clock.now_s + 3.5, (clock.now_s + 100,)),
    ):
        pytest.fail("admitted work that cannot be done in time")


def test_one_stall_does_not_close_the_door(places: Places, clock: Clock) -> None:
    for _ in range(10):
        places.answered(late_s=25.0)  # all that was admitted when the machine stood still
    with places.hold(1, clock.now_s + 100, ()), places.hold(1, clock.now_s + 5, ()):
        assert places.taken == 2


def test_answers_that_come_early_do_not_make_up_for_late_ones(places: Places, clock: Clock) -> None:
    for late_s in (0.05, -10.0) * 200:
        places.answered(late_s)
    with (
        places.hold(1, clock.now_s + 100, ()),
        pytest.raises(DeadlineUnreachable),
        places.hold(1, clock.now_s + 1.05, ()),
    ):
        pytest.fail("admitted without regard to those that came late")
