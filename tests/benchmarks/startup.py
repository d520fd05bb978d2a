"""How soon a fresh process serves, and what it holds then.

python -m tests.benchmarks.startup --repository .demo/alone
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.benchmarks import results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, default=Path(".demo/alone"))
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    rounds = [start(arguments.repository) for _ in range(arguments.rounds)]
    summary = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    for name, figure in summary.items():
        print(f"{name:<16}{figure:>8.2f}")
    print(f"kept in {results.keep('startup', {'summary': summary, 'rounds': rounds})}")


def start(repository: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "service", "--repository", str(repository)]
    command += ["--address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0"]
    started_s = time.perf_counter()
    figures: dict[str, float] = {}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            for text in process.stderr:
                message = json.loads(text)["message"]
                if message in ("listening", "serving"):
                    figures[f"{message}_s"] = time.perf_counter() - started_s
                if message == "serving":
                    break
            figures["resident_mb"] = psutil.Process(process.pid).memory_info().rss / 1e6
        finally:
            process.terminate()
    return figures


if __name__ == "__main__":
    main()
