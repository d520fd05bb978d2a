"""The service against what this machine could do at most, and against gRPC that does nothing, in interleaved rounds.

    python -m tests.benchmarks.serving --repository .demo/alone [--images PATH]

limit    our decode in threads, pipelined with the engine at its best batch size: no wire, no queue, no caller
echo     a bare grpc.aio server: the same bytes in, the same number of bytes out
service  vertebra-serve in a process of its own; the callers are coroutines of this process and share the cores with it

Every figure is the median of the rounds. Ratios are of figures of the same round.
"""

# grpcio's types are generic in its stubs alone.
from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
from grpc import aio
from prometheus_client.parser import text_string_to_metric_families

from service import bundle as bundles
from service import cpu, image
from service.engine import Engine
from service.repository import scan
from tests.benchmarks import echo, pictures, results
from vertebra.v1 import vision_pb2, vision_pb2_grpc

CALLERS = (1, 16)
ANALYZE = "/vertebra.v1.Vision/Analyze"
BATCH_SIZES = (1, 2, 4, 8, 16)
Stages = dict[str, dict[str, float]]
OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


@dataclass(frozen=True)
class Load:
    """What callers saw, and the CPU time that one request cost on each side."""

    images_per_s: float
    p50_ms: float
    p99_ms: float
    server_cpu_ms: float
    client_cpu_ms: float


@dataclass(frozen=True)
class Server:
    """A process that answers, and where; the rest is the service's alone."""

    process: psutil.Process
    address: str
    metrics_address: str = ""
    max_batch: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, default=Path(".demo/alone"))
    parser.add_argument(
        "--images", type=Path, help="a folder or .tar of JPEG files; cuts of scikit-learn's photographs if none"
    )
    parser.add_argument("--count", type=int, default=200, help="how many images a cell is measured on")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    files = pictures.read(arguments.images, arguments.count)
    (path,) = scan(arguments.repository).values()
    bundle = bundles.load(path)
    engine = Engine(bundle.graph, cpu.usable())
    batch = best_batch(bundle, engine, files)
    requests = [request_for(file) for file in files]
    rounds = []
    for number in range(arguments.rounds):
        # Fresh processes each round: what a process learns at warm-up, and where its memory lies, makes a difference.
        with served(arguments.repository) as service:
            answer_bytes = asyncio.run(one_answer(service.address, requests[0]))
            with echoing(answer_bytes) as echo_server:
                figures: dict[str, object] = {"limit": limit(bundle, engine, files, batch)}
                for callers in CALLERS:
                    figures[f"echo_{callers}"] = asdict(load_from(echo_server, echo.METHOD, requests, callers))
                    before = stage_totals(service.metrics_address)
                    figures[f"service_{callers}"] = asdict(load_from(service, ANALYZE, requests, callers))
                    figures[f"stages_{callers}"] = stage_means(before, stage_totals(service.metrics_address))
        rounds.append(figures | {"max_batch": service.max_batch})
        print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr, flush=True)
    summary = summarise(rounds)
    stages = {callers: medians([each[f"stages_{callers}"] for each in rounds]) for callers in CALLERS}
    facts = {
        "images": len(files),
        "image_bytes_median": statistics.median(map(len, files)),
        "answer_bytes": answer_bytes,
        "best_batch": batch,
        "stage_mean_ms": stages,
    }
    file = results.keep("serving", {"facts": facts, "summary": summary, "rounds": rounds})
    print(table(summary, stages))
    print(f"kept in {file}")


def request_for(file: bytes) -> bytes:
    answers = [vision_pb2.Answer.ANSWER_LOGITS, vision_pb2.Answer.ANSWER_EMBEDDING]
    request = vision_pb2.AnalyzeRequest(images=[vision_pb2.Image(encoded=file)], answers=answers)
    return request.SerializeToString()


def best_batch(bundle: bundles.Bundle, engine: Engine, files: Sequence[bytes]) -> int:
    """The batch size at which an image takes the engine the least time; the median of five."""
    pixels = np.stack([image.read(file, bundle.geometry, image.ImageLimits()) for file in files[: BATCH_SIZES[-1]]])
    engine.warm_up(BATCH_SIZES)

    def seconds(size: int) -> float:
        started_s = time.perf_counter()
        engine.run(pixels[:size])
        return (time.perf_counter() - started_s) / size

    return min(BATCH_SIZES, key=lambda size: statistics.median(seconds(size) for _ in range(5)))


def limit(bundle: bundles.Bundle, engine: Engine, files: Sequence[bytes], batch: int) -> float:
    """Images a second of decode and engine alone: decoders work ahead while the engine runs."""
    with ThreadPoolExecutor(cpu.usable()) as decoders:
        started_s = time.perf_counter()
        limits = image.ImageLimits()
        decoded = [decoders.submit(image.read, file, bundle.geometry, limits) for file in files]
        for start in range(0, len(files), batch):
            engine.run(np.stack([each.result() for each in decoded[start : start + batch]]))
        return len(files) / (time.perf_counter() - started_s)


def load_from(server: Server, method: str, requests: Sequence[bytes], callers: int) -> Load:
    return asyncio.run(load(server.process, server.address, method, requests, callers))


