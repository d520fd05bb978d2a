"""A real service process, asked through the real client: what every caller, probe and scraper sees."""

import contextlib
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import Service, colours, encode, metric, write_bundle
from vertebra.client import (
    Client,
    DeadlineExceeded,
    FailedPrecondition,
    ImageError,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from vertebra.v1 import vision_pb2, vision_pb2_grpc

RED, GREEN, BLUE = (255, 0, 0), (0, 200, 0), (0, 0, 90)
SPACE = "c0" * 32

# What every Prometheus that watches a Vertebra may rely on.
METRICS = {
    "vertebra_requests": "counter",
    "vertebra_request_duration_seconds": "histogram",
    "vertebra_stage_duration_seconds": "histogram",
    "vertebra_images": "counter",
    "vertebra_batch_size": "histogram",
    "vertebra_queue_depth": "gauge",
    "vertebra_queue_limit": "gauge",
    "vertebra_rejected": "counter",
    "vertebra_inflight_requests": "gauge",
    "vertebra_model_info": "gauge",
    "vertebra_model_ready": "gauge",
    "vertebra_model_load_duration_seconds": "gauge",
}


@pytest.fixture
def service(repository: Path, start_service: Callable[..., Service]) -> Service:
    service = start_service(repository, "--max-request-bytes", "100000")
    service.wait_for("serving")
    return service


@pytest.fixture
def channel(service: Service) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(service.address) as channel:
        yield channel


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
def test_classify(client: Client, file_format: str) -> None:
    response = client.classify([encode(colour, file_format) for colour in (RED, GREEN, BLUE)], top_k=1)
    assert [answer.labels[0].name for answer in response.answers()] == ["red", "green", "blue"]
    assert (response.model.name, response.model.version) == ("colours", 1)
    timing = response.timing
    assert 0 < max(timing.decode_ms, timing.infer_ms) <= timing.total_ms


def test_embed(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "green.png"
    file.write_bytes(encode(GREEN))
    array = np.full((30, 40, 3), GREEN, np.uint8)
    response = client.embed([file, encode(GREEN), array], expected_embedding_space_id=SPACE)
    for answer in response.answers():
        np.testing.assert_allclose(answer.vector, [0, 200 / 255, 0], atol=1e-6)
        assert answer.vector.dtype == np.float32
    assert response.model.embedding_space_id == SPACE


def test_analyze_answers_what_was_asked_for_and_nothing_else(client: Client) -> None:
    everything = client.analyze([encode(RED)], answers=["logits", "labels", "embedding"]).answers()[0]
    assert everything.logits is not None
    assert everything.embedding is not None
    np.testing.assert_allclose(everything.logits, everything.embedding * 10, rtol=1e-6)
    assert [label.name for label in everything.labels] == ["red", "green", "blue"]
    only = client.analyze([encode(RED)], answers=["embedding"]).answers()[0]
    assert only.logits is None
    assert only.labels == ()


def test_models_describe_themselves(client: Client) -> None:
    (summary,) = client.list_models()
    assert (summary.name, summary.version, summary.provider) == ("colours", 1, "CPUExecutionProvider")
    description = client.get_model("colours")
    assert description.labels == ("red", "green", "blue")
    assert [output.name for output in description.outputs] == ["logits", "embedding"]


def test_one_broken_image_among_32_costs_the_others_nothing(client: Client) -> None:
    images = [encode(RED) for _ in range(32)]
    images[5] = b"Dear diary, ..."
    results = client.classify(images, top_k=1).results
    broken = results[5]
    assert isinstance(broken, ImageError)
    assert "Expected a JPEG, PNG, WebP, GIF, BMP or TIFF file. Received: 15 bytes that begin b'Dear dia'" in str(broken)
    assert [isinstance(result, ImageError) for result in results].count(True) == 1


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda c: c.classify([encode(RED)], model="shapes"),
            NotFound,
            "one of the models 'colours'. Received: 'shapes'",
        ),
        (lambda c: c.classify([encode(RED)], version=7), NotFound, "Expected version 1 .* Received: 7"),
        (lambda c: c.get_model("shapes"), NotFound, "one of the models 'colours'. Received: 'shapes'"),
        (lambda c: c.classify([]), InvalidArgument, r"Expected at least 1 image. Received: 0\."),
        (lambda c: c.classify([encode(RED)] * 65), InvalidArgument, "Expected at most 64 images .* Received: 65"),
        (
            lambda c: c.classify([bytes(150_000)]),
            InvalidArgument,
            r"Expected at most 100000 bytes .* Received: 1500\d\d",
        ),
        (lambda c: c.classify([encode(RED)], min_probability=2.0), InvalidArgument, r"in \[0, 1\]. Received: 2\.0"),
        (lambda c: c.analyze([encode(RED)], answers=[]), InvalidArgument, "at least one answer out of ANSWER_LOGITS"),
        (
            lambda c: c.embed([encode(RED)], expected_embedding_space_id="ee"),
            FailedPrecondition,
            f"Expected the embedding space 'ee'. Received: 'colours' version 1 answers in {SPACE}",
        ),
        (lambda c: c.classify([encode(RED)], deadline_s=1e-6), DeadlineExceeded, "(?i)deadline"),
    ],
)
def test_a_wrong_request_hears_what_was_expected_and_received(
    client: Client, call: Callable[[Client], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call(client)
    assert client.classify([encode(RED)], top_k=1).answers()[0].labels[0].name == "red"


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (vision_pb2.Image(), "Expected encoded or pixels. Received: neither."),
        (
            vision_pb2.Image(pixels=vision_pb2.Pixels(data=bytes(10), height=2, width=2)),
            "Expected 12 bytes, 2 x 2 x 3. Received: 10.",
        ),
        (
            vision_pb2.Image(pixels=vision_pb2.Pixels(height=0, width=5)),
            "Expected pixels uint8 [h, w, 3]. Received: uint8 [0, 5, 3].",
        ),
    ],
)
def test_a_malformed_image_costs_its_neighbour_nothing(
    channel: grpc.Channel, image: vision_pb2.Image, message: str
) -> None:
    request = vision_pb2.EmbedRequest(images=[image, vision_pb2.Image(encoded=encode(RED))])
    malformed, neighbour = vision_pb2_grpc.VisionStub(channel).Embed(request).results
    assert (malformed.status.code, malformed.status.message) == (3, message)
    assert neighbour.status.code == 0


