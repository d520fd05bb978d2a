"""The JPEG files that benchmarks use: the person's own, or cuts of the photographs that scikit-learn ships."""

import io
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

_SUFFIXES = {".jpg", ".jpeg"}


def read(folder: Path | None, count: int) -> list[bytes]:
    """The first `count` JPEG files of a folder by name, or as many cuts of about 500 x 375 where there is none."""
    if folder is None:
        return _cuts(count)
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES)[:count]
    if len(files) < count:
        raise SystemExit(f"Expected at least {count} JPEG files in {folder}. Received: {len(files)}.")
    return [file.read_bytes() for file in files]


def _cuts(count: int) -> list[bytes]:
    random = np.random.default_rng(0)
    photographs = [Image.fromarray(picture) for picture in load_sample_images().images]
    cuts = []
    for index in range(count):
        left, top = int(random.integers(0, 141)), int(random.integers(0, 53))
        buffer = io.BytesIO()
        photographs[index % 2].crop((left, top, left + 500, top + 375)).save(buffer, "JPEG", quality=92)
        cuts.append(buffer.getvalue())
    return cuts
