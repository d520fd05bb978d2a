"""One preprocessing: training, export's verification, the service and the client's raw path feed the same pixels.

Each path is intercepted where its pixels reach the engine. In export that is Engine.run; in training and in a service,
which is another process, a model that answers with the pixels that it was fed.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps
from rich.console import Console
from sklearn.datasets import load_sample_images

from export import bundle, golden
from export.progress import Steps
from service import image
from service.bundle import sha256_of
from service.engine import Arrays, Engine
from tests.conftest import Service, mirror, write_bundle
from tests.export.conftest import GEOMETRY, Tiny, write_run
from training import features
from training.dataset import Sample
from training.views import PLAIN
from vertebra.client import Client

LIMITS = image.ImageLimits()


def digest(pixels: NDArray[np.uint8]) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels, np.uint8).tobytes()).hexdigest()


def upright(file: Path) -> NDArray[np.uint8]:
    with Image.open(file) as picture:
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))


def write_variants(folder: Path) -> list[Path]:
    """Odd sizes, every EXIF orientation, grey, palettes and alpha, in every format that can hold them."""
    photograph = Image.fromarray(load_sample_images().images[1])
    folder.mkdir()

    def save(name: str, size: tuple[int, int], mode: str, orientation: int = 1) -> Path:
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture = photograph.resize(size).convert(mode)
        if mode in ("LA", "RGBA"):
            picture.putalpha(Image.linear_gradient("L").resize(size))
        picture.save(folder / name, exif=exif)
        return folder / name

    sizes = [(33, 47), (101, 31), (640, 427), (33, 257), (31, 31), (5, 90)]
    files = [save(f"size-{width}x{height}.jpg", (width, height), "RGB") for width, height in sizes]
    files += [save(f"turned-{turn}.jpg", (121, 83), "RGB", turn) for turn in range(2, 9)]
    files += [save(f"turned-{turn}.png", (121, 83), "RGB", turn) for turn in (3, 6)]
    files += [save(f"turned-{turn}.webp", (121, 83), "RGB", turn) for turn in (5, 8)]
    # Alpha is dropped: with one size for all, LA would be the same picture as L.
    modes = ("1", "L", "LA", "P", "RGBA")
    files += [save(f"{mode}.png", (77, 63 + index), mode) for index, mode in enumerate(modes)]
    files += [save("grey.jpg", (77, 63), "L"), save("alpha.webp", (77, 63), "RGBA")]
    files += [save("ink.jpg", (77, 64), "CMYK"), save("ink.tif", (77, 65), "CMYK")]
    files += [save(f"turned-{turn}.tif", (77, 66), "RGB", turn) for turn in (4, 6)]
    files += [save(f"{mode}.bmp", (76, 63 + index), mode) for index, mode in enumerate(("L", "P", "RGB"))]
    files += [save(f"{mode}.gif", (75, 63 + index), mode) for index, mode in enumerate(("L", "P"))]
    # 12 megapixels, decoded at an eighth of their size, which is no whole number of pixels.
    files += [save(f"large-{turn}.jpg", (4003, 3005), "RGB", turn) for turn in (1, 6)]
    return sorted(files)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return write_variants(tmp_path / "pictures")


@pytest.fixture
def fed_by_export(files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """Digests of what the engine was fed, by batch size, while a run became a bundle that the files verify."""
    fed: list[list[str]] = []
    run = Engine.run

    def recording(self: Engine, pixels: NDArray[np.uint8]) -> Arrays:
        fed.append([digest(each) for each in pixels])
        return run(self, pixels)

    monkeypatch.setattr(Engine, "run", recording)
    order = bundle.Order(write_run(tmp_path / "run", Tiny()), tmp_path / "made", "tiny", files[0].parent)
    bundle.make(order, Steps(5, Console(quiet=True)))
    by_size: dict[int, set[str]] = {}
    for batch in fed:
        by_size.setdefault(len(batch), set()).update(batch)
    return [by_size[1], by_size[3], by_size[8]]


@pytest.fixture
def fed_by_training(files: list[Path], tmp_path: Path) -> list[str]:
    """Digests of what the engine was fed for the bottleneck cache, by file."""
    model = mirror(GEOMETRY)
    onnx.save(model.graph, tmp_path / "mirror.onnx")
    engine = Engine(tmp_path / "mirror.onnx", threads=1)
    widths = {"logits": 3, "embedding": GEOMETRY.crop_height_px * GEOMETRY.crop_width_px * 3}
    extractor = features.Extractor(engine, GEOMETRY, widths, facts={})
    samples = [Sample(file, bytes.fromhex(sha256_of(file)), label=0, weight=1.0, group=None) for file in files]
    features.extract(samples, (PLAIN,), extractor, tmp_path / "cache", lambda _: None)
    rows = features.rows(samples, PLAIN, extractor, tmp_path / "cache", ["embedding"])["embedding"]
    return [digest(row.astype(np.uint8)) for row in rows]


def test_every_path_feeds_the_engine_the_same_pixels(
    files: list[Path],
    fed_by_training: list[str],
    fed_by_export: list[set[str]],
    tmp_path: Path,
    start_service: Callable[..., Service],
) -> None:
    write_bundle(tmp_path / "models", mirror(GEOMETRY))
    service = start_service(tmp_path / "models")
    service.wait_for("serving")
    decoded = {file: upright(file) for file in files}
    # Who sends the pixels of a JPEG that is decoded at less than its size has all of them resized.
    at_size = [file for file in files if decoded[file].size == 3 * image.weigh(file.read_bytes(), GEOMETRY, LIMITS)]
    assert len(at_size) == len(files) - 3
    with Client(service.address) as client:
        by_file = client.embed(files).answers()
        by_bytes = client.embed([file.read_bytes() for file in files]).answers()
        by_pixels = client.embed([decoded[file] for file in at_size]).answers()
    served = [digest(answer.vector.astype(np.uint8)) for answer in by_bytes]
    assert [digest(answer.vector.astype(np.uint8)) for answer in by_file] == served
    by_name = dict(zip(files, served, strict=True))
    assert [digest(answer.vector.astype(np.uint8)) for answer in by_pixels] == [by_name[file] for file in at_size]
    assert len(set(served)) == len(files), "files that cannot be told apart prove nothing"
    assert fed_by_training == served
    one_at_a_time, *batches = fed_by_export
    proven = set(served[: golden.MAX_IMAGES])
    assert by_name[next(file for file in files if file.name == "large-6.jpg")] in proven
    assert one_at_a_time == proven
    # Batches of three leave two over.
    assert all(batch <= proven and len(batch) >= golden.MAX_IMAGES - 2 for batch in batches)
