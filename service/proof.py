"""Proves that a loaded engine answers the golden images as the trained model did; decides nothing about serving."""

import zipfile
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service import image
from service.bundle import Bundle, Precision
from service.engine import Arrays, Engine
from service.errors import BadImage, BundleError
from vertebra.v1 import bundle_pb2

# Golden images are our own and were checked by digest: nothing about them needs a bound.
_NO_LIMITS = image.ImageLimits(max_bytes=2**31, max_pixels=2**31)
_BATCH = 8


@dataclass(frozen=True)
class Agreement:
    """How near an output's answers came to the expected ones, by the cosine of each image. Both in [-1, 1]."""

    output: str
    lowest_cosine: float
    mean_cosine: float


def agreement(output: str, answers: NDArray[np.float32], expected: NDArray[np.float32]) -> Agreement:
    """Compare answers with expected ones, image by image.

    Args:
        output: The name of the output.
        answers: float32 `[N, ...]`.
        expected: float32 `[N, ...]`, the same shape.

    Returns:
        The lowest and the mean cosine. An answer that is not finite counts as -1.
    """
    cosines = _cosines(answers.reshape(len(answers), -1), expected.reshape(len(expected), -1))
    return Agreement(output, float(cosines.min()), float(cosines.mean()))


def prove(bundle: Bundle, engine: Engine, batch_size: int = _BATCH) -> list[Agreement]:
    """Run the golden images and hold the answers against the bundle's bounds.

    Args:
        bundle: The bundle that the engine was loaded from.
        engine: The engine.
        batch_size: How many images are run at once, at least 1: where the engine serves, as it will serve.

    Returns:
        The agreement of each output.

    Raises:
        BundleError: The graph takes other pixels than the geometry makes; an output is missing, has another shape, or
            lies outside a bound.
    """
    made = (bundle.geometry.crop_height_px, bundle.geometry.crop_width_px, 3)
    if engine.shape != made:
        raise BundleError(
            f"Expected a graph that takes {list(made)}, as the geometry has it. Received: {engine.shape}."
        )
    expected = _expected(bundle)
    answers = run(engine, pixels(bundle), batch_size)
    bound = _bound(bundle)
    agreements = []
    for output in (bundle.logits, bundle.embedding):
        shape = (len(bundle.manifest.golden.images), *output.shape)
        for what, arrays in (("graph", answers), ("golden set", expected)):
            if output.name not in arrays or arrays[output.name].shape != shape:
                received = {name: list(array.shape) for name, array in arrays.items()}
                raise BundleError(f"Expected the {what} to give {output.name} as {list(shape)}. Received: {received}.")
        found = agreement(output.name, answers[output.name], expected[output.name])
        if not (found.lowest_cosine >= bound.lowest_cosine and found.mean_cosine >= bound.mean_cosine):
            raise BundleError(
                f"Expected {output.name} of the golden images to have a cosine of at least {bound.lowest_cosine} "
                f"(mean {bound.mean_cosine}) to the trained model's. "
                f"Received: {found.lowest_cosine:.6f} (mean {found.mean_cosine:.6f}) with {engine.provider}."
            )
        agreements.append(found)
    return agreements


def run(engine: Engine, pixels: NDArray[np.uint8], batch_size: int) -> Arrays:
    """Run images through an engine, so many at a time.

    Args:
        engine: The engine.
        pixels: `uint8 [images, H, W, 3]`.
        batch_size: The most that are run at once, at least 1.

    Returns:
        For each output its float32 `[images, ...]` array.
    """
    parts = [engine.run(pixels[start : start + batch_size]) for start in range(0, len(pixels), batch_size)]
    return {name: np.concatenate([part[name] for part in parts]) for name in engine.outputs}


def pixels(bundle: Bundle) -> NDArray[np.uint8]:
    """Read the golden images as the graph takes them.

    Args:
        bundle: The bundle that holds them.

    Returns:
        `uint8 [images, H, W, 3]`.

    Raises:
        BundleError: One of them cannot be read.
    """
    try:
        files = [(bundle.path / name).read_bytes() for name in bundle.manifest.golden.images]
        return np.stack([image.read(file, bundle.geometry, _NO_LIMITS) for file in files])
    except (OSError, BadImage) as error:
        raise BundleError(f"Expected golden images that can be read. Received: {error}") from error


def _expected(bundle: Bundle) -> Arrays:
    name = bundle.manifest.golden.expected_file
    try:
        with (bundle.path / name).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {key: arrays[key].astype(np.float32) for key in arrays.files}
    # What NumPy and zipfile raise for a file that is something else.
    except (OSError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise BundleError(f"Expected {name} to be a NumPy .npz file of float32. Received: {error}") from error


def _bound(bundle: Bundle) -> bundle_pb2.GoldenBound:
    # Every provider is told to compute in the precision that the graph is stored in.
    for bound in bundle.manifest.golden.bounds:
        if bound.precision == bundle.precision:
            return bound
    raise BundleError(f"Expected a golden bound for {Precision.Name(bundle.precision)}. Received: none.")


def _cosines(answers: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.float64]:
    a, b = answers.astype(np.float64), expected.astype(np.float64)  # [N, D]
    with np.errstate(invalid="ignore", divide="ignore"):
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        dots = (a * b).sum(axis=1)
        cosines = np.where((norms == 0) & (a == b).all(axis=1), 1.0, dots / norms)
    return np.where(np.isfinite(cosines), cosines, -1.0)
