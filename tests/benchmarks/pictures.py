"""The JPEG files that benchmarks use: the person's own, or cuts of the photographs that scikit-learn ships."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

_SUFFIXES = {".jpg", ".jpeg"}


def read(path: Path | None, count: int) -> list[bytes]:
    """The first `count` JPEG files by name of a folder or a .tar; as many cuts of 500 x 375 where there is no path."""
    if path is None:
        return _cuts(count)
    files = _from_folder(path, count) if path.is_dir() else _from_tar(path, count)
    if len(files) < count:
        raise SystemExit(f"Expected at least {count} JPEG files in {path}. Received: {len(files)}.")
    return files


def _from_folder(path: Path, count: int) -> list[bytes]:
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES)
    return [file.read_bytes() for file in files[:count]]


def _from_tar(path: Path, count: int) -> list[bytes]:
    with tarfile.open(path) as archive:
        names = sorted(name for name in archive.getnames() if Path(name).suffix.lower() in _SUFFIXES)
        members = (archive.extractfile(name) for name in names[:count])
        return [member.read() for member in members if member is not None]


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
