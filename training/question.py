"""Which images, and which backbone, a command is asked about; opens neither."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from training.advice.candidates import Regime
from training.dataset import Plan

AUTO = "auto"


@dataclass(frozen=True)
class Question:
    """Which images, and which backbone, are asked for.

    Attributes:
        source: A folder or table of labelled images, or a name that `named.find.table` knows.
        plan: How they are checked and split.
        backbone: The backbone's name, or "auto".
        cache: The folder of what is computed once.
        weights: A file of weights to take instead of the published ones.
        download: Whether weights and a data set may be fetched.
        resize_px: What the shorter side becomes; None for the backbone's own.
        crop_px: The side of the square that is cut out; None for the backbone's own.
        regime: What is to be done with the backbone: "scratch" needs no weights, "as-is" a backbone that knows all of
            the labels.
        limit_s: How long all of it may take about, in seconds, the choice of a backbone included.
    """

    source: Path
    plan: Plan
    backbone: str
    cache: Path
    weights: Path | None = None
    download: bool = False
    resize_px: int | None = None
    crop_px: int | None = None
    regime: Regime | Literal["auto"] = "auto"
    limit_s: float = math.inf
