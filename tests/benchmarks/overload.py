"""What callers get of a service that is asked for more than it can do; knows the service by its answers alone.

    python -m tests.benchmarks.overload --repository .demo/alone [--images PATH]

Open loop: requests come at random moments (Poisson), whether or not earlier ones have been answered, and nobody tries
again. First an engine that takes a known time for a batch, so that the policy alone is measured; then the real one,
whose capacity is what a closed loop of callers gets. The callers share the cores with the service.
"""

# grpcio's types are generic in its stubs alone.
from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import grpc
import numpy as np
from grpc import aio
from prometheus_client.parser import text_string_to_metric_families

from tests.benchmarks import pictures, results
from tests.benchmarks.serving import ANALYZE, OPTIONS, Server, load_from, request_for, served
from tests.conftest import colours, encode, write_bundle
from vertebra.v1 import vision_pb2

FILES = 200
MULTIPLES = (0.5, 1.0, 1.5, 2.0, 3.0)
IMAGES = (1, 4)  # in a request
PUSHBACK = "grpc-retry-pushback-ms"
# The first seconds of a load fill the queue; requests sent in them are not counted.
WARM_S = 2.0
# The timed engine: 40 ms for a batch of 8, which is 200 images a second.
FIRST_MS, EACH_MS, MAX_BATCH = 20.0, 2.5, 8
BATCH_TIMES = 10  # in a deadline


@dataclass(frozen=True)
class Outcome:
    """How one request ended: answered in time, refused before any work, too late, or not answered for another reason.

    Attributes:
        kind: Which of these.
        sent_s: When it was sent, since the load began.
        lag_s: How much later than it should have been.
        latency_s: From then to its end.
        pushback: Whether the end said when to try again.
    """

    kind: Literal["good", "refused", "late", "failed"]
    sent_s: float
    lag_s: float
    latency_s: float
    pushback: bool = False


