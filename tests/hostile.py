"""Files made to hurt who reads them, and what is to become of each: refused, read, or either; does not read them.

python -m tests.hostile FOLDER      writes all of them there
"""

import argparse
import math
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from tests import samples
from tests.samples import chunk, encoded, ifd_tiff, photograph, png

# A picture just under the limit of 50,000,000 pixels, and one of far too many.
SIDE, HUGE = 7000, 50_000
MEBIBYTE = 2**20
Expected = Literal["refused", "read", "either"]


@dataclass(frozen=True)
class Hostile:
    """A file made to hurt.

    Attributes:
        name: Says how, and ends as such files do.
        data: The file.
        expected: What is to become of it under the usual limits.
        grows: Whether it is refused for its bytes alone, and is to be read where they are allowed.
    """

    name: str
    data: bytes
    expected: Expected
    grows: bool = False


def files() -> Iterator[Hostile]:
    """All of them."""
    yield from _lying_sizes()
    yield from _full_bombs()
    yield from _truncations()
    yield from _wrong_names()
    yield from _jpegs()
    yield from _pngs()
    yield from _gifs()
    yield from _webps()
    yield from _bmps()
    yield from _tiffs()
    yield from _garbage()
    yield from _metadata()


def _lying_sizes() -> Iterator[Hostile]:
    """Headers of 50,000 x 50,000, of a needle and of nothing before a few bytes of pixels."""
    for what, width, height in (("huge", HUGE, HUGE), ("needle", 20_000, 1), ("empty", 0, 0)):
        yield Hostile(f"{what}.jpg", resized_jpeg(width, height), "refused")
        yield Hostile(f"{what}.png", png(width, height, 8, 2, bytes(1000)), "refused")
        yield Hostile(f"{what}.gif", _gif(width, height, width, height, _GIF_PIXELS), "refused")
        screen = _gif(width, height, 1, 1, _GIF_PIXELS)
        # Around a frame a screen of nothing grows.
        yield Hostile(f"{what}-screen.gif", screen, "read" if what == "empty" else "refused")
        yield Hostile(f"{what}.bmp", _bmp(width, height, bytes(1000)), "refused")
        yield Hostile(f"{what}.tif", _tiff(width, height, bytes(1000)), "refused")
    yield Hostile("huge-frame.gif", _gif(1, 1, 60_000, 60_000, _GIF_PIXELS), "refused")
    yield Hostile("huge.webp", _extended_webp(16383, 16383), "refused")
    yield Hostile("larger-than-its-frame.webp", _extended_webp(500, 500), "refused")
    yield Hostile("lying.jpg", resized_jpeg(2000, 2000), "read")
    yield Hostile("lying.png", png(2000, 2000, 8, 2, bytes(1000)), "refused")
    yield Hostile("lying.gif", _gif(2000, 2000, 2000, 2000, _GIF_PIXELS), "refused")
    yield Hostile("lying.bmp", _bmp(2000, 2000, bytes(1000)), "refused")
    yield Hostile("lying.tif", _tiff(2000, 2000, bytes(1000)), "refused")


