"""Real processes on a bad day: callers who vanish, an engine or a disk that fails, and the end that comes at once."""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.bundle import CropGeometry
from service.servicers.health import LIVENESS
from tests.conftest import Service, colours, encode, metric, mirror, write_bundle
from tests.faulty import FATAL
from vertebra.client import Client, ImageError, Unavailable
from vertebra.v1 import bundle_pb2, vision_pb2, vision_pb2_grpc

RED = (255, 0, 0)
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Ask again and again until the condition holds."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s


def faulty(engine: str, *flags: str) -> tuple[str, ...]:
    return ("tests.faulty", "--engine", engine, *flags, "--")


def embed_request(*images: bytes) -> vision_pb2.EmbedRequest:
    return vision_pb2.EmbedRequest(images=[vision_pb2.Image(encoded=image) for image in images])


def is_well(service: Service) -> None:
    """The process lives, nothing is left in it, and it answers."""
    until(lambda: metric(service, "vertebra_admitted_images") == 0)
    until(lambda: metric(service, "vertebra_inflight_requests") == 0)
    with Client(service.address) as client:
        assert client.classify([encode(RED)], top_k=1).answers()[0].labels[0].name == "red"


@pytest.fixture
def hanging(repository: Path, start_service: Callable[..., Service]) -> Service:
    """A service whose engine does not come back from the fatal image until it is sent SIGUSR1; one decoder."""
    service = start_service(repository, "--threads", "1", program=faulty("hang"))
    service.wait_for("serving")
    return service


@pytest.fixture
def channel(hanging: Service) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(hanging.address) as channel:
        yield channel


def in_the_engine(service: Service, channel: grpc.Channel, deadline_s: float = 60.0) -> Any:
    """Send the fatal image and return the call once the engine has it."""
    runs = metric(service, "vertebra_batch_size_count")
    call = vision_pb2_grpc.VisionStub(channel).Embed.future(embed_request(encode(FATAL)), timeout=deadline_s)
    until(lambda: metric(service, "vertebra_batch_size_count") > runs)
    return call


# --- callers who go ---------------------------------------------------------------------------------------------------


def test_a_caller_that_goes_while_its_image_is_decoded(hanging: Service, channel: grpc.Channel) -> None:
    stub = vision_pb2_grpc.VisionStub(channel)
    large = encode(RED, "PNG", (7000, 7000))
    cancelled = {"model": "colours", "result": "cancelled"}
    while metric(hanging, "vertebra_images_total", **cancelled) == 0:
        call = stub.Embed.future(embed_request(large))
        until(lambda: metric(hanging, "vertebra_admitted_images") == 1 or call.done())  # noqa: B023  # asked at once
        call.cancel()
        until(lambda: metric(hanging, "vertebra_inflight_requests") == 0)
    assert metric(hanging, "vertebra_batch_size_count") == metric(
        hanging, "vertebra_images_total", model="colours", result="ok"
    )
    is_well(hanging)


def test_a_caller_that_goes_while_its_image_waits_for_the_engine(hanging: Service, channel: grpc.Channel) -> None:
    first = in_the_engine(hanging, channel)
    second = vision_pb2_grpc.VisionStub(channel).Embed.future(embed_request(encode(RED)))
    until(lambda: metric(hanging, "vertebra_queue_depth") == 1)
    second.cancel()
    until(lambda: metric(hanging, "vertebra_queue_depth") == 0)
    assert metric(hanging, "vertebra_admitted_images") == 1
    hanging.process.send_signal(signal.SIGUSR1)
    assert first.result().results[0].status.code == 0
    assert metric(hanging, "vertebra_batch_size_sum") == 1, "the engine ran an image that nobody waited for"
    is_well(hanging)


def test_a_caller_that_goes_while_the_engine_has_its_image(hanging: Service, channel: grpc.Channel) -> None:
    in_the_engine(hanging, channel).cancel()
    until(lambda: metric(hanging, "vertebra_admitted_images") == 0)
    hanging.process.send_signal(signal.SIGUSR1)
    is_well(hanging)


