"""Images decoded once and kept on disk as pixels; does not know how they are augmented or what learns from them.

cache/pixels/sizes/<revision>-<px>/*.npy   a store: how large each image is decoded for that resize, by its SHA-256
cache/pixels/<facts>/facts.json       what the pixels beside it follow from, for a person to read
cache/pixels/<facts>/*.npy            a store: uint8 [h, w, 3] for each image, by the same

Everything is decoded and cropped by service.image. What is served of an image is kept to the last bit; what is kept to
be augmented is the same with the margin that the service cuts off: the whole shorter side, and of the longer one its
centre. Nothing is kept larger than it was: small squares that are all of one size, as CIFAR's are, are kept as they
were decoded, once for both uses, and made larger when they are read.
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import PIL
from google.protobuf import json_format
from numpy.typing import NDArray

from export import ahead
from export.progress import Advance
from export.run import geometry_message
from service import image
from service.bundle import CropGeometry
from training import features
from training.features import CheckedFile
from training.store import Store, write

# Raised when the same facts come to give other pixels: by a change here, in service/image.py or service/formats.
_REVISION = "1"
_SIZE = np.dtype((np.int32, (2,)))  # width and height
_DECODERS = 2
_AHEAD = 32  # images that are decoded and wait to be written
# What a kill may cost: a few seconds of decoding. Smaller shards would be more files to open for each batch.
_SHARD_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Pixels:
    """Images as they are kept, read when they are asked for; the system keeps in memory what there is room for.

    Attributes:
        store: The pixels of each, `uint8 [h, w, 3]`.
        keys: The digests of their files, in the order of the images.
        shown: How they are cropped when they are read; None where they are kept as they are wanted.
    """

    store: Store
    keys: tuple[bytes, ...]
    shown: CropGeometry | None

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.keys)

    def read(self, places: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read some images; threads may do so at once.

        Args:
            places: Which of them; one may come more than once.

        Returns:
            `uint8 [B, h, w, 3]`.

        Raises:
            CacheError: The cache was taken away meanwhile.
        """
        kept: NDArray[np.uint8] = self.store.rows([self.keys[place] for place in places])
        if self.shown is None or not len(kept):
            return kept
        return np.stack([image.read(each, self.shown, image.ImageLimits()) for each in kept])


def served(samples: Sequence[CheckedFile], geometry: CropGeometry, cache: Path, advance: Advance) -> Pixels:
    """Keep what the service would see of images, for validation and test.

    Args:
        samples: The images.
        geometry: How the service makes pixels.
        cache: The cache's folder; it need not exist.
        advance: Told of every image.

    Returns:
        Pixels that are read as `uint8 [B, crop_height_px, crop_width_px, 3]`: what `service.image.read` gives.

    Raises:
        CacheError: The cache cannot be read or written.
        DataError: A file is gone or was changed since it was checked.
    """
    small = _small(samples, geometry, cache)
    if small.is_whole:
        return Pixels(_kept(samples, _square(geometry, small.side_px), cache, advance), _keys(samples), geometry)
    return Pixels(_kept(samples, geometry, cache, advance), _keys(samples), None)


def framed(samples: Sequence[CheckedFile], geometry: CropGeometry, cache: Path, advance: Advance) -> Pixels:
    """Keep images with the margin that the service cuts off, to be cropped at random.

    Args:
        samples: The images.
        geometry: How the service makes pixels.
        cache: The cache's folder; it need not exist.
        advance: Told of every image.

    Returns:
        Pixels that are read as `uint8 [B, S, S, 3]`, S being what the service resizes the shorter side to, or less
        where all images have less. `service.image.read` makes of them what it makes of the files, but for what is lost
        in resizing twice.

    Raises:
        CacheError: The cache cannot be read or written.
        DataError: A file is gone or was changed since it was checked.
    """
    square = _square(geometry, _small(samples, geometry, cache).side_px)
    return Pixels(_kept(samples, square, cache, advance), _keys(samples), None)


def _keys(samples: Sequence[CheckedFile]) -> tuple[bytes, ...]:
    return tuple(sample.sha256 for sample in samples)


