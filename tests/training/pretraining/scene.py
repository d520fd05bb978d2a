"""Pictures to learn from, and an order that a few seconds are enough for."""

from pathlib import Path
from typing import Any

from tests.training.test_fit import COLOURS, draw
from training.pretraining.pretrain import Order

IMAGES = 12  # in batches of six, two steps an epoch


def pictures(folder: Path, count: int = IMAGES) -> Path:
    for number in range(count):
        draw(folder / f"{number:02}.png", list(COLOURS.values())[number % 3], number)
    return folder


def order(source: Path, folder: Path, **changed: Any) -> Order:
    given: dict[str, Any] = {
        "source": source,
        "on_bad": "error",
        "backbone": "small",
        "method": "denoising",
        "start": "random",
        "weights": None,
        "download": False,
        "resize_px": 32,
        "crop_px": 32,
        "epochs": 2,
        "batch_size": 6,
        "rate": None,
        "turns": False,
        "seed": 0,
        "cache": folder / "cache",
        "out": folder / "runs/pre",
    }
    return Order(**{**given, **changed})