def test_bytes_that_are_no_message_are_refused_and_counted(service: Service, channel: grpc.Channel) -> None:
    call: Any = channel.unary_unary("/vertebra.v1.Vision/Embed")
    with pytest.raises(
        grpc.RpcError, match=r"INVALID_ARGUMENT[^$]*Expected a message of vision.proto. Received: 3 bytes"
    ):
        call(b"\xff\xff\xff")
    assert metric(service, "vertebra_requests_total", method="Embed", code="INVALID_ARGUMENT") == 1


def test_a_caller_s_long_words_do_not_come_back(service: Service, client: Client) -> None:
    with pytest.raises(FailedPrecondition, match=r"Expected the embedding space 'x{64}'\. Received"):
        client.embed([encode(RED)], expected_embedding_space_id="x" * 90_000)
    assert len(str(service.wait_for("call refused"))) < 2000


def test_a_deadline_that_passes_in_the_service_is_counted_as_such(service: Service, client: Client) -> None:
    images = [np.zeros((100, 100, 3), np.uint8)] * 3
    deadline_s = time.monotonic() + 60
    # A deadline may pass on the way, too: go on until one has passed inside.
    while metric(service, "vertebra_requests_total", method="Classify", code="DEADLINE_EXCEEDED") < 1:
        assert time.monotonic() < deadline_s
        with contextlib.suppress(DeadlineExceeded):
            client.classify(images, deadline_s=0.002)


