"""What a long run shows, on a terminal and in a log file; the clock is the test's."""

import io

import pytest

from vertebra.client.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_log_file_gets_a_line_now_and_then(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress(stream, "images", clock) as progress:
        for done in range(1, 101):
            clock.now_s += 1
            progress.show(done, 400)
    assert stream.getvalue() == (
        "30/400 images, 1.0/s, 6:10 left\n60/400 images, 1.0/s, 5:40 left\n90/400 images, 1.0/s, 5:10 left\n"
    )


def test_a_terminal_gets_a_bar_ten_times_a_second(clock: Clock) -> None:
    stream = Terminal()
    with Progress(stream, "images", clock) as progress:
        progress.show(0, 8)
        for done in range(1, 5):
            clock.now_s += 0.0625
            progress.show(done, 8)
    first, second, third, *cleared = stream.getvalue().split("\r")[1:]
    assert first == "." * 24 + " 0/8 images"
    assert second == "#" * 6 + "." * 18 + " 2/8 images, 16.0/s, 0:00 left"
    assert third == "#" * 12 + "." * 12 + " 4/8 images, 16.0/s, 0:00 left"
    assert cleared == [" " * len(third), ""]


def test_a_shorter_line_covers_a_longer_one(clock: Clock) -> None:
    stream = Terminal()
    with Progress(stream, "images", clock) as progress:
        for done, total in ((1000, 100_000), (1, 9)):
            clock.now_s += 1
            progress.show(done, total)
    longer, shorter = stream.getvalue().split("\r")[1:3]
    assert len(shorter) == len(longer)


def test_a_note_has_a_line_of_its_own(clock: Clock) -> None:
    stream = Terminal()
    with Progress(stream, "images", clock) as progress:
        progress.show(1, 2)
        progress.note("Well.")
    assert stream.getvalue().endswith(" \rWell.\n")


def test_where_stderr_is_closed_nothing_is_shown(clock: Clock) -> None:
    with Progress(None, "images", clock) as progress:
        clock.now_s += 100
        progress.show(1, 2)
        progress.note("Well.")
