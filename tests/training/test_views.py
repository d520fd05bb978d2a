"""Views of an image follow from its bytes and the view alone, and the plain one is what is served."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from export import golden
from service import image
from service.bundle import CropGeometry, Interpolation
from tests.samples import encoded, photograph, turned
from training.views import MIRRORED, PLAIN, View, pixels, views

GEOMETRY = CropGeometry(50, 32, 48, Interpolation.INTERPOLATION_BICUBIC)
LIMITS = image.ImageLimits()
# The last is decoded at less than its size, and what it was cut to is no whole number of pixels.
FILES = (*golden.generate(GEOMETRY).files.values(), encoded(photograph((903, 605)), "JPEG", exif=turned(6)))
AUGMENTED = tuple(View(f"augmented-{number}", number) for number in range(1, 5))


def made(file: bytes, *shown: View, geometry: CropGeometry = GEOMETRY) -> NDArray[np.uint8]:
    return pixels(image.decode_for(file, geometry, LIMITS), shown, geometry, hashlib.sha256(file).digest())


def drawn(picture: NDArray[np.uint8]) -> image.Picture:
    return image.decode_for(picture, GEOMETRY, LIMITS)


@pytest.mark.parametrize(
    ("count", "names"),
    [
        (0, ["plain"]),
        (1, ["plain", "mirrored"]),
        (2, ["plain", "mirrored", "augmented-1"]),
        (4, ["plain", "mirrored", "augmented-1", "augmented-2", "augmented-3"]),
    ],
)
def test_the_plain_view_comes_first_and_then_so_many_more(count: int, names: list[str]) -> None:
    assert [view.name for view in views(count)] == names


@pytest.mark.parametrize("file", FILES)
def test_the_plain_view_is_what_is_served_and_the_mirrored_one_its_mirror_image(file: bytes) -> None:
    served = image.read(file, GEOMETRY, LIMITS)
    plain, mirrored = made(file, PLAIN, MIRRORED)
    np.testing.assert_array_equal(plain, served)
    np.testing.assert_array_equal(mirrored, np.fliplr(served))


@pytest.mark.parametrize("file", FILES)
def test_an_augmented_view_has_the_size_of_the_others_and_looks_like_them(file: bytes) -> None:
    shown = made(file, *AUGMENTED)
    assert shown.shape == (4, 32, 48, 3)
    assert shown.dtype == np.uint8
    served = image.read(file, GEOMETRY, LIMITS)
    assert np.abs(shown.mean((1, 2, 3)) - served.mean()).max() < 64
    assert all((each != served).any() for each in shown)


def test_augmented_views_are_the_same_in_any_order_company_and_thread() -> None:
    alone = [[made(file, view)[0] for view in AUGMENTED] for file in FILES]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda file: made(file, *reversed(AUGMENTED))[::-1], reversed(FILES)))[::-1]
    np.testing.assert_array_equal(alone, together)


def test_augmented_views_are_the_same_on_every_machine_and_for_ever() -> None:
    # A cache may have come from elsewhere. Where this fails, this code has changed and _REVISION in features.py must be
    # raised, or Pillow has, whose version is in the cache's key.
    picture = np.arange(40 * 60 * 3, dtype=np.uint32).reshape(40, 60, 3).astype(np.uint8)
    shown = pixels(drawn(picture), AUGMENTED[:2], GEOMETRY, bytes(range(32)))
    assert (
        hashlib.sha256(shown.tobytes()).hexdigest()
        == "41f9857e7336298f7b5ca265d1096dbe66f5697917f223a7c08b514091965643"
    )


def test_another_file_of_the_same_picture_is_augmented_otherwise() -> None:
    picture = image.decode_for(FILES[0], GEOMETRY, LIMITS)
    one, other = (pixels(picture, AUGMENTED, GEOMETRY, bytes([number] * 32)) for number in (1, 2))
    assert all((left != right).any() for left, right in zip(one, other, strict=True))
    assert len({each.tobytes() for each in one}) == len(AUGMENTED)


def test_some_augmented_views_are_mirrored_and_each_shows_most_of_the_picture() -> None:
    across = np.linspace(0, 250, 200, dtype=np.uint8)
    picture = np.ascontiguousarray(np.broadcast_to(across[None, :, None], (200, 200, 3)))
    many = tuple(View("", number) for number in range(1, 65))
    shown = pixels(drawn(picture), many, GEOMETRY, bytes(32)).astype(int)
    rising = shown[:, 0, -1, 0] > shown[:, 0, 0, 0]
    assert 16 < rising.sum() < 48
    part = np.abs(shown[:, 0, -1, 0] - shown[:, 0, 0, 0]) / 250
    assert (part > 0.8 * np.sqrt(0.6 * 3 / 4) - 0.05).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (90, 1), (2, 3)])
def test_a_picture_of_hardly_any_pixels_has_all_views(size: tuple[int, int]) -> None:
    picture = np.full((*size, 3), 100, np.uint8)
    shown = pixels(drawn(picture), views(3), GEOMETRY, bytes(32))
    assert shown.shape == (4, 32, 48, 3)
    assert 79 <= shown.min() <= shown.max() <= 121


def test_the_interpolation_is_the_geometrys() -> None:
    other = CropGeometry(50, 32, 48, Interpolation.INTERPOLATION_BILINEAR)
    assert (made(FILES[3], *AUGMENTED) != made(FILES[3], *AUGMENTED, geometry=other)).any()
