import io
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from training import twins


def photograph(seed: int, side: int = 96) -> Image.Image:
    """Coarse shapes with finer ones on them, as photographs have."""
    random = np.random.default_rng(seed)
    layers = [
        np.asarray(
            Image.fromarray(random.integers(0, 256, (cells, cells, 3), np.uint8)).resize((side, side)), np.float64
        )
        for cells in (3, 6, 12, 24)
    ]
    mixed = sum(layer / 2**level for level, layer in enumerate(layers)) / 1.875
    return Image.fromarray(np.asarray(mixed, np.uint8))


def sketches(*pictures: Image.Image) -> NDArray[np.void]:
    return np.array([twins.sketch(np.asarray(picture)) for picture in pictures], twins.SKETCH)


def recompressed(picture: Image.Image) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=25)
    return Image.open(file).convert("RGB")


def panel(seed: int) -> Image.Image:
    """One of many pictures that are alike: bars, and on them a few spots of its own."""
    random = np.random.default_rng([7, seed])
    pixels = np.full((96, 96, 3), 160, np.uint8)
    pixels[[*range(12, 18), *range(44, 50), *range(76, 82)]] = 30
    for x, y in random.integers(0, 88, (4, 2)):
        pixels[x : x + 8, y : y + 8] = 90
    return Image.fromarray(pixels)


TRAIN = sketches(*(photograph(seed) for seed in range(40)))


def find(held_out: NDArray[np.void], train: NDArray[np.void]) -> NDArray[np.int64]:
    """What is found, of pictures of which every one is told of."""
    told: list[int] = []
    found = twins.find(held_out, train, told.append)
    assert sum(told) == len(held_out)
    return found


@pytest.mark.parametrize(
    "change",
    [
        lambda picture: picture,
        recompressed,
        lambda picture: picture.resize((40, 50)),
        lambda picture: ImageEnhance.Brightness(picture).enhance(0.7),
        lambda picture: picture.convert("L").convert("RGB"),
        lambda picture: picture.crop((1, 1, 96, 96)),
        ImageOps.mirror,
        lambda picture: recompressed(ImageOps.mirror(picture)),
    ],
    ids=["same", "recompressed", "scaled", "darker", "grey", "moved", "mirrored", "mirrored and recompressed"],
)
def test_a_picture_that_was_changed_a_little_is_found(change: Callable[[Image.Image], Image.Image]) -> None:
    held_out = sketches(change(photograph(17)), photograph(100))
    np.testing.assert_array_equal(find(held_out, TRAIN), [17, -1])


def test_other_pictures_are_no_twins() -> None:
    held_out = sketches(*(photograph(seed) for seed in range(100, 160)))
    np.testing.assert_array_equal(find(held_out, TRAIN), np.full(60, -1))


def test_where_all_pictures_are_alike_only_the_same_one_is_a_twin() -> None:
    train = sketches(*(panel(seed) for seed in range(60)))
    held_out = sketches(*(panel(seed) for seed in range(60, 80)), recompressed(panel(5)))
    np.testing.assert_array_equal(find(held_out, train), [-1] * 20 + [5])


def test_flat_pictures_are_twins_only_where_they_are_the_same() -> None:
    flat = [Image.new("RGB", (20, 20), colour) for colour in ("white", "red", "#808080", "#818181")]
    train = np.concatenate([sketches(*flat[:3]), TRAIN])
    np.testing.assert_array_equal(find(sketches(flat[0], flat[1], flat[3]), train), [0, 1, -1])


def test_nothing_held_out_has_no_twins_and_few_to_compare_with_do() -> None:
    assert find(TRAIN[:0], TRAIN).shape == (0,)
    np.testing.assert_array_equal(find(TRAIN[:3], TRAIN[1:3]), [-1, 0, 1])
    np.testing.assert_array_equal(find(TRAIN[:2], TRAIN[:1]), [0, -1])


def test_a_picture_that_training_has_many_times_is_found_by_its_sketch() -> None:
    train = np.concatenate([np.repeat(TRAIN[:1], 15), TRAIN[1:]])
    np.testing.assert_array_equal(find(TRAIN[:2], train), [0, 15])


def test_blocks_do_not_change_what_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    held_out = sketches(*(recompressed(photograph(seed)) for seed in range(35, 45)))
    whole = find(held_out, TRAIN)
    monkeypatch.setattr(twins, "_BLOCK", 3 * len(TRAIN))
    np.testing.assert_array_equal(find(held_out, TRAIN), whole)
    np.testing.assert_array_equal(whole, [35, 36, 37, 38, 39, -1, -1, -1, -1, -1])


def alone(pictures: NDArray[np.void]) -> NDArray[np.int64]:
    return np.arange(len(pictures))


def test_within_one_set_a_picture_is_no_twin_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = np.concatenate([TRAIN, sketches(recompressed(photograph(3)), photograph(5), photograph(100))])
    found = twins.within(pictures, alone(pictures))
    expected = np.full(len(pictures), -1)
    expected[[3, 40, 5, 41]] = 40, 3, 41, 5
    np.testing.assert_array_equal(found, expected)
    monkeypatch.setattr(twins, "_BLOCK", 3 * len(pictures))
    np.testing.assert_array_equal(twins.within(pictures, alone(pictures)), expected)


def test_pictures_of_one_family_are_not_held_together() -> None:
    """Two clips of one scene, of which each picture is nearest to one of its own clip."""
    scene = photograph(200)
    again = [recompressed(scene), recompressed(recompressed(scene)), scene, recompressed(scene).resize((60, 60))]
    pictures = np.concatenate([sketches(*again), TRAIN])
    families = np.array([0, 0, 1, 1, *range(2, 2 + len(TRAIN))])
    found = twins.within(pictures, families)
    assert set(found[:2]) <= {2, 3}
    assert set(found[2:4]) <= {0, 1}
    assert (found[4:] == -1).all()
    same = np.concatenate([np.repeat(pictures[:1], 4), TRAIN])
    assert twins.within(same, families)[:4].tolist() == [2, 2, 0, 0]


def test_of_none_or_one_none_is_a_twin_and_of_two_the_same() -> None:
    for places, expected in (([], []), ([0], [-1]), ([0, 1], [-1, -1]), ([0, 0], [1, 0])):
        pictures = TRAIN[np.array(places, int)]
        assert twins.within(pictures, alone(pictures)).tolist() == expected
