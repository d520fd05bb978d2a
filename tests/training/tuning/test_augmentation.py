"""What happens to an image comes from the generator alone, is what was asked for, and leaves an image of it."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from service import image
from service.bundle import CropGeometry, Interpolation
from tests.samples import photograph
from training.tuning import augmentation
from training.tuning.augmentation import MIXING_EPOCHS, MIXING_IMAGES, Augmentation, Preset, augmented, preset

SQUARE = CropGeometry(73, 64, 64, Interpolation.INTERPOLATION_BICUBIC)
WIDE = CropGeometry(50, 32, 48, Interpolation.INTERPOLATION_BILINEAR)
FRAME = np.asarray(photograph((73, 73)))
PRESETS: tuple[Preset, ...] = ("none", "light", "medium", "strong")


def made(
    how: Augmentation, seed: int, geometry: CropGeometry = SQUARE, frame: NDArray[np.uint8] = FRAME
) -> NDArray[np.uint8]:
    return augmented(frame, how, geometry, np.random.default_rng(seed))


def named(name: Preset, *, turns: bool = False) -> Augmentation:
    return preset(name, turns=turns, images=MIXING_IMAGES, epochs=MIXING_EPOCHS)


def ramp() -> NDArray[np.uint8]:
    """A frame that gets brighter from left to right in red, and from top to bottom in green."""
    across = np.linspace(0, 250, 73, dtype=np.uint8)
    red, green = np.meshgrid(across, across)
    return np.stack([red, green, np.full_like(red, 100)], axis=2)


def slopes(pixels: NDArray[np.uint8]) -> tuple[int, ...]:
    """Whether red rises or falls to the right and to the bottom, and green likewise: 1, -1, or 0 for neither."""
    first, right, bottom = (pixels[place].astype(int) for place in ((0, 0), (0, -1), (-1, 0)))
    rises = (right[0] - first[0], bottom[0] - first[0], right[1] - first[1], bottom[1] - first[1])
    return tuple(int(np.sign(rise) * (abs(rise) > 50)) for rise in rises)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("turns", [False, True])
def test_an_image_follows_from_the_generator_whichever_thread_asks(name: Preset, turns: bool) -> None:
    how = named(name, turns=turns)
    alone = [made(how, seed) for seed in range(12)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda seed: made(how, seed), reversed(range(12))))[::-1]
    np.testing.assert_array_equal(alone, together)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("geometry", [SQUARE, WIDE])
@pytest.mark.parametrize("size", [(73, 73), (1, 1), (1, 2), (3, 2), (400, 500)])
def test_any_frame_becomes_a_crop(name: Preset, geometry: CropGeometry, size: tuple[int, int]) -> None:
    frame = np.full((*size, 3), 90, np.uint8)
    for seed in range(20):
        pixels = made(named(name, turns=True), seed, geometry, frame)
        assert pixels.shape == (geometry.crop_height_px, geometry.crop_width_px, 3)
        assert pixels.dtype == np.uint8


def test_images_look_the_same_on_every_machine_and_for_ever() -> None:
    # A training that is resumed elsewhere must see what it would have seen. Where this fails, this code has changed, or
    # Pillow or torchvision have.
    frame = np.arange(40 * 40 * 3, dtype=np.uint32).reshape(40, 40, 3).astype(np.uint8)
    pixels = [made(named(name, turns=True), seed, SQUARE, frame) for name in PRESETS for seed in range(30)]
    assert (
        hashlib.sha256(np.stack(pixels).tobytes()).hexdigest()
        == "e36e76f9f6b95d7f3e52413104add2b387ee9129f19c28717e50b10872a224fa"
    )


def test_none_shows_what_is_served() -> None:
    for geometry in (SQUARE, WIDE):
        served = image.read(FRAME, geometry, image.ImageLimits())
        np.testing.assert_array_equal(made(named("none"), 0, geometry), served)


def test_light_shows_most_of_the_frame_and_mirrors_every_second() -> None:
    shown = [made(named("light"), seed, frame=ramp()) for seed in range(64)]
    rising = [slopes(pixels)[0] > 0 for pixels in shown]
    assert 20 < sum(rising) < 44
    assert all(slopes(pixels)[3] > 0 for pixels in shown)
    parts = np.array([np.ptp(pixels[..., 0]) / 250 * np.ptp(pixels[..., 1]) / 250 for pixels in shown])
    assert 0.5 < parts.min() < 0.7
    assert parts.max() > 0.95


def test_turns_are_there_only_when_asked_for_and_then_all_eight_ways() -> None:
    for name in ("light", "medium", "strong"):
        calm = replace(named(name), distortion=0, erasing=0)
        upright = {slopes(made(calm, seed, frame=ramp())) for seed in range(64)}
        turned = {slopes(made(replace(calm, turns=True), seed, frame=ramp())) for seed in range(64)}
        assert len(upright) == 2
        assert len(turned) == 8
        assert upright < turned


def test_a_crop_that_is_no_square_is_turned_by_half() -> None:
    how = Augmentation(turns=True)
    shown = {made(how, seed, WIDE).tobytes() for seed in range(16)}
    upright = made(Augmentation(), 0, WIDE)
    assert shown == {upright.tobytes(), upright[::-1, ::-1].tobytes()}


def test_every_distortion_changes_a_photograph_more_the_stronger_it_is() -> None:
    picture = photograph((64, 64))
    before = np.asarray(picture).astype(int)
    still, unsigned = 0, 0
    for distort in augmentation._DISTORTIONS:
        none, weak, strong = (np.abs(np.asarray(distort(picture, much)) - before).mean() for much in (0.0, 0.3, 1.0))
        assert weak <= strong
        still += strong == 0
        unsigned += none == strong > 0
        assert none in (0, strong)
    assert (still, unsigned) == (1, 2)


def test_what_is_turned_out_of_the_frame_shows_grey() -> None:
    bright = np.full((73, 73, 3), 200, np.uint8)
    seen = {tuple(pixel) for seed in range(60) for pixel in made(named("medium"), seed, frame=bright)[0]}
    assert (128, 128, 128) in seen
    assert (0, 0, 0) not in seen


def test_a_quarter_of_the_images_of_strong_lose_a_rectangle() -> None:
    how = replace(named("strong"), distortion=0)
    frame = np.full((73, 73, 3), 90, np.uint8)
    erased = [(made(how, seed, frame=frame) != 90).any(axis=2) for seed in range(200)]
    parts = [float(each.mean()) for each in erased if each.any()]
    assert 30 < len(parts) < 70
    assert 0.01 < min(parts) < max(parts) < 0.35
    for each in erased:
        rows, columns = each.any(1), each.any(0)
        assert each.sum() >= 0.98 * rows.sum() * columns.sum()


def test_presets_grow() -> None:
    assert named("none") == Augmentation()
    for weak, strong in pairwise(PRESETS):
        less, more = named(weak), named(strong)
        assert (more.area or 1) < (less.area or 1)
        assert (more.distortion, more.erasing, more.mixing) >= (less.distortion, less.erasing, less.mixing)


def test_only_many_images_shown_often_are_mixed() -> None:
    enough = {"images": MIXING_IMAGES, "epochs": MIXING_EPOCHS}
    assert (MIXING_IMAGES, MIXING_EPOCHS) == (20_000, 5)
    assert preset("strong", turns=False, **enough).mixing
    assert not preset("strong", turns=False, **{**enough, "images": MIXING_IMAGES - 1}).mixing
    assert not preset("strong", turns=False, **{**enough, "epochs": MIXING_EPOCHS - 1}).mixing
    assert not any(named(name).mixing for name in PRESETS[:3])


def test_the_frame_is_not_changed() -> None:
    before = FRAME.copy()
    for seed in range(40):
        made(named("strong", turns=True), seed)
    np.testing.assert_array_equal(FRAME, before)
