"""What `torch.compile` takes and gives: steps of a fine-tuning of EfficientNet-Lite0, plain and compiled.

    python -m tests.benchmarks.compiled

Drawn pixels, everything trains, fp32; medians over the steps that come after the first, in which torch compiles.
"""

import os
import statistics
import tempfile
import time
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from tests.benchmarks import results, trial
from training import backbones, heads
from training.parts import parts
from training.taps import TappedBackbone
from training.tuning.model import Tunable
from training.tuning.plan import Plan

CROP_PX, BATCH, CLASSES, STEPS, SEED = 96, 64, 10, 20, 0


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        # Or a second time would find what was compiled the first.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        for name in ("plain", "compiled"):
            results.cell("compiled", f"{CROP_PX} px, {BATCH} images a step, {name}", partial(measure, name))


def measure(name: str) -> dict[str, Any]:
    torch.manual_seed(SEED)
    pixels = torch.randint(0, 256, (BATCH, CROP_PX, CROP_PX, 3), dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (BATCH,))
    model = tunable()
    answer: Any = torch.compile(model) if name == "compiled" else model
    descent = torch.optim.SGD(model.parameters(), lr=1e-5)

    def step() -> float:
        started_s = time.perf_counter()
        loss = functional.cross_entropy(answer(pixels), labels)
        descent.zero_grad()
        torch.autograd.backward(loss)
        descent.step()
        return time.perf_counter() - started_s

    first_s = step()
    return {"seed": SEED, "first_s": first_s, "images_per_s": BATCH / statistics.median(step() for _ in range(STEPS))}


def tunable() -> Tunable:
    card = backbones.ready(backbones.card(trial.BACKBONE))
    backbone, _ = backbones.parted(backbones.pretrained(card))
    tapped = TappedBackbone(backbone, card.backbone, card.scaling)
    head = heads.LinearHead(("embedding",), 1280, CLASSES)
    model = Tunable(tapped, head, ("embedding",), card.backbone, parts(backbone, card.backbone))
    model.arrange(Plan(unfreeze_from=card.backbone.stages[0].name))
    return model.train()


if __name__ == "__main__":
    main()
