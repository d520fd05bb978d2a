"""Reads images in a process of its own, which may hang, crash or grow; does not know what is to become of them."""

import json
import resource
import select
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from service import image
from service.bundle import CropGeometry, Interpolation
from service.errors import BadImage

GEOMETRY = CropGeometry(256, 224, 224, Interpolation.INTERPOLATION_BICUBIC)
LIMITS = image.ImageLimits()
_NO_BYTES = image.ImageLimits(max_bytes=2**31)
_ADDRESS_SPACE = 3 * 2**30
_HEADER = struct.Struct("<Q?")


@dataclass(frozen=True)
class Outcome:
    """What became of an image.

    Attributes:
        refusal: Why it was refused; empty where it was read.
        seconds: The processor time that reading it took.
        weighing_s: The processor time that weighing it took.
        pixels: What it was weighed at.
        peak_bytes: How much more memory the process held in between.
        held_bytes: How much it holds now.
    """

    refusal: str
    seconds: float
    weighing_s: float
    pixels: int
    peak_bytes: int
    held_bytes: int


class Reader:
    """A process that reads images, with 3 GiB of addresses and no more.

    Args:
        hang_s: How long it may take for one.
    """

    def __init__(self, hang_s: float = 60.0) -> None:
        self._hang_s = hang_s
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115, closed with this
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.reader"],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def read(self, data: bytes, *, any_bytes: bool = False) -> Outcome:
        """Read an image, of any number of bytes or as usual; raises AssertionError where the process does not."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(_HEADER.pack(len(data), any_bytes) + data)
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], self._hang_s)
        assert ready, f"hangs for {self._hang_s} s on {data[:200]!r}"
        line = self._process.stdout.readline()
        assert line, f"ended with {self._process.wait()} on {data[:200]!r}: {self.said()}"
        return Outcome(**json.loads(line))

    def said(self) -> str:
        """What it wrote to stderr; nobody's file may write there."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")


def serve(requests: BinaryIO) -> None:
    """Read the images that are asked for, until there are no more."""
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    while len(header := requests.read(_HEADER.size)) == _HEADER.size:
        length, any_bytes = _HEADER.unpack(header)
        print(json.dumps(_outcome(requests.read(length), _NO_BYTES if any_bytes else LIMITS)), flush=True)


def _outcome(data: bytes, limits: image.ImageLimits) -> dict[str, object]:
    # Begins the peak anew: proc(5).
    Path("/proc/self/clear_refs").write_text("5")
    before = _memory("VmRSS")
    started_s = time.process_time()
    pixels = image.weigh(data, GEOMETRY, limits)
    weighed_s = time.process_time()
    refusal = ""
    try:
        image.read(data, GEOMETRY, limits)
    except BadImage as error:
        refusal = str(error)
    return {
        "refusal": refusal,
        "seconds": time.process_time() - weighed_s,
        "weighing_s": weighed_s - started_s,
        "pixels": pixels,
        "peak_bytes": _memory("VmHWM") - before,
        "held_bytes": _memory("VmRSS"),
    }


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


if __name__ == "__main__":
    serve(sys.stdin.buffer)
