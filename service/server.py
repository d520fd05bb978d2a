"""The composition root: builds every part, starts it, drains it, stops it; knows each part only by its constructor."""

import asyncio
import errno
import gc
import logging
import os
import signal
import socket
from dataclasses import dataclass
from functools import partial
from threading import Thread
from wsgiref.simple_server import WSGIServer

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry, start_http_server

from service import cpu, providers
from service.allowance import Allowance
from service.config import Config
from service.errors import VertebraError
from service.image import ImageLimits
from service.interceptors import CallInterceptor
from service.metrics import Metrics
from service.repository import Model, Ready, Repository, ServingOptions
from service.servicers.asking import RequestLimits
from service.servicers.health import LIVENESS, HealthServicer
from service.servicers.vision import VisionServicer
from vertebra.v1 import vision_pb2, vision_pb2_grpc

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
_VISION = vision_pb2.DESCRIPTOR.services_by_name["Vision"].full_name
# How long calls that are cut off at the end of the grace may take to notice.
_STOP_S = 1.0
# Above our own limit, so that a request that is too large hears from us with both numbers, and is not retried.
_TRANSPORT_FACTOR = 2


class AddressUnusable(VertebraError):
    """An address to listen on is malformed, in use, or cannot be had; never reaches a caller."""


@dataclass(frozen=True)
class _MetricsEndpoint:
    server: WSGIServer
    thread: Thread

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


async def serve(config: Config) -> None:
    """Serve until SIGTERM or SIGINT, then let the requests that are being answered finish.

    Args:
        config: All settings.

    Raises:
        BundleError: The repository is no folder or holds no bundle.
        AddressUnusable: An address cannot be listened on.
        ProviderMissing: The provider asked for does not work here.
    """
    stop = _stop_event()
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    health = HealthServicer()
    readiness = _Readiness(health)
    image_bytes = Allowance("bytes", config.max_inflight_bytes)
    image_pixels = Allowance("pixels", config.max_inflight_pixels)
    metrics.watch_memory(lambda: image_bytes.held, lambda: image_pixels.held)
    repository = Repository(
        config.repository,
        _options(config),
        metrics,
        readiness.on_change,
        on_hopeless=partial(health.set, LIVENESS, False),
        pixels=image_pixels,
    )
    endpoint = _start_metrics(config.metrics_address, registry)
    try:
        draining = asyncio.Event()
        limits = RequestLimits(config.max_images, config.max_request_bytes, config.default_deadline_s)
        vision = VisionServicer(repository, limits, image_bytes, draining)
        server, address = _build(config, metrics, vision, health)
        await server.start()
        logger.info("listening", extra={"address": address, "metrics_address": _address_of(endpoint.server)})
        loading = asyncio.create_task(_load(repository, readiness))
        await stop.wait()
        logger.info("draining", extra={"grace_s": config.grace_s})
        metrics.draining()
        draining.set()
        loading.cancel()
        health.drain()
        stopping = asyncio.create_task(server.stop(config.grace_s))
        await asyncio.wait([stopping], timeout=config.grace_s + _STOP_S)
        await repository.close()
        logger.info("stopped")
        if not stopping.done():
            leave()
    finally:
        endpoint.close()


def leave() -> None:
    """End the process at once, and well, where something in it cannot be stopped.

    A decoder or a disk that hangs in C would keep the interpreter waiting long after the grace, and so would gRPC for a
    caller who has been stopped in the middle of an answer.
    """
    logger.warning("leaving work that could not be stopped")
    logging.shutdown()
    os._exit(0)


class _Readiness:
    """Publishes each model under its name; process and API serve once all are loaded and one of them is ready."""

    def __init__(self, health: HealthServicer) -> None:
        self._health = health
        self._ready: set[str] = set()
        self._loaded = False

    def on_change(self, model: Model) -> None:
        ready = isinstance(model.state, Ready)
        (self._ready.add if ready else self._ready.discard)(model.name)
        self._health.set(model.name, ready)
        self._publish()

    def loaded(self) -> None:
        self._loaded = True
        self._publish()

    def _publish(self) -> None:
        for name in ("", _VISION):
            self._health.set(name, self._loaded and bool(self._ready))


async def _load(repository: Repository, readiness: _Readiness) -> None:
    try:
        await repository.load()
    except Exception:
        logger.exception("loading failed")
    # What there is by now stays for good. Going over all of it again and again would stop the event loop for 20 ms.
    gc.collect()
    gc.freeze()
    readiness.loaded()
    ready = [model.name for model in repository.models if isinstance(model.state, Ready)]
    if ready:
        logger.info("serving", extra={"models": ready})
    else:
        logger.error("no model could be loaded; staying up so that health and ListModels can say so")


def _build(config: Config, metrics: Metrics, vision: VisionServicer, health: HealthServicer) -> tuple[aio.Server, str]:
    server = aio.server(
        interceptors=[CallInterceptor(metrics)],
        options=[
            ("grpc.so_reuseport", 0),  # a second server on the address is an error, not a rival
            ("grpc.max_receive_message_length", _TRANSPORT_FACTOR * config.max_request_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_connection_age_ms", 1000 * config.max_connection_age_s),
        ],
    )
    vision_pb2_grpc.add_VisionServicer_to_server(vision, server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    reflection.enable_server_reflection([_VISION, _HEALTH, reflection.SERVICE_NAME], server)
    host, _ = _host_and_port(config.address)
    return server, _joined(host, _listen(server, config.address))


def _listen(server: aio.Server, address: str) -> int:
    host, port = _host_and_port(address)
    try:
        # gRPC's own error names neither the address nor the reason: ask the kernel first.
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
        if bound := server.add_insecure_port(address):
            return bound
    except (OSError, UnicodeError) as error:
        raise AddressUnusable(_unusable("address", address, error)) from error
    except RuntimeError as error:
        raise AddressUnusable(f"Expected a free address. Received: {address}, which gRPC cannot bind.") from error
    raise AddressUnusable(f"Expected a free address. Received: {address}, which gRPC cannot bind.")


def _start_metrics(address: str, registry: CollectorRegistry) -> _MetricsEndpoint:
    host, port = _host_and_port(address)
    try:
        server, thread = start_http_server(port, host, registry)
    except (OSError, UnicodeError) as error:
        raise AddressUnusable(_unusable("metrics_address", address, error)) from error
    return _MetricsEndpoint(server, thread)


def _unusable(setting: str, address: str, error: OSError | UnicodeError) -> str:
    in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
    reason = "which is in use" if in_use else f"which cannot be bound ({error})"
    return f"Expected {setting} to be free. Received: {address}, {reason}."


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    bracketed = host == f"[{bare}]"
    number = int(port) if port.isascii() and port.isdigit() else -1
    if not bare or "[" in bare or not 0 <= number <= 65535 or (":" in bare) != bracketed:
        raise AddressUnusable(f"Expected an address as host:port or [host]:port. Received: {address!r}.")
    return bare, number


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _address_of(server: WSGIServer) -> str:
    host, port = server.server_address[:2]
    return _joined(str(host), port)


def _options(config: Config) -> ServingOptions:
    return ServingOptions(
        threads=config.threads or cpu.usable(),
        max_batch=config.max_batch,
        queue_limit=config.queue_limit,
        image_limits=ImageLimits(config.max_image_bytes, config.max_image_pixels),
        provider=providers.find(config.provider),
    )


def _stop_event() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def ask() -> None:
        stop.set()
        # Whoever asks twice does not want to wait: the second signal ends the process.
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in _SIGNALS:
        loop.add_signal_handler(number, ask)
    return stop
