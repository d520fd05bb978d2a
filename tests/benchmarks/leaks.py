"""Whether the service's memory grows with the requests that it has answered, beside a control that leaks on purpose.

    python -m tests.benchmarks.leaks --repository .demo/alone [--requests N]

Callers ask all that there is to ask, in their right and wrong ways, and now and then hang up. Each time that a
hundredth of the requests has been answered, the callers pause and the service's own memory (USS) is read. After a tenth
of them as a warm-up, a line is laid through the readings (Theil-Sen). The service leaks where the lower end of the
slope's 95 % interval is above a bound; the control keeps 256 bytes an image through an engine that does so on purpose.
"""

# grpcio's types are generic in its stubs alone.
from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from grpc import aio
from scipy.stats import theilslopes

from tests.benchmarks import pictures, results
from tests.benchmarks.serving import OPTIONS, served
from tests.conftest import colours, encode, write_bundle
from vertebra.v1 import vision_pb2, vision_pb2_grpc

REQUESTS = {"tiny": 200_000, "lite0": 10_000}
READINGS = 100
WARM_UP = 10  # readings that are not counted
CALLERS = 64
LEAK_BYTES = 256
# Half of what the control leaks. What is below it is a thousandth of a request's own bytes.
BOUND_BYTES = LEAK_BYTES / 2
# A caller that hangs up does so at any moment of what it takes to be answered.
HANG_UP_S = 0.1
CONTROL = ("tests.faulty", "--engine", "leak", "--leak-bytes", str(LEAK_BYTES), "--")

Ask = Callable[[Any], Awaitable[object]]  # sends one request, given the stub, and sees it to its end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, default=Path(".demo/alone"))
    parser.add_argument(
        "--requests", type=int, help="of each run; 200,000 of the tiny model and 10,000 of Lite0 if none"
    )
    arguments = parser.parse_args()
    rows = {}
    with tiny() as folder:
        images = {"tiny": [encode((200, 100, 0)), encode((0, 100, 200), "JPEG")], "lite0": pictures.read(None, 50)}
        for model, repository in (("tiny", folder), ("lite0", arguments.repository)):
            requests = arguments.requests or REQUESTS[model]
            for name, program in (("service", ("service",)), ("control", CONTROL)):
                key = f"{model}, {name}, {requests} requests"
                measure = partial(grown, repository, program, images[model], requests)
                rows[key] = results.cell("leaks", key, measure)
    print(table(rows))


@contextmanager
def tiny() -> Iterator[Path]:
    """A repository of the tiny model."""
    with tempfile.TemporaryDirectory() as folder:
        write_bundle(Path(folder), colours())
        yield Path(folder)


def grown(repository: Path, program: Sequence[str], files: Sequence[bytes], requests: int) -> dict[str, Any]:
    """Send the requests and lay the line through the readings."""
    with served(repository, program) as server:
        ends, asked, rss_bytes, uss_bytes = asyncio.run(readings(server.address, server.process, files, requests))
    lines = {}
    for name, read in (("rss", rss_bytes), ("uss", uss_bytes)):
        slope, _, low, high = theilslopes(read[WARM_UP:], asked[WARM_UP:], 0.95)
        lines[name] = {"bytes_per_request": slope, "low": low, "high": high}
    return {
        **lines,
        "leaks": bool(lines["uss"]["low"] > BOUND_BYTES),
        "requests": asked[-1],
        "uss_mb": [round(each / 1e6, 2) for each in uss_bytes],
        "ends": dict(sorted(ends.items())),
    }


