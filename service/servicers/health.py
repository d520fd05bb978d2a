"""grpc.health.v1: who is serving, asked once or watched; decides nothing about it.

Not grpcio-health-checking's own servicer: there a caller who ends a Watch takes the news away from all others who watch
the same name, and a Watch lasts until the server is forced to stop.
"""

import asyncio
from typing import Any

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

# Serves for as long as the process is worth keeping, also while models load and while it drains: for liveness probes.
# No model's name has a dot.
LIVENESS = "vertebra.liveness"

Context = aio.ServicerContext[Any, Any]
Response = health_pb2.HealthCheckResponse


class HealthServicer(health_pb2_grpc.HealthServicer):
    """Answers Check and Watch; the empty name is the process's, and does not serve until it is said to.

    LIVENESS serves from the beginning, until it is said not to.
    """

    def __init__(self) -> None:
        self._serving = {"": False, LIVENESS: True}
        self._changed = asyncio.Event()
        self._draining = False

    def set(self, name: str, serving: bool) -> None:
        """Say whether a name serves, and tell those who watch it. Once the server drains, nothing serves any more."""
        self._serving[name] = serving and not self._draining
        self._tell()

    def drain(self) -> None:
        """Say that nothing serves any more but the process is alive, and end every Watch when it has said so."""
        self._draining = True
        self._serving = {name: serving and name == LIVENESS for name, serving in self._serving.items()}
        self._tell()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> Response:
        """See health.proto."""
        if request.service not in self._serving:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"Expected one of {sorted(self._serving)}.")
        return Response(status=self._status(request.service))

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:
        """See health.proto."""
        sent: int | None = None
        while True:
            # Taken together, before the wait below: what changes during a write is seen in the next round.
            changed, draining = self._changed, self._draining
            if (status := self._status(request.service)) != sent:
                await context.write(Response(status=status))
                sent = status
            if draining:
                return
            await changed.wait()

    def _status(self, name: str) -> int:
        if name not in self._serving:
            return Response.SERVICE_UNKNOWN
        return Response.SERVING if self._serving[name] else Response.NOT_SERVING

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