def test_a_deadline_that_passes_in_the_queue_costs_the_engine_nothing(hanging: Service, channel: grpc.Channel) -> None:
    first = in_the_engine(hanging, channel)
    with pytest.raises(grpc.RpcError, match="DEADLINE_EXCEEDED"):
        vision_pb2_grpc.VisionStub(channel).Embed(embed_request(encode(RED)), timeout=0.2)
    until(lambda: metric(hanging, "vertebra_images_total", result="expired") == 1)
    hanging.process.send_signal(signal.SIGUSR1)
    assert first.result().results[0].status.code == 0
    assert metric(hanging, "vertebra_batch_size_sum") == 1
    is_well(hanging)


def test_a_caller_that_goes_in_the_middle_of_its_request(hanging: Service) -> None:
    host, port = hanging.address.rsplit(":", 1)
    for sent in (1, 20, 24, 40):
        # HTTP/2's preface, an empty SETTINGS frame, and the head of a HEADERS frame whose block never comes.
        wire = (
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
            + bytes([0, 1, 0, 1, 4, 0, 0, 0, 1])
        )
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(wire[:sent])
    is_well(hanging)


# Asks for an answer of many megabytes and says so just before; reads it never, because it is stopped.
_DEAF = """
import sys, numpy as np
from vertebra.client import Client
with Client(sys.argv[1]) as client:
    images = [np.zeros((512, 512, 3), np.uint8)] * 16
    print("asking", flush=True)
    while True:
        client.embed(images)
"""


def test_a_caller_that_is_stopped_holds_nobody_up(tmp_path: Path, start_service: Callable[..., Service]) -> None:
    large = CropGeometry(512, 512, 512, bundle_pb2.INTERPOLATION_BICUBIC)
    write_bundle(tmp_path / "models", mirror(large))
    service = start_service(tmp_path / "models", "--grace-s", "2")
    service.wait_for("serving")
    with subprocess.Popen([sys.executable, "-c", _DEAF, service.address], stdout=subprocess.PIPE, text=True) as deaf:
        try:
            assert deaf.stdout is not None
            assert deaf.stdout.readline() == "asking\n"
            until(lambda: metric(service, "vertebra_images_total", result="ok") >= 16)
            deaf.send_signal(signal.SIGSTOP)
            with Client(service.address) as client:
                for _ in range(5):
                    assert client.embed([np.full((512, 512, 3), 7, np.uint8)]).answers()[0].vector[0] == 7
            assert metric(service, "vertebra_admitted_images") <= 16
            started_s = time.monotonic()
            assert service.stop() == 0
            assert time.monotonic() - started_s < 2 + 5
        finally:
            deaf.kill()


# --- an engine that fails ---------------------------------------------------------------------------------------------


def test_an_image_that_the_engine_raises_on_costs_its_neighbours_nothing(
    repository: Path, start_service: Callable[..., Service]
) -> None:
    service = start_service(repository, program=faulty("poison"))
    service.wait_for("serving")
    images = [encode(RED)] * 31
    images.insert(17, encode(FATAL))
    with Client(service.address) as client:
        results = client.classify(images, top_k=1).results
    poisoned = results[17]
    assert isinstance(poisoned, ImageError)
    assert "The engine failed on this image." in str(poisoned)
    assert [isinstance(result, ImageError) for result in results].count(True) == 1
    assert metric(service, "vertebra_images_total", result="engine_failed") == 1
    is_well(service)


@pytest.mark.parametrize("engine", ["hang", "die"])
def test_an_engine_that_is_lost_is_told_within_two_seconds_and_replaced(
    repository: Path, start_service: Callable[..., Service], engine: str
) -> None:
    service = start_service(repository, program=faulty(engine))
    service.wait_for("serving")
    with grpc.insecure_channel(service.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # its types know no method
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="colours"), timeout=60)
        assert next(watch).status == SERVING
        call = in_the_engine(service, channel)
        lost_s = time.monotonic()
        assert next(watch).status == NOT_SERVING
        assert time.monotonic() - lost_s < 2
        assert next(watch).status == SERVING
        assert call.result().results[0].status.code == grpc.StatusCode.INTERNAL.value[0]
    is_well(service)
    assert service.stop() == 0