async def load(server: psutil.Process, address: str, method: str, requests: Sequence[bytes], callers: int) -> Load:
    """Closed loop: each caller sends its next request when it has the answer to the last. The first tenth warms up."""
    async with aio.insecure_channel(address, options=OPTIONS) as channel:
        call: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
        await ask(call, requests[: len(requests) // 10], callers)
        cpu_before_s, own_before_s, started_s = cpu_s(server), time.process_time(), time.perf_counter()
        latencies_s = await ask(call, requests, callers)
        duration_s = time.perf_counter() - started_s
        own_s, server_s = time.process_time() - own_before_s, cpu_s(server) - cpu_before_s
    p50_s, p99_s = np.percentile(latencies_s, [50, 99])
    each_ms = 1000 / len(requests)
    return Load(len(requests) / duration_s, p50_s * 1000, p99_s * 1000, server_s * each_ms, own_s * each_ms)


async def ask(call: aio.UnaryUnaryMultiCallable[bytes, bytes], requests: Sequence[bytes], callers: int) -> list[float]:
    """Send every request once, as many at a time as there are callers; the seconds that each took."""
    waiting = iter(requests)
    latencies_s: list[float] = []

    async def caller() -> None:
        for request in waiting:
            started_s = time.perf_counter()
            await call(request)
            latencies_s.append(time.perf_counter() - started_s)

    await asyncio.gather(*(caller() for _ in range(callers)))
    return latencies_s


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def one_answer(address: str, request: bytes) -> int:
    """The size of the service's answer; fails where the image was not answered."""
    async with aio.insecure_channel(address, options=OPTIONS) as channel:
        stub = vision_pb2_grpc.VisionStub(channel)
        answer = await stub.Analyze(vision_pb2.AnalyzeRequest.FromString(request))
    if answer.results[0].status.code:
        raise SystemExit(f"Expected an answer. Received: {answer.results[0].status.message}")
    return int(answer.ByteSize())


@contextmanager
def served(repository: Path) -> Iterator[Server]:
    command = [sys.executable, "-m", "service", "--repository", str(repository)]
    command += ["--address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines: dict[str, dict[str, Any]] = {}
        try:
            for text in process.stderr:
                line = json.loads(text)
                lines[line["message"]] = line
                if "serving" in lines:
                    break
            listening, ready = lines["listening"], lines["model ready"]
            found = psutil.Process(process.pid)
            yield Server(found, listening["address"], listening["metrics_address"], ready["max_batch"])
        finally:
            process.terminate()


@contextmanager
def echoing(answer_bytes: int) -> Iterator[Server]:
    command = [sys.executable, "-m", "tests.benchmarks.echo", str(answer_bytes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Server(psutil.Process(process.pid), f"127.0.0.1:{process.stdout.readline().strip()}")
        finally:
            process.terminate()


def stage_totals(metrics_address: str) -> Stages:
    """The sum in seconds and the count of images of each stage, since the service started."""
    with urllib.request.urlopen(f"http://{metrics_address}/metrics", timeout=10) as page:
        families = {each.name: each for each in text_string_to_metric_families(page.read().decode())}
    totals: Stages = {}
    for sample in families["vertebra_stage_duration_seconds"].samples:
        totals.setdefault(sample.labels["stage"], {})[sample.name.rsplit("_", 1)[-1]] = sample.value
    return totals


def stage_means(before: Stages, after: Stages) -> dict[str, float]:
    """Milliseconds an image spent in each stage on average, between two scrapes."""
    none = {"sum": 0.0, "count": 0.0}
    spent = {stage: (total, before.get(stage, none)) for stage, total in after.items()}
    return {stage: (b["sum"] - a["sum"]) / (b["count"] - a["count"]) * 1000 for stage, (b, a) in spent.items()}


def medians(figures: Sequence[object]) -> dict[str, float]:
    """The median of each figure by name."""
    each = cast(Sequence[dict[str, float]], figures)
    return {name: statistics.median(one[name] for one in each) for name in each[0]}


def summarise(rounds: Sequence[dict[str, object]]) -> dict[str, dict[str, float]]:
    """The median over the rounds of each figure, and of its ratio to the limit of the same round."""
    limits = [float(each["limit"]) for each in rounds]  # type: ignore[arg-type]  # the one cell that is a number
    summary: dict[str, dict[str, float]] = {"limit": {"images_per_s": statistics.median(limits)}}
    for cell in (key for key in rounds[0] if key.startswith(("echo", "service"))):
        loads = [Load(**each[cell]) for each in rounds]  # type: ignore[arg-type]  # as asdict() wrote it
        summary[cell] = {
            name: statistics.median(getattr(each, name) for each in loads) for name in Load.__dataclass_fields__
        }
        ratios = [each.images_per_s / limit for each, limit in zip(loads, limits, strict=True)]
        summary[cell]["of_limit"] = statistics.median(ratios)
        summary[cell]["of_limit_lowest"], summary[cell]["of_limit_highest"] = min(ratios), max(ratios)
    return summary


def table(summary: dict[str, dict[str, float]], stages: dict[int, dict[str, float]]) -> str:
    lines = [f"{'':<12}{'images/s':>10}{'of limit':>10}{'p50 ms':>9}{'p99 ms':>9}{'server CPU':>12}{'client CPU':>12}"]
    for cell, figures in summary.items():
        name = cell.replace("_1", " x 1", 1)
        if cell == "limit":
            lines.append(f"{name:<12}{figures['images_per_s']:>10.1f}")
            continue
        lines.append(
            f"{name:<12}{figures['images_per_s']:>10.1f}{figures['of_limit']:>10.2f}{figures['p50_ms']:>9.1f}"
            f"{figures['p99_ms']:>9.1f}{figures['server_cpu_ms']:>9.2f} ms{figures['client_cpu_ms']:>9.2f} ms"
        )
    for callers, means in stages.items():
        spent = ", ".join(f"{stage} {ms:.2f}" for stage, ms in means.items())
        lines.append(f"milliseconds in each stage, service x {callers}: {spent}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
