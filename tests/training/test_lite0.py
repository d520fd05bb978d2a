"""The real EfficientNet-Lite0, from its package to a bundle that names what is on a photograph."""

import numpy as np
import onnx
import pytest
from sklearn.datasets import load_sample_image

from export import bundle, program, run
from service import bundle as bundles
from service import image
from service.bundle import Bundle
from service.engine import Engine
from tests.training.conftest import Lite0, quiet


@pytest.fixture(scope="session")
def served(lite0: Lite0, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    order = bundle.Order(lite0.path, tmp_path_factory.mktemp("models"), "imagenet", golden=None)
    return bundles.load(bundle.make(order, quiet(5)).path)


def test_taps_have_the_shapes_that_the_card_says(lite0: Lite0) -> None:
    assert {output.name: output.shape for output in lite0.run.outputs} == {
        "c1": (16, 112, 112),
        "c2": (24, 56, 56),
        "c3": (40, 28, 28),
        "c4": (112, 14, 14),
        "c5": (320, 7, 7),
        "embedding": (1280,),
        "logits": (1000,),
    }
    strides = [output.stride for output in lite0.run.outputs if output.kind == "feature_map"]
    assert strides == [2, 4, 8, 16, 32]


def test_a_daisy_is_a_daisy(served: Bundle, lite0: Lite0) -> None:
    pixels = image.read(load_sample_image("flower.jpg"), served.geometry, image.ImageLimits())[None]
    answers = Engine(served.graph, threads=2).run(pixels)
    assert served.labels[answers["logits"][0].argmax()] == "daisy"
    expected = program.answers(run.read_program(lite0.path, lite0.run), pixels)
    for name in ("logits", "embedding"):
        np.testing.assert_allclose(answers[name], expected[name], atol=1e-4)


def test_the_bundle_came_as_near_to_torch_as_fp32_can(served: Bundle) -> None:
    assert len(served.manifest.verifications) == 6
    for each in served.manifest.verifications:
        assert each.lowest_cosine > 0.999999
        assert each.largest_difference < 1e-3
        assert each.top1_agreement == (1 if each.output == "logits" else 0)


def test_batch_norms_are_folded_and_nothing_is_left_of_the_taps(served: Bundle) -> None:
    kinds = [node.op_type for node in onnx.load(served.graph).graph.node]
    assert kinds.count("Conv") == 49
    assert set(kinds) == {"Transpose", "Cast", "Sub", "Div", "Conv", "Clip", "Add", "ReduceMean", "Gemm"}
