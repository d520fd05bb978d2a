"""Work in threads leaves torch as it was, also when it fails or is not waited for."""

from contextlib import closing

import pytest
import torch

from training.advice import side_by_side


def threads_of(_: int) -> int:
    return torch.get_num_threads()


@pytest.fixture(autouse=True)
def _two_threads() -> None:
    torch.set_num_threads(2)


def test_results_come_in_order_and_each_call_has_one_thread() -> None:
    assert list(side_by_side.mapped(lambda item: item * 2, [3, 1, 2])) == [6, 2, 4]
    assert list(side_by_side.mapped(threads_of, [0, 1])) == [1, 1]
    assert torch.get_num_threads() == 2


def test_threads_are_given_back_when_something_fails() -> None:
    with pytest.raises(ZeroDivisionError):
        list(side_by_side.mapped(lambda item: 1 / item, [1, 0]))
    assert torch.get_num_threads() == 2


def test_threads_are_given_back_when_nobody_takes_the_rest() -> None:
    results = side_by_side.mapped(threads_of, [0, 1, 2])
    with closing(results):
        assert next(results) == 1
    assert torch.get_num_threads() == 2
