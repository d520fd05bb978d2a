"""Pixels are decoded once, are what the service sees, and survive kills, changed files and full disks."""

import hashlib
import json
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from export.errors import DataError
from service import image
from service.bundle import CropGeometry, Interpolation
from tests.samples import encoded, photograph, turned, whole
from tests.training.test_store import largest_file
from training import features
from training.errors import CacheError
from training.tuning import pixels

GEOMETRY = CropGeometry(50, 40, 40, Interpolation.INTERPOLATION_BICUBIC)
WIDE = CropGeometry(50, 32, 48, Interpolation.INTERPOLATION_BILINEAR)
LIMITS = image.ImageLimits()


@dataclass(frozen=True)
class File:
    path: Path
    sha256: bytes


def written(path: Path, data: bytes) -> File:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return File(path, hashlib.sha256(data).digest())


def ignore(_: int) -> None:
    """Nobody looks at the progress."""


def read(file: File, geometry: CropGeometry) -> NDArray[np.uint8]:
    return image.read(file.path.read_bytes(), geometry, LIMITS)


def squares(folder: Path, count: int, side: int = 16) -> list[File]:
    """JPEGs of one size, each another part of a photograph."""
    picture = photograph((side + count, side))
    crops = (picture.crop((place, 0, place + side, side)) for place in range(count))
    return [written(folder / f"{place:03}.jpg", encoded(crop, "JPEG")) for place, crop in enumerate(crops)]


