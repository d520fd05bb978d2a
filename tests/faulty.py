"""The real service with an engine that fails on purpose; knows nothing of what a test proves with it.

    python -m tests.faulty --engine hang -- --repository models --address 127.0.0.1:0

timed   takes first_ms + each_ms for every image of a batch, to the clock: how much it can do is known
poison  raises whenever the fatal image is in the batch
die     raises on the fatal image and ever after, until another engine is made in its place
hang    never comes back from the fatal image; engines made after it do. SIGUSR1 lets go of it
stuck   never comes back from the fatal image, whichever engine has it
leak    keeps some bytes for every image: the control of the leak test
"""

import argparse
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from service import repository
from service.__main__ import main as serve
from service.engine import Arrays, Engine

# An image of this colour alone sets off the fault; neither the warm-up nor a golden image is one.
FATAL = (255, 0, 255)

Pixels = NDArray[np.uint8]
# Called in front of every run of one engine.
Fault = Callable[[Pixels], None]


class FaultyEngine(Engine):
    """An engine with a fault in front of every run, warm-up and proof included."""

    def __init__(self, fault: Fault, *arguments: Any, **settings: Any) -> None:
        self._fault = fault
        super().__init__(*arguments, **settings)
        self._alone = False  # a fault that sleeps takes no CPU time: batch sizes are compared by the clock on the wall

    def run(self, pixels: Pixels) -> Arrays:
        self._fault(pixels)
        return super().run(pixels)


def main() -> int:
    split = sys.argv.index("--")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["timed", "poison", "die", "hang", "stuck", "leak"], required=True)
    parser.add_argument("--first-ms", type=float, default=0.0)
    parser.add_argument("--each-ms", type=float, default=0.0)
    parser.add_argument("--leak-bytes", type=int, default=256)
    make_fault = _faults(parser.parse_args(sys.argv[1:split]))

    def make(*arguments: Any, **settings: Any) -> Engine:
        return FaultyEngine(make_fault(), *arguments, **settings)

    with mock.patch.object(repository, "Engine", make):
        return serve(sys.argv[split + 1 :])


def _faults(arguments: argparse.Namespace) -> Callable[[], Fault]:
    """Makes a fault for each engine that is made."""
    match arguments.engine:
        case "timed":
            return lambda: _timed(arguments.first_ms / 1000, arguments.each_ms / 1000)
        case "poison":
            return lambda: _poison
        case "die":
            return _die
        case "hang":
            return _hangs()
        case "stuck":
            return lambda: _stuck
        case _:
            return lambda: _leak(arguments.leak_bytes)


def _timed(first_s: float, each_s: float) -> Fault:
    return lambda pixels: time.sleep(first_s + each_s * len(pixels))


def _poison(pixels: Pixels) -> None:
    if _is_fatal(pixels):
        raise RuntimeError("poisoned")


def _die() -> Fault:
    dead = threading.Event()

    def fault(pixels: Pixels) -> None:
        if _is_fatal(pixels):
            dead.set()
        if dead.is_set():
            raise RuntimeError("dead")

    return fault


def _hangs() -> Callable[[], Fault]:
    hung, released = threading.Event(), threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: released.set())

    def fault(pixels: Pixels) -> None:
        if _is_fatal(pixels) and not hung.is_set():
            hung.set()
            released.wait()

    return lambda: fault


def _stuck(pixels: Pixels) -> None:
    if _is_fatal(pixels):
        threading.Event().wait()


def _leak(size_bytes: int) -> Fault:
    kept: list[bytes] = []
    return lambda pixels: kept.extend(b"\x01" * size_bytes for _ in pixels)


def _is_fatal(pixels: Pixels) -> bool:
    return bool((pixels == FATAL).all(axis=(1, 2, 3)).any())


if __name__ == "__main__":
    sys.exit(main())
