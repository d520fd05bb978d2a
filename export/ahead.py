"""Does work in threads a little ahead of who takes its results; does not know what the work is."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def mapped(
    function: Callable[[ItemT], ResultT], items: Iterable[ItemT], threads: int, ahead: int
) -> Generator[ResultT]:
    """Call a function with each item, in threads.

    Args:
        function: Called in any of the threads; what it raises is raised where its result is taken.
        items: What it is called with.
        threads: How many calls run at once.
        ahead: How many results may wait to be taken, so that memory stays flat.

    Yields:
        The results, in the order of the items. When this is closed, no call is left waiting and the threads have ended.
    """
    waiting: deque[Future[ResultT]] = deque()
    pool = ThreadPoolExecutor(threads, "ahead")
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