def test_a_process_whose_engines_hang_again_and_again_asks_for_its_end(
    repository: Path, start_service: Callable[..., Service]
) -> None:
    service = start_service(repository, "--threads", "2", program=faulty("stuck"))
    service.wait_for("serving")
    with grpc.insecure_channel(service.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)  # its types know no method
        alive = health.Watch(health_pb2.HealthCheckRequest(service=LIVENESS), timeout=60)
        assert next(alive).status == SERVING
        ready = health.Watch(health_pb2.HealthCheckRequest(service="colours"), timeout=60)
        stub = vision_pb2_grpc.VisionStub(channel)
        # Four are more than may.
        for _ in range(4):
            while next(ready).status != SERVING:
                pass
            lost = stub.Embed(embed_request(encode(FATAL)), timeout=30)
            assert lost.results[0].status.code == grpc.StatusCode.INTERNAL.value[0]
        assert next(alive).status == NOT_SERVING
    assert service.wait_for("engines hang")["error"] == (
        "Expected runs that end. Received: 4 that hang; only a new process can help."
    )


def test_a_machine_that_slept_has_not_waited(hanging: Service, channel: grpc.Channel) -> None:
    call = in_the_engine(hanging, channel)
    hanging.process.send_signal(signal.SIGSTOP)
    # The clock goes on, for longer than an engine may take; the process does not.
    with pytest.raises(grpc.RpcError, match="DEADLINE_EXCEEDED"):
        vision_pb2_grpc.VisionStub(channel).Embed(embed_request(encode(RED)), timeout=2)
    hanging.process.send_signal(signal.SIGCONT)
    hanging.process.send_signal(signal.SIGUSR1)
    assert call.result().results[0].status.code == 0
    is_well(hanging)
    assert hanging.stop() == 0
    hanging.wait_for("stopped")
    assert [line["message"] for line in hanging.log if line.get("level") == "ERROR"] == []


# --- the end ----------------------------------------------------------------------------------------------------------


@dataclass
class Crowd:
    """Callers who ask one request after the other until one is not answered, without ever trying again.

    Attributes:
        answered: The ids of requests that were answered.
        ends: Why each caller stopped, by the id of its last request.
    """

    address: str
    answered: set[str] = field(default_factory=set)
    ends: dict[str, grpc.RpcError] = field(default_factory=dict)

    def ask(self, caller: int) -> None:
        with grpc.insecure_channel(self.address, options=[("grpc.enable_retries", 0)]) as channel:
            stub = vision_pb2_grpc.VisionStub(channel)
            for number in range(1_000_000):
                name = f"{caller}.{number}"
                try:
                    answer = stub.Embed(embed_request(encode(RED)), metadata=(("x-request-id", name),), timeout=30)
                except grpc.RpcError as error:
                    self.ends[name] = error
                    return
                assert answer.results[0].status.code == 0
                self.answered.add(name)


def test_sigterm_at_full_load_fails_no_request_that_was_accepted(
    repository: Path, start_service: Callable[..., Service]
) -> None:
    slow = faulty("timed", "--first-ms", "20", "--each-ms", "5")
    service = start_service(repository, "--threads", "1", "--max-batch", "4", "--log-level", "DEBUG", program=slow)
    service.wait_for("serving")
    crowd = Crowd(service.address)
    with ThreadPoolExecutor(32) as callers:
        asking = [callers.submit(crowd.ask, caller) for caller in range(32)]
        until(lambda: metric(service, "vertebra_admitted_images") >= 24)
        service.process.send_signal(signal.SIGTERM)
        signalled_s = time.monotonic()
        assert service.process.wait(timeout=30) == 0
        assert time.monotonic() - signalled_s < 20, "longer than the grace"
        for each in asking:
            each.result()
    service.wait_for("stopped")
    # The queue has room for all of them: whatever the service has seen it has accepted.
    assert {line["request_id"] for line in service.log if line["message"] == "call"} == crowd.answered
    # Of a request that arrives in the very moment gRPC says CANCELLED itself; the service never sees it.
    ends = {error.code() for error in crowd.ends.values()}
    assert ends <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    messages = [line["message"] for line in service.log]
    assert messages[messages.index("draining") :].count("call") >= 16, "it was not under load"


