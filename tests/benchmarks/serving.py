"""The service against what this machine could do at most, and against gRPC that does nothing, in interleaved rounds.

    python -m tests.benchmarks.serving --repository .demo/alone [--images PATH] [--provider openvino]

limit    our decode in threads, pipelined with the engine: no wire, no queue, no caller. The better of two: one run on
         all cores at its best batch size (wide), and one run a core (narrow)
echo     a bare grpc.aio server: the same bytes in, the same number of bytes out
nothing  decode and engine behind a bare grpc.aio server (nothing_but.py), which looks after nobody
service  vertebra-serve in a process of its own; the callers are coroutines of this process and share the cores with it
bound    what the service could reach at most. One caller waits for decode, run and echo in turn, one after the other;
         many share the cores with the wire: 1 / (1 / limit + c / cores), where c is the CPU time that an echo costs its
         caller and its server

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
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
from grpc import aio
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families

from service import bundle as bundles
from service import cpu, image, providers
from service.engine import Engine
from service.repository import scan
from tests.benchmarks import echo, pictures, results
from vertebra.v1 import vision_pb2, vision_pb2_grpc

CALLERS = (1, 16, 64)
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
    parser.add_argument("--provider", choices=("cpu", "openvino"), default="cpu")
    arguments = parser.parse_args()
    files = pictures.read(arguments.images, arguments.count)
    requests = [request_for(file) for file in files]
    bare = Bare(arguments.repository, arguments.provider, files)
    rounds: list[dict[str, Any]] = []
    for number in range(arguments.rounds):
        # Fresh processes each round: what a process learns at warm-up, and where its memory lies, makes a difference.
        with served(arguments.repository, flags=("--provider", arguments.provider)) as service:
            memory_mb = service.process.memory_info().rss / 2**20
            answer_bytes = asyncio.run(one_answer(service.address, requests[0]))
            with printing("echo", str(answer_bytes)) as echo_server:
                figures: dict[str, object] = {"bare": bare.measure()}
                for callers in CALLERS:
                    figures[f"echo_{callers}"] = asdict(load_from(echo_server, echo.METHOD, requests, callers))
                    before = stage_totals(service.metrics_address)
                    figures[f"service_{callers}"] = asdict(load_from(service, ANALYZE, requests, callers))
                    figures[f"stages_{callers}"] = stage_means(before, stage_totals(service.metrics_address))
            with printing("nothing_but", str(arguments.repository), arguments.provider) as nothing:
                for callers in CALLERS:
                    figures[f"nothing_{callers}"] = asdict(load_from(nothing, ANALYZE, requests, callers))
        rounds.append(figures | {"max_batch": service.max_batch, "memory_mb": memory_mb})
        print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr, flush=True)
    summary = summarise(rounds)
    stages = {callers: medians([each[f"stages_{callers}"] for each in rounds]) for callers in CALLERS}
    facts = {
        "provider": arguments.provider,
        "images": len(files),
        "image_bytes_median": statistics.median(map(len, files)),
        "answer_bytes": answer_bytes,
        "best_wide_batch": bare.batch,
        "memory_mb": statistics.median(each["memory_mb"] for each in rounds),
        "stage_mean_ms": stages,
    }
    kept = {"facts": facts, "summary": summary, "rounds": rounds}
    file = results.keep("serving", kept, variant=arguments.provider, flags=f"--provider {arguments.provider}")
    print(table(summary, stages))
    print(f"kept in {file}")


class Bare:
    """Decode and engine without a service around them, in this process."""

    def __init__(self, repository: Path, provider: providers.Choice, files: Sequence[bytes]) -> None:
        (path,) = scan(repository).values()
        self._bundle = bundles.load(path)
        found, cores = providers.find(provider), cpu.usable()
        self._files = files
        self._wide = Engine(self._bundle.graph, cores, found)
        self._narrow = None if found.one_run else Engine(self._bundle.graph, 1, found)
        self.batch = self._best_batch()

    def measure(self) -> dict[str, float]:
        """What decode and engine take alone, one image at a time, and how many images a second they do at most."""
        limits = {"wide": self._limit(self._wide, 1, self.batch)}
        if self._narrow:
            limits["narrow"] = self._limit(self._narrow, cpu.usable(), 1)
        pixels = [self._read(file) for file in self._files]
        decode_ms = [_ms(partial(self._read, file)) for file in self._files]
        run_ms = [_ms(partial(self._wide.run, each[np.newaxis])) for each in pixels]
        return {
            **{f"limit_{way}": limit for way, limit in limits.items()},
            "limit": max(limits.values()),
            "decode_ms": statistics.median(decode_ms),
            "run_ms": statistics.median(run_ms),
        }

    def _read(self, file: bytes) -> NDArray[np.uint8]:
        return image.read(file, self._bundle.geometry, image.ImageLimits())

    def _best_batch(self) -> int:
        """The batch size at which an image takes the engine the least time; the median of five."""
        pixels = np.stack([self._read(file) for file in self._files[: BATCH_SIZES[-1]]])
        self._wide.warm_up(BATCH_SIZES)

        def ms_per_image(size: int) -> float:
            return statistics.median(_ms(partial(self._wide.run, pixels[:size])) for _ in range(5)) / size

        return min(BATCH_SIZES, key=ms_per_image)

    def _limit(self, engine: Engine, lanes: int, batch: int) -> float:
        """Images a second where decoders work ahead while the engine runs."""
        with ThreadPoolExecutor(cpu.usable()) as decoders, ThreadPoolExecutor(lanes) as runners:
            started_s = time.perf_counter()
            decoded = [decoders.submit(self._read, file) for file in self._files]

            def run(start: int) -> None:
                engine.run(np.stack([each.result() for each in decoded[start : start + batch]]))

            for _ in runners.map(run, range(0, len(decoded), batch)):
                pass
            return len(decoded) / (time.perf_counter() - started_s)


def _ms(work: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    work()
    return (time.perf_counter() - started_s) * 1000


def request_for(*files: bytes) -> bytes:
    answers = [vision_pb2.Answer.ANSWER_LOGITS, vision_pb2.Answer.ANSWER_EMBEDDING]
    request = vision_pb2.AnalyzeRequest(images=[vision_pb2.Image(encoded=file) for file in files], answers=answers)
    return request.SerializeToString()


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
def served(repository: Path, program: Sequence[str] = ("service",), flags: Sequence[str] = ()) -> Iterator[Server]:
    command = [sys.executable, "-m", *program, "--repository", str(repository)]
    command += ["--address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0", *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines: dict[str, dict[str, Any]] = {}
        try:
            for text in process.stderr:
                line = json.loads(text)
                lines[line["message"]] = line
                if "model failed to load" in lines:
                    raise SystemExit(f"Expected a model that loads. Received: {line['error']}")
                if "serving" in lines:
                    break
            listening, ready = lines["listening"], lines["model ready"]
            found = psutil.Process(process.pid)
            with reading(process):
                yield Server(found, listening["address"], listening["metrics_address"], ready["max_batch"])
        finally:
            process.terminate()


@contextmanager
def reading(process: subprocess.Popen[str]) -> Iterator[None]:
    """Read the log on, then end the process: without a reader it would stop in the middle of a line one day."""
    reader = threading.Thread(target=deque, args=(process.stderr, 0))
    reader.start()
    try:
        yield
    finally:
        process.terminate()
        reader.join()


@contextmanager
def printing(server: str, *arguments: str) -> Iterator[Server]:
    """A server of these benchmarks, which prints its port."""
    command = [sys.executable, "-m", f"tests.benchmarks.{server}", *arguments]
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


def summarise(rounds: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The median over the rounds of each figure, and of its ratio to the limit and to the bound of the same round."""
    summary = {"bare": medians([each["bare"] for each in rounds])}
    for cell in (key for key in rounds[0] if key.startswith(("echo", "nothing", "service"))):
        summary[cell] = medians([each[cell] for each in rounds])
        ratios = [each[cell]["images_per_s"] / each["bare"]["limit"] for each in rounds]
        summary[cell]["of_limit"] = statistics.median(ratios)
        summary[cell]["of_limit_lowest"], summary[cell]["of_limit_highest"] = min(ratios), max(ratios)
    for server in ("nothing", "service"):
        summary[f"{server}_1"]["over_bound_ms"] = statistics.median(
            each[f"{server}_1"]["p50_ms"] - bound_ms(each["bare"], each["echo_1"]) for each in rounds
        )
        for callers in CALLERS[1:]:
            summary[f"{server}_{callers}"]["of_bound"] = statistics.median(
                each[f"{server}_{callers}"]["images_per_s"] / bound(each["bare"], each[f"echo_{callers}"])
                for each in rounds
            )
    return summary


