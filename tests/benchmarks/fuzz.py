"""Reads 20,000 files changed at random: no crash, no hang, no growth.

    python -m tests.benchmarks.fuzz [--count N]

Hypothesis changes whole files of every format in this process, and another one reads them, all of them twice: what the
heap needs for files of all kinds it has after the first time, and what grows the second time is lost. Kept are how many
were read and refused, the slowest, and how much memory the reader held on the way.
"""

import argparse
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings

from service import image
from tests.benchmarks import results
from tests.mutations import mutated
from tests.reader import Outcome, Reader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    count = parser.parse_args().count
    inputs: list[bytes] = []

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(mutated())
    def draw(data: bytes) -> None:
        inputs.append(data)

    draw()
    started_s = time.perf_counter()
    # A crash or a hang ends this.
    with Reader() as reader:
        first, again = ([reader.read(data) for data in inputs] for _ in range(2))
        said = reader.said()
    figures = summary(inputs, first, again) | {"stderr": said, "seconds": round(time.perf_counter() - started_s, 1)}
    for name, figure in figures.items():
        print(f"{name:<24}{figure}")
    print(f"kept in {results.keep('fuzz', figures)}")


def summary(inputs: Sequence[bytes], first: Sequence[Outcome], again: Sequence[Outcome]) -> dict[str, object]:
    """Counts, the slowest and the largest, and how memory went."""
    seconds = [each.seconds for each in first]
    became = Counter(
        f"{image.format_of(data)} {'refused' if outcome.refusal else 'read'}"
        for data, outcome in zip(inputs, first, strict=True)
    )
    return {
        "inputs": len(inputs),
        "read": sum(not each.refusal for each in first),
        "became": dict(sorted(became.items())),
        "slowest_ms": round(max(seconds) * 1000, 1),
        "median_ms": round(float(np.median(seconds)) * 1000, 2),
        "slowest_weighing_ms": round(max(each.weighing_s for each in first) * 1000, 2),
        "largest_peak_mb": round(max(each.peak_bytes for each in first) / 1e6, 1),
        "held_mb": [round(each.held_bytes / 1e6, 2) for each in (first[0], first[-1], again[-1])],
        "mb_per_1000_inputs": [mb_per_1000(each) for each in (first, again)],
    }


def mb_per_1000(outcomes: Sequence[Outcome]) -> float:
    """The slope of the memory that is held."""
    slope = np.polyfit(np.arange(len(outcomes)), [each.held_bytes / 1e6 for each in outcomes], 1)[0]
    return round(float(slope) * 1000, 4)


if __name__ == "__main__":
    main()
