"""The same head for ten epochs: through eager torch on the frozen backbone, and on features that were cached once.

    python -m tests.benchmarks.bottleneck [--images 1000]

Both see the same solar cells in the same order and begin with the same layer. Eager torch gets its pixels decoded, in
memory, and runs the frozen backbone in channels_last without gradients; the cache decodes, runs the serving engine once
and writes what it gives to a disk that held nothing. Making the engine's graph, which any later run finds in the cache,
is told apart. Rounds are interleaved; figures are medians.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from service import image
from service.bundle import sha256_of
from tests.benchmarks import elpv, results
from training import backbones, features
from training.dataset import Sample
from training.taps import Taps
from training.views import PLAIN

EPOCHS, BATCH, LEARNING_RATE, MOMENTUM = 10, 64, 0.01, 0.9
CARD = backbones.card("efficientnet_lite0")
GEOMETRY = backbones.sized(CARD, elpv.CROP_PX, elpv.CROP_PX)


@dataclass(frozen=True)
class Images:
    """Cells to learn from and cells to test on."""

    train: list[Sample]
    test: list[Sample]

    def labels(self, samples: list[Sample]) -> Tensor:
        return torch.tensor([sample.label for sample in samples])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    images = choose(arguments.images)
    rounds = [one_round(images) for _ in range(arguments.rounds)]
    summary = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    summary["ratio"] = summary["eager_s"] / summary["cached_s"]
    summary["ratio_with_graph"] = summary["eager_s"] / (summary["cached_s"] + summary["graph_s"])
    summary["ratio_of_a_second_head"] = summary["eager_s"] / summary["head_s"]
    for name, value in summary.items():
        print(f"{name:<24}{value:>10.3f}")
    print(f"kept in {results.keep('bottleneck', {'images': arguments.images, 'summary': summary, 'rounds': rounds})}")


def one_round(images: Images) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        return {**cached(images, Path(folder)), **eager(images)}


def eager(images: Images) -> dict[str, float]:
    """Ten epochs through the backbone."""
    module = Taps(backbones.pretrained(CARD), CARD.backbone, CARD.scaling).to(memory_format=torch.channels_last)
    pixels = decode(images.train)

    def embed(batch: Tensor) -> Tensor:
        with torch.no_grad():
            embedding: Tensor = module.train()(batch)["embedding"]
        return embedding

    started_s = time.perf_counter()
    layer = train(lambda batch: embed(pixels[batch]), images.labels(images.train))
    seconds = time.perf_counter() - started_s
    tested = torch.cat([embed(batch) for batch in torch.split(decode(images.test), BATCH)])
    return {"eager_s": seconds, "eager_accuracy": accuracy(layer, tested, images.labels(images.test))}


def cached(images: Images, cache: Path) -> dict[str, float]:
    """One pass through the engine, and ten epochs on what it gave."""
    started_s = time.perf_counter()
    extractor = features.extractor(CARD, GEOMETRY, cache)
    graph_s = time.perf_counter() - started_s
    started_s = time.perf_counter()
    features.extract(images.train, (PLAIN,), extractor, cache, lambda _: None)
    embedding = rows(images.train, extractor, cache)
    extract_s = time.perf_counter() - started_s
    layer = train(lambda batch: embedding[batch], images.labels(images.train))
    cached_s = time.perf_counter() - started_s
    features.extract(images.test, (PLAIN,), extractor, cache, lambda _: None)
    tested = rows(images.test, extractor, cache)
    return {
        "graph_s": graph_s,
        "extract_s": extract_s,
        "head_s": cached_s - extract_s,
        "cached_s": cached_s,
        "cached_accuracy": accuracy(layer, tested, images.labels(images.test)),
    }


def rows(samples: list[Sample], extractor: features.Extractor, cache: Path) -> Tensor:
    return torch.from_numpy(features.rows(samples, PLAIN, extractor, cache, ["embedding"])["embedding"])


def train(embed: Callable[[Tensor], Tensor], labels: Tensor) -> nn.Linear:
    """Ten epochs of a linear layer by SGD, on embeddings of images that are asked for by their places."""
    torch.manual_seed(0)
    layer = nn.Linear(1280, len(elpv.LABELS))
    optimizer = torch.optim.SGD(layer.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    for _ in range(EPOCHS):
        for batch in torch.split(torch.randperm(len(labels)), BATCH):
            optimizer.zero_grad()
            torch.autograd.backward(functional.cross_entropy(layer(embed(batch)), labels[batch]))
            optimizer.step()
    return layer


def accuracy(layer: nn.Linear, embedding: Tensor, labels: Tensor) -> float:
    return float((layer(embedding).argmax(dim=1) == labels).double().mean())


def decode(samples: list[Sample]) -> Tensor:
    pictures = [image.read(sample.path.read_bytes(), GEOMETRY, image.ImageLimits()) for sample in samples]
    return torch.from_numpy(np.stack(pictures))


def choose(count: int) -> Images:
    """So many cells to learn from, and half as many others to test on."""
    cells = elpv.read()
    chosen = np.random.default_rng(0).permutation(len(cells.paths))[: count + count // 2]
    samples = [
        Sample(path, bytes.fromhex(sha256_of(path)), int(cells.probabilities[index] > 0.4), 1.0, None)
        for index, path in ((index, Path(cells.paths[index])) for index in chosen)
    ]
    return Images(samples[:count], samples[count:])


if __name__ == "__main__":
    main()