@dataclass(frozen=True)
class Load:
    """What is asked of a service.

    Attributes:
        requests: Sent in turn, as they are on the wire.
        images: How many images each has.
        capacity: Images a second.
        deadline_s: Of each request.
    """

    requests: Sequence[bytes]
    images: int
    capacity: float
    deadline_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, default=Path(".demo/alone"))
    parser.add_argument(
        "--images", type=Path, help="a folder or .tar of JPEG files; cuts of scikit-learn's photographs if none"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each load lasts after its first seconds")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rows = {}
    for images in IMAGES:
        for name, measure in (("timed", timed), ("real", real)):
            key = f"{name}, {images} a request"
            rows[key] = results.cell("overload", key, partial(measure, images, arguments))
    print(table(rows))


def timed(images: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """The sweep with an engine that sleeps."""
    batch_s = (FIRST_MS + MAX_BATCH * EACH_MS) / 1000
    requests = [request_for(*[encode((255, 0, 0))] * images)]
    load = Load(requests, images, MAX_BATCH / batch_s, BATCH_TIMES * batch_s)
    faulty = ["tests.faulty", "--engine", "timed", "--first-ms", str(FIRST_MS), "--each-ms", str(EACH_MS), "--"]
    flags = ["--max-batch", str(MAX_BATCH), "--threads", "1"]  # on one core: runs side by side would do more
    with tiny() as repository, served(repository, faulty, flags) as server:
        return sweep(server, load, arguments)


def real(images: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """The sweep with the real engine: what it can do is measured first, and a deadline is a second."""
    files = pictures.read(arguments.images, FILES)
    requests = [request_for(*files[start : start + images]) for start in range(0, len(files), images)]
    with served(arguments.repository) as server:
        closed = load_from(server, ANALYZE, requests, callers=max(2, 16 // images))
        return sweep(server, Load(requests, images, closed.images_per_s * images, 1.0), arguments)


@contextmanager
def tiny() -> Iterator[Path]:
    """A repository of the tiny model."""
    with tempfile.TemporaryDirectory() as folder:
        write_bundle(Path(folder), colours())
        yield Path(folder)


def sweep(server: Server, load: Load, arguments: argparse.Namespace) -> dict[str, Any]:
    """Every multiple of the capacity, in interleaved rounds; the median of each figure."""
    rounds: dict[float, list[dict[str, float]]] = {multiple: [] for multiple in MULTIPLES}
    for number in range(arguments.rounds):
        for multiple in MULTIPLES:
            rounds[multiple].append(offered(server, load, multiple, arguments.seconds, seed=number))
    loads = {
        str(multiple): {name: statistics.median(each[name] for each in figures) for name in figures[0]}
        for multiple, figures in rounds.items()
    }
    peak = max(each["goodput"] for each in loads.values())
    return {
        "capacity": load.capacity,
        "deadline_s": load.deadline_s,
        "peak": peak,
        "at_most_of_peak": loads[str(MULTIPLES[-1])]["goodput"] / peak,
        "loads": loads,
    }


def offered(server: Server, load: Load, multiple: float, seconds: float, seed: int) -> dict[str, float]:
    """The figures of one load."""
    random = np.random.default_rng(seed)
    rate = load.capacity * multiple / load.images
    gaps_s = random.exponential(1 / rate, int(rate * (WARM_S + seconds)))
    before = refused(server)
    outcomes = asyncio.run(offer(server.address, load, np.cumsum(gaps_s).tolist()))
    counted = [each for each in outcomes if each.sent_s >= WARM_S]
    duration_s = max(each.sent_s for each in counted) - WARM_S
    kinds = Counter(each.kind for each in counted)
    refusals = [each for each in counted if each.kind == "refused"]
    accepted = len(counted) - len(refusals)
    return {
        "offered": len(counted) * load.images / duration_s,
        "goodput": kinds["good"] * load.images / duration_s,
        "accepted": accepted,
        "accepted_late": kinds["late"],
        "accepted_failed": kinds["failed"],
        "refused": len(refusals),
        "refused_by_the_service": refused(server) - before,
        "refused_with_pushback": sum(each.pushback for each in refusals),
        **percentiles("refusal_ms", [each.latency_s for each in refusals]),
        **percentiles("answer_ms", [each.latency_s for each in counted if each.kind == "good"]),
        **percentiles("lag_ms", [each.lag_s for each in counted]),
    }


def percentiles(name: str, seconds: Sequence[float]) -> dict[str, float]:
    p50_s, p99_s = np.percentile(seconds, [50, 99]) if seconds else (0.0, 0.0)
    return {f"{name}_p50": float(p50_s) * 1000, f"{name}_p99": float(p99_s) * 1000}


async def offer(address: str, load: Load, moments_s: Sequence[float]) -> list[Outcome]:
    """Send a request at each moment, whatever has become of those before."""
    outcomes: list[Outcome] = []
    async with aio.insecure_channel(address, options=[*OPTIONS, ("grpc.enable_retries", 0)]) as channel:
        await channel.channel_ready()
        call: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(ANALYZE)
        started_s = time.perf_counter()

        async def ask(request: bytes, due_s: float) -> None:
            sent_s = time.perf_counter()
            kind, pushback = await end_of(call, request, load.deadline_s)
            latency_s = time.perf_counter() - sent_s
            if kind == "good" and latency_s > load.deadline_s:
                kind = "late"
            since_s = sent_s - started_s
            outcomes.append(Outcome(kind, since_s, since_s - due_s, latency_s, pushback))

        async with asyncio.TaskGroup() as asking:
            for request, due_s in zip(itertools.cycle(load.requests), moments_s, strict=False):
                await asyncio.sleep(max(0.0, started_s + due_s - time.perf_counter()))
                asking.create_task(ask(request, due_s))
    return outcomes


async def end_of(
    call: aio.UnaryUnaryMultiCallable[bytes, bytes], request: bytes, deadline_s: float
) -> tuple[Literal["good", "refused", "late", "failed"], bool]:
    """How a request ended, and whether it was told when to try again."""
    try:
        answer = vision_pb2.AnalyzeResponse.FromString(await call(request, timeout=deadline_s))
    except aio.AioRpcError as error:
        pushback = PUSHBACK in dict(error.trailing_metadata() or ())
        # The service says "Expected ..." of a deadline that cannot be met; gRPC's own words are others.
        unreachable = str(error.details()).startswith(("Expected at least", "Expected a deadline to come"))
        match error.code():
            case grpc.StatusCode.RESOURCE_EXHAUSTED:
                return "refused", pushback
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                return "refused" if unreachable else "late", pushback
            case _:
                return "failed", pushback
    return ("failed" if any(each.status.code for each in answer.results) else "good"), False


def refused(server: Server) -> float:
    """How many requests the service says to have refused, since it started."""
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=10) as page:
        families = text_string_to_metric_families(page.read().decode())
    samples = [sample for family in families for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == "vertebra_rejected_total")


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    heads = ("goodput", "of peak", "late", "refused", "pushback", "refusal p99", "lag p99")
    lines = [f"{'':<18}" + "".join(f"{head:>13}" for head in heads)]
    for name, row in rows.items():
        lines.append(f"{name}: {row['capacity']:.0f} images/s, deadline {row['deadline_s'] * 1000:.0f} ms")
        for multiple, figures in row["loads"].items():
            pushed = figures["refused_with_pushback"] / max(1, figures["refused"])
            lines.append(
                f"{'x ' + multiple:>18}{figures['goodput']:>13.1f}{figures['goodput'] / row['peak']:>13.3f}"
                f"{figures['accepted_late']:>13.0f}{figures['refused']:>13.0f}{pushed:>13.2f}"
                f"{figures['refusal_ms_p99']:>10.1f} ms{figures['lag_ms_p99']:>10.1f} ms"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
