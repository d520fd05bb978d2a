"""Values become messages and messages become values; no server is asked."""

import re
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from vertebra.client import AnswerError, CropGeometry, ImageError, Label, messages
from vertebra.v1 import bundle_pb2, vision_pb2


def test_bytes_are_sent_as_a_file() -> None:
    assert messages.image(b"jpeg").encoded == b"jpeg"


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_is_read(tmp_path: Path, kind: type[str] | type[Path]) -> None:
    (tmp_path / "cat.jpg").write_bytes(b"jpeg")
    assert messages.image(kind(tmp_path / "cat.jpg")).encoded == b"jpeg"


def test_a_missing_file_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jpg"):
        messages.image("nowhere.jpg")


def test_pixels_are_sent_row_by_row() -> None:
    pixels = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)
    sent = messages.image(pixels).pixels
    assert (sent.height, sent.width, sent.data) == (2, 4, bytes(range(24)))


def test_pixels_need_not_be_contiguous() -> None:
    pixels = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)[:, ::-1]
    assert messages.image(pixels).pixels.data == np.ascontiguousarray(pixels).tobytes()


@pytest.mark.parametrize(
    ("array", "received"),
    [
        (np.zeros((2, 4, 3), np.float32), "a float32 array [2, 4, 3]"),
        (np.zeros((2, 4), np.uint8), "a uint8 array [2, 4]"),
        (np.zeros((2, 4, 4), np.uint8), "a uint8 array [2, 4, 4]"),
        (np.zeros((3, 2, 4), np.uint8), "a uint8 array [3, 2, 4]"),
    ],
)
def test_other_arrays_are_refused(array: Any, received: str) -> None:
    expected = re.escape(f"Expected pixels as a uint8 array [H, W, 3]. Received: {received}.")
    with pytest.raises(ValueError, match=expected):
        messages.image(array)


@pytest.mark.parametrize(
    ("single", "received"),
    [
        ("cat.jpg", "str"),
        (b"jpeg", "bytes"),
        (Path("cat.jpg"), "PosixPath"),
        (np.zeros((2, 4, 3), np.uint8), "a uint8 array [2, 4, 3]"),
    ],
)
def test_one_image_is_no_sequence(single: Any, received: str) -> None:
    expected = re.escape(f"Expected a sequence of images. Received: {received}. Write [image] for one image")
    with pytest.raises(TypeError, match=expected):
        messages.images(single)


def test_other_types_are_refused() -> None:
    wrong: Any = [3]
    with pytest.raises(TypeError, match=r"Expected a path, bytes or an array as image\. Received: int\."):
        messages.images(wrong)


def test_no_images_are_the_servers_to_refuse() -> None:
    assert messages.images([]) == []


def test_answers_are_the_wires() -> None:
    every = messages.answers(["logits", "labels", "embedding"])
    assert every == [vision_pb2.ANSWER_LOGITS, vision_pb2.ANSWER_LABELS, vision_pb2.ANSWER_EMBEDDING]


def test_another_answer_is_refused() -> None:
    wrong: Any = ["boxes"]
    expected = re.escape("Expected answers out of ['embedding', 'labels', 'logits']. Received: 'boxes'.")
    with pytest.raises(ValueError, match=expected):
        messages.answers(wrong)


def test_an_array_has_the_messages_shape() -> None:
    numbers = np.arange(6, dtype="<f4")
    tensor = vision_pb2.Tensor(data_type=vision_pb2.DATA_TYPE_FLOAT32, shape=[2, 3], data=numbers.tobytes())
    answer = messages.array(tensor)
    assert answer.dtype == np.float32
    assert not answer.flags.writeable
    np.testing.assert_array_equal(answer, numbers.reshape(2, 3))


def test_an_array_of_too_few_bytes_is_refused() -> None:
    tensor = vision_pb2.Tensor(data_type=vision_pb2.DATA_TYPE_FLOAT32, shape=[2, 3], data=b"1234")
    expected = re.escape("Expected 24 bytes for a tensor of shape [2, 3]. Received: 4.")
    with pytest.raises(AnswerError, match=expected):
        messages.array(tensor)


def test_an_array_of_another_type_is_refused() -> None:
    with pytest.raises(AnswerError, match=r"Expected a tensor of FLOAT32\. Received: UNSPECIFIED\."):
        messages.array(vision_pb2.Tensor(shape=[1], data=b"1234"))


def test_a_broken_image_has_its_place_and_code() -> None:
    message = vision_pb2.ClassifyResponse(
        results=[
            vision_pb2.ClassifyResult(labels=[vision_pb2.Label(index=1, name="lynx", probability=0.5)]),
            vision_pb2.ClassifyResult(status=vision_pb2.Status(code=3, message="Broken.")),
            vision_pb2.ClassifyResult(status=vision_pb2.Status(code=99, message="New.")),
        ]
    )
    response = messages.classify_response(message)
    good, broken, new = response.results
    assert not isinstance(good, ImageError)
    assert good.labels == (Label(1, "lynx", 0.5),)
    assert isinstance(broken, ImageError)
    assert (broken.index, broken.code, broken.message) == (1, grpc.StatusCode.INVALID_ARGUMENT, "Broken.")
    assert isinstance(new, ImageError)
    assert new.code is grpc.StatusCode.UNKNOWN
    with pytest.raises(ImageError, match=r"Image 1: Broken\."):
        response.answers()


def test_a_state_newer_than_this_client_is_its_number() -> None:
    assert messages.enum_name(vision_pb2.ModelState.DESCRIPTOR, 2) == "READY"
    assert messages.enum_name(vision_pb2.ModelState.DESCRIPTOR, 77) == "77"


def test_geometry() -> None:
    crop = bundle_pb2.CropGeometry(
        resize_shorter_px=256, crop_height_px=224, crop_width_px=192, interpolation=bundle_pb2.INTERPOLATION_BILINEAR
    )
    assert messages.geometry(bundle_pb2.Geometry(crop=crop)) == CropGeometry(256, 224, 192, "BILINEAR")


def test_a_geometry_newer_than_this_client_is_none() -> None:
    assert messages.geometry(bundle_pb2.Geometry()) is None