async def readings(
    address: str, process: psutil.Process, files: Sequence[bytes], requests: int
) -> tuple[Counter[str], list[int], list[int], list[int]]:
    """How the requests ended, how many had been sent at each reading, and the RSS and USS then."""
    ways = ways_to_ask(files)
    generator = np.random.default_rng(0)
    ends: Counter[str] = Counter()
    asked, rss_bytes, uss_bytes = [], [], []
    async with aio.insecure_channel(address, options=OPTIONS) as channel:
        stub = vision_pb2_grpc.VisionStub(channel)
        for _ in range(READINGS):
            chosen = generator.choice(list(ways), requests // READINGS, p=[weight for weight, _ in ways.values()])
            await send(stub, [(name, ways[name][1]) for name in chosen], ends)
            memory = process.memory_full_info()
            asked.append(ends.total())
            rss_bytes.append(memory.rss)
            uss_bytes.append(memory.uss)
    return ends, asked, rss_bytes, uss_bytes


async def send(stub: Any, asks: Sequence[tuple[str, Ask]], ends: Counter[str]) -> None:
    """Send each request, as many at a time as there are callers, and count how they ended."""
    waiting = iter(asks)

    async def caller() -> None:
        for name, ask in waiting:
            try:
                await ask(stub)
            except asyncio.CancelledError:
                ends[f"{name}: CANCELLED"] += 1
            except aio.AioRpcError as error:
                ends[f"{name}: {error.code().name}"] += 1
            else:
                ends[f"{name}: OK"] += 1

    await asyncio.gather(*(caller() for _ in range(CALLERS)))


def ways_to_ask(files: Sequence[bytes]) -> dict[str, tuple[float, Ask]]:
    """All that there is to ask, in right and wrong ways: how often, and how."""
    images = [vision_pb2.Image(encoded=file) for file in files]
    turn = itertools.cycle(images)
    broken = vision_pb2.Image(encoded=files[0][: len(files[0]) // 2])
    answers = [vision_pb2.Answer.ANSWER_LOGITS, vision_pb2.Answer.ANSWER_LABELS, vision_pb2.Answer.ANSWER_EMBEDDING]
    unknown = vision_pb2.ModelSelector(name="nobody")

    def embed() -> vision_pb2.EmbedRequest:
        return vision_pb2.EmbedRequest(images=[next(turn)])

    async def hang_up(stub: Any) -> None:
        call = stub.Embed(embed())
        await asyncio.sleep(random.random() * HANG_UP_S)
        call.cancel()
        await call

    async def stream(stub: Any) -> None:
        sent = [vision_pb2.EmbedStreamRequest(tag=tag, image=next(turn)) for tag in range(4)]
        async for _ in stub.EmbedStream(iter(sent)):
            pass

    async def leave_a_stream(stub: Any) -> None:
        call = stub.EmbedStream(vision_pb2.EmbedStreamRequest(tag=tag, image=next(turn)) for tag in range(100))
        await call.read()
        call.cancel()

    return {
        "classify": (0.25, lambda stub: stub.Classify(vision_pb2.ClassifyRequest(images=[next(turn)]))),
        "embed": (0.2, lambda stub: stub.Embed(embed())),
        "analyze": (
            0.2,
            lambda stub: stub.Analyze(vision_pb2.AnalyzeRequest(images=[next(turn)] * 2, answers=answers)),
        ),
        "describe": (0.05, lambda stub: stub.GetModel(vision_pb2.GetModelRequest())),
        "list": (0.02, lambda stub: stub.ListModels(vision_pb2.ListModelsRequest())),
        "a broken image": (0.08, lambda stub: stub.Classify(vision_pb2.ClassifyRequest(images=[broken, next(turn)]))),
        "an unknown model": (0.04, lambda stub: stub.Embed(vision_pb2.EmbedRequest(model=unknown, images=[broken]))),
        "no images": (0.02, lambda stub: stub.Embed(vision_pb2.EmbedRequest())),
        "too late": (0.03, lambda stub: stub.Embed(embed(), timeout=0.001)),
        "hung up": (0.06, hang_up),
        "streamed": (0.04, stream),
        "a stream left": (0.01, leave_a_stream),
    }


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [f"{'':<34}{'bytes a request (95 %)':>32}{'USS':>20}  leaks"]
    for name, row in rows.items():
        uss = row["uss"]
        slope = f"{uss['bytes_per_request']:.1f} ({uss['low']:.1f} to {uss['high']:.1f})"
        grown = f"{row['uss_mb'][WARM_UP]:.1f} to {row['uss_mb'][-1]:.1f} MB"
        lines.append(f"{name:<34}{slope:>32}{grown:>20}  {'yes' if row['leaks'] else 'no'}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
