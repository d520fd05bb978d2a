"""A bare grpc.aio server that answers every request with as many bytes as an answer of the service has.

What it costs is what gRPC and Python cost on this machine before anything useful is done.
"""

import asyncio
import signal
import sys
from typing import Any

import grpc
from grpc import aio

METHOD = "/benchmark.Echo/Answer"


async def main(answer_bytes: int) -> None:
    answer = bytes(answer_bytes)

    async def respond(request: bytes, context: Any) -> bytes:
        del request, context
        return answer

    handler = grpc.method_handlers_generic_handler(
        "benchmark.Echo", {"Answer": grpc.unary_unary_rpc_method_handler(respond)}
    )
    server = aio.server(options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((handler,))
    await serve(server)


async def serve(server: aio.Server) -> None:
    """Print the port, and answer until SIGTERM."""
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
