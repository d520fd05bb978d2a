"""Tells a person which step runs and for how long; does not know what the steps do."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Advance: TypeAlias = Callable[[int], None]  # told how many more are done


class Steps:
    """The named steps of one command, counted.

    On a terminal a step shows a bar and its time while it runs; a log file gets only the line of each finished step:
    `  3/6  convert to ONNX            12.4 s`. How far torch is with an export cannot be asked, so the bar of a step
    without a total moves without an end.

    Args:
        total: How many steps there will be.
        console: Where to write.

    Attributes:
        seconds: How long each finished step took; those of one name together.
    """

    def __init__(self, total: int, console: Console) -> None:
        self._total = total
        self._console = console
        self._done = 0
        self.seconds: dict[str, float] = {}

    def more(self, count: int) -> None:
        """Count so many more steps than were foreseen."""
        self._total += count

    def say(self, text: str) -> None:
        """Tell what a person should read before the next step."""
        self._console.print(text, highlight=False, markup=False)

    @contextmanager
    def step(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """Show that a step runs while the block does, and how long it took. A failed step leaves no line.

        Args:
            name: What the step does.
            total: How much there is to do, where that is known.

        Yields:
            Tells the bar how much more of the total is done.
        """
        self._done += 1
        place = f"{self._done:>3}/{self._total}  {name}"
        started = time.perf_counter()
        columns = [TextColumn("{task.description}"), SpinnerColumn(), BarColumn(20), TimeElapsedColumn()]
        if total is not None:
            columns += [TextColumn("{task.completed}/{task.total}"), TimeRemainingColumn()]
        with Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal) as bar:
            task = bar.add_task(f"{place:<32}", total=total)
            yield lambda done: bar.advance(task, done)
        taken = time.perf_counter() - started
        self.seconds[name] = round(self.seconds.get(name, 0.0) + taken, 2)
        self._console.print(f"{place:<32}{taken:>7.1f} s", highlight=False, markup=False)
