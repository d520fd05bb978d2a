"""Every Prometheus metric of the service; recorded through these methods, never elsewhere; knows no gRPC.

Labels are bounded: `model` is a loaded model's name or `_unknown`, never what a caller wrote.
"""

from collections.abc import Callable
from importlib.metadata import version
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from service.runtime import ort

UNKNOWN = "_unknown"

Stage = Literal["decode", "queue", "infer", "postprocess"]
ImageResult = Literal["ok", "bad_image", "engine_failed", "expired", "cancelled", "dropped"]

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_INFO = ("version", "manifest_sha256", "embedding_space_id", "precision", "provider")
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The metrics of one server.

    Args:
        registry: Where they are registered; a fresh one for each server.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "vertebra_requests",
            "Requests answered, by gRPC code.",
            ["method", "model", "version", "code"],
            registry=registry,
        )
        self._request_duration = Histogram(
            "vertebra_request_duration_seconds",
            "From the arrival of a request to its answer, without the wire.",
            ["method", "model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._stage_duration = Histogram(
            "vertebra_stage_duration_seconds",
            "Of one image in one stage.",
            ["model", "stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._images = Counter(
            "vertebra_images", "Images, by how they fared.", ["model", "format", "result"], registry=registry
        )
        self._batch_size = Histogram(
            "vertebra_batch_size", "Images run at once.", ["model"], buckets=_BATCH_SIZES, registry=registry
        )
        self._queue_depth = Gauge(
            "vertebra_queue_depth", "Images that wait for the engine.", ["model"], registry=registry
        )
        self._queue_limit = Gauge(
            "vertebra_queue_limit", "Images that may be admitted and not yet answered.", ["model"], registry=registry
        )
        self._admitted = Gauge(
            "vertebra_admitted_images", "Images admitted and not yet answered.", ["model"], registry=registry
        )
        self._rejected = Counter(
            "vertebra_rejected", "Requests refused before any work.", ["model", "reason"], registry=registry
        )
        self._in_flight = Gauge("vertebra_inflight_requests", "Requests being answered.", ["method"], registry=registry)
        self._model_info = Gauge(
            "vertebra_model_info",
            "1 for each model that is served.",
            ["model", *_INFO],
            registry=registry,
        )
        self._infos: dict[str, dict[str, str]] = {}
        self._model_ready = Gauge(
            "vertebra_model_ready", "1 while the model answers, else 0.", ["model"], registry=registry
        )
        self._load_duration = Gauge(
            "vertebra_model_load_duration_seconds",
            "To read, load, warm up and prove the model.",
            ["model"],
            registry=registry,
        )
        self._engine_deaths = Counter(
            "vertebra_engine_deaths", "Engines that were given up and replaced.", ["model", "reason"], registry=registry
        )
        self._held_bytes = Gauge("vertebra_inflight_bytes", "Bytes of images that are held.", registry=registry)
        self._held_pixels = Gauge("vertebra_inflight_pixels", "Pixels admitted to be decoded.", registry=registry)
        self._draining = Gauge("vertebra_draining", "1 from the signal to stop on.", registry=registry)
        Info("vertebra_build", "What is running.", registry=registry).info(
            {"version": version("vertebra"), "onnxruntime": str(ort.__version__)}
        )

    def request_started(self, method: str) -> None:
        """Count a request in."""
        self._in_flight.labels(method).inc()

    def request_ended(self, method: str, model: str, version: int, code: str, duration_s: float | None) -> None:
        """Count a request out, with its gRPC code; a stream has no duration that says anything."""
        self._in_flight.labels(method).dec()
        self._requests.labels(method, model, str(version), code).inc()
        if duration_s is not None:
            self._request_duration.labels(method, model).observe(duration_s)

    def rejected(self, model: str, reason: str) -> None:
        """Count a request that was refused before any work."""
        self._rejected.labels(model, reason).inc()

    def stage(self, model: str, stage: Stage, duration_s: float) -> None:
        """Record how long one image was in one stage."""
        self._stage_duration.labels(model, stage).observe(duration_s)

    def image(self, model: str, image_format: str, result: ImageResult) -> None:
        """Count an image, by how it fared."""
        self._images.labels(model, image_format, result).inc()

    def batch(self, model: str, size: int) -> None:
        """Record how many images were run at once."""
        self._batch_size.labels(model).observe(size)

    def watch_queue(self, model: str, limit: int, waiting: Callable[[], int], admitted: Callable[[], int]) -> None:
        """Read the queue's depth whenever the metrics are scraped."""
        self._queue_limit.labels(model).set(limit)
        self._queue_depth.labels(model).set_function(waiting)
        self._admitted.labels(model).set_function(admitted)

    def model_ready(self, model: str, ready: bool) -> None:
        """Say whether a model answers."""
        self._model_ready.labels(model).set(ready)

    def model_loaded(self, model: str, info: dict[str, str], duration_s: float) -> None:
        """Describe a model that has been loaded: version, manifest_sha256, embedding_space_id, precision, provider."""
        self._forget(model)
        self._infos[model] = {name: info[name] for name in _INFO}
        self._model_info.labels(model=model, **info).set(1)
        self._load_duration.labels(model).set(duration_s)

    def engine_died(self, model: str, reason: str) -> None:
        """Count an engine that is given up: it hung, fails on everything, or its queue met a fault of ours."""
        self._engine_deaths.labels(model, reason).inc()
        self._forget(model)

    def _forget(self, model: str) -> None:
        if info := self._infos.pop(model, None):
            self._model_info.remove(model, *info.values())

    def watch_memory(self, image_bytes: Callable[[], int], image_pixels: Callable[[], int]) -> None:
        """Read what is held whenever the metrics are scraped."""
        self._held_bytes.set_function(image_bytes)
        self._held_pixels.set_function(image_pixels)

    def draining(self) -> None:
        """Say that the server has been told to stop."""
        self._draining.set(1)
