"""A grpc.aio server with decode and engine and nothing else: no admission, no deadlines, no metrics, no batches.

What Python, gRPC and two threads reach on this machine where nobody is looked after: more than the service can.
"""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, cast

import grpc
import numpy as np
from grpc import aio
from numpy.typing import NDArray

from service import bundle as bundles
from service import cpu, image, memory, providers
from service.bundle import Bundle
from service.engine import Engine
from service.repository import scan
from tests.benchmarks import echo
from vertebra.v1 import vision_pb2


class Bare:
    """Answers one image at a time, read and run by whichever thread is free.

    Args:
        bundle: The model.
        engine: Runs it on one core.
    """

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self._bundle = bundle
        self._engine = engine
        self._lanes = ThreadPoolExecutor(cpu.usable())

    async def analyze(self, request: vision_pb2.AnalyzeRequest, context: Any) -> vision_pb2.AnalyzeResponse:
        """See Analyze in vision.proto."""
        del context
        return await asyncio.get_running_loop().run_in_executor(self._lanes, partial(self._answer, request))

    def _answer(self, request: vision_pb2.AnalyzeRequest) -> vision_pb2.AnalyzeResponse:
        pixels = image.read(request.images[0].encoded, self._bundle.geometry, image.ImageLimits())
        answers = self._engine.run(pixels[np.newaxis])
        logits, embedding = answers[self._bundle.logits.name][0], answers[self._bundle.embedding.name][0]
        result = vision_pb2.AnalyzeResult(logits=_tensor(logits), embedding=_tensor(embedding))
        return vision_pb2.AnalyzeResponse(results=[result])


def _tensor(array: NDArray[np.float32]) -> vision_pb2.Tensor:
    return vision_pb2.Tensor(data_type=vision_pb2.DataType.DATA_TYPE_FLOAT32, shape=array.shape, data=array.tobytes())


async def main(repository: Path, provider: str) -> None:
    memory.share()
    (path,) = scan(repository).values()
    bundle = bundles.load(path)
    found = providers.find(cast(providers.Choice, provider))
    engine = Engine(bundle.graph, cpu.usable() if found.one_run else 1, found)
    engine.warm_up([1])
    server = aio.server(options=[("grpc.max_receive_message_length", -1)])
    method = grpc.unary_unary_rpc_method_handler(
        Bare(bundle, engine).analyze,
        request_deserializer=vision_pb2.AnalyzeRequest.FromString,
        response_serializer=vision_pb2.AnalyzeResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("vertebra.v1.Vision", {"Analyze": method}),))
    await echo.serve(server)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