def test_a_killed_service_comes_back_on_its_port_and_its_callers_with_it(
    repository: Path, start_service: Callable[..., Service]
) -> None:
    service = start_service(repository, program=faulty("hang"))
    service.wait_for("serving")
    with Client(service.address) as client, grpc.insecure_channel(service.address) as channel:
        assert client.classify([encode(RED)]).answers()
        call = in_the_engine(service, channel)
        service.process.kill()
        with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
            call.result()
        with pytest.raises(Unavailable):
            client.classify([encode(RED)])
        again = start_service(repository, "--address", service.address)
        again.wait_for("serving")
        until(lambda: answers(client))


def answers(client: Client) -> bool:
    with contextlib.suppress(Unavailable):
        return bool(client.classify([encode(RED)]).answers())
    return False


# --- the disk and the metrics -----------------------------------------------------------------------------------------


def unreadable(file: Path) -> None:
    """As a file on a broken disk: it is there, and reading it fails with an input/output error."""
    file.unlink()
    file.symlink_to("/proc/self/mem")


def endless(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def dangling(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.with_name("nowhere"))


def test_a_file_that_cannot_be_read_costs_its_own_model_alone(
    repository: Path, start_service: Callable[..., Service]
) -> None:
    files = ["manifest.json", "model.onnx", "golden/03.png", "golden/expected.npz"]
    broken = {}
    for way in (unreadable, endless, pipe, folder, dangling):
        for number, file in enumerate(files):
            name = f"{way.__name__}{number}"
            way(write_bundle(repository, replace(colours(), name=name)) / file)
            broken[name] = file
    del broken["dangling0"]  # a link to nowhere is no manifest, and a folder without one is no bundle
    service = start_service(repository)
    service.wait_for("serving")
    with Client(service.address) as client:
        errors = {model.name: model.error for model in client.list_models()}
        assert errors.pop("colours") == ""
        assert errors.keys() == broken.keys()
        for name, error in errors.items():
            assert "Expected" in error
            assert broken[name] in error
        assert client.classify([encode(RED)], model="colours").answers()


def test_reading_that_fails_in_the_middle_is_a_broken_bundle(
    repository: Path, start_service: Callable[..., Service]
) -> None:
    def empty(manifest: bundle_pb2.Manifest) -> None:
        # What reads as empty until it is opened passes the check of sizes: the error comes from reading itself.
        next(file for file in manifest.files if file.path == "model.onnx").size_bytes = 0

    other = replace(colours(), name="other")
    unreadable(write_bundle(repository, other, change=empty) / "model.onnx")
    service = start_service(repository)
    line = service.wait_for("model failed to load")
    assert "Expected the file model.onnx" in line["error"]
    assert "Input/output error" in line["error"]


def test_a_repository_that_vanishes_is_not_missed_while_it_serves(
    repository: Path, start_service: Callable[..., Service]
) -> None:
    service = start_service(repository)
    service.wait_for("serving")
    repository.rename(repository.with_name("gone"))
    is_well(service)


def test_scrapers_that_misbehave_cost_the_callers_nothing(
    repository: Path, start_service: Callable[..., Service]
) -> None:
    service = start_service(repository)
    service.wait_for("serving")
    host, port = service.metrics_url.removeprefix("http://").removesuffix("/metrics").split(":")
    said: Mapping[str, bytes] = {"nothing": b"", "half": b"GET /met", "nonsense": b"\x00\xff" * 500 + b"\r\n\r\n"}
    with contextlib.ExitStack() as held:
        for words in said.values():
            for _ in range(4):
                connection = held.enter_context(socket.create_connection((host, int(port))))
                connection.sendall(words)
        is_well(service)
        assert service.stop() == 0
    service.wait_for("stopped")


def test_a_process_without_file_descriptors_answers_those_it_knows_and_recovers(
    repository: Path, start_service: Callable[..., Service]
) -> None:
    service = start_service(repository)
    service.wait_for("serving")
    host, port = service.metrics_url.removeprefix("http://").removesuffix("/metrics").split(":")
    with Client(service.address) as client:
        client.classify([encode(RED)])
        few = psutil.Process(service.process.pid).num_fds() + 4
        resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE, (few, few))
        with contextlib.ExitStack() as held:
            for _ in range(8):
                held.enter_context(socket.create_connection((host, int(port)), timeout=30))
            until(lambda: psutil.Process(service.process.pid).num_fds() == few)
            for _ in range(20):
                assert client.classify([encode(RED)]).answers()
    is_well(service)
    assert service.stop() == 0
