"""Pixels: equal to what Pillow and torchvision make of the same files, and a clear refusal of everything else."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images
from torchvision.transforms import InterpolationMode, v2

from service import image
from service.bundle import CropGeometry, Interpolation
from service.errors import BadImage
from service.image import ImageLimits

GEOMETRY = CropGeometry(256, 224, 224, Interpolation.INTERPOLATION_BICUBIC)
BILINEAR = CropGeometry(72, 64, 48, Interpolation.INTERPOLATION_BILINEAR)
LIMITS = ImageLimits()
SIZES = [(640, 427), (427, 640), (257, 255), (333, 500), (223, 225), (31, 47), (1, 300), (3000, 41)]


def photograph(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    china = Image.fromarray(load_sample_images().images[0])
    return china.resize(size, Image.Resampling.LANCZOS).convert(mode)


def encoded(picture: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def with_pillow(data: bytes, geometry: CropGeometry) -> NDArray[np.uint8]:
    """The textbook way: decode, turn upright, resize all of it, cut out the centre."""
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    return np.asarray(_torchvision(geometry)(picture))


def with_torchvision(data: bytes, geometry: CropGeometry) -> NDArray[np.uint8]:
    """The same on tensors, which torchvision resizes by code of its own."""
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    tensor = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    pixels: NDArray[np.uint8] = _torchvision(geometry)(tensor).permute(1, 2, 0).numpy()
    return pixels


def _torchvision(geometry: CropGeometry) -> Any:
    bicubic = geometry.interpolation == Interpolation.INTERPOLATION_BICUBIC
    mode = InterpolationMode.BICUBIC if bicubic else InterpolationMode.BILINEAR
    resize = v2.Resize(geometry.resize_shorter_px, mode, antialias=True)
    return v2.Compose([resize, v2.CenterCrop((geometry.crop_height_px, geometry.crop_width_px))])


def mean_difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


@pytest.mark.parametrize("reference", [with_pillow, with_torchvision])
@pytest.mark.parametrize("geometry", [GEOMETRY, BILINEAR], ids=["bicubic", "bilinear"])
@pytest.mark.parametrize("size", SIZES)
def test_pixels_are_those_of_pillow_and_torchvision(
    size: tuple[int, int], geometry: CropGeometry, reference: Callable[[bytes, CropGeometry], NDArray[np.uint8]]
) -> None:
    data = encoded(photograph(size), "JPEG", quality=92)
    pixels = image.read(data, geometry, LIMITS)
    assert pixels.dtype == np.uint8
    assert mean_difference(pixels, reference(data, geometry)) <= 1.0


def test_an_ordinary_photograph_is_within_a_tenth_of_a_grey_level() -> None:
    data = encoded(photograph((500, 375)), "JPEG", quality=92)
    assert mean_difference(image.read(data, GEOMETRY, LIMITS), with_pillow(data, GEOMETRY)) <= 0.1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_the_exif_orientation_is_honoured(orientation: int, file_format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photograph((301, 200)), file_format, exif=exif)
    assert mean_difference(image.read(data, GEOMETRY, LIMITS), with_pillow(data, GEOMETRY)) <= 1.0
    upright = (200, 301, 3) if orientation < 5 else (301, 200, 3)
    assert image.decode(data, LIMITS).shape == upright


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("exif", [b"Exif\x00\x00garbage", b"Exif\x00\x00II*\x00\xff\xff\xff\xff", b"\x00" * 40])
def test_garbage_in_the_metadata_costs_nothing(exif: bytes) -> None:
    data = encoded(photograph((40, 30)), "JPEG", exif=exif)
    assert image.decode(data, LIMITS).shape == (30, 40, 3)


@pytest.mark.parametrize(
    ("mode", "file_format"),
    [("L", "JPEG"), ("L", "PNG"), ("1", "PNG"), ("P", "PNG"), ("LA", "PNG"), ("RGBA", "PNG"), ("RGBA", "WEBP")],
)
def test_grey_palette_and_alpha_become_rgb_as_pillow_has_it(mode: str, file_format: str) -> None:
    picture = photograph((123, 77), "RGB").convert(mode)
    if mode.endswith("A"):
        picture.putalpha(128)
    data = encoded(picture, file_format)
    assert mean_difference(image.read(data, GEOMETRY, LIMITS), with_pillow(data, GEOMETRY)) <= 1.0


def test_a_palette_with_transparent_entries_keeps_its_colours() -> None:
    picture = photograph((64, 64)).quantize(16)
    data = encoded(picture, "PNG", transparency=bytes([0, 128] + [255] * 14))
    np.testing.assert_array_equal(image.decode(data, LIMITS), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("size", SIZES)
def test_decoded_pixels_go_the_same_way_as_the_file(size: tuple[int, int], file_format: str) -> None:
    data = encoded(photograph(size), file_format)
    from_pixels = image.read(image.decode(data, LIMITS), GEOMETRY, LIMITS)
    np.testing.assert_array_equal(from_pixels, image.read(data, GEOMETRY, LIMITS))


def test_a_webp_over_pillow_s_own_bound_is_refused_with_both_numbers() -> None:
    vp8x = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (16382).to_bytes(3, "little") * 2
    frame = encoded(photograph((16, 16)), "WEBP")[12:]
    data = b"RIFF" + struct.pack("<I", 4 + len(vp8x) + len(frame)) + b"WEBP" + vp8x + frame
    with pytest.raises(
        BadImage, match=r"Expected 1 to 50000000 pixels. Received: .*\b(268402689 pixels|16383 x 16383)"
    ):
        image.decode(data, LIMITS)


def test_a_jpeg_of_thousands_of_empty_scans_is_refused_before_it_is_decoded() -> None:
    progressive = encoded(photograph((64, 48)), "JPEG", progressive=True)
    assert image.decode(progressive, LIMITS).shape == (48, 64, 3)
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x01\x05\x01"
    with pytest.raises(BadImage, match=r"Expected a JPEG of at most 100 scans. Received: more\."):
        image.decode(progressive[:-2] + scan * 5000 + progressive[-2:], LIMITS)


def test_what_a_jpeg_carries_along_is_not_counted_as_scans() -> None:
    picture = photograph((64, 48))
    whole = encoded(picture, "JPEG", comment=b"\xff\xda" * 200)
    noise = np.random.default_rng(0).integers(0, 256, 12_000_000, np.uint8).tobytes()
    assert (whole + noise).count(b"\xff\xda") > 300
    np.testing.assert_array_equal(image.decode(whole + noise, LIMITS), image.decode(encoded(picture, "JPEG"), LIMITS))


def test_a_file_over_the_limit_of_bytes_is_refused() -> None:
    data = encoded(photograph((64, 64)), "PNG")
    with pytest.raises(BadImage, match=rf"Expected at most 100 bytes. Received: {len(data)}\."):
        image.decode(data, ImageLimits(max_bytes=100))


def png_header(width: int, height: int) -> bytes:
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(bytes(1000)))
    framed = (struct.pack(">I", len(each) - 4) + each + struct.pack(">I", zlib.crc32(each)) for each in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def jpeg_header(width: int, height: int) -> bytes:
    data = bytearray(encoded(photograph((16, 16)), "JPEG"))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize("data", [png_header(50_000, 50_000), jpeg_header(50_000, 50_000)], ids=["PNG", "JPEG"])
def test_a_header_of_50000_by_50000_is_refused_before_it_is_decoded(data: bytes) -> None:
    with pytest.raises(BadImage, match=r"Expected 1 to 50000000 pixels. Received: 50000 x 50000\."):
        image.decode(data, LIMITS)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_file_is_refused(file_format: str, keep: float) -> None:
    data = encoded(photograph((200, 100)), file_format)
    cut = data[: int(len(data) * keep)]
    with pytest.raises(
        BadImage, match=rf"(?i)Expected a whole {file_format} file. Received: {len(cut)} bytes, broken: "
    ) as error:
        image.decode(cut, LIMITS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("data", [b"", b"\xff", b"not a picture\n", b"GIF89a\x01\x00\x01\x00", b"%PDF-1.7"])
def test_what_is_no_picture_is_refused_by_its_first_bytes(data: bytes) -> None:
    with pytest.raises(
        BadImage, match=rf"Expected a JPEG, PNG or WebP file. Received: {len(data)} bytes that begin b'"
    ):
        image.decode(data, LIMITS)


def test_a_text_file_called_jpg_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "holiday.jpg"
    file.write_text("Dear diary, ...")
    with pytest.raises(BadImage, match=r"Received: 15 bytes that begin b'Dear dia'"):
        image.decode(file.read_bytes(), LIMITS)


@pytest.mark.parametrize(("mode", "file_format"), [("CMYK", "JPEG"), ("I;16", "PNG")])
def test_what_would_lose_depth_or_colour_is_refused(mode: str, file_format: str) -> None:
    picture = Image.new(mode, (8, 8))
    with pytest.raises(BadImage, match=rf"Expected 8-bit grey, palette or RGB.* Received: mode {mode}"):
        image.decode(encoded(picture, file_format), LIMITS)


@pytest.mark.parametrize(
    ("pixels", "received"),
    [
        (np.zeros((4, 4), np.uint8), r"uint8 \[4, 4\]"),
        (np.zeros((4, 4, 4), np.uint8), r"uint8 \[4, 4, 4\]"),
        (np.zeros((0, 4, 3), np.uint8), r"uint8 \[0, 4, 3\]"),
        (np.zeros((4, 4, 3), np.float32), r"float32 \[4, 4, 3\]"),
    ],
)
def test_pixels_of_another_type_or_shape_are_refused(pixels: NDArray[np.uint8], received: str) -> None:
    with pytest.raises(BadImage, match=rf"Expected pixels uint8 \[h, w, 3\]. Received: {received}\."):
        image.read(pixels, GEOMETRY, LIMITS)


def test_pixels_over_the_limit_are_refused() -> None:
    with pytest.raises(BadImage, match=r"Expected 1 to 10 pixels. Received: 4 x 3\."):
        image.read(np.zeros((3, 4, 3), np.uint8), GEOMETRY, ImageLimits(max_pixels=10))
