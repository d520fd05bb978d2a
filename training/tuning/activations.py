"""Keeps what a frozen prefix makes of every image, so that an epoch of late-stage fine-tuning costs only the suffix.

cache/cuts/<facts>-<CRC-32>.npy    for one view the map at the cut and the taps before it, a row an image

<facts> is the digest of all that the numbers follow from: the prefix and its weights, the pixels, the view and
versions. Other facts have other names, so a stale row is never found. Does not know what is trained on it.
"""

import hashlib
import json
import logging
import os
import shutil
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import numpy as np
import timm
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor

from export.progress import Advance
from training.errors import CacheError
from training.freezing import digest
from training.tuning.batches import Drawn
from training.tuning.feed import CutBatch
from training.tuning.model import Tunable
from training.tuning.plan import Precision

# Raised when the same facts come to give other numbers: by a change in cut.py or taps.py.
_REVISION = "1"
_MAP = "map"
_DRAFT = ".tmp"
# Nobody writes to a file for a day without a pause of an hour: whoever left such a draft was killed.
_ABANDONED_S = 3600

_log = logging.getLogger(__name__)


class Looks(Protocol):
    """Images of which each has a few looks that come again; training.tuning.batches.Augmented is one, with views."""

    @property
    def images(self) -> int:
        """How many images an epoch shows."""
        ...

    def steps(self, epoch: int) -> int:
        """How many steps an epoch has."""
        ...

    def drawn(self, number: int, start_step: int = 0, rank: int = 0, world: int = 1) -> Iterator[Drawn]:
        """The batches of an epoch, from a step on, without their pixels."""
        ...

    def view(self, number: int) -> Iterator[Tensor]:
        """One look of every image, in the data's order: uint8 `[B, H, W, 3]` each time."""
        ...


@dataclass(frozen=True)
class Shown:
    """What is shown to a prefix.

    Attributes:
        looks: Gives the pixels.
        views: How many looks each image has, at least 1.
        images: How many images there are.
        sha256: Names all that the pixels follow from: files, geometry, augmentation and seed.
    """

    looks: Looks
    views: int
    images: int
    sha256: str


@dataclass(frozen=True)
class CutFeed:
    """Batches of kept activations: epoch e shows the look e modulo their number.

    Attributes:
        kept: The rows of each look, memory-mapped.
        prefix: The modules that made them, as the model's cut has them.
        looks: Says which images a step learns from.
    """

    kept: tuple[NDArray[Any], ...]
    prefix: tuple[str, ...]
    looks: Looks

    @property
    def images(self) -> int:
        """How many images an epoch shows."""
        return self.looks.images

    def steps(self, epoch: int) -> int:
        """How many steps an epoch has."""
        return self.looks.steps(epoch)

    def epoch(self, number: int, start_step: int = 0, rank: int = 0, world: int = 1) -> Iterator[CutBatch]:
        """Read the batches of an epoch.

        Args:
            number: The epoch, from 0.
            start_step: The first step to read.
            rank: Of several processes, which this is, from 0.
            world: How many processes there are.

        Yields:
            Batches.
        """
        rows = self.kept[number % len(self.kept)]
        taps = [name for name in rows.dtype.names or () if name != _MAP]
        for drawn in self.looks.drawn(number, start_step, rank, world):
            read = rows[drawn.places]
            pooled = {tap: torch.from_numpy(read[tap].copy()) for tap in taps}
            yield CutBatch(_floats(read[_MAP]), pooled, drawn.targets, drawn.weights)


def kept(model: Tunable, shown: Shown, precision: Precision, cache: Path, advance: Advance) -> tuple[NDArray[Any], ...]:
    """Run a model's frozen prefix over all views of all images, or find in the cache what it made of them.

    Args:
        model: Arranged for the plan that will be trained.
        shown: What the prefix sees.
        precision: How the map is kept: bf16 takes half the room and rounds to three digits.
        cache: The cache's folder; it need not exist.
        advance: Told of every image and view.

    Returns:
        For each view its rows `[images]`, memory-mapped, with the field "map" and one for each tap.

    Raises:
        CacheError: The cache cannot be read, or has no room.
        TuningError: The model cannot be divided.
    """
    facts = _facts(model, shown, precision)
    found = []
    for number in range(shown.views):
        name = hashlib.sha256(json.dumps({**facts, "view": number}, sort_keys=True).encode()).hexdigest()
        path = _find(cache / "cuts", name)
        if path is None:
            rows = _rows(model, shown.looks.view(number), precision, advance)
            path = _write(cache / "cuts", name, rows, shown.images)
        else:
            advance(shown.images)
        mapped: NDArray[Any] = np.load(path, mmap_mode="r")
        found.append(mapped)
    return tuple(found)


