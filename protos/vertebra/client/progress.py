"""How far a long run has come: a bar on a terminal, elsewhere a line now and then. Does not know what is counted."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

BAR = 24
# On a terminal the eye decides, in a log file how long it shall become.
TERMINAL_S, LOG_S = 0.1, 30.0


class Progress:
    """Shows a count, a rate and the time that is left; to be used in a `with` block, which leaves an empty line.

    Args:
        stream: Where it is shown; None where that was closed.
        unit: What is counted: "images".
        clock: Monotonic seconds.
    """

    def __init__(self, stream: TextIO | None, unit: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._unit = unit
        self._clock = clock
        self._started_s = clock()
        self._is_bar = stream is not None and stream.isatty()
        self._shown_s = self._started_s - (TERMINAL_S if self._is_bar else 0.0)
        self._width = 0

    def show(self, done: int, total: int) -> None:
        """Show so many of so many, if there is reason to by now."""
        now_s = self._clock()
        if now_s - self._shown_s < (TERMINAL_S if self._is_bar else LOG_S):
            return
        self._shown_s = now_s
        line = f"{done}/{total} {self._unit}{self._speed(done, total, now_s - self._started_s)}"
        if not self._is_bar:
            self._write(line + "\n")
            return
        full = BAR * done // max(total, 1)
        line = f"{'#' * full}{'.' * (BAR - full)} {line}"
        self._write("\r" + line.ljust(self._width))
        self._width = len(line)

    def note(self, text: str) -> None:
        """Say something in a line of its own."""
        self._clear()
        self._write(text + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._clear()

    def _clear(self) -> None:
        if self._width:
            self._write("\r" + " " * self._width + "\r")
            self._width = 0

    def _speed(self, done: int, total: int, passed_s: float) -> str:
        if not done or not passed_s:
            return ""
        minutes, seconds = divmod(round((total - done) * passed_s / done), 60)
        return f", {done / passed_s:.1f}/s, {minutes}:{seconds:02} left"

    def _write(self, text: str) -> None:
        if self._stream is not None:
            self._stream.write(text)
            self._stream.flush()
