"""What the memory arena and spinning threads cost and give: why service/engine.py switches both off.

    python -m tests.benchmarks.engine --repository .demo/alone

Each variant runs in a process of its own, alone and beside a neighbour that keeps one core busy; rounds are interleaved
and every figure is the median of the rounds.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime as ort
import psutil

from service import bundle as bundles
from service import cpu
from service.repository import scan
from tests.benchmarks import results

BATCH_SIZES = (1, 2, 4, 8, 16)
VARIANTS = {
    "as served": {"arena": False, "spinning": False},
    "arena": {"arena": True, "spinning": False},
    "spinning": {"arena": False, "spinning": True},
}
IMAGES = 96


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, default=Path(".demo/alone"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.variant:
        print(json.dumps(measure(arguments.repository, **VARIANTS[arguments.variant])))
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
    for neighbour in (False, True):
        for variant in VARIANTS:
            command = [sys.executable, "-m", "tests.benchmarks.engine", "--repository", str(repository)]
            with busy_neighbour(neighbour):
                done = subprocess.run([*command, "--variant", variant], capture_output=True, text=True, check=True)
            cell = f"{variant}, beside a busy neighbour" if neighbour else variant
            figures[cell] = json.loads(done.stdout)
    return figures


def measure(repository: Path, arena: bool, spinning: bool) -> dict[str, float]:
    (path,) = scan(repository).values()
    options = ort.SessionOptions()
    options.intra_op_num_threads = cpu.usable()
    options.enable_cpu_mem_arena = arena
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    session = ort.InferenceSession(bundles.load(path).graph, options, providers=["CPUExecutionProvider"])
    height, width = session.get_inputs()[0].shape[1:3]
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH_SIZES[-1], height, width, 3), np.uint8)
    figures: dict[str, float] = {}
    for size in BATCH_SIZES:
        batch = pixels[:size]
        session.run(None, {"pixels": batch})
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