def _facts(model: Tunable, shown: Shown, precision: Precision) -> dict[str, Any]:
    cut = model.cut()
    return {
        "prefix": cut.prefix,
        "weights": digest(model.before_cut_tensors()),
        "architecture": model.card.architecture,
        "taps": sorted(cut.taps_before.items()),
        "shown": shown.sha256,
        "images": shown.images,
        "precision": precision,
        "revision": _REVISION,
        "torch": torch.__version__,
        "timm": timm.__version__,
    }


def _rows(model: Tunable, view: Iterator[Tensor], precision: Precision, advance: Advance) -> Iterator[NDArray[np.void]]:
    device = next(model.parameters()).device
    for pixels in view:
        at_cut, taps = model.before_cut(pixels.to(device))
        fields = {_MAP: _bits(at_cut, precision)} | {tap: each.float().cpu().numpy() for tap, each in taps.items()}
        dtype = np.dtype([(name, each.dtype, each.shape[1:]) for name, each in fields.items()])
        rows = np.empty(len(pixels), dtype)
        for name, each in fields.items():
            rows[name] = each
        yield rows
        advance(len(pixels))


def _bits(at_cut: Tensor, precision: Precision) -> NDArray[Any]:
    found = at_cut.float().cpu()
    # NumPy has no bfloat16: its bits, as whole numbers.
    bits: NDArray[Any] = (found.bfloat16().view(torch.uint16) if precision == "bf16" else found).numpy()
    return bits


def _floats(bits: NDArray[Any]) -> Tensor:
    found = torch.from_numpy(np.ascontiguousarray(bits))
    return found.view(torch.bfloat16).float() if found.dtype == torch.uint16 else found


def _find(folder: Path, name: str) -> Path | None:
    """The file of this name, whole; a damaged one is passed over and made again."""
    for path in sorted(folder.glob(f"{name}-*.npy")):
        try:
            if path.stem == f"{name}-{_crc(path):08x}":
                return path
        except OSError as error:
            raise CacheError(f"Expected {path} of the cache. Received: {error.strerror}.") from error
        _log.warning("Passing over the damaged %s of the cache, which will be made again.", path)
        path.unlink(missing_ok=True)
    return None


def _crc(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            crc = zlib.crc32(data, crc)
    return crc


def _write(folder: Path, name: str, batches: Iterator[NDArray[np.void]], images: int) -> Path:
    """Write rows as one file, whole or not at all, as they come: there may be more than there is memory."""
    draft = folder / f".{uuid4().hex}{_DRAFT}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _clear(folder)
        with draft.open("wb") as file:
            for place, rows in enumerate(batches):
                if not place:
                    described = {"descr": npy.dtype_to_descr(rows.dtype), "fortran_order": False, "shape": (images,)}
                    npy.write_array_header_1_0(file, described)
                # Not through a memory map: a disk that is full would end the process without a word.
                file.write(rows.tobytes())
            file.flush()
            os.fsync(file.fileno())
        path = folder / f"{name}-{_crc(draft):08x}.npy"
        draft.replace(path)
    except OSError as error:
        free = shutil.disk_usage(folder if folder.is_dir() else folder.anchor).free
        raise CacheError(
            f"Expected room for the activations of {images} images in {folder}. Received: {error.strerror}, {free} "
            "bytes free. Make room, choose another folder for the cache, or train without it"
        ) from error
    # Whatever ended it, Ctrl-C too; after the rename there is nothing left to remove.
    finally:
        with suppress(OSError):
            draft.unlink()
    return path


def _clear(folder: Path) -> None:
    """Remove what killed processes left half written."""
    for draft in folder.glob(f".*{_DRAFT}"):
        with suppress(OSError):
            if time.time() - draft.stat().st_mtime > _ABANDONED_S:
                draft.unlink()