def test_every_watch_hears_the_end_and_delays_it_for_nobody(service: Service, channel: grpc.Channel) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    watches = [stub.Watch(health_pb2.HealthCheckRequest(service="colours"), timeout=60) for _ in range(3)]
    assert [next(watch).status for watch in watches] == [health_pb2.HealthCheckResponse.SERVING] * 3
    watches.pop().cancel()
    service.process.terminate()
    assert [next(watch).status for watch in watches] == [health_pb2.HealthCheckResponse.NOT_SERVING] * 2
    assert [list(watch) for watch in watches] == [[], []]
    # The grace is 20 s, and nothing is being answered.
    assert service.process.wait(timeout=15) == 0


def test_a_watch_hears_of_a_name_that_comes_later(channel: grpc.Channel) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="shapes"), timeout=60)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


def test_an_unknown_answer_is_refused(channel: grpc.Channel) -> None:
    request = vision_pb2.AnalyzeRequest(images=[vision_pb2.Image(encoded=encode(RED))])
    request.answers.append(99)  # type: ignore[arg-type]  # as a newer client may
    with pytest.raises(grpc.RpcError, match=r"Received: \[99\]"):
        vision_pb2_grpc.VisionStub(channel).Analyze(request)


def test_health_follows_each_model(service: Service, channel: grpc.Channel) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)  # its types know no method
    serving = health_pb2.HealthCheckResponse.SERVING
    for name in ("", "colours", "vertebra.v1.Vision"):
        assert stub.Check(health_pb2.HealthCheckRequest(service=name)).status == serving
    with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
        stub.Check(health_pb2.HealthCheckRequest(service="shapes"))
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="colours"), timeout=30)
    assert next(watch).status == serving
    service.process.terminate()
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING


def test_reflection_lists_the_services(channel: grpc.Channel) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    (answer,) = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    names = {each.name for each in answer.list_services_response.service}
    assert names == {"vertebra.v1.Vision", "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


def test_every_call_has_an_identity(channel: grpc.Channel, service: Service) -> None:
    stub = vision_pb2_grpc.VisionStub(channel)
    _, call = stub.ListModels.with_call(vision_pb2.ListModelsRequest(), metadata=(("x-request-id", "abc-1"),))
    assert ("x-request-id", "abc-1") in call.trailing_metadata()
    _, call = stub.ListModels.with_call(vision_pb2.ListModelsRequest(), metadata=(("x-request-id", "a b/c"),))
    (own,) = [value for key, value in call.trailing_metadata() if key == "x-request-id"]
    assert len(own) == 32
    with pytest.raises(grpc.RpcError):
        stub.Embed(vision_pb2.EmbedRequest(), metadata=(("x-request-id", "abc-2"),))
    line = service.wait_for("call refused")
    assert line["request_id"] == "abc-2"
    assert line["code"] == "INVALID_ARGUMENT"
    assert line["error"] == "Expected at least 1 image. Received: 0."


def test_metrics(service: Service, client: Client) -> None:
    client.classify([encode(RED), b"no picture"], top_k=1)
    with pytest.raises(NotFound):
        client.classify([encode(RED)], model="no-such-model")
    with urllib.request.urlopen(service.metrics_url, timeout=10) as page:
        families = {each.name: each for each in text_string_to_metric_families(page.read().decode())}
    assert {name: families[name].type for name in METRICS} == METRICS
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in families.values()
        for sample in family.samples
    }
    assert samples["vertebra_requests_total", "1", "Classify", "OK", "colours"] == 1
    assert samples["vertebra_requests_total", "0", "Classify", "NOT_FOUND", "_unknown"] == 1
    assert samples["vertebra_rejected_total", "_unknown", "not_found"] == 1
    assert samples["vertebra_images_total", "PNG", "colours", "ok"] == 1
    assert samples["vertebra_images_total", "bad_image", "colours", "unknown"] == 1
    assert samples["vertebra_queue_limit", "colours"] == 128
    assert samples["vertebra_queue_depth", "colours"] == 0
    assert samples["vertebra_inflight_requests", "Classify"] == 0
    assert samples["vertebra_model_ready", "colours"] == 1
    assert "no-such-model" not in str(samples), "a caller's words became a label"