def _full_bombs() -> Iterator[Hostile]:
    """As many pixels as are allowed, in as few bytes as can be."""
    white = Image.new("L", (SIDE, SIDE), 255)
    yield Hostile("bomb.jpg", encoded(white, "JPEG"), "read")
    yield Hostile("bomb-progressive.jpg", _scanned_jpeg(SIDE, SIDE, 10), "read")
    yield Hostile("bomb.png", png(SIDE, SIDE, 8, 6, bytes(SIDE * (SIDE * 4 + 1))), "read")
    yield Hostile("bomb-deep.png", png(SIDE, SIDE, 16, 0, bytes(SIDE * (SIDE * 2 + 1))), "read")
    rows = b"".join(bytes(-(-SIDE // x) * 3 + 1) * -(-SIDE // y) for x, y in _INTERLACED_STEPS)
    yield Hostile("bomb-interlaced.png", png(SIDE, SIDE, 8, 2, rows, interlaced=True), "read")
    yield Hostile("bomb.gif", encoded(white, "GIF"), "read")
    yield Hostile("bomb.webp", encoded(white, "WEBP", lossless=True, method=0), "read")
    for compression in ("tiff_adobe_deflate", "jpeg"):
        yield Hostile(f"bomb-{compression}.tif", encoded(white, "TIFF", compression=compression), "read")


_INTERLACED_STEPS = ((8, 8), (8, 8), (4, 8), (4, 4), (2, 4), (2, 2), (1, 2))


def _truncations() -> Iterator[Hostile]:
    """Every kind of file, cut at each of its first bytes, and at fractions of the rest."""
    for name, data in samples.whole():
        stem, suffix = name.rsplit(".", 1)
        cuts = sorted({*range(0, min(200, len(data)), 7), *(len(data) * part // 20 for part in range(20))})
        for cut in cuts:
            # What ends a file is not all pixels: directories, a second frame, a checksum.
            certain = cut < len(data) // 3 and not stem.startswith(("animated", "pages"))
            yield Hostile(f"cut-{stem}-{cut}.{suffix}", data[:cut], "refused" if certain else "either")


def _wrong_names() -> Iterator[Hostile]:
    whole = dict(samples.whole())
    yield Hostile("a-png.jpg", whole["RGB.png"], "read")
    yield Hostile("a-jpeg.tif", whole["RGB.jpg"], "read")
    yield Hostile("a-tiff.gif", whole["raw.tif"], "read")
    yield Hostile("a-gif.webp", whole["palette.gif"], "read")
    yield Hostile("a-letter.jpg", b"Dear diary, ...", "refused")
    yield Hostile("a-letter.bmp", b"BM, as she was called, ...", "refused")
    yield Hostile("a-program.png", b"\x7fELF" + bytes(5000), "refused")
    yield Hostile("a-page.webp", b"RIFF of the day: <html></html>", "refused")
    yield Hostile("a-sound.webp", b"RIFF" + struct.pack("<I", 1000) + b"WAVEfmt " + bytes(990), "refused")
    yield Hostile("nothing.jpg", b"", "refused")
    # Two pictures in one file: the first format is the one that is read.
    yield Hostile("png-behind.jpg", whole["RGB.jpg"] + whole["RGB.png"], "read")


def _jpegs() -> Iterator[Hostile]:
    plain = encoded(photograph((64, 48)), "JPEG")
    progressive = encoded(photograph((64, 48)), "JPEG", progressive=True)
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x01\x05\x01"
    yield Hostile("scans.jpg", progressive[:-2] + scan * 5000 + progressive[-2:], "refused")
    start = plain.index(b"\xff\xda")
    part = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + plain[start + 14 : -2]
    yield Hostile("scans-of-parts.jpg", plain[:start] + part * 500 + plain[-2:], "refused")
    yield Hostile("scans-behind.jpg", plain[:-2] + part * 500 + plain[-2:], "either")
    yield Hostile("scans-large.jpg", _scanned_jpeg(SIDE, SIDE, 26), "refused")
    yield Hostile("scans-just-few.jpg", _scanned_jpeg(SIDE, SIDE, 25), "read")
    for what, segment in (
        ("empty", b"\xff\xe5\x00\x02"),
        ("short", b"\xff\xe5\x00\x00"),
        ("comment", b"\xff\xfe\x00\x02"),
    ):
        yield Hostile(f"segments-{what}.jpg", plain[:2] + segment * (4 * MEBIBYTE - 1000) + plain[2:], "refused")
    yield Hostile("fill.jpg", plain[:2] + b"\xff" * (15 * MEBIBYTE) + plain[2:], "refused")
    yield Hostile("some-fill.jpg", plain[:2] + b"\xff" * 1000 + plain[2:], "read")
    yield Hostile("junk.jpg", plain[:2] + b"\x01" * (15 * MEBIBYTE) + plain[2:], "refused")
    yield Hostile("stuffing.jpg", plain[:2] + b"\xff\x00" * (7 * MEBIBYTE) + plain[2:], "refused")
    yield Hostile("stuffed-scans.jpg", progressive[:-2] + (scan + b"\xff\x00" * 60_000) * 110, "refused")
    frame = plain[plain.index(b"\xff\xc0") :][:19]
    yield Hostile("two-frames.jpg", plain[:2] + frame + plain[2:], "refused")
    for kind in range(0xC1, 0xD0):
        changed = plain.replace(b"\xff\xc0\x00\x11", bytes([0xFF, kind, 0, 0x11]), 1)
        yield Hostile(f"frame-{kind:02x}.jpg", changed, "either")
    yield Hostile("no-lines.jpg", resized_jpeg(64, 0), "refused")
    yield Hostile(
        "tables-missing.jpg", re.sub(rb"\xff\xdb\x00\x43.{65}", b"", plain, count=2, flags=re.DOTALL), "refused"
    )


def _pngs() -> Iterator[Hostile]:
    rows = bytes(48 * (64 * 3 + 1))
    bomb = zlib.compress(bytes(MEBIBYTE - 1), 9)
    broken = bomb[:-4] + b"\0\0\0\0"
    for what, many in (
        ("texts", chunk(b"zTXt", b"a\0\0" + bomb)),
        ("broken-texts", chunk(b"zTXt", b"a\0\0" + broken)),
        ("profiles", chunk(b"iCCP", b"a\0\0" + bomb)),
        ("nameless-texts", chunk(b"zTXt", b"\0\0" + bomb)),
    ):
        yield Hostile(f"{what}.png", png(64, 48, 8, 2, rows, more=many * 2000), "read")
    yield Hostile("chunks.png", png(64, 48, 8, 2, rows, more=chunk(b"teST", b"") * 1_300_000), "refused")
    yield Hostile("empty-data.png", png(64, 48, 8, 2, rows, more=chunk(b"IDAT", b"") * 1_300_000), "refused")
    yield Hostile("more-data.png", png(64, 48, 8, 2, bytes(100 * MEBIBYTE)), "read")
    yield Hostile("frames.png", png(64, 48, 8, 2, rows, more=chunk(b"acTL", struct.pack(">II", 2**31, 0))), "read")
    yield Hostile("palette-missing.png", png(64, 48, 8, 3, bytes(48 * 65)), "either")
    yield Hostile("endless-chunk.png", png(64, 48, 8, 2, rows)[:33] + b"\xff\xff\xff\xffIDAT" + bytes(1000), "refused")
    yield Hostile("kind.png", png(64, 48, 7, 5, rows), "refused")


_GIF_PIXELS = b"\x02\x02\x44\x01\x00"  # one pixel


def _gifs() -> Iterator[Hostile]:
    frame = encoded(photograph((64, 48)), "GIF")
    start = 13 + 3 * 256
    blocks = b"!\xfe" + b"\x01a" * (7 * MEBIBYTE) + b"\0"
    yield Hostile("blocks.gif", frame[:start] + blocks + frame[start:], "refused")
    long = (b"!\xfe" + b"\x01a" * 5000 + b"\0") * 1000
    yield Hostile("long-extensions.gif", frame[:start] + long + frame[start:], "refused")
    yield Hostile("extensions.gif", frame[:start] + b"!\xfe\0" * (5 * MEBIBYTE) + frame[start:], "refused")
    yield Hostile("controls.gif", frame[:start] + b"!\xf9\x04\x01\0\0\0\0" * 500 + frame[start:], "read")
    yield Hostile("endless.gif", frame[:-1] + frame[start:-1] * 4000 + frame[start:-1], "read")
    yield Hostile("endless-loop.gif", encoded(photograph((64, 48)), "GIF", save_all=True, loop=0), "read")
    yield Hostile("no-frame.gif", frame[:start] + b";", "refused")
    yield Hostile(
        "clear-codes.gif",
        _gif(64, 48, 64, 48, b"\x08" + (b"\xff" + b"\0\x01" * 127 + b"\0") * 60_000 + b"\0"),
        "either",
    )
    yield Hostile("bits.gif", _gif(64, 48, 64, 48, b"\x0d" + b"\xff" * 256 + b"\0"), "refused")
    yield Hostile("outside.gif", _gif(4, 4, 8, 8, _GIF_PIXELS, left=65_000), "refused")
    yield Hostile("nowhere.gif", _gif(64, 48, 0, 0, _GIF_PIXELS), "refused")
    dispose = b"!\xf9\x04\x08\0\0\0\0"
    yield Hostile("dispose.gif", _gif(1000, HUGE, 1000, HUGE, _GIF_PIXELS, before=dispose), "refused")


def _webps() -> Iterator[Hostile]:
    still = encoded(photograph((64, 48)), "WEBP")
    yield Hostile("chunks.webp", _riff(still[12:] + b"JUNK\0\0\0\0" * MEBIBYTE), "read")
    extended = _extended_webp(64, 48)[12:30] + b"JUNK\0\0\0\0" * MEBIBYTE + still[12:]
    yield Hostile("chunks-first.webp", _riff(extended), "either")
    frames = encoded(photograph((64, 48)), "WEBP", save_all=True, append_images=[photograph((64, 48)).rotate(90)])
    first = frames.index(b"ANMF")
    yield Hostile("endless.webp", _riff(frames[12:] + frames[first:] * 5000), "read")
    yield Hostile("lying-length.webp", still[:4] + b"\xff\xff\xff\xff" + still[8:], "either")
    yield Hostile("lossless-header.webp", _riff(b"VP8L" + struct.pack("<I", 5) + b"\x2f\xff\xff\xff\x0f"), "refused")


def _bmps() -> Iterator[Hostile]:
    rows = bytes(48 * 64 * 3)
    yield Hostile("run-lengths.bmp", _bmp(SIDE, SIDE, b"\0\0" * 1000, bits=8, compression=1), "refused")
    yield Hostile("half-run-lengths.bmp", _bmp(SIDE, SIDE, b"\xff\x12" * 1000, bits=4, compression=2), "refused")
    yield Hostile("a-jpeg-inside.bmp", _bmp(64, 48, rows, compression=4), "refused")
    yield Hostile("planes.bmp", _bmp(64, 48, rows, bits=2), "refused")
    yield Hostile("colours.bmp", _bmp(64, 48, rows, bits=8, colours=2**31), "refused")
    yield Hostile("upside-down.bmp", _bmp(64, -48, rows), "read")
    yield Hostile("far-away.bmp", _bmp(64, 48, rows, offset=2**32 - 1), "refused")
    yield Hostile("lowest.bmp", _bmp(64, -(2**31), rows), "refused")


def _tiffs() -> Iterator[Hostile]:
    tags = _tiff_tags(64, 48, 8)
    rows = bytes(64 * 48)
    yield Hostile("loop.tif", ifd_tiff(rows, tags, next_at=8 + len(rows)), "read")
    yield Hostile("entries.tif", ifd_tiff(rows, tags | dict.fromkeys(range(1000, 60000), (1,))), "refused")
    yield Hostile("strips.tif", ifd_tiff(rows, tags | {273: _many(8, 4_000_000), 278: (47,)}), "refused")
    yield Hostile("some-strips.tif", ifd_tiff(rows, tags | {273: _many(8, 60_000), 278: (47,)}), "refused")
    thin = _tiff_tags(800, 60_000, 8) | {273: _many(8, 60_000), 278: (1,), 279: _many(800, 60_000)}
    yield Hostile("thin-strips.tif", ifd_tiff(bytes(MEBIBYTE), thin), "read")
    dots = _tiff_tags(4080, 4080, 8) | {322: (16,), 323: (16,), 324: _many(8, 65_025), 325: _many(256, 65_025)}
    yield Hostile("small-tiles.tif", ifd_tiff(bytes(MEBIBYTE), dots), "either")
    deflated = zlib.compress(bytes(4096))
    for what, side in (("large", 30_000), ("enormous", 2**31 - 16)):
        tiles = tags | {259: (8,), 322: (side,), 323: (side,), 324: (8,), 325: (len(deflated),)}
        yield Hostile(f"{what}-tile.tif", ifd_tiff(deflated, tiles), "refused")
    yield Hostile("rows.tif", ifd_tiff(rows, tags | {278: (0,)}), "refused")
    yield Hostile("samples.tif", ifd_tiff(rows, tags | {277: (2**31,)}), "refused")
    yield Hostile("planes.tif", ifd_tiff(rows, tags | {277: (6,), 284: (2,)}), "refused")
    yield Hostile("bits.tif", ifd_tiff(rows, tags | {258: _many(8, 4_000_000)}), "refused")
    yield Hostile("resolutions.tif", _rationals(tags, rows), "read")
    yield Hostile(
        "sub-directories.tif", ifd_tiff(rows, tags | {330: _many(8, 1_000_000), 34665: (8,), 34853: (8,)}), "read"
    )
    yield Hostile("long-profile.tif", ifd_tiff(rows, tags | {34675: _many(1, 1_000_000)}), "read")
    yield Hostile("turned-twice.tif", ifd_tiff(rows, tags | {274: (6, 6)}), "read")
    yield Hostile("outside.tif", ifd_tiff(rows, tags | {273: (2**32 - 1,)}), "refused")
    yield Hostile("lengths.tif", ifd_tiff(deflated, tags | {259: (8,), 279: (2**32 - 1,)}), "either")
    yield Hostile("float.tif", encoded(photograph((64, 48)).convert("F"), "TIFF"), "refused")
    yield Hostile("signed.tif", encoded(photograph((64, 48)).convert("I"), "TIFF"), "refused")
    yield Hostile("fax.tif", encoded(photograph((64, 48)).convert("1"), "TIFF", compression="group4"), "refused")
    yield Hostile("big.tif", encoded(photograph((64, 48)), "TIFF", big_tiff=True), "refused")
    yield Hostile("raw-file.tif", ifd_tiff(rows, tags | {254: (1,)}), "refused")
    jpeg = encoded(photograph((640, 480)).convert("L"), "JPEG")
    yield Hostile("larger-jpeg.tif", ifd_tiff(jpeg, tags | {259: (7,), 279: (len(jpeg),)}), "refused")
    scans = _scanned_jpeg(SIDE, SIDE, 90)
    strip = _tiff_tags(SIDE, SIDE, 8) | {259: (7,), 279: (len(scans),)}
    yield Hostile("scans.tif", ifd_tiff(scans, strip), "refused")


def _garbage() -> Iterator[Hostile]:
    """Profiles and EXIF that are none; the pixels are whole."""
    noise = np.random.default_rng(0).integers(0, 256, 60_000, np.uint8).tobytes()
    picture = photograph((64, 48))
    endless = b"II*\0\x08\0\0\0" + b"\xff\xff" + b"\x12\x01\x03\0\xff\xff\xff\xff\0\0\0\0" * 5000
    for what, exif in (
        ("noise", noise),
        ("endless", endless),
        ("loop", b"MM\0*\0\0\0\x08" + bytes(6)),
        ("short", b"II"),
    ):
        for suffix, file_format in (("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")):
            data = encoded(picture, file_format, exif=b"Exif\0\0" + exif)
            yield Hostile(f"exif-{what}.{suffix}", data, "read")
    for suffix, file_format in (("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP"), ("tif", "TIFF")):
        yield Hostile(f"profile.{suffix}", encoded(picture, file_format, icc_profile=noise), "read")
    plain = encoded(picture, "JPEG")
    resolution = b"\x1a\x01\x05\0" + struct.pack("<II", 8000, 26) + bytes(4)
    rationals = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + resolution + noise
    segments = b"".join(b"\xff\xe1\xff\xff" + (rationals + noise)[:65533] for _ in range(240))
    yield Hostile("exif-long.jpg", plain[:2] + segments + plain[2:], "read")


def _metadata() -> Iterator[Hostile]:
    """100 MB of it, in each format."""
    picture, much = photograph((64, 48)), bytes(100_000_000)
    plain = encoded(picture, "JPEG")
    profile = b"\xff\xe2\xff\xff" + b"ICC_PROFILE\0\x01\x01" + bytes(65519)
    yield Hostile("metadata.jpg", plain[:2] + profile * 900 + plain[2:] + much[: 40 * MEBIBYTE], "refused", grows=True)
    rows = bytes(48 * (64 * 3 + 1))
    yield Hostile("metadata.png", png(64, 48, 8, 2, rows, more=chunk(b"eXIf", much)), "refused", grows=True)
    yield Hostile(
        "metadata.webp",
        _riff(encoded(picture, "WEBP")[12:] + b"EXIF" + struct.pack("<I", len(much)) + much),
        "refused",
        grows=True,
    )
    gif = encoded(picture, "GIF")
    yield Hostile("metadata.gif", gif + much, "refused", grows=True)
    yield Hostile("metadata.bmp", _bmp(64, 48, much, offset=len(much) - 64 * 48 * 3), "refused", grows=True)
    tags = _tiff_tags(64, 48, 8)
    yield Hostile("metadata.tif", ifd_tiff(bytes(64 * 48), tags | {700: _many(0, 25_000_000)}), "refused", grows=True)


def resized_jpeg(width: int, height: int) -> bytes:
    """A JPEG of 16 x 16 pixels whose header says otherwise."""
    data = bytearray(encoded(photograph((16, 16)), "JPEG"))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def _scanned_jpeg(width: int, height: int, scans: int) -> bytes:
    """A progressive grey JPEG of blocks of nothing, which each scan but the first says again in a few bytes."""
    blocks = math.ceil(width / 8) * math.ceil(height / 8)
    one_code = bytes([1] + [0] * 15)
    head = b"\xff\xd8" + _segment(0xDB, b"\0" + b"\1" * 64)
    head += _segment(0xC2, struct.pack(">BHHB", 8, height, width, 1) + b"\x01\x11\0")
    # The one code means no difference to the block before, and that 2^14 blocks and more have nothing.
    head += _segment(0xC4, b"\0" + one_code + b"\0") + _segment(0xC4, b"\x10" + one_code + b"\xe0")
    first = _segment(0xDA, b"\x01\x01\0\0\0\x01") + bytes(math.ceil(blocks / 8))
    bits = ("0" + "1" * 14) * math.ceil(blocks / 32767)
    nothing = (
        int(bits + "1" * (-len(bits) % 8), 2).to_bytes(math.ceil(len(bits) / 8), "big").replace(b"\xff", b"\xff\0")
    )
    again = _segment(0xDA, b"\x01\x01\0\x01\x3f\x10") + nothing
    return head + first + again * (scans - 1) + b"\xff\xd9"


def _segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", 2 + len(content)) + content


def _gif(
    width: int, height: int, frame_width: int, frame_height: int, pixels: bytes, *, left: int = 0, before: bytes = b""
) -> bytes:
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return screen + before + b"," + struct.pack("<HHHHB", left, 0, frame_width, frame_height, 0) + pixels + b";"


def _bmp(
    width: int, height: int, rows: bytes, *, bits: int = 24, compression: int = 0, colours: int = 0, offset: int = 54
) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(rows), 0, 0, colours, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(rows), 0, 0, offset) + header + rows


def _many(number: int, count: int) -> bytes:
    return struct.pack("<I", number) * count


def _tiff_tags(width: int, height: int, at: int) -> samples.Tags:
    return {
        256: (width,), 257: (height,), 258: (8,), 259: (1,), 262: (1,), 273: (at,), 277: (1,), 278: (height,),
        279: (width * height,),
    }  # fmt: skip


def _tiff(width: int, height: int, rows: bytes) -> bytes:
    return ifd_tiff(rows, _tiff_tags(width, height, 8))


def _rationals(tags: samples.Tags, rows: bytes) -> bytes:
    """A resolution of two million fractions."""
    data = bytearray(ifd_tiff(rows, tags | {282: _many(1, 3_999_998), 283: (1,)}))
    entry = data.index(struct.pack("<HHI", 282, 4, 3_999_998))
    data[entry : entry + 8] = struct.pack("<HHI", 282, 5, 1_999_999)
    return bytes(data)


def _riff(chunks: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def _extended_webp(width: int, height: int) -> bytes:
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    frame = encoded(photograph((16, 16)), "WEBP")[12:]
    return _riff(b"VP8X" + struct.pack("<I", 10) + bytes(4) + size + frame)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for each in files():
        (folder / each.name).write_bytes(each.data)
        names.append(f"{each.name}\t{each.expected}")
    (folder / "expected.tsv").write_text("\n".join(names) + "\n")
    print(f"Wrote {len(names)} files to {folder}.")


if __name__ == "__main__":
    main()
