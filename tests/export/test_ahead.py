import threading
from contextlib import closing

import pytest

from export import ahead


def test_results_come_in_the_order_of_the_items() -> None:
    first = threading.Event()

    def later(item: int) -> int:
        # The first is done after the second.
        first.set() if item else first.wait(10)
        return item * 10

    assert list(ahead.mapped(later, range(5), threads=2, ahead=3)) == [0, 10, 20, 30, 40]


def test_no_more_is_begun_than_may_wait() -> None:
    begun: list[int] = []
    with closing(ahead.mapped(begun.append, range(100), threads=2, ahead=4)) as results:
        next(results)
        assert len(begun) <= 5
    assert not [each for each in threading.enumerate() if each.name.startswith("ahead")]


def test_what_a_call_raises_is_raised_where_its_result_is_taken() -> None:
    def inverse(item: int) -> float:
        return 1 / item

    results = ahead.mapped(inverse, [1, 0, 2], threads=1, ahead=9)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert not [each for each in threading.enumerate() if each.name.startswith("ahead")]
