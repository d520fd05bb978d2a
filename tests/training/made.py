"""What a training and its advice leave, made up, for what draws it; trains nothing."""

import json

from export.run import Geometry
from service.bundle import CropGeometry, Interpolation
from training.advice.evidence import Accuracy, Depth, Evidence, Neighbours, Point, Probe, Size
from training.convergence import Convergence
from training.tuning.plan import Plan
from training.tuning.record import Epoch, Pace, RangeTest, Record, Refit, Settings
from training.tuning.validation import Score

GEOMETRY: Geometry = CropGeometry(72, 64, 64, Interpolation.INTERPOLATION_BILINEAR)
STEPS = 40


def accuracy(value: float) -> Accuracy:
    return Accuracy(value=value, error=0.02)


def probe(tap: str, value: float, stride: int | None) -> Probe:
    return Probe(tap=tap, stride=stride, width=24, accuracy=accuracy(value), learnt=value, penalty=0.1, log_me=0.0)


def evidence() -> Evidence:
    probes = (probe("c1", 0.5, 2), probe("c5", 0.75, 32), probe("b4", 0.7, None), probe("embedding", 0.8, None))
    counted = ((10, 5, 0.5), (100, 50, 0.7), (200, None, 0.8))
    return Evidence(
        backbone="small",
        weights_sha256="d" * 64,
        geometry=GEOMETRY,
        data_sha256="a" * 64,
        size=Size(images=240, classes=2, scarcest=100, commonest=140, looked_at=240),
        chance=0.58,
        separability=0.5,
        probes=probes,
        depth=Depth(best="embedding", last="embedding", gain=0, error=0.01, simplest="embedding"),
        curve=tuple(Point(images=n, per_class=each, accuracy=accuracy(value)) for n, each, value in counted),
        neighbours=Neighbours(count=20, accuracy=accuracy(0.7), contradicted=0.01),
        source=None,
        shift=None,
        missing=(),
    )


def score(right: float) -> Score:
    return Score(images=50, accuracy=right, weighed=right, log_loss=1 - right)


def record(validated: bool = True, best: int | None = 1) -> Record:
    rates = tuple(10.0**power for power in range(-5, 0))
    tested = RangeTest(rates=rates, losses=(0.7, 0.69, 0.5, 0.4, 9.0), harmless=1e-3, diverged=1e-1, chosen=1e-3)
    return Record(
        plan=Plan(unfreeze_from="c4", epochs=2),
        settings=Settings(
            precision="fp32",
            channels_last=True,
            compile=False,
            paces=(
                Pace(precision="fp32", channels_last=True, images_per_s=40.5, cosine=1.0, refused=None),
                Pace(precision="bf16", channels_last=True, images_per_s=60.0, cosine=0.5, refused="too far off"),
            ),
            rate=0.001,
            rate_rule="range test",
            range_test=tested,
            notes=(),
        ),
        steps=STEPS,
        history=tuple(
            Epoch(number=number, loss=0.6 - number / 10, score=score(right) if validated else None, seconds=12.5)
            for number, right in enumerate((0.72, 0.78))
        ),
        start=score(0.7) if validated else None,
        best=best,
        stopped_early=False,
        frozen_sha256="e" * 64,
        notes=("The gradient was cut in most steps.",),
        seconds=25.0,
        refit=Refit(
            images=26,
            features=1448,
            convergence=Convergence(iterations=31, gradient=8e-4, tolerance=1e-3, converged=True),
            before=score(0.78) if validated else None,
            after=score(0.81) if validated else None,
        ),
    )


def curves(steps: int = STEPS) -> str:
    lines = [
        {"step": step, "loss": 1 - step / (2 * steps), "rate": 1e-3 * (1 - step / steps), "gradient_norm": 1.0}
        for step in range(1, steps + 1)
    ]
    ends = [{"step": steps, "epoch": 1, "epoch_loss": 0.5, "epoch_seconds": 12.5}]
    return "".join(json.dumps(line) + "\n" for line in (*lines, *ends))
