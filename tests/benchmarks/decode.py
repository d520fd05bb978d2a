"""Decoders and resizes side by side, in speed and in distance from the textbook: why service/image.py is all Pillow.

    python -m tests.benchmarks.decode [--images PATH] [--model FILE]

Single-threaded, in milliseconds of processor time; the resize makes a 224 x 224 crop of a picture whose shorter side
becomes 256. The distance is the mean absolute difference in grey levels: of decoders to Pillow's pixels, of resizes to
Pillow's antialiased bicubic resize of the whole picture followed by a crop, which is what torchvision does.

Then JPEGs of 12 megapixels, 4032 x 3024, decoded in full and at parts of their size: what that saves, and what it
changes in the pixels and, where there is a model, in its embedding. Enlarged photographs with a sensor's noise are what
cameras give; mosaics of 64 photographs are as sharp as pictures get.
"""

import argparse
import io
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin
from sklearn.datasets import load_sample_images
from torchvision.transforms import InterpolationMode, v2

from service import image
from service.bundle import CropGeometry, Interpolation
from service.engine import Engine
from tests.benchmarks import pictures, results

GEOMETRY = CropGeometry(256, 224, 224, Interpolation.INTERPOLATION_BICUBIC)
LIMITS = image.ImageLimits()
TEXTBOOK = v2.Compose([v2.Resize(256, InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(224)])
LARGE = (4032, 3024)
Pixels = NDArray[np.uint8]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a folder or .tar of JPEG files")
    parser.add_argument("--model", type=Path, help="a bundle's model.onnx, by default the demo's if there is one")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    files = pictures.read(arguments.images, arguments.count)
    decoded = [image.decode(file, LIMITS) for file in files]
    textbook = [np.asarray(TEXTBOOK(Image.fromarray(each))) for each in decoded]
    decoders: dict[str, Callable[[bytes], Pixels]] = {
        "decode: Pillow": lambda file: image.decode(file, LIMITS),
        "decode: simplejpeg": simplejpeg.decode_jpeg,
        "decode: OpenCV": decode_opencv,
    }
    resizes: dict[str, Callable[[Pixels], Pixels]] = {
        "resize: Pillow, whole, then crop": lambda pixels: np.asarray(TEXTBOOK(Image.fromarray(pixels))),
        "resize: Pillow, the crop alone (ours)": lambda pixels: image.read(pixels, GEOMETRY, LIMITS),
        "resize: OpenCV area": lambda pixels: resize_opencv(pixels, cv2.INTER_AREA),
        "resize: OpenCV cubic": lambda pixels: resize_opencv(pixels, cv2.INTER_CUBIC),
    }
    figures = measure(decoders, files, decoded, arguments.rounds)
    figures |= measure(resizes, decoded, textbook, arguments.rounds)
    both: dict[str, Callable[[bytes], Pixels]] = {"decode and resize (ours)": lambda f: image.read(f, GEOMETRY, LIMITS)}
    figures |= measure(both, files, textbook, arguments.rounds)
    for name, each in figures.items():
        print(f"{name:<40}{each['ms']:>7.2f} ms   distance {each['distance']:.3f}")
    model = arguments.model or Path(".demo/models/imagenet/1/model.onnx")
    engine = Engine(model, threads=1) if model.exists() else None
    sets = {"enlarged": enlarged(4), "mosaic": [mosaic(files[start : start + 64]) for start in range(0, 128, 64)]}
    large = {name: compare_scales(each, engine, arguments.rounds) for name, each in sets.items()}
    for name, rows in large.items():
        print(f"12 megapixels, {name}, {statistics.mean(map(len, sets[name])) / 1e6:.1f} MB:")
        for row, each in rows.items():
            print(f"  {row:<30}", ", ".join(f"{what} {figure:.4g}" for what, figure in each.items()))
    sizes = {name: round(statistics.mean(map(len, each))) for name, each in sets.items()}
    kept = {"images": len(files), "summary": figures, "large_bytes": sizes, "large": large}
    print(f"kept in {results.keep('decode', kept)}")


def enlarged(count: int) -> list[bytes]:
    """Photographs as large as a telephone takes them, with some noise."""
    random = np.random.default_rng(0)
    photographs = [
        Image.fromarray(each).resize(LARGE, Image.Resampling.BICUBIC) for each in load_sample_images().images
    ]
    made = []
    for index in range(count):
        noise = random.normal(0, 3, (LARGE[1], LARGE[0], 3)).astype(np.float32)
        pixels = np.clip(np.asarray(photographs[index % 2], np.float32) + noise, 0, 255).astype(np.uint8)
        made.append(jpeg(Image.fromarray(pixels)))
    return made


def mosaic(files: Sequence[bytes]) -> bytes:
    """Eight by eight photographs side by side."""
    whole, width, height = Image.new("RGB", LARGE), LARGE[0] // 8, LARGE[1] // 8
    for index, file in enumerate(files):
        small = Image.fromarray(image.decode(file, LIMITS)).resize((width, height))
        whole.paste(small, (index % 8 * width, index // 8 * height))
    return jpeg(whole)


def jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def compare_scales(files: Sequence[bytes], engine: Engine | None, rounds: int) -> dict[str, dict[str, float]]:
    """`image.read` beside a full decode and resize, and beside each scale; `image.decode` is the decode without one."""
    candidates: dict[str, Callable[[bytes], Pixels]] = {
        "full": lambda file: image.crop(at_scale(file, 1), GEOMETRY),
        "read (ours)": lambda file: image.read(file, GEOMETRY, LIMITS),
    }
    for scale in (2, 4, 8):
        name = f"1/{scale}, {LARGE[1] / scale / GEOMETRY.resize_shorter_px:.2f} times as large"
        candidates[name] = lambda file, scale=scale: image.crop(at_scale(file, scale), GEOMETRY)  # type: ignore[misc]
    full = [candidates["full"](file) for file in files]
    figures = measure(candidates, files, full, rounds)
    decoded = [image.decode(file, LIMITS) for file in files]
    decode_ms = measure({"": lambda file: image.decode(file, LIMITS)}, files, decoded, rounds)[""]["ms"]
    for name, each in figures.items():
        each["part_of_full"] = each["ms"] / figures["full"]["ms"]
        each["part_of_decode"] = each["ms"] / decode_ms
        if engine is not None:
            each["cosine"], each["lowest_cosine"] = cosines(engine, full, [candidates[name](file) for file in files])
    return figures


def at_scale(file: bytes, scale: int) -> image.Picture:
    """A JPEG decoded at a part of its size."""
    opened = JpegImagePlugin.JpegImageFile(io.BytesIO(file))
    width, height = opened.size
    opened.draft(None, (width // scale, height // scale))
    opened.load()
    return image.Picture(opened, (0.0, 0.0, width / scale, height / scale))


def cosines(engine: Engine, expected: Sequence[Pixels], received: Sequence[Pixels]) -> tuple[float, float]:
    """The mean and the lowest cosine between embeddings."""
    a, b = (engine.run(np.stack(each))["embedding"] for each in (expected, received))
    each = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return float(each.mean()), float(each.min())


def measure(
    candidates: dict[str, Callable[[Any], Pixels]], inputs: Sequence[Any], expected: Sequence[Pixels], rounds: int
) -> dict[str, dict[str, float]]:
    """Median milliseconds an input takes over interleaved rounds, and the mean distance to what is expected."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, candidate in candidates.items():
            started_s = time.process_time()
            for each in inputs:
                candidate(each)
            times[name].append((time.process_time() - started_s) / len(inputs) * 1000)
    return {
        name: {
            "ms": statistics.median(times[name]),
            "distance": statistics.mean(distance(candidate(a), b) for a, b in zip(inputs, expected, strict=True)),
        }
        for name, candidate in candidates.items()
    }


def distance(a: Pixels, b: Pixels) -> float:
    return float(np.abs(a.astype(np.int16) - b).mean())


def decode_opencv(file: bytes) -> Pixels:
    bgr = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    assert bgr is not None
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def resize_opencv(pixels: Pixels, interpolation: int) -> Pixels:
    height, width = pixels.shape[:2]
    scale = 256 / min(height, width)
    size = (int(width * scale), int(height * scale))
    left, top = round((size[0] - 224) / 2), round((size[1] - 224) / 2)
    resized = cv2.resize(pixels, size, interpolation=interpolation)
    return np.asarray(resized[top : top + 224, left : left + 224], np.uint8)


if __name__ == "__main__":
    main()