@dataclass(frozen=True)
class _Small:
    """How little of images there is to keep.

    Attributes:
        side_px: What the shorter side needs: what the service resizes it to, or less where all have less.
        is_whole: Whether all images are squares of that side, so that nothing of them is lost.
    """

    side_px: int
    is_whole: bool


def _small(samples: Sequence[CheckedFile], geometry: CropGeometry, cache: Path) -> _Small:
    enough = geometry.resize_shorter_px
    sizes = _sizes(samples, geometry, cache)
    side = max((min(size) for size in sizes), default=enough)
    if side >= enough:
        return _Small(enough, False)
    return _Small(side, sizes == {(side, side)})


def _sizes(samples: Sequence[CheckedFile], geometry: CropGeometry, cache: Path) -> set[tuple[int, int]]:
    """The sizes that images have; as soon as one is as large as is wanted, the others are not looked at."""
    # A decoder that scales gives less than the file has, but never less than is wanted: another size is another fact.
    store = Store(cache / "pixels" / "sizes" / f"{_REVISION}-{geometry.resize_shorter_px}", _SIZE)
    files = {sample.sha256: sample for sample in samples}
    missing = set(store.missing(files))
    sizes = {_pair(size) for size in store.rows([key for key in files if key not in missing])}
    found: dict[bytes, tuple[int, int]] = {}
    unknown = [sample for key, sample in files.items() if key in missing]
    with closing(ahead.mapped(partial(_size, geometry=geometry), unknown, _DECODERS, _AHEAD)) as decoded:
        for sample in unknown:
            if any(min(size) >= geometry.resize_shorter_px for size in sizes):
                break
            found[sample.sha256] = next(decoded)
            sizes.add(found[sample.sha256])
    store.add(list(found), np.array(list(found.values()), np.int32))
    return sizes


def _pair(size: NDArray[np.int32]) -> tuple[int, int]:
    return int(size[0]), int(size[1])


def _size(sample: CheckedFile, geometry: CropGeometry) -> tuple[int, int]:
    left, top, right, bottom = features.picture(sample, geometry).box
    return round(right - left), round(bottom - top)


def _square(geometry: CropGeometry, side_px: int) -> CropGeometry:
    return replace(geometry, resize_shorter_px=side_px, crop_height_px=side_px, crop_width_px=side_px)


def _kept(samples: Sequence[CheckedFile], geometry: CropGeometry, cache: Path, advance: Advance) -> Store:
    """A store that has every image, cropped; what it lacks is decoded, and stays there whatever ends this."""
    store = _store(geometry, cache)
    missing = set(store.missing(sample.sha256 for sample in samples))
    work = list({sample.sha256: sample for sample in samples if sample.sha256 in missing}.values())
    advance(len(samples) - len(work))
    size = geometry.crop_height_px * geometry.crop_width_px * 3
    rows = max(1, _SHARD_BYTES // size)
    with closing(ahead.mapped(partial(_crop, geometry=geometry), work, _DECODERS, _AHEAD)) as crops:
        for start in range(0, len(work), rows):
            shard = work[start : start + rows]
            made = np.empty((len(shard), geometry.crop_height_px, geometry.crop_width_px, 3), np.uint8)
            for place in range(len(shard)):
                made[place] = next(crops)
                advance(1)
            store.add([sample.sha256 for sample in shard], made)
    return store


def _crop(sample: CheckedFile, geometry: CropGeometry) -> NDArray[np.uint8]:
    return image.crop(features.picture(sample, geometry), geometry)


def _store(geometry: CropGeometry, cache: Path) -> Store:
    described = json_format.MessageToDict(geometry_message(geometry), preserving_proto_field_name=True)
    facts = {"geometry": described, "pillow": PIL.__version__, "revision": _REVISION}
    folder = cache / "pixels" / hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    if not (folder / "facts.json").exists():
        write(folder / "facts.json", (json.dumps(facts, indent=2) + "\n").encode())
    return Store(folder, np.dtype((np.uint8, (geometry.crop_height_px, geometry.crop_width_px, 3))))
