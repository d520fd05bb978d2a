"""Pixels: equal to what Pillow and torchvision make of the same files, and a clear refusal of everything else."""

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageOps
from torchvision.transforms import InterpolationMode, v2

from service import image
from service.bundle import CropGeometry, Interpolation
from service.errors import BadImage
from service.image import ImageLimits
from tests import samples
from tests.hostile import resized_jpeg
from tests.samples import deep_png, encoded, photograph, png, tiff, turned

GEOMETRY = CropGeometry(256, 224, 224, Interpolation.INTERPOLATION_BICUBIC)
BILINEAR = CropGeometry(72, 64, 48, Interpolation.INTERPOLATION_BILINEAR)
LIMITS = ImageLimits()
SIZES = [(640, 427), (427, 640), (257, 255), (333, 500), (223, 225), (31, 47), (3, 300), (3000, 41)]
WHOLE = dict(samples.whole())


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
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_exif_orientation_is_honoured(orientation: int, file_format: str) -> None:
    data = encoded(photograph((301, 200)), file_format, exif=turned(orientation))
    assert mean_difference(image.read(data, GEOMETRY, LIMITS), with_pillow(data, GEOMETRY)) <= 1.0
    upright = (200, 301, 3) if orientation < 5 else (301, 200, 3)
    assert image.decode(data, LIMITS).shape == upright


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
    with pytest.raises(BadImage, match=r"Expected 1 to 50000000 pixels. Received: 16383 x 16383\."):
        image.decode(data, LIMITS)


def test_a_jpeg_of_thousands_of_empty_scans_is_refused_before_it_is_decoded() -> None:
    progressive = encoded(photograph((64, 48)), "JPEG", progressive=True)
    assert image.decode(progressive, LIMITS).shape == (48, 64, 3)
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x01\x05\x01"
    with pytest.raises(BadImage, match=r"Expected a JPEG of 3072 pixels to have at most 100 scans. Received: more\."):
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


