"""Outlines JPEG files and bounds their scans; does not decode them.

Markers and segments: ITU-T T.81, B.1.
"""

import re
from collections.abc import Iterator

from service.errors import BadImage
from service.formats import directory
from service.formats.outline import Outline

# A progressive JPEG has about ten scans. Each goes over all pixels once more, which takes 37 ms for 50,000,000 of them
# that nothing is said of: thousands in a small file would keep a decoder busy for minutes.
_MAX_SCANS, _FEWEST_SCANS = 100, 25
_MAX_SCANNED = 1_250_000_000
# A profile or a film of 16 MiB is 250 segments of 64 KiB; each scan may bring two or three of its own.
_MAX_SEGMENTS = 1000
# What may lie between the segments before the picture, all in all: fill bytes, or nothing that anybody knows.
_MAX_JUNK = 2**16
# Begins a segment: what stuffing, fill bytes, restarts and a second start of an image do not.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
_SCAN, _END, _EXIF = 0xDA, 0xD9, 0xE1
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
# Made of waves (DCT), each block for itself: the others are lossless or hierarchical.
_SCALABLE = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}
# Tables, the restart interval, and JFIF and Adobe, which say how colours are written.
_KEPT = {0xC4, 0xCC, 0xDB, 0xDD, 0xE0, 0xEE}


def outline(data: bytes) -> Outline:
    """Outline a JPEG file; raises ValueError where it has no whole header."""
    view = memoryview(data)
    parts: list[bytes | memoryview] = [b"\xff\xd8"]
    frame, scan, orientation = None, None, None
    for marker, start, end in _segments(data, _MAX_JUNK):
        if marker == _SCAN:
            parts.append(view[start:])
            scan = start
            break
        if marker in _FRAMES:
            if frame is not None:
                raise ValueError("two frames")
            frame = start
        if marker in _KEPT or marker in _FRAMES:
            parts.append(view[start:end])
        if marker == _EXIF and orientation is None and data.startswith(b"Exif\0\0", start + 4):
            orientation = directory.orientation(data[start + 4 : end])
    if frame is None or scan is None or scan + 5 > len(data):
        raise ValueError("no picture")
    height, width = (int.from_bytes(data[at : at + 2], "big") for at in (frame + 5, frame + 7))
    kind, components, scanned = data[frame + 1], data[frame + 9], data[scan + 4]
    has_scans = kind in _PROGRESSIVE or scanned < components
    return Outline(width, height, parts, orientation or 1, kind in _SCALABLE, has_scans)


def check(data: bytes, pixels: int) -> None:
    """Refuse a JPEG that keeps its decoder busy; where it is not held whole, nothing is read after its first scan.

    Args:
        data: The file.
        pixels: How many it has.

    Raises:
        BadImage: It has too many scans.
        ValueError: It has more segments than anybody writes.
    """
    # The count of the marker's two bytes is cheap and never too low, but too high for what carries other data along,
    # like the film of a motion photo behind the end of its picture.
    most = max(_FEWEST_SCANS, min(_MAX_SCANS, _MAX_SCANNED // pixels))
    if data.count(b"\xff\xda") <= most:
        return
    scans = 0
    for marker, _, _ in _segments(data, len(data)):
        scans += marker == _SCAN
        if scans > most:
            raise BadImage(f"Expected a JPEG of {pixels} pixels to have at most {most} scans. Received: more.")


def _segments(data: bytes, junk: int) -> Iterator[tuple[int, int, int]]:
    """The marker, start and end of each segment before the end of the image, with so many bytes between them."""
    position = 2
    for _ in range(_MAX_SEGMENTS):
        found = _MARKER.search(data, position, position + junk + 2)
        if found is None or data[found.start() + 1] == _END:
            return
        start = found.start()
        junk -= start - position
        position = start + 2 + max(2, int.from_bytes(data[start + 2 : start + 4], "big"))
        yield data[start + 1], start, position
    raise ValueError(f"more than {_MAX_SEGMENTS} segments")
