"""The composition root: builds every part, starts it, drains it, stops it; knows each part only by its constructor."""

import asyncio
import errno
import logging
import signal
import socket
from dataclasses import dataclass
from functools import partial
from threading import Thread
from wsgiref.simple_server import WSGIServer

from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry, start_http_server

from service import cpu
from service.config import Config
from service.errors import VertebraError
from service.image import ImageLimits
from service.interceptors import CallInterceptor, Calls
from service.metrics import Metrics
from service.repository import Model, Ready, Repository, ServingOptions
from service.servicers.vision import RequestLimits, VisionServicer
from vertebra.v1 import vision_pb2, vision_pb2_grpc

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_VISION = vision_pb2.DESCRIPTOR.services_by_name["Vision"].full_name
# Above our own limit, so that a request that is too large hears from us with both numbers, and is not retried.
_TRANSPORT_FACTOR = 2
# Calls beside those that hold a place in a queue: probes, watches, and requests that are about to be refused.
_SPARE_CALLS = 64
# How long streams that never end by themselves, like a Watch, are left when all requests have been answered.
_STREAMS_GRACE_S = 0.2


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
    """
    stop = _stop_event()
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    status = health.aio.HealthServicer()
    await status.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    repository = Repository(config.repository, _options(config), metrics, partial(_publish, status))
    endpoint = _start_metrics(config.metrics_address, registry)
    try:
        interceptor = CallInterceptor(metrics)
        server, address = _build(config, interceptor, repository, status)
        await server.start()
        logger.info("listening", extra={"address": address, "metrics_address": _address_of(endpoint.server)})
        loading = asyncio.create_task(_load(repository, status))
        await stop.wait()
        metrics.draining()
        loading.cancel()
        await _drain(server, status, interceptor.calls, config.grace_s)
        await repository.close()
        logger.info("stopped")
    finally:
        endpoint.close()


async def _publish(status: health.aio.HealthServicer, model: Model) -> None:
    await _set_health(status, model.name, isinstance(model.state, Ready))


async def _set_health(status: health.aio.HealthServicer, name: str, serving: bool) -> None:
    response = health_pb2.HealthCheckResponse
    await status.set(name, response.SERVING if serving else response.NOT_SERVING)


async def _load(repository: Repository, status: health.aio.HealthServicer) -> None:
    try:
        await repository.load()
    except Exception:
        logger.exception("loading failed")
    ready = [model.name for model in repository.models if isinstance(model.state, Ready)]
    for name in ("", _VISION):
        await _set_health(status, name, bool(ready))
    if ready:
        logger.info("serving", extra={"models": ready})
    else:
        logger.error("no model could be loaded; staying up so that health and ListModels can say so")


async def _drain(server: aio.Server, status: health.aio.HealthServicer, calls: Calls, grace_s: float) -> None:
    logger.info("draining", extra={"grace_s": grace_s})
    await status.enter_graceful_shutdown()
    stopping = asyncio.create_task(server.stop(grace_s))
    # stop() waits for every stream as well, and a Watch goes on for as long as its caller likes.
    answered = asyncio.create_task(_answered(calls))
    await asyncio.wait([stopping, answered], return_when=asyncio.FIRST_COMPLETED)
    answered.cancel()
    await server.stop(0)


async def _answered(calls: Calls) -> None:
    await calls.none()
    await asyncio.sleep(_STREAMS_GRACE_S)
    await calls.none()


def _build(
    config: Config, interceptor: CallInterceptor, repository: Repository, status: health.aio.HealthServicer
) -> tuple[aio.Server, str]:
    server = aio.server(
        interceptors=[interceptor],
        maximum_concurrent_rpcs=config.queue_limit + _SPARE_CALLS,
        options=[
            ("grpc.so_reuseport", 0),  # a second server on the address is an error, not a rival
            ("grpc.max_receive_message_length", _TRANSPORT_FACTOR * config.max_request_bytes),
            ("grpc.max_send_message_length", -1),
        ],
    )
    limits = RequestLimits(config.max_images, config.max_request_bytes, config.default_deadline_s)
    vision_pb2_grpc.add_VisionServicer_to_server(VisionServicer(repository, limits), server)
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    reflection.enable_server_reflection([_VISION, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
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
    if not bare or not 0 <= number <= 65535 or (":" in bare) != bracketed:
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
    )


def _stop_event() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def ask() -> None:
        stop.set()
        # Whoever asks twice does not want to wait: the second time the signal does what it does to any program.
        for number in _SIGNALS:
            loop.remove_signal_handler(number)

    for number in _SIGNALS:
        loop.add_signal_handler(number, ask)
    return stop
