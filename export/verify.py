"""Holds an ONNX graph against torch, through the very engine that will serve it; writes nothing."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.errors import Disagreement
from export.run import LOGITS
from service import proof
from service.engine import Arrays, Engine

BATCH_SIZES = (1, 3, 8)


@dataclass(frozen=True)
class Bound:
    """How near answers must come to torch's, by the cosine of each image's answer."""

    lowest_cosine: float
    mean_cosine: float


# A cosine forgives one wrong number among a thousand: no number of an fp32 graph may differ by more than this part of
# the largest one. EfficientNet-Lite0 differs by a millionth.
LARGEST_FP32_DIFFERENCE = 1e-3

FP32 = Bound(lowest_cosine=0.9999, mean_cosine=0.9999)
# Sixteen bits lose in the last digits, eight bits in the tails; a wrong engine loses much more than either.
SIXTEEN_BITS = Bound(lowest_cosine=0.995, mean_cosine=0.999)
EIGHT_BITS = Bound(lowest_cosine=0.97, mean_cosine=0.99)


@dataclass(frozen=True)
class Verification:
    """What was measured of one output at one batch size; see Verification in bundle.proto.

    Attributes:
        largest_difference: Of any number, in the output's own unit.
        top1_agreement: The part of the images whose largest logit stands in the same place; 0 unless logits.
    """

    output: str
    batch_size: int
    lowest_cosine: float
    mean_cosine: float
    largest_difference: float
    top1_agreement: float


def verify(engine: Engine, pixels: NDArray[np.uint8], expected: Arrays) -> list[Verification]:
    """Run an fp32 graph at several batch sizes and compare every output with torch's.

    Args:
        engine: The graph.
        pixels: `uint8 [images, H, W, 3]`.
        expected: For each output torch's float32 `[images, ...]` array.

    Returns:
        The measurements, an output and batch size each.

    Raises:
        Disagreement: An output came less near at a batch size, or one number of it differs too much; the message names
            both.
    """
    found = []
    for batch_size in BATCH_SIZES:
        answers = proof.run(engine, pixels, batch_size)
        found += [_compare(name, batch_size, answers[name], expected[name]) for name in engine.outputs]
    for each in found:
        if each.lowest_cosine < FP32.lowest_cosine or each.mean_cosine < FP32.mean_cosine:
            raise Disagreement(
                f"Expected {each.output} at batch {each.batch_size} to have a cosine of at least "
                f"{FP32.lowest_cosine} (mean {FP32.mean_cosine}) to torch's. "
                f"Received: {each.lowest_cosine:.6f} (mean {each.mean_cosine:.6f}), "
                f"the largest difference {each.largest_difference:.3g}."
            )
        _check_difference(each, expected[each.output])
    return found


def _check_difference(found: Verification, expected: NDArray[np.float32]) -> None:
    largest = LARGEST_FP32_DIFFERENCE * float(np.abs(expected).max())
    if not found.largest_difference <= largest:
        raise Disagreement(
            f"Expected no number of {found.output} at batch {found.batch_size} to differ from torch's by more than "
            f"{largest:.3g}. Received: {found.largest_difference:.3g}."
        )


def _compare(output: str, batch_size: int, answers: NDArray[np.float32], expected: NDArray[np.float32]) -> Verification:
    if answers.shape != expected.shape:
        raise Disagreement(f"Expected {output} as {list(expected.shape)}. Received: {list(answers.shape)}.")
    near = proof.agreement(output, answers, expected)
    same = float((answers.argmax(axis=1) == expected.argmax(axis=1)).mean()) if output == LOGITS else 0.0
    difference = float(np.abs(answers - expected).max())
    return Verification(output, batch_size, near.lowest_cosine, near.mean_cosine, difference, same)
