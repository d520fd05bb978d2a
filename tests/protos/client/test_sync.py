"""Client against a real gRPC server with canned answers; knows nothing of how the answers are made."""

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import cast

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message

from vertebra import client as vertebra
from vertebra.client import Client, Label, ServedModel, Timing
from vertebra.v1 import vision_pb2

Refuse = Callable[[int, grpc.StatusCode, str | None], None]
SPACE = "a" * 64


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address) as client:
        yield client


def test_classify(client: Client, received: Sequence[Message]) -> None:
    response = client.classify([b"jpeg"], model="cats", version=7, top_k=2, min_probability=0.1)
    assert response.model == ServedModel("cats", 7, SPACE)
    assert response.timing == Timing(1.5, 0.5, 2.0, 4.0)
    (answer,) = response.answers()
    assert answer.labels == (Label(0, "tabby", 0.75), Label(1, "tiger cat", float(np.float32(0.2))))
    request = cast(vision_pb2.ClassifyRequest, received[0])
    assert (request.model.name, request.model.version, request.top_k) == ("cats", 7, 2)
    assert request.min_probability == pytest.approx(0.1)


def test_every_kind_of_image_is_sent(client: Client, received: Sequence[Message], tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(b"file")
    client.classify([b"jpeg", tmp_path / "cat.jpg", str(tmp_path / "cat.jpg"), np.zeros((2, 4, 3), np.uint8)])
    request = cast(vision_pb2.ClassifyRequest, received[0])
    assert [image.WhichOneof("source") for image in request.images] == ["encoded", "encoded", "encoded", "pixels"]


def test_a_broken_image_leaves_the_others(client: Client) -> None:
    response = client.classify([b"jpeg", b"broken"])
    good, broken = response.results
    assert isinstance(good, vertebra.Classification)
    assert isinstance(broken, vertebra.ImageError)
    with pytest.raises(vertebra.ImageError, match=r"Image 1: Expected a JPEG, PNG or WebP file\. Received: 6 other"):
        response.answers()


def test_embed(client: Client) -> None:
    (answer,) = client.embed([b"jpeg"], expected_embedding_space_id=SPACE).answers()
    np.testing.assert_array_equal(answer.vector, np.arange(5, dtype=np.float32))


def test_a_response_may_be_larger_than_grpcs_default(client: Client) -> None:
    (answer,) = client.embed([b"jpeg"], model="wide").answers()
    assert answer.vector.shape == (2_000_000,)


def test_a_request_may_be_larger_than_grpcs_default(client: Client) -> None:
    assert len(client.classify([b"x" * 5_000_000]).answers()) == 1


def test_analyze_answers_what_was_asked_for(client: Client) -> None:
    (both,) = client.analyze([b"jpeg"], answers=["logits", "labels"], top_k=1).answers()
    assert both.logits is not None
    assert both.logits.shape == (3,)
    assert [label.name for label in both.labels] == ["tabby"]
    assert both.embedding is None
    (vector,) = client.analyze([b"jpeg"], answers=["embedding"]).answers()
    assert vector.embedding is not None
    assert (vector.logits, vector.labels) == (None, ())


def test_get_model(client: Client) -> None:
    description = client.get_model("cats")
    assert description.labels == ("tabby", "tiger cat", "lynx")
    assert description.geometry == vertebra.CropGeometry(256, 224, 224, "BICUBIC")
    assert description.outputs == (vertebra.Output("logits", "LOGITS", (3,), "", "", ""),)
    assert description.backbone == vertebra.Backbone("efficientnet_lite0", "", "Apache-2.0", "")
    assert (description.model.state, description.model.precision) == ("READY", "FP32")


def test_list_models(client: Client) -> None:
    cats, dogs = client.list_models()
    assert (cats.name, cats.state, cats.provider) == ("cats", "READY", "CPUExecutionProvider")
    assert (dogs.name, dogs.state, dogs.error) == ("dogs", "FAILED", "Expected format 1. Received: 2.")


def test_an_error_has_its_class_and_its_cause(client: Client) -> None:
    with pytest.raises(vertebra.NotFound, match=r"NOT_FOUND: Expected a model out of \['cats'\]") as caught:
        client.classify([b"jpeg"], model="nowhere")
    assert isinstance(caught.value.__cause__, grpc.RpcError)
    with pytest.raises(vertebra.FailedPrecondition, match=r"Expected another space\."):
        client.embed([b"jpeg"], expected_embedding_space_id="b" * 64)


def test_a_code_without_a_class_is_an_rpc_error(client: Client, refuse: Refuse) -> None:
    refuse(1, grpc.StatusCode.DATA_LOSS, None)
    with pytest.raises(vertebra.RpcError, match=r"DATA_LOSS: Refused as told\."):
        client.list_models()


def test_nobody_there_is_unavailable() -> None:
    with (
        Client("127.0.0.1:1") as client,
        pytest.raises(vertebra.Unavailable, match="connections to all backends failing"),
    ):
        client.list_models()


@pytest.mark.parametrize("code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE])
def test_a_refusal_with_pushback_is_tried_again_when_it_says(
    client: Client, refuse: Refuse, arrivals_s: Sequence[float], code: grpc.StatusCode
) -> None:
    refuse(2, code, "30")
    assert len(client.classify([b"jpeg"]).answers()) == 1
    assert len(arrivals_s) == 3
    assert all(later - earlier >= 0.03 for earlier, later in pairwise(arrivals_s))


@pytest.mark.parametrize("pushback", [None, "-1", "soon"])
def test_a_refusal_without_pushback_is_final(
    client: Client, refuse: Refuse, received: Sequence[Message], pushback: str | None
) -> None:
    refuse(1, grpc.StatusCode.RESOURCE_EXHAUSTED, pushback)
    with pytest.raises(vertebra.ResourceExhausted, match=r"RESOURCE_EXHAUSTED: Refused as told\.") as caught:
        client.classify([b"jpeg"])
    assert caught.value.retry_after_s is None
    assert len(received) == 1


def test_another_code_with_pushback_is_final(client: Client, refuse: Refuse, received: Sequence[Message]) -> None:
    refuse(1, grpc.StatusCode.INTERNAL, "1")
    with pytest.raises(vertebra.Internal, match=r"Refused as told\."):
        client.classify([b"jpeg"])
    assert len(received) == 1


def test_a_pushback_past_the_deadline_is_final(client: Client, refuse: Refuse, received: Sequence[Message]) -> None:
    refuse(1, grpc.StatusCode.RESOURCE_EXHAUSTED, "60000")
    with pytest.raises(vertebra.ResourceExhausted, match=r"Refused as told\.") as caught:
        client.classify([b"jpeg"], deadline_s=30.0)
    assert caught.value.retry_after_s == 60.0
    assert len(received) == 1


def test_the_deadline_covers_all_tries(client: Client, refuse: Refuse, received: Sequence[Message]) -> None:
    refuse(1_000_000, grpc.StatusCode.UNAVAILABLE, "100")
    with pytest.raises((vertebra.Unavailable, vertebra.DeadlineExceeded)):
        client.classify([b"jpeg"], deadline_s=1.0)
    assert 2 <= len(received) <= 10


def test_the_deadline_passes(client: Client) -> None:
    with pytest.raises(vertebra.DeadlineExceeded, match="DEADLINE_EXCEEDED"):
        client.classify([b"jpeg"], model="slow", deadline_s=0.1)


def test_the_constructors_deadline_counts_where_the_call_has_none(address: str) -> None:
    with Client(address, deadline_s=0.1) as client, pytest.raises(vertebra.DeadlineExceeded, match="DEADLINE_EXCEEDED"):
        client.classify([b"jpeg"], model="slow")


def test_a_wrong_deadline_is_refused_before_anything_is_sent(
    address: str, client: Client, received: Sequence[Message]
) -> None:
    with pytest.raises(
        ValueError, match=re.escape("Expected a deadline of more than 0 and at most 1000000000 seconds. Received: 0.")
    ):
        Client(address, deadline_s=0)
    with pytest.raises(
        ValueError, match=r"Expected a deadline of more than 0 and at most 1000000000 seconds\. Received: -1\."
    ):
        client.list_models(deadline_s=-1)
    assert received == []


def test_threads_share_a_client(client: Client, refuse: Refuse) -> None:
    refuse(4, grpc.StatusCode.RESOURCE_EXHAUSTED, "1")
    with ThreadPoolExecutor(8) as threads:
        counts = list(threads.map(lambda count: len(client.classify([b"jpeg"] * count).answers()), range(1, 33)))
    assert counts == list(range(1, 33))