def bound_ms(bare: dict[str, float], echoed: dict[str, float]) -> float:
    """The time of one caller's request where nothing is lost between decode, run and wire."""
    return bare["decode_ms"] + bare["run_ms"] + echoed["p50_ms"]


def bound(bare: dict[str, float], echoed: dict[str, float]) -> float:
    """Images a second for many callers where nothing is lost between the limit and the wire."""
    wire_s = (echoed["server_cpu_ms"] + echoed["client_cpu_ms"]) / 1000
    return 1 / (1 / bare["limit"] + wire_s / cpu.usable())


def table(summary: dict[str, dict[str, float]], stages: dict[int, dict[str, float]]) -> str:
    bare = ", ".join(f"{name} {figure:.2f}" for name, figure in summary["bare"].items())
    lines = [f"bare: {bare}"]
    lines.append(
        f"{'':<13}{'images/s':>10}{'of limit':>10}{'p50 ms':>9}{'p99 ms':>9}{'server CPU':>12}{'client CPU':>12}"
    )
    for cell, figures in summary.items():
        if cell == "bare":
            continue
        lines.append(
            f"{cell.replace('_', ' x '):<13}{figures['images_per_s']:>10.1f}{figures['of_limit']:>10.2f}"
            f"{figures['p50_ms']:>9.1f}{figures['p99_ms']:>9.1f}"
            f"{figures['server_cpu_ms']:>9.2f} ms{figures['client_cpu_ms']:>9.2f} ms"
        )
        if "of_bound" in figures:
            lines[-1] += f"   {figures['of_bound']:.3f} of the bound"
        if "over_bound_ms" in figures:
            lines[-1] += f"   p50 is {figures['over_bound_ms']:+.2f} ms from the bound"
    for callers, means in stages.items():
        spent = ", ".join(f"{stage} {ms:.2f}" for stage, ms in means.items())
        lines.append(f"milliseconds in each stage, service x {callers}: {spent}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