@pytest.mark.parametrize(
    "data", [png(50_000, 50_000, 8, 2, bytes(1000)), resized_jpeg(50_000, 50_000)], ids=["PNG", "JPEG"]
)
def test_a_header_of_50000_by_50000_is_refused_before_it_is_decoded(data: bytes) -> None:
    with pytest.raises(BadImage, match=r"Expected 1 to 50000000 pixels. Received: 50000 x 50000\."):
        image.decode(data, LIMITS)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_truncated_file_is_refused(file_format: str, keep: float) -> None:
    data = encoded(photograph((200, 100)), file_format)
    cut = data[: int(len(data) * keep)]
    with pytest.raises(
        BadImage, match=rf"(?i)Expected a whole {file_format} file. Received: {len(cut)} bytes, broken: "
    ) as error:
        image.decode(cut, LIMITS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("data", [b"", b"\xff", b"not a picture\n", b"GIF88a\x01\x00\x01\x00", b"%PDF-1.7"])
def test_what_is_no_picture_is_refused_by_its_first_bytes(data: bytes) -> None:
    with pytest.raises(
        BadImage,
        match=rf"Expected a JPEG, PNG, WebP, GIF, BMP or TIFF file. Received: {len(data)} bytes that begin b'",
    ):
        image.decode(data, LIMITS)


def test_a_text_file_called_jpg_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "holiday.jpg"
    file.write_text("Dear diary, ...")
    with pytest.raises(BadImage, match=r"Received: 15 bytes that begin b'Dear dia'"):
        image.decode(file.read_bytes(), LIMITS)


@pytest.mark.parametrize("name", [name for name in WHOLE if not name.startswith("deep")])
def test_every_kind_of_file_is_what_pillow_makes_of_its_first_frame(name: str) -> None:
    with Image.open(io.BytesIO(WHOLE[name])) as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    np.testing.assert_array_equal(image.decode(WHOLE[name], LIMITS), expected)


@pytest.mark.parametrize("name", [name for name in WHOLE if not name.startswith(("1.", "P."))])
def test_every_kind_of_file_looks_like_what_it_was_made_of(name: str) -> None:
    decoded = Image.fromarray(image.decode(WHOLE[name], LIMITS))
    original = photograph((61, 47)).convert("L")
    around = [original, *(original.transpose(turn) for turn in Image.Transpose)]
    nearest = min(
        mean_difference(np.asarray(each), np.asarray(decoded.convert("L")))
        for each in around
        if each.size == decoded.size
    )
    assert nearest < 6


DEPTHS = np.array([[0, 1, 128, 256, 257, 40_000, 65_407, 65_535]] * 8, np.uint16)
# 65,535 is white, and what 8 bits can hold comes back as it was.
SHALLOW = [0, 0, 0, 1, 1, 156, 255, 255]


@pytest.mark.parametrize(
    "data",
    [deep_png(DEPTHS), tiff(DEPTHS.astype("<u2"), 1), encoded(Image.fromarray(DEPTHS), "TIFF", compression="tiff_lzw")],
    ids=["PNG", "TIFF", "LZW"],
)
def test_sixteen_bits_of_grey_are_scaled_and_not_cut_off(data: bytes) -> None:
    assert image.decode(data, LIMITS)[0].tolist() == [[grey] * 3 for grey in SHALLOW]


def test_sixteen_bits_whose_least_is_white_are_turned_round() -> None:
    decoded = image.decode(tiff(DEPTHS.astype("<u2"), 0), LIMITS)
    assert decoded[0, :, 0].tolist() == [255 - grey for grey in SHALLOW]


def test_sixteen_bits_of_most_significant_bytes_first_are_read() -> None:
    with Image.open(io.BytesIO(encoded(Image.fromarray(DEPTHS.astype(">u2")), "TIFF"))) as picture:
        assert picture.mode == "I;16B"
    data = encoded(Image.fromarray(DEPTHS.astype(">u2")), "TIFF")
    assert image.decode(data, LIMITS)[0, :, 0].tolist() == SHALLOW


@pytest.mark.parametrize("make", [deep_png, lambda values: tiff(values.astype("<u2"), 2)], ids=["PNG", "TIFF"])
def test_sixteen_bits_of_colour_become_eight(make: Callable[[NDArray[np.uint16]], bytes]) -> None:
    picture = np.asarray(photograph((40, 30)))
    np.testing.assert_array_equal(image.decode(make(picture.astype(np.uint16) * 257), LIMITS), picture)


def ycck(picture: Image.Image) -> bytes:
    """A JPEG as Photoshop writes CMYK: luma and chroma of the inks, which the Adobe segment says."""
    *inks, black = picture.convert("CMYK").split()
    waves = Image.merge("RGB", inks).convert("YCbCr").split()
    # Pillow inverts what it writes.
    stored = Image.merge("CMYK", (*(ImageChops.invert(each) for each in waves), black))
    data = encoded(stored, "JPEG", quality=95)
    at = data.index(b"Adobe") + 11
    assert data[at] == 0
    return data[:at] + b"\x02" + data[at + 1 :]


@pytest.mark.parametrize(
    "encode",
    [
        lambda picture: encoded(picture.convert("CMYK"), "JPEG", quality=95),
        ycck,
        lambda picture: encoded(picture.convert("CMYK"), "TIFF"),
    ],
    ids=["JPEG", "YCCK", "TIFF"],
)
def test_cmyk_has_the_colours_of_what_it_was_made_of(encode: Callable[[Image.Image], bytes]) -> None:
    picture = photograph((120, 90))
    data = encode(picture)
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.mode == "CMYK"
    assert mean_difference(image.decode(data, LIMITS), np.asarray(picture)) < 3


def test_a_first_frame_that_is_smaller_or_larger_than_the_screen_is_placed() -> None:
    picture = Image.new("L", (4, 4), 255)
    picture.putpixel((0, 0), 0)
    frame = encoded(picture, "GIF")
    smaller = frame[:6] + struct.pack("<HH", 8, 6) + frame[10:]
    at = smaller.index(b",")
    smaller = smaller[: at + 1] + struct.pack("<HH", 3, 2) + smaller[at + 5 :]
    decoded = image.decode(smaller, LIMITS)
    assert decoded.shape == (6, 8, 3)
    np.testing.assert_array_equal(decoded[2:6, 3:7, 0], np.asarray(picture))
    assert decoded.sum(dtype=int) == 15 * 3 * 255
    larger = frame[:6] + struct.pack("<HH", 2, 2) + frame[10:]
    assert image.decode(larger, LIMITS).shape == (4, 4, 3)


def test_of_an_animated_png_the_still_picture_is_taken() -> None:
    frames = [photograph((61, 47)).rotate(90), photograph((61, 47)).rotate(180)]
    data = encoded(photograph((61, 47)), "PNG", save_all=True, append_images=frames)
    np.testing.assert_array_equal(image.decode(data, LIMITS), np.asarray(photograph((61, 47))))


def test_of_a_jpeg_with_several_pictures_the_first_is_taken() -> None:
    data = encoded(photograph((640, 480)), "MPO", save_all=True, append_images=[photograph((64, 48))])
    assert image.decode(data, LIMITS).shape == (480, 640, 3)
    assert image.weigh(data, BILINEAR, LIMITS) == 320 * 240


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (encoded(photograph((8, 8)).convert("F"), "TIFF"), r"of 1, 2, 4, 8 or 16 bits. Received: 32 bits, sample form"),
        (
            encoded(photograph((8, 8)).convert("I"), "TIFF"),
            r"unsigned whole numbers .* Received: 32 bits, sample format 2",
        ),
        (encoded(photograph((8, 8)).convert("LAB"), "TIFF"), r"grey, palette, RGB or CMYK .* Received: mode LAB"),
        (encoded(photograph((8, 8)).convert("1"), "TIFF", compression="group3"), r"one of none, LZW, .* number 3"),
        (encoded(photograph((8, 8)), "TIFF", big_tiff=True), r"Expected a whole TIFF file. .* broken: a BigTIFF"),
        (tiff(np.zeros((8, 8), np.uint8), 1, t254=(1,)), r"whose first page is a picture. Received: the small copy of"),
    ],
    ids=["float", "signed", "LAB", "fax", "BigTIFF", "raw"],
)
def test_kinds_that_are_not_read_are_named(data: bytes, message: str) -> None:
    with pytest.raises(BadImage, match=message):
        image.decode(data, LIMITS)


