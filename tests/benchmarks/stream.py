"""One stream against sixteen callers, both asking the same service for embeddings, in interleaved rounds.

    python -m tests.benchmarks.stream --repository .demo/alone [--images PATH]

callers  Embed with one image a request, by sixteen coroutines that send ready bytes
stream   one Client.embed_stream, as a program would use it

Callers and stream share the cores with the service. Every figure is the median of the rounds. Ratios are of figures of
the same round.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.benchmarks import pictures, results
from tests.benchmarks.serving import Server, cpu_s, load_from, served
from vertebra.client import Client
from vertebra.v1 import vision_pb2

CALLERS = 16
EMBED = "/vertebra.v1.Vision/Embed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, default=Path(".demo/alone"))
    parser.add_argument(
        "--images", type=Path, help="a folder or .tar of JPEG files; cuts of scikit-learn's photographs if none"
    )
    parser.add_argument("--count", type=int, default=400, help="how many images a cell is measured on")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    files = pictures.read(arguments.images, arguments.count)
    requests = [request_for(file) for file in files]
    rounds: list[dict[str, dict[str, float]]] = []
    for number in range(arguments.rounds):
        with served(arguments.repository) as service:
            callers = asdict(load_from(service, EMBED, requests, CALLERS))
            rounds.append({"callers": callers, "stream": stream_from(service, files)})
        print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr, flush=True)
    summary = summarise(rounds)
    file = results.keep("stream", {"images": len(files), "summary": summary, "rounds": rounds})
    for name, value in summary.items():
        print(f"{name:<36}{value:>8.2f}")
    print(f"kept in {file}")


def request_for(file: bytes) -> bytes:
    return vision_pb2.EmbedRequest(images=[vision_pb2.Image(encoded=file)]).SerializeToString()


def stream_from(server: Server, files: Sequence[bytes]) -> dict[str, float]:
    """As serving.load(): the first tenth warms up."""
    with Client(server.address) as client:
        for _ in client.embed_stream(files[: len(files) // 10]):
            pass
        cpu_before_s, own_before_s, started_s = cpu_s(server.process), time.process_time(), time.perf_counter()
        vectors = [result.vector for result in client.embed_stream(files) if not isinstance(result, Exception)]
        duration_s = time.perf_counter() - started_s
        own_s, server_s = time.process_time() - own_before_s, cpu_s(server.process) - cpu_before_s
    if len(vectors) != len(files):
        raise SystemExit(f"Expected {len(files)} embeddings. Received: {len(vectors)}.")
    each_ms = 1000 / len(files)
    return {
        "images_per_s": len(files) / duration_s,
        "server_cpu_ms": server_s * each_ms,
        "client_cpu_ms": own_s * each_ms,
    }


def summarise(rounds: Sequence[dict[str, dict[str, float]]]) -> dict[str, float]:
    """Medians over the rounds, of figures and of ratios within a round."""
    cells = {
        f"{cell}_{figure}": statistics.median(each[cell][figure] for each in rounds)
        for cell in ("callers", "stream")
        for figure in ("images_per_s", "server_cpu_ms", "client_cpu_ms")
    }
    ratios = [each["stream"]["images_per_s"] / each["callers"]["images_per_s"] for each in rounds]
    spread = {"lowest": min(ratios), "median": statistics.median(ratios), "highest": max(ratios)}
    return cells | {f"stream_of_callers_{name}": value for name, value in spread.items()}


if __name__ == "__main__":
    main()
