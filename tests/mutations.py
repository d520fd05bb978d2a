"""Whole files of every format with a few bytes changed, as hypothesis draws them; does not read them."""

import struct
import zlib
from collections.abc import Callable
from random import Random

from hypothesis import strategies as st

from tests import samples

WHOLE = tuple(data for _, data in samples.whole())
# Headers are where a byte means most; what names the format is mostly left as it is.
_NAME_BYTES, _HEADER_BYTES = 4, 300
_NUMBERS = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A file that was whole before one to three changes."""
    data = draw(st.sampled_from(WHOLE))
    # What hypothesis draws itself is mostly at an end or near it; a file is wide.
    random = draw(st.randoms(use_true_random=True))
    for change in random.choices(_CHANGES, k=random.randint(1, 3)):
        data = change(random, data)
    # Most changes of a PNG are noticed by its checksums, and what is behind them would never be tried.
    return _with_checksums(data) if data.startswith(b"\x89PNG") and random.random() < 0.8 else data


def _place(random: Random, data: bytes) -> int:
    reach = min(len(data), _HEADER_BYTES) if random.random() < 0.5 else len(data)
    start = 0 if random.random() < 0.02 else _NAME_BYTES
    return random.randrange(start, max(start + 1, reach))


def _slice(random: Random, data: bytes) -> slice:
    start = _place(random, data)
    return slice(start, start + random.randint(1, 300))


def _byte(random: Random, data: bytes) -> bytes:
    at = _place(random, data)
    return data[:at] + random.randbytes(1) + data[at + 1 :]


def _bit(random: Random, data: bytes) -> bytes:
    at = _place(random, data)
    return data[:at] + bytes(each ^ 1 << random.randrange(8) for each in data[at : at + 1]) + data[at + 1 :]


def _number(random: Random, data: bytes) -> bytes:
    at, kind = _place(random, data), random.choice(("<H", ">H", "<I", ">I"))
    value = random.choice(_NUMBERS) & (0xFFFF if "H" in kind else 0xFFFFFFFF)
    return data[:at] + struct.pack(kind, value) + data[at + struct.calcsize(kind) :]


def _cut(random: Random, data: bytes) -> bytes:
    return data[: _place(random, data)]


def _without(random: Random, data: bytes) -> bytes:
    gone = _slice(random, data)
    return data[: gone.start] + data[gone.stop :]


def _again(random: Random, data: bytes) -> bytes:
    twice = _slice(random, data)
    return data[: twice.stop] + data[twice] * random.randint(1, 50) + data[twice.stop :]


def _spliced(random: Random, data: bytes) -> bytes:
    other = random.choice(WHOLE)
    at = _place(random, data)
    return data[:at] + other[_slice(random, other)] + data[at:]


_CHANGES: tuple[Callable[[Random, bytes], bytes], ...] = (
    _byte, _byte, _bit, _bit, _number, _number, _cut, _without, _again, _spliced,
)  # fmt: skip


def _with_checksums(data: bytes) -> bytes:
    parts, position = [data[:8]], 8
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        content = data[position + 4 : position + 8 + length]
        parts += [data[position : position + 4], content, struct.pack(">I", zlib.crc32(content))]
        position += 12 + length
    return b"".join(parts)
