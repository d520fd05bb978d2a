"""What it brings to keep the memory that a step on a CPU frees: steps of EfficientNet-Lite0, with and without.

    python -m tests.benchmarks.allocator

Drawn pixels, everything trains, bfloat16, channels last; processes of their own, in turn, and the medians of all their
steps but the first three. Page faults are how often the system made a page of memory ready.
"""

import multiprocessing
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric

from tests.benchmarks import results
from tests.benchmarks.compiled import CLASSES, SEED, tunable
from training.tuning import memory
from training.tuning.batches import Batch
from training.tuning.loss import Objective

CROPS_PX = (96, 160, 224, 256)
BATCH, ROUNDS, UNCOUNTED, STEPS = 32, 4, 3, 6


def main() -> None:
    for crop_px in CROPS_PX:
        cell = results.cell("allocator", f"{crop_px} px, {BATCH} images a step", partial(measure, crop_px))
        print(f"{crop_px:4} px {cell['given_back']['images_per_s']:7.1f} {cell['kept']['images_per_s']:7.1f}")


def measure(crop_px: int) -> dict[str, Any]:
    found: dict[str, list[tuple[list[float], int]]] = {"given_back": [], "kept": []}
    for _ in range(ROUNDS):
        for name, each in found.items():
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                each.append(process.submit(steps, crop_px, name == "kept").result())
    figures: dict[str, Any] = {
        name: {
            "images_per_s": BATCH / statistics.median(each for seconds, _ in rounds for each in seconds),
            "page_faults_a_step": round(statistics.fmean(faults for _, faults in rounds) / STEPS),
        }
        for name, rounds in found.items()
    }
    return {"seed": SEED, **figures}


def steps(crop_px: int, kept: bool) -> tuple[list[float], int]:
    """The seconds of every step, and the page faults of all."""
    if kept and not memory.keep(torch.device("cpu")):
        raise RuntimeError("Expected the allocator of glibc. Received: another one.")
    torch.manual_seed(SEED)
    pixels = torch.randint(0, 256, (BATCH, crop_px, crop_px, 3), dtype=torch.uint8)
    batch = Batch(pixels, torch.eye(CLASSES)[torch.randint(0, CLASSES, (BATCH,))], torch.ones(BATCH))
    model = tunable().to(memory_format=torch.channels_last)
    objective = Objective(Fabric(accelerator="cpu", devices=1), 0.0, None, bf16=True, channels_last=True)
    descent = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step() -> float:
        started_s = time.perf_counter()
        loss = objective.loss(model, batch)
        descent.zero_grad()
        torch.autograd.backward(loss)
        descent.step()
        return time.perf_counter() - started_s

    for _ in range(UNCOUNTED):
        step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    seconds = [step() for _ in range(STEPS)]
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


if __name__ == "__main__":
    main()
