"""A real gRPC server on this machine with canned answers; knows nothing of the server of the project."""
# ruff: noqa: N802 - the methods of a servicer have the names of the RPCs

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message

from vertebra.v1 import bundle_pb2, vision_pb2, vision_pb2_grpc

SPACE = "a" * 64
BROKEN = b"broken"
LATE, HUGE, CONFUSED = b"late", b"huge", b"confused"
LABELS = (("tabby", 0.75), ("tiger cat", 0.2), ("lynx", 0.05))
TIMING = vision_pb2.Timing(decode_ms=1.5, queue_ms=0.5, infer_ms=2.0, total_ms=4.0)


class FakeVision(vision_pb2_grpc.VisionServicer):
    """Refuses as often as it was told to, then answers every image but BROKEN."""

    def __init__(self) -> None:
        self.received: list[Message] = []
        self.arrivals_s: list[float] = []
        self.released = threading.Event()
        self.refusals = 0
        self.code = grpc.StatusCode.OK
        self.pushback: str | None = None
        self.answers_left: int | None = None  # how many a stream gives before it is refused, and those after it
        self.leaves_unasked = False  # a stream that has given its answers is refused at once, not with the next image
        self.stops_short = False  # a stream ends well after its first answer, whatever else was asked
        self.half_closed = 0

    def leave(self, answers: int, code: grpc.StatusCode, pushback: str | None) -> None:
        self.answers_left, self.code, self.pushback = answers, code, pushback

    def refuse(self, times: int, code: grpc.StatusCode, pushback: str | None) -> None:
        self.refusals, self.code, self.pushback = times, code, pushback

    def admit(
        self, request: Message, selector: vision_pb2.ModelSelector, context: grpc.ServicerContext
    ) -> vision_pb2.ServedModel:
        self.received.append(request)
        self.arrivals_s.append(time.monotonic())
        if self.refusals:
            self.refusals -= 1
            if self.pushback is not None:
                context.set_trailing_metadata((("grpc-retry-pushback-ms", self.pushback),))
            context.abort(self.code, "Refused as told.")
        if selector.name == "slow":
            self.released.wait(timeout=60)
        if selector.name == "nowhere":
            context.abort(grpc.StatusCode.NOT_FOUND, "Expected a model out of ['cats'].\nReceived: 'nowhere'.")
        if selector.expected_embedding_space_id not in {"", SPACE}:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "Expected another space.")
        return vision_pb2.ServedModel(name="cats", version=selector.version or 3, embedding_space_id=SPACE)

    def Classify(
        self, request: vision_pb2.ClassifyRequest, context: grpc.ServicerContext
    ) -> vision_pb2.ClassifyResponse:
        model = self.admit(request, request.model, context)
        results = [
            vision_pb2.ClassifyResult(status=status(image), labels=labels(request.top_k, request.min_probability))
            for image in request.images
        ]
        return vision_pb2.ClassifyResponse(model=model, results=results, timing=TIMING)

    def Embed(self, request: vision_pb2.EmbedRequest, context: grpc.ServicerContext) -> vision_pb2.EmbedResponse:
        model = self.admit(request, request.model, context)
        # 8 MB an image for the model "wide": twice what gRPC receives unless it is told otherwise.
        length = 2_000_000 if request.model.name == "wide" else 5
        results = [vision_pb2.EmbedResult(status=status(image), embedding=tensor(length)) for image in request.images]
        return vision_pb2.EmbedResponse(model=model, results=results, timing=TIMING)

    def EmbedStream(
        self, request_iterator: Iterator[vision_pb2.EmbedStreamRequest], context: grpc.ServicerContext
    ) -> Iterator[vision_pb2.EmbedStreamResponse]:
        """Answers the image LATE after the one that follows it."""
        served: vision_pb2.ServedModel | None = None
        introduced = False
        late: list[vision_pb2.EmbedStreamResponse] = []
        for request in request_iterator:
            if served is None:
                served = self.admit(request, request.model, context)
            else:
                self.received.append(request)
            if self.answers_left == 0:
                self.leave_now(context)
            if request.image.encoded == HUGE:
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max.")
            tag = request.tag + (1000 if request.image.encoded == CONFUSED else 0)
            response = vision_pb2.EmbedStreamResponse(
                tag=tag, status=self.status_of(request.image), embedding=tensor(5)
            )
            if request.image.encoded == LATE:
                late.append(response)
                continue
            for each in (response, *late):
                if not introduced:
                    each.model.CopyFrom(served)
                    introduced = True
                yield each
            late.clear()
            if self.stops_short:
                return
            if self.answers_left:
                self.answers_left -= 1
            if self.leaves_unasked and self.answers_left == 0:
                self.leave_now(context)
        yield from late
        self.half_closed += 1

    def status_of(self, image: vision_pb2.Image) -> vision_pb2.Status:
        return status(image)

    def leave_now(self, context: grpc.ServicerContext) -> None:
        if self.pushback is not None:
            self.answers_left = None
            context.set_trailing_metadata((("grpc-retry-pushback-ms", self.pushback),))
        context.abort(self.code, "Refused as told.")

    def Analyze(self, request: vision_pb2.AnalyzeRequest, context: grpc.ServicerContext) -> vision_pb2.AnalyzeResponse:
        model = self.admit(request, request.model, context)
        wanted = set(request.answers)
        results = [
            vision_pb2.AnalyzeResult(
                status=status(image),
                logits=tensor(3) if vision_pb2.ANSWER_LOGITS in wanted else None,
                labels=labels(request.top_k, 0) if vision_pb2.ANSWER_LABELS in wanted else [],
                embedding=tensor(5) if vision_pb2.ANSWER_EMBEDDING in wanted else None,
            )
            for image in request.images
        ]
        return vision_pb2.AnalyzeResponse(model=model, results=results, timing=TIMING)

    def GetModel(
        self, request: vision_pb2.GetModelRequest, context: grpc.ServicerContext
    ) -> vision_pb2.GetModelResponse:
        self.admit(request, request.model, context)
        return vision_pb2.GetModelResponse(
            model=ready_model(),
            labels=[name for name, _ in LABELS],
            geometry=bundle_pb2.Geometry(
                crop=bundle_pb2.CropGeometry(
                    resize_shorter_px=256,
                    crop_height_px=224,
                    crop_width_px=224,
                    interpolation=bundle_pb2.INTERPOLATION_BICUBIC,
                )
            ),
            outputs=[bundle_pb2.Output(name="logits", kind=bundle_pb2.OUTPUT_KIND_LOGITS, shape=[3])],
            backbone=bundle_pb2.Backbone(name="efficientnet_lite0", licence="Apache-2.0"),
        )

    def ListModels(
        self, request: vision_pb2.ListModelsRequest, context: grpc.ServicerContext
    ) -> vision_pb2.ListModelsResponse:
        self.admit(request, vision_pb2.ModelSelector(), context)
        failed = vision_pb2.Model(
            name="dogs", version=1, state=vision_pb2.MODEL_STATE_FAILED, error="Expected format 1. Received: 2."
        )
        return vision_pb2.ListModelsResponse(models=[ready_model(), failed])


