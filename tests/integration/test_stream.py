"""EmbedStream of a real service process: order, flow control, ends of every kind."""

import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest

from service.bundle import CropGeometry
from tests.conftest import Service, encode, metric, mirror, sleeper, write_bundle
from vertebra.client import Client, FailedPrecondition, ImageError, NotFound, StreamedEmbedding
from vertebra.v1 import bundle_pb2, vision_pb2, vision_pb2_grpc

SPACE = "c0" * 32
MAX_BYTES = 100_000


@pytest.fixture
def service(repository: Path, start_service: Callable[..., Service]) -> Service:
    service = start_service(repository, "--max-request-bytes", str(MAX_BYTES), "--queue-limit", "64")
    service.wait_for("serving")
    return service


@pytest.fixture
def stub(service: Service) -> Iterator[vision_pb2_grpc.VisionStub]:
    with grpc.insecure_channel(service.address) as channel:
        yield vision_pb2_grpc.VisionStub(channel)


class Messages:
    """Messages that are sent when the test says so; iteration ends with the None that `end` sends."""

    def __init__(self) -> None:
        self.waiting: queue.Queue[vision_pb2.EmbedStreamRequest | None] = queue.Queue()

    def send(self, tag: int, image: bytes) -> None:
        self.waiting.put(request(tag, image))

    def end(self) -> None:
        self.waiting.put(None)

    def __iter__(self) -> Iterator[vision_pb2.EmbedStreamRequest]:
        return iter(lambda: self.waiting.get(timeout=60), None)


def request(tag: int, image: bytes) -> vision_pb2.EmbedStreamRequest:
    return vision_pb2.EmbedStreamRequest(tag=tag, image=vision_pb2.Image(encoded=image))