def test_run_lengths_of_a_bmp_are_refused() -> None:
    data = bytearray(encoded(photograph((8, 8)).convert("L"), "BMP"))
    data[30] = 1
    with pytest.raises(BadImage, match=r"Expected an uncompressed BMP. Received: run lengths\."):
        image.decode(bytes(data), LIMITS)


@pytest.mark.parametrize("source", [encoded(Image.new("L", (101, 1)), "PNG"), np.zeros((101, 1, 3), np.uint8)])
def test_a_needle_is_refused(source: bytes | NDArray[np.uint8]) -> None:
    with pytest.raises(BadImage, match=r"Expected an aspect ratio of at most 100:1. Received: (101 x 1|1 x 101)\."):
        image.read(source, GEOMETRY, LIMITS)
    assert image.weigh(source, GEOMETRY, LIMITS) == 0


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("size", [(1601, 1207), (1215, 1609), (800, 603)])
def test_a_scaled_decode_keeps_the_same_part_whichever_way_is_up(size: tuple[int, int], orientation: int) -> None:
    # 72 px are wanted, so that 1207 come at an eighth, where the last column and row are of one pixel instead of eight.
    data = encoded(photograph(size), "JPEG", quality=92, exif=turned(orientation))
    scaled = image.decode_for(data, BILINEAR, LIMITS)
    assert max(scaled.image.size) < 410
    whole = image.read(image.decode(data, LIMITS), BILINEAR, LIMITS)
    # Taken from the wrong edge, or with the rest of the last column and row, it would be 1.2 to 5.
    assert mean_difference(image.crop(scaled, BILINEAR), whole) < 1


@pytest.mark.parametrize(
    ("size", "scaled"),
    [
        ((4000, 3000), (500, 375)),
        ((3900, 2960), (975, 740)),
        ((1600, 1024), (800, 512)),
        ((1600, 1023), (1600, 1023)),
    ],
)
def test_a_large_jpeg_is_decoded_not_much_larger_than_it_is_wanted(
    size: tuple[int, int], scaled: tuple[int, int]
) -> None:
    data = encoded(Image.new("L", size, 77), "JPEG")
    assert image.decode_for(data, GEOMETRY, LIMITS).image.size == scaled
    assert image.weigh(data, GEOMETRY, LIMITS) == scaled[0] * scaled[1]
    assert image.decode(data, LIMITS).shape == (size[1], size[0], 3)


@pytest.mark.parametrize("name", ["L.jpg", "interlaced.png", "lossy.webp", "animated.gif", "P.bmp", "jpeg.tif"])
def test_the_weight_is_the_pixels(name: str) -> None:
    assert image.weigh(WHOLE[name], GEOMETRY, LIMITS) == 61 * 47
    assert image.weigh(image.decode(WHOLE[name], LIMITS), GEOMETRY, LIMITS) == 61 * 47


def test_a_progressive_jpeg_weighs_all_of_itself_as_well() -> None:
    data = encoded(photograph((1200, 1024)), "JPEG", progressive=True)
    assert image.weigh(data, GEOMETRY, LIMITS) == 600 * 512 + 1200 * 1024


@pytest.mark.parametrize("data", [b"", b"text", b"\xff\xd8\xff", resized_jpeg(50_000, 50_000), WHOLE["RGB.png"][:20]])
def test_what_will_be_refused_weighs_nothing(data: bytes) -> None:
    assert image.weigh(data, GEOMETRY, LIMITS) == 0
    assert image.weigh(WHOLE["RGB.jpg"], GEOMETRY, ImageLimits(max_bytes=10)) == 0


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