def ready_model() -> vision_pb2.Model:
    return vision_pb2.Model(
        name="cats",
        version=3,
        state=vision_pb2.MODEL_STATE_READY,
        embedding_space_id=SPACE,
        provider="CPUExecutionProvider",
        precision=bundle_pb2.PRECISION_FP32,
    )


def status(image: vision_pb2.Image) -> vision_pb2.Status:
    if image.encoded != BROKEN:
        return vision_pb2.Status()
    return vision_pb2.Status(code=3, message="Expected a JPEG, PNG or WebP file. Received: 6 other bytes.")


def labels(top_k: int, min_probability: float) -> list[vision_pb2.Label]:
    return [
        vision_pb2.Label(index=index, name=name, probability=probability)
        for index, (name, probability) in enumerate(LABELS[:top_k])
        if probability >= min_probability
    ]


def tensor(length: int) -> vision_pb2.Tensor:
    numbers = np.arange(length, dtype="<f4")
    return vision_pb2.Tensor(data_type=vision_pb2.DATA_TYPE_FLOAT32, shape=numbers.shape, data=numbers.tobytes())


@pytest.fixture
def vision() -> Iterator[FakeVision]:
    fake = FakeVision()
    yield fake
    fake.released.set()


@pytest.fixture
def address(vision: FakeVision) -> Iterator[str]:
    server = grpc.server(
        ThreadPoolExecutor(8),
        options=(("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)),
    )
    vision_pb2_grpc.add_VisionServicer_to_server(vision, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    vision.released.set()
    server.stop(grace=None).wait()


@pytest.fixture
def received(vision: FakeVision) -> list[Message]:
    """The requests that the server has received, refused ones too."""
    return vision.received


@pytest.fixture
def arrivals_s(vision: FakeVision) -> list[float]:
    """When they arrived."""
    return vision.arrivals_s


@pytest.fixture
def refuse(vision: FakeVision) -> Callable[[int, grpc.StatusCode, str | None], None]:
    """Makes the server refuse the next requests: how many, with which code, with which pushback."""
    return vision.refuse
