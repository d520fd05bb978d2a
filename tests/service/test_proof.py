"""The golden proof passes for the model that was exported and fails, with both figures, for any other."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service import bundle as bundles
from service import proof
from service.bundle import Bundle
from service.engine import Arrays, Engine
from service.errors import BundleError
from vertebra.v1 import bundle_pb2


class Bent:
    """An engine whose embedding of one image points elsewhere."""

    provider = "BentExecutionProvider"
    precision = bundle_pb2.PRECISION_FP32
    shape = (8, 8, 3)
    outputs = ("logits", "embedding")

    def __init__(self, engine: Engine, bend: float) -> None:
        self._engine = engine
        self._bend = bend

    def run(self, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Arrays:
        answers = dict(self._engine.run(pixels))
        answers["embedding"] = answers["embedding"] + np.array([self._bend, 0, 0], np.float32)
        return answers


def test_the_exported_model_is_proved(bundle: Bundle, engine: Engine) -> None:
    agreements = proof.prove(bundle, engine)
    assert [each.output for each in agreements] == ["logits", "embedding"]
    assert all(each.lowest_cosine > 0.999999 for each in agreements)


@pytest.mark.parametrize("bend", [0.3, float("nan"), float("inf")])
def test_other_answers_fail_the_proof(bundle: Bundle, engine: Engine, bend: float) -> None:
    with pytest.raises(
        BundleError,
        match=r"Expected embedding of the golden images to have a cosine of at least 0.9999 \(mean 0.9999\) .* "
        r"Received: -?[01]\.\d+ \(mean -?[01]\.\d+\) with BentExecutionProvider\.",
    ):
        proof.prove(bundle, Bent(engine, bend))  # type: ignore[arg-type]  # an engine in all that prove() asks of it


def test_a_missing_output_fails_the_proof(bundle: Bundle, engine: Engine) -> None:
    other = replace(bundle, embedding=replace(bundle.embedding, name="features"))
    with pytest.raises(BundleError, match=r"Expected the graph to give features as \[16, 3\]. Received: .*'embedding'"):
        proof.prove(other, engine)


def test_a_missing_bound_fails_the_proof(changed: Callable[[Callable[[bundle_pb2.Manifest], None]], Path]) -> None:
    def change(manifest: bundle_pb2.Manifest) -> None:
        manifest.golden.bounds[0].precision = bundle_pb2.PRECISION_INT8

    bundle = bundles.load(changed(change))
    with pytest.raises(BundleError, match=r"Expected a golden bound for PRECISION_FP32. Received: none"):
        proof.prove(bundle, Engine(bundle.graph, threads=1))


def test_expected_answers_that_are_no_arrays_fail_the_proof(bundle: Bundle, engine: Engine) -> None:
    file = bundle.path / "golden" / "expected.npz"
    whole = file.read_bytes()
    message = r"Expected golden/expected.npz to be a NumPy .npz file of float32. Received: "
    for other in (b"no arrays", whole[:200], b"PK\x03\x04"):
        file.write_bytes(other)
        with pytest.raises(BundleError, match=message):
            proof.prove(bundle, engine)
    with file.open("wb") as stream:
        np.save(stream, np.zeros(3))
    with pytest.raises(BundleError, match=message):
        proof.prove(bundle, engine)


def test_a_graph_that_takes_other_pixels_than_the_geometry_makes_fails_the_proof(
    bundle: Bundle, engine: Engine
) -> None:
    other = replace(bundle, geometry=replace(bundle.geometry, crop_width_px=7))
    with pytest.raises(BundleError, match=r"Expected a graph that takes \[8, 7, 3\], .* Received: \(8, 8, 3\)"):
        proof.prove(other, engine)


def test_agreement_is_the_cosine_of_each_image() -> None:
    answers = np.array([[1, 0], [1, 1], [0, 0]], np.float32)
    expected = np.array([[2, 0], [1, 0], [0, 0]], np.float32)
    found = proof.agreement("embedding", answers, expected)
    assert found.lowest_cosine == pytest.approx(2**-0.5)
    assert found.mean_cosine == pytest.approx((1 + 2**-0.5 + 1) / 3)
