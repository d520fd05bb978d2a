"""Around every call of our own API: identity, metrics, log, and errors as gRPC statuses; knows no message's content."""

# grpcio's types are generic in its stubs alone.
from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from service import status
from service.call import Call, current_call
from service.errors import BadRequest, DeadlineUnreachable, Refused, VertebraError
from service.metrics import Metrics

logger = logging.getLogger(__name__)

REQUEST_ID = "x-request-id"
_INTERNAL = "The server failed. Details are in its log under the request id."
_PREFIX = "/vertebra.v1.Vision/"
_MAX_DETAILS = 1024
_SAFE_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


Context = aio.ServicerContext[Any, Any]
# What gRPC calls: with the bytes of the request, or with an iterator of such. A stream is answered through the context.
Handler = Callable[[Any, Context], Awaitable[Any]]
Read = Callable[[bytes], Any]


class CallInterceptor(aio.ServerInterceptor):
    """Wraps the handlers of vertebra.v1.Vision, unary or streams both ways; health and reflection pass untouched.

    Args:
        metrics: Where calls are recorded.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the handler of one call; gRPC calls this."""
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(_PREFIX):
            return handler
        method = handler_call_details.method.removeprefix(_PREFIX)
        # Messages are read inside the wrapper, so that bytes that are none are refused and counted like all else.
        read = _reading(cast(Read, handler.request_deserializer))
        # gRPC's types describe the handlers of its threaded server.
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(
                cast(Any, self._wrap(method, _stream(read, cast(Any, handler.stream_stream)), timed=False)),
                response_serializer=handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            cast(Any, self._wrap(method, _unary(read, cast(Any, handler.unary_unary)), timed=True)),
            response_serializer=handler.response_serializer,
        )

    def _wrap(self, method: str, answer: Handler, *, timed: bool) -> Handler:
        async def wrapped(request: Any, context: Context) -> Any:
            call = Call(_request_id(context))
            current_call.set(call)
            context.set_trailing_metadata(((REQUEST_ID, call.request_id),))
            # The call is recorded before its end goes out: who has heard the answer finds it in the metrics.
            with self._recorded(method, call, context, timed=timed):
                try:
                    return await answer(request, context)
                except VertebraError as error:
                    failure = self._refusal(method, call, error)
                except Exception:
                    call.code = grpc.StatusCode.INTERNAL
                    logger.exception("call failed", extra=_extra(method, call))
                    failure = _Failure(_INTERNAL)
            trailers = ((REQUEST_ID, call.request_id), *failure.trailers)
            return await context.abort(call.code, failure.details, trailers)

        return wrapped

    def _refusal(self, method: str, call: Call, error: VertebraError) -> _Failure:
        call.code = status.CODES[type(error)]
        if reason := status.REASONS.get(type(error)):
            self._metrics.rejected(call.model, reason)
        # Bounded here for all of them: a caller's words may be in it, and gRPC drops statuses that are too long.
        details = str(error)[:_MAX_DETAILS]
        # An overload is in the metrics. A line for each refusal would add to it, and stop us where nobody reads them.
        level = logging.DEBUG if isinstance(error, Refused | DeadlineUnreachable) else logging.INFO
        if logger.isEnabledFor(level):
            logger.log(level, "call refused", extra=_extra(method, call) | {"error": details})
        return _Failure(details, status.trailers(error))

    @contextlib.contextmanager
    def _recorded(self, method: str, call: Call, context: Context, *, timed: bool) -> Iterator[None]:
        started_s = time.monotonic()
        self._metrics.request_started(method)
        try:
            yield
        except asyncio.CancelledError:
            # gRPC cancels at the deadline as well as when the caller goes.
            late = context.time_remaining() == 0
            call.code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
            raise
        finally:
            duration_s = time.monotonic() - started_s
            # How long a stream was open says how many images its caller had, and nothing of the server.
            self._metrics.request_ended(method, call.model, call.version, call.code.name, duration_s if timed else None)
            if logger.isEnabledFor(logging.DEBUG):
                logger.debug("call", extra=_extra(method, call) | {"duration_ms": round(duration_s * 1000, 2)})


@dataclass(frozen=True)
class _Failure:
    details: str
    trailers: tuple[tuple[str, str], ...] = ()


def _reading(read: Read) -> Read:
    """Every message that is received comes by here, once, as the bytes that it is."""

    def reading(message: bytes) -> Any:
        try:
            return read(message)
        except DecodeError as error:
            raise BadRequest(f"Expected a message of vision.proto. Received: {len(message)} bytes of none.") from error

    return reading


def _unary(read: Read, answer: Handler) -> Handler:
    async def unary(request: bytes, context: Context) -> Any:
        return await answer(read(request), context)

    return unary


def _stream(read: Read, answer: Callable[[AsyncIterator[Any], Context], AsyncGenerator[Any, None]]) -> Handler:
    async def stream(requests: AsyncIterator[bytes], context: Context) -> None:
        # Closed here, in the task of the call: gRPC would leave what is cancelled to the garbage collector. A caller
        # who goes while nothing is due to him counts as one who has said all: gRPC ends his messages the same way.
        async with contextlib.aclosing(answer((read(each) async for each in requests), context)) as responses:
            async for response in responses:
                await context.write(response)

    return stream


def _request_id(context: Context) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID and isinstance(value, str) and _SAFE_ID.fullmatch(value):
            return value
    return f"{random.getrandbits(128):032x}"  # to be unique, not to be secret


def _extra(method: str, call: Call) -> dict[str, object]:
    return {"method": method, "model": call.model, "request_id": call.request_id, "code": call.code.name}
