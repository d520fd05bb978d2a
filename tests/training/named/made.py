"""Data sets as libraries keep them, small and made up."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.named.collection import Collection, Entry


def pictures(count: int, seed: int, side_px: int = 28) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, side_px, side_px), np.uint8)


def encoded(picture: NDArray[np.uint8], file_format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, file_format)
    return buffer.getvalue()


def decoded(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        return np.asarray(picture)


def idx(array: NDArray[np.uint8]) -> bytes:
    """As MNIST's files are: the type, the number of axes, their lengths, the numbers."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()


def fashion(labels: Mapping[str, Sequence[int]]) -> dict[str, bytes]:
    """The four files of FashionMNIST; the pictures are of seed 0 in train, of seed 1 in t10k."""
    files = {}
    for seed, (split, numbers) in enumerate(labels.items()):
        files[f"{split}-images-idx3-ubyte"] = idx(pictures(len(numbers), seed))
        files[f"{split}-labels-idx1-ubyte"] = idx(np.array(numbers, np.uint8))
    return files


LABELS = {"train": (0, 9, 0, 9, 9, 0), "t10k": (9, 0)}  # of T-shirt/top and Ankle boot


def bring_fashion(cache: Path) -> None:
    """Lay FashionMNIST where a person may lay it."""
    raw = cache / "downloads/torchvision/FashionMNIST/raw"
    raw.mkdir(parents=True)
    for name, data in fashion(LABELS).items():
        (raw / name).write_bytes(data)


@dataclass(frozen=True)
class Entries:
    """A split that is written down in a test."""

    entries: Sequence[Entry]

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        yield from self.entries


def collection(**splits: Sequence[Entry]) -> Collection:
    return Collection("made up 1.0", "2.0.0", {split: Entries(entries) for split, entries in splits.items()})
