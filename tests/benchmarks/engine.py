"""What the memory arena and spinning threads cost and give, and OpenVINO beside ONNX Runtime's own CPU provider.

    python -m tests.benchmarks.engine --repository .demo/alone

Each variant runs in a process of its own, alone and beside a neighbour that keeps one core busy; rounds are interleaved
and every figure is the median of the rounds. Variants of OpenVINO are left out where it is not installed.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from service import bundle as bundles
from service import cpu, providers
from service.errors import ProviderMissing
from service.repository import scan
from service.runtime import ort
from tests.benchmarks import results

BATCH_SIZES = (1, 2, 4, 8, 16)
IMAGES = 96


@dataclass(frozen=True)
class Variant:
    provider: providers.Choice = "cpu"
    arena: bool = False
    spinning: bool = False


VARIANTS = {
    "as served": Variant(),
    "arena": Variant(arena=True),
    "spinning": Variant(spinning=True),
    "openvino": Variant("openvino"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, default=Path(".demo/alone"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.variant:
        print(json.dumps(measure(arguments.repository, VARIANTS[arguments.variant])))
        return
    rounds = []
    for number in range(arguments.rounds):
        rounds.append(one_round(arguments.repository))
        print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr, flush=True)
    summary = {
        cell: {name: statistics.median(each[cell][name] for each in rounds) for name in rounds[0][cell]}
        for cell in rounds[0]
    }
    file = results.keep("engine", {"summary": summary, "rounds": rounds})
    for cell, figures in summary.items():
        speeds = "  ".join(f"{figures[f'images_per_s_{size}']:6.1f}" for size in BATCH_SIZES)
        print(f"{cell:<32} images/s at batch {BATCH_SIZES}: {speeds}   resident {figures['resident_mb']:.0f} MB")
    print(f"kept in {file}")


def one_round(repository: Path) -> dict[str, dict[str, float]]:
    figures = {}
    for neighbour, variant in itertools.product((False, True), possible()):
        command = [sys.executable, "-m", "tests.benchmarks.engine", "--repository", str(repository)]
        with busy_neighbour(neighbour):
            done = subprocess.run([*command, "--variant", variant], capture_output=True, text=True, check=True)
        cell = f"{variant}, beside a busy neighbour" if neighbour else variant
        figures[cell] = json.loads(done.stdout)
    return figures


def possible() -> Iterator[str]:
    for name, variant in VARIANTS.items():
        try:
            providers.find(variant.provider)
            yield name
        except ProviderMissing as error:
            print(f"{name} is left out: {error}", file=sys.stderr)


def measure(repository: Path, variant: Variant) -> dict[str, float]:
    (path,) = scan(repository).values()
    options = ort.SessionOptions()
    options.intra_op_num_threads = cpu.usable()
    options.enable_cpu_mem_arena = variant.arena
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(variant.spinning)))
    graph = bundles.load(path).graph.read_bytes()
    started_s = time.perf_counter()
    session = providers.session(graph, providers.find(variant.provider), options)
    figures = {"load_s": time.perf_counter() - started_s}
    height, width = session.get_inputs()[0].shape[1:3]
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH_SIZES[-1], height, width, 3), np.uint8)
    for size in BATCH_SIZES:
        batch = pixels[:size]
        started_s = time.perf_counter()
        session.run(None, {"pixels": batch})
        figures[f"first_ms_{size}"] = (time.perf_counter() - started_s) * 1000
        before, started_s = psutil.Process().cpu_times(), time.perf_counter()
        for _ in range(IMAGES // size):
            session.run(None, {"pixels": batch})
        figures[f"images_per_s_{size}"] = IMAGES / (time.perf_counter() - started_s)
        after = psutil.Process().cpu_times()
        figures[f"user_ms_{size}"] = (after.user - before.user) / IMAGES * 1000
        figures[f"system_ms_{size}"] = (after.system - before.system) / IMAGES * 1000
    figures["resident_mb"] = psutil.Process().memory_info().rss / 1e6
    return figures


@contextmanager
def busy_neighbour(wanted: bool) -> Iterator[None]:
    """One process that never rests, for as long as the block runs."""
    if not wanted:
        yield
        return
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


if __name__ == "__main__":
    main()
