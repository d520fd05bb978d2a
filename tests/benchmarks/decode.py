"""Decoders and resizes side by side, in speed and in distance from the textbook: why service/image.py is all Pillow.

    python -m tests.benchmarks.decode [--images PATH]

Single-threaded; the resize makes a 224 x 224 crop of a picture whose shorter side becomes 256. The distance is the mean
absolute difference in grey levels: of decoders to Pillow's pixels, of resizes to Pillow's antialiased bicubic resize of
the whole picture followed by a crop, which is what torchvision does.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from service import image
from service.bundle import CropGeometry, Interpolation
from tests.benchmarks import pictures, results

GEOMETRY = CropGeometry(256, 224, 224, Interpolation.INTERPOLATION_BICUBIC)
LIMITS = image.ImageLimits()
TEXTBOOK = v2.Compose([v2.Resize(256, InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(224)])
Pixels = NDArray[np.uint8]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a folder or .tar of JPEG files")
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
    print(f"kept in {results.keep('decode', {'images': len(files), 'summary': figures})}")


def measure(
    candidates: dict[str, Callable[[Any], Pixels]], inputs: Sequence[Any], expected: Sequence[Pixels], rounds: int
) -> dict[str, dict[str, float]]:
    """Median milliseconds an input takes over interleaved rounds, and the mean distance to what is expected."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, candidate in candidates.items():
            started_s = time.perf_counter()
            for each in inputs:
                candidate(each)
            times[name].append((time.perf_counter() - started_s) / len(inputs) * 1000)
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