def shade(red: int) -> bytes:
    return encode((red % 256, red // 256, 0))


def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s


def admitted(service: Service) -> float:
    return metric(service, "vertebra_admitted_images")


def test_results_come_in_the_order_of_the_images(client: Client) -> None:
    images = [shade(red) for red in range(500)]
    images[7] = b"Dear diary"
    images[9] = bytes(MAX_BYTES + 1)  # over the limit of a message
    images[11] = bytes(3 * MAX_BYTES)  # over that of the transport, which ends the call
    results = list(client.embed_stream(iter(images), expected_embedding_space_id=SPACE))
    broken = {each.index: str(each) for each in results if isinstance(each, ImageError)}
    assert sorted(broken) == [7, 9, 11]
    assert "file. Received: 10 bytes that begin b'Dear dia'" in broken[7]
    assert f"Expected at most {MAX_BYTES} bytes in a message. Received: 100" in broken[9]
    assert "larger than max" in broken[11]
    for index, result in enumerate(results):
        if isinstance(result, StreamedEmbedding):
            np.testing.assert_allclose(result.vector * 255, [index % 256, index // 256, 0], atol=1e-3)
            assert (result.model.name, result.model.version, result.model.embedding_space_id) == ("colours", 1, SPACE)


def test_each_answer_comes_before_the_next_image_is_needed(client: Client) -> None:
    given = 0

    def images() -> Iterator[bytes]:
        nonlocal given
        for number in range(1, 4):
            answered.acquire(timeout=60)
            given = number
            yield shade(number)

    answered = threading.Semaphore(1)
    results = client.embed_stream(images())
    for number in range(1, 4):
        assert isinstance(next(results), StreamedEmbedding)
        assert given == number
        answered.release()


def test_a_stream_that_is_asked_for_what_is_not_there_ends(client: Client) -> None:
    with pytest.raises(NotFound, match=r"Expected one of the models 'colours'\. Received: 'shapes'"):
        next(client.embed_stream([shade(1)], model="shapes"))
    with pytest.raises(FailedPrecondition, match="Expected the embedding space 'ee'"):
        next(client.embed_stream([shade(1)], expected_embedding_space_id="ee"))


def test_who_half_closes_gets_all_that_is_due(service: Service, stub: vision_pb2_grpc.VisionStub) -> None:
    answers = list(stub.EmbedStream(request(5, shade(red)) for red in range(100)))
    assert [answer.tag for answer in answers] == [5] * 100
    assert [answer.HasField("model") for answer in answers] == [True] + [False] * 99
    assert metric(service, "vertebra_requests_total", method="EmbedStream", code="OK") == 1
    assert metric(service, "vertebra_request_duration_seconds_count", method="EmbedStream") == 0


def test_a_stream_waits_where_others_fill_the_queue(service: Service, client: Client) -> None:
    stop = threading.Event()

    def crowd() -> None:
        with Client(service.address) as other:
            while not stop.is_set():
                other.embed([shade(1)] * 60)

    others = [threading.Thread(target=crowd) for _ in range(3)]
    for other in others:
        other.start()
    until(lambda: metric(service, "vertebra_rejected_total", reason="queue_full") > 0)
    try:
        results = list(client.embed_stream(shade(red) for red in range(100)))
    finally:
        stop.set()
        for other in others:
            other.join(timeout=60)
    assert all(isinstance(result, StreamedEmbedding) for result in results)


def test_a_caller_that_goes_leaves_nothing_behind(service: Service, stub: vision_pb2_grpc.VisionStub) -> None:
    # A call that ends before it has begun proves nothing: go on until one was cancelled with images in flight.
    deadline_s = time.monotonic() + 60
    while metric(service, "vertebra_requests_total", method="EmbedStream", code="CANCELLED") < 1:
        assert time.monotonic() < deadline_s
        call: Any = stub.EmbedStream(request(red, shade(red)) for red in range(100_000))
        next(call)
        call.cancel()
    until(lambda: metric(service, "vertebra_inflight_requests", method="EmbedStream") == 0)
    assert admitted(service) == 0


def test_who_reads_no_answers_is_not_read_from(tmp_path: Path, start_service: Callable[..., Service]) -> None:
    # Answers of 110 kB: a few of them fill the buffers on the way.
    write_bundle(tmp_path / "models", mirror(CropGeometry(96, 96, 96, bundle_pb2.INTERPOLATION_BICUBIC)))
    service = start_service(tmp_path / "models")
    service.wait_for("serving")
    sent = 0

    def endless() -> Iterator[vision_pb2.EmbedStreamRequest]:
        nonlocal sent
        image = encode((1, 2, 3), size=(96, 96))
        while True:
            sent += 1
            yield request(sent, image)

    def answered() -> float:
        return metric(service, "vertebra_images_total", result="ok")

    with grpc.insecure_channel(service.address) as channel:
        call: Any = vision_pb2_grpc.VisionStub(channel).EmbedStream(endless())
        last, since_s, deadline_s = 0.0, time.monotonic(), time.monotonic() + 60
        while not last or time.monotonic() - since_s < 1.0:
            assert time.monotonic() < deadline_s, "it goes on and on"
            if (now := answered()) != last:
                last, since_s = now, time.monotonic()
        assert admitted(service) == 0
        assert psutil.Process(service.process.pid).memory_info().rss < 2**29
        # It was waiting, and for nothing else.
        until(lambda: next(call).status.code == 0 and answered() > last)
        call.cancel()
    until(lambda: metric(service, "vertebra_inflight_requests", method="EmbedStream") == 0)


def test_at_drain_what_was_read_is_answered_and_nothing_is_held_up(
    service: Service, stub: vision_pb2_grpc.VisionStub
) -> None:
    messages, silent = Messages(), Messages()
    call: Any = stub.EmbedStream(iter(messages))
    idle: Any = stub.EmbedStream(iter(silent))
    messages.send(1, shade(1))
    assert next(call).tag == 1
    until(lambda: metric(service, "vertebra_inflight_requests", method="EmbedStream") == 2)
    service.process.terminate()
    for each in (call, idle):
        with pytest.raises(grpc.RpcError, match=r"UNAVAILABLE[^$]*it is draining"):
            next(each)
        assert ("grpc-retry-pushback-ms", "500") in each.trailing_metadata()
    # The grace is 20 s, and nothing is being answered.
    assert service.process.wait(timeout=15) == 0
    messages.end()
    silent.end()


def test_an_image_in_the_engine_at_drain_is_answered(tmp_path: Path, start_service: Callable[..., Service]) -> None:
    write_bundle(tmp_path / "models", sleeper())
    service = start_service(tmp_path / "models", "--threads", "1")
    service.wait_for("serving")
    with grpc.insecure_channel(service.address) as channel:
        messages = Messages()
        call: Any = vision_pb2_grpc.VisionStub(channel).EmbedStream(iter(messages))
        for tag in range(20):
            messages.send(tag, shade(tag))
        first = next(call)
        service.process.terminate()
        answers = [first]
        with pytest.raises(grpc.RpcError, match="it is draining"):
            answers.extend(call)
        messages.end()
    assert {answer.status.code for answer in answers} == {0}
    assert service.process.wait(timeout=15) == 0


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"


def test_a_client_goes_on_where_a_server_is_started_again(
    repository: Path, start_service: Callable[..., Service]
) -> None:
    address = free_address()
    first = start_service(repository, "--address", address)
    first.wait_for("serving")
    with Client(address, deadline_s=60) as client:
        results = client.embed_stream(shade(red) for red in range(2000))
        seen = [next(results) for _ in range(100)]
        assert first.stop() == 0
        start_service(repository, "--address", address).wait_for("serving")
        seen.extend(results)
    reds = [
        round(float(each.vector[0] + 256 * each.vector[1]) * 255)
        for each in seen
        if isinstance(each, StreamedEmbedding)
    ]
    assert reds == list(range(2000))


def test_a_client_whose_next_image_is_late_goes_on_where_a_server_is_started_again(
    repository: Path, start_service: Callable[..., Service]
) -> None:
    address = free_address()
    first = start_service(repository, "--address", address)
    first.wait_for("serving")
    started_again = threading.Event()

    def images() -> Iterator[bytes]:
        yield shade(1)
        assert started_again.wait(timeout=60)
        yield shade(2)

    def start_again() -> None:
        assert first.stop() == 0
        start_service(repository, "--address", address).wait_for("serving")
        started_again.set()

    with Client(address, deadline_s=60) as client, ThreadPoolExecutor(1) as operator:
        results = client.embed_stream(images())
        assert isinstance(next(results), StreamedEmbedding)
        restart = operator.submit(start_again)
        # Asked for while nothing is on its way, so that the end of the first server is heard.
        assert isinstance(next(results), StreamedEmbedding)
        restart.result()
