"""Many small pieces of linear algebra at once, a core for each; does not know what they compute."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

from export import ahead
from service import cpu

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def mapped(function: Callable[[ItemT], ResultT], items: Sequence[ItemT]) -> Generator[ResultT]:
    """Call a function with each item, in threads.

    Args:
        function: What is called. Torch gives each call one thread of its own.
        items: What it is called with.

    Yields:
        The results, in the order of the items, as soon as each is there.
    """
    with _one_thread_each(), closing(ahead.mapped(function, items, cpu.usable(), len(items))) as results:
        yield from results


@contextmanager
def _one_thread_each() -> Iterator[None]:
    # Matrices of a thousand rows are nothing to divide: with two threads that wait for each other by spinning, the same
    # took eight times the CPU time beside busy neighbours, and no less on a quiet machine.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)