@pytest.fixture
def files(tmp_path: Path) -> list[File]:
    """Files of every format, some of them tiny, narrow, turned, or so large that they are decoded at less."""
    drawn = {
        **dict(whole()),
        "pixel.png": encoded(photograph((1, 1)), "PNG"),
        "narrow.png": encoded(photograph((3, 90)), "PNG"),
        "huge.jpg": encoded(photograph((1903, 1205)), "JPEG", exif=turned(6)),
    }
    return [written(tmp_path / "images" / name, data) for name, data in drawn.items()]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are decoded."""
    paths: list[Path] = []
    picture = features.picture

    def counted(sample: features.CheckedFile, geometry: CropGeometry) -> image.Picture:
        paths.append(sample.path)
        return picture(sample, geometry)

    monkeypatch.setattr(features, "picture", counted)
    return paths


def drafts(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.name.startswith(".")]


@pytest.mark.parametrize("geometry", [GEOMETRY, WIDE])
@pytest.mark.parametrize("small", [False, True])
def test_validation_sees_the_very_pixels_of_the_service(
    geometry: CropGeometry, small: bool, files: list[File], cache: Path, tmp_path: Path
) -> None:
    chosen = squares(tmp_path / "small", 5) if small else files
    kept = pixels.served(chosen, geometry, cache, ignore)
    assert len(kept) == len(chosen)
    order = list(range(len(chosen)))[::-1]
    found = kept.read(order)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, [read(chosen[place], geometry) for place in order])


def test_a_frame_is_the_square_of_the_shorter_side_at_the_size_the_service_resizes_to(
    files: list[File], cache: Path
) -> None:
    kept = pixels.framed(files, GEOMETRY, cache, ignore)
    frames = kept.read(range(len(files)))
    assert frames.shape == (len(files), 50, 50, 3)
    square = replace(GEOMETRY, crop_height_px=50, crop_width_px=50)
    np.testing.assert_array_equal(frames, [read(file, square) for file in files])
    # What augmentation shows where nothing is random is nearly what is served.
    for frame, file in zip(frames, files, strict=True):
        again = image.read(frame, GEOMETRY, LIMITS).astype(int)
        assert np.abs(again - read(file, GEOMETRY)).mean() < 0.1


def test_small_squares_of_one_size_are_kept_as_they_were_decoded_once_for_both_uses(
    tmp_path: Path, cache: Path, decoded: list[Path]
) -> None:
    files = squares(tmp_path / "small", 30)
    kept = pixels.framed(files, GEOMETRY, cache, ignore)
    np.testing.assert_array_equal(
        kept.read(range(30)), [image.decode(file.path.read_bytes(), LIMITS) for file in files]
    )
    decoded.clear()
    pixels.served(files, GEOMETRY, cache, ignore)
    pixels.served(files, replace(GEOMETRY, crop_height_px=32, crop_width_px=32), cache, ignore)
    assert decoded == []
    size = sum(path.stat().st_size for path in cache.rglob("*.npy"))
    assert 30 * 16 * 16 * 3 < size < 2 * 30 * 16 * 16 * 3


def test_images_that_are_all_small_are_not_kept_larger(tmp_path: Path, cache: Path) -> None:
    drawn = [photograph(size) for size in ((9, 9), (30, 12), (12, 40))]
    files = [written(tmp_path / f"{each.size}.png", encoded(each, "PNG")) for each in drawn]
    kept = pixels.framed(files, GEOMETRY, cache, ignore)
    assert kept.read([0, 1, 2]).shape == (3, 12, 12, 3)
    np.testing.assert_array_equal(kept.read([1])[0], np.asarray(drawn[1])[:, 9:21])
    served = pixels.served(files, GEOMETRY, cache, ignore)
    np.testing.assert_array_equal(served.read([0, 1, 2]), [read(file, GEOMETRY) for file in files])


def test_sizes_are_looked_at_only_until_one_is_large_enough_and_only_once(
    tmp_path: Path, cache: Path, decoded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixels, "_AHEAD", 0)
    files = [*squares(tmp_path / "small", 3), *squares(tmp_path / "large", 20, 60)]
    pixels.framed(files, GEOMETRY, cache, ignore)
    assert len(decoded) == 23 + 4
    decoded.clear()
    pixels.served(files, GEOMETRY, cache, ignore)
    assert len(decoded) == 23


def test_what_was_decoded_small_for_small_crops_is_not_small_for_large_ones(tmp_path: Path, cache: Path) -> None:
    large = written(tmp_path / "large.jpg", encoded(photograph((400, 300)), "JPEG"))
    few, more = (replace(GEOMETRY, resize_shorter_px=side) for side in (50, 200))
    pixels.framed([large], few, cache, ignore)
    frames = pixels.framed([large], more, cache, ignore).read([0])
    assert frames.shape == (1, 200, 200, 3)
    square = replace(more, crop_height_px=200, crop_width_px=200)
    np.testing.assert_array_equal(frames[0], read(large, square))


def test_a_second_time_nothing_is_decoded_and_progress_is_whole(
    files: list[File], cache: Path, decoded: list[Path]
) -> None:
    done: list[int] = []
    first = pixels.framed(files, GEOMETRY, cache, done.append)
    assert sum(done) == len(files)
    decoded.clear()
    done.clear()
    again = pixels.framed(files[::-1], GEOMETRY, cache, done.append)
    assert decoded == []
    assert sum(done) == len(files)
    np.testing.assert_array_equal(first.read([0, 3, 3]), again.read([-1, -4, -4]))


def test_only_new_images_are_decoded_and_copies_once(files: list[File], cache: Path, decoded: list[Path]) -> None:
    geometry = replace(GEOMETRY, resize_shorter_px=40)
    pixels.framed(files[:5], geometry, cache, ignore)
    decoded.clear()
    twin = written(files[0].path.with_name("twin"), files[9].path.read_bytes())
    kept = pixels.framed([*files[:10], twin], geometry, cache, ignore)
    assert len(decoded) == 5
    assert not set(decoded) & {file.path for file in files[:5]}
    np.testing.assert_array_equal(*kept.read([9, 10]))


@pytest.mark.parametrize("other", [replace(GEOMETRY, resize_shorter_px=51), WIDE])
def test_another_geometry_is_kept_elsewhere(other: CropGeometry, files: list[File], cache: Path) -> None:
    pixels.served(files, GEOMETRY, cache, ignore)
    kept = pixels.served(files, other, cache, ignore)
    np.testing.assert_array_equal(kept.read(range(len(files))), [read(file, other) for file in files])


def test_another_pillow_is_kept_elsewhere(
    files: list[File], cache: Path, decoded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels.served(files, GEOMETRY, cache, ignore)
    decoded.clear()
    monkeypatch.setattr("PIL.__version__", "0.0")
    pixels.served(files, GEOMETRY, cache, ignore)
    assert len(decoded) == len(files)


def test_the_facts_lie_beside_the_pixels(files: list[File], cache: Path) -> None:
    pixels.served(files[:1], GEOMETRY, cache, ignore)
    (path,) = cache.rglob("facts.json")
    facts = json.loads(path.read_text())
    assert facts["geometry"]["crop"]["resize_shorter_px"] == 50
    assert set(facts) == {"geometry", "pillow", "revision"}
    assert path.parent.name == hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def test_no_images_are_no_pixels(cache: Path) -> None:
    for kept in (pixels.served([], GEOMETRY, cache, ignore), pixels.framed([], GEOMETRY, cache, ignore)):
        assert len(kept) == 0
        assert kept.read([]).shape[0] == 0


def remove(path: Path) -> None:
    path.unlink()


def change(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize("keep", [pixels.served, pixels.framed])
@pytest.mark.parametrize(
    ("meanwhile", "message"),
    [
        (remove, r"Expected .*/deep\.png, which was there when it was checked. Received: No such file"),
        (
            change,
            r"Expected .*/deep\.png as it was when it was checked, with the SHA-256 .{64}. Received: .{64}\. Start",
        ),
    ],
)
def test_a_file_that_is_gone_or_changed_is_named(
    meanwhile: Callable[[Path], None],
    message: str,
    keep: Callable[..., pixels.Pixels],
    files: list[File],
    cache: Path,
) -> None:
    (path,) = [file.path for file in files if file.path.name == "deep.png"]
    meanwhile(path)
    with pytest.raises(DataError, match=message):
        keep(files, GEOMETRY, cache, ignore)
    assert drafts(cache) == []


def test_a_file_that_is_no_image_is_named(tmp_path: Path, cache: Path) -> None:
    broken = written(tmp_path / "broken.png", b"\x89PNG\r\n\x1a\nno")
    with pytest.raises(
        DataError, match=r"Expected .*/broken\.png to be an image that can be read. Received: Expected a"
    ):
        pixels.framed([broken], GEOMETRY, cache, ignore)


def test_a_full_disk_is_said_and_leaves_nothing_half_written(files: list[File], cache: Path) -> None:
    pixels.served(files[:1], GEOMETRY, cache, ignore)
    with (
        largest_file(6000),
        pytest.raises(CacheError, match=r"Expected room for .* bytes more in the cache .*: File too large"),
    ):
        pixels.served(files, GEOMETRY, cache, ignore)
    assert drafts(cache) == []
    kept = pixels.served(files, GEOMETRY, cache, ignore)
    np.testing.assert_array_equal(kept.read(range(len(files))), [read(file, GEOMETRY) for file in files])


def test_pixels_that_were_taken_away_are_an_error(files: list[File], cache: Path) -> None:
    kept = pixels.served(files, GEOMETRY, cache, ignore)
    for path in cache.rglob("*.npy"):
        path.unlink()
    with pytest.raises(CacheError, match=r"Expected .*\.npy as it was a moment ago\. Received: .*No such file"):
        kept.read([0])


def test_after_ctrl_c_the_next_run_goes_on(
    files: list[File], cache: Path, decoded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixels, "_SHARD_BYTES", 4 * 40 * 40 * 3)
    left = [13]

    def interrupt(done: int) -> None:
        left[0] -= done
        if left[0] < 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pixels.served(files, GEOMETRY, cache, interrupt)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]
    assert drafts(cache) == []
    decoded.clear()
    kept = pixels.served(files, GEOMETRY, cache, ignore)
    assert len(decoded) == len(files) - 12
    np.testing.assert_array_equal(kept.read(range(len(files))), [read(file, GEOMETRY) for file in files])


def test_after_a_kill_the_next_run_goes_on(
    files: list[File], cache: Path, decoded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixels, "_SHARD_BYTES", 4 * 40 * 40 * 3)
    left = [11]

    def kill(done: int) -> None:
        left[0] -= done
        if left[0] <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    # In the middle of the third shard. A fork, because a new process imports torch for seconds.
    if (child := os.fork()) == 0:
        try:
            pixels.served(files, GEOMETRY, cache, kill)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    decoded.clear()
    kept = pixels.served(files, GEOMETRY, cache, ignore)
    assert len(decoded) == len(files) - 8
    np.testing.assert_array_equal(kept.read(range(len(files))), [read(file, GEOMETRY) for file in files])


def test_reading_is_open_to_many_threads(tmp_path: Path, cache: Path) -> None:
    files = squares(tmp_path / "small", 40, 64)
    kept = pixels.framed(files, GEOMETRY, cache, ignore)
    expected = kept.read(range(40))
    found: dict[int, NDArray[np.uint8]] = {}

    def look(place: int) -> None:
        for _ in range(20):
            found[place] = kept.read([place])[0]

    threads = [threading.Thread(target=look, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((found[place] == expected[place]).all() for place in range(8))


def test_a_picture_as_large_as_may_be_is_kept(tmp_path: Path, cache: Path) -> None:
    side = int(LIMITS.max_pixels**0.5)
    huge = written(tmp_path / "huge.png", encoded(Image.new("1", (side, side), 1), "PNG"))
    kept = pixels.framed([huge], GEOMETRY, cache, ignore)
    assert kept.read([0]).shape == (1, 50, 50, 3)
    assert kept.read([0]).min() == 255