def test_many_callers_at_once_each_get_their_own_answer(service: Service) -> None:
    colours = {"red": RED, "green": GREEN, "blue": BLUE}
    wrong: list[str] = []

    def ask(name: str) -> None:
        with Client(service.address) as client:
            for _ in range(20):
                answers = client.classify([encode(colours[name])] * 3, top_k=1).answers()
                wrong.extend(answer.labels[0].name for answer in answers if answer.labels[0].name != name)

    callers = [threading.Thread(target=ask, args=(name,)) for name in list(colours) * 4]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=60)
        assert not caller.is_alive()
    assert wrong == []


def test_a_caller_that_goes_leaves_nothing_behind(service: Service, channel: grpc.Channel, client: Client) -> None:
    stub = vision_pb2_grpc.VisionStub(channel)
    request = vision_pb2.EmbedRequest(images=[vision_pb2.Image(encoded=encode(RED))] * 64)
    deadline_s = time.monotonic() + 60
    # A call that is cancelled before it arrives proves nothing: go on until one was cancelled inside the service.
    while metric(service, "vertebra_requests_total", method="Embed", code="CANCELLED") < 1:
        assert time.monotonic() < deadline_s
        call = stub.Embed.future(request)
        while metric(service, "vertebra_inflight_requests", method="Embed") < 1 and not call.done():
            assert time.monotonic() < deadline_s
        call.cancel()
    while metric(service, "vertebra_inflight_requests", method="Embed") > 0:
        assert time.monotonic() < deadline_s
    assert metric(service, "vertebra_admitted_images", model="colours") == 0
    assert client.classify([encode(RED)]).answers()


def test_callers_connect_anew_before_long_and_lose_no_call(
    repository: Path, start_service: Callable[..., Service]
) -> None:
    service = start_service(repository, "--max-connection-age-s", "1")
    service.wait_for("serving")
    process, port = psutil.Process(service.process.pid), int(service.address.rsplit(":", 1)[1])
    callers: set[int] = set()
    with Client(service.address) as client, contextlib.closing(client.embed_stream(endless())) as stream:
        deadline_s = time.monotonic() + 60
        while len(callers) < 4:
            assert time.monotonic() < deadline_s
            client.classify([encode(RED)]).answers()
            next(stream)
            open_now = process.net_connections()
            callers |= {each.raddr.port for each in open_now if each.raddr and each.laddr.port == port}


def endless() -> Iterator[bytes]:
    while True:
        yield encode(GREEN)


def test_a_broken_bundle_is_named_and_the_others_serve(repository: Path, start_service: Callable[..., Service]) -> None:
    other = write_bundle(repository / "x", colours(), change=lambda manifest: setattr(manifest, "model", "shades"))
    other.parent.rename(repository / "shades")
    graph = repository / "shades" / "1" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"\x00")
    service = start_service(repository)
    line = service.wait_for("model failed to load")
    assert line["model"] == "shades"
    assert "Expected model.onnx to have the SHA-256" in line["error"]
    service.wait_for("serving")
    with Client(service.address) as client:
        assert {model.name: bool(model.error) for model in client.list_models()} == {"colours": False, "shades": True}
        assert client.classify([encode(RED)], model="colours").answers()
        with pytest.raises(Unavailable, match=r"Expected 'shades' to be ready. Received: it failed to load"):
            client.classify([encode(RED)], model="shades")
    with grpc.insecure_channel(service.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        broken = stub.Check(health_pb2.HealthCheckRequest(service="shades"))
        assert broken.status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert service.stop() == 0


def test_with_no_model_that_loads_the_process_lives_and_says_so(
    repository: Path, start_service: Callable[..., Service]
) -> None:
    (repository / "colours" / "1" / "golden" / "00.png").unlink()
    service = start_service(repository)
    service.wait_for("no model could be loaded; staying up so that health and ListModels can say so")
    with Client(service.address) as client:
        (model,) = client.list_models()
        assert "Expected the file golden/00.png" in model.error
    assert service.process.poll() is None
    assert service.stop() == 0
