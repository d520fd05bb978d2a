"""The head behind a fine-tuning as it was trained, and fitted anew to every tap: which answers more test images right?

    python -m tests.benchmarks.refit --data cifar10.tar [--seeds 1]

CIFAR-10 at 96 px, EfficientNet-Lite0, by images a class; the late stages, or everything. Each training is made twice,
without and with the head fitted anew (`--plan refit_head=false`), of the same seed and so with the same backbone at its
end. All are tested on the same 2,000 test images. A cell is kept as soon as it is measured.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks import cifar10, crossing, results, trial
from tests.benchmarks.trial import Trial
from training.advice.candidates import Regime

SIZES = ((10, 10), (10, 50), (10, 250), (2, 250))
CROP_PX = 96
# What is measured to be faster could come out otherwise the second time, and another backbone with it.
FIXED = {"precision": "bf16", "channels_last": True}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="cifar10.tar or its folder: train and test folders")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path(".demo/cache"), help="where features are kept")
    arguments = parser.parse_args()
    print(f"{'':<60}{'trained':>9}{'anew':>9}{'ahead':>16}")
    with tempfile.TemporaryDirectory() as folder:
        data = cifar10.unpacked(arguments.data, Path(folder))
        for seed in range(arguments.seeds):
            for classes, count in SIZES:
                for way in crossing.TUNED:
                    key = f"{way}, {classes} classes, {count} a class, seed {seed}"
                    cell = results.cell(
                        "refit", key, partial(measure, data, way, classes, count, seed, arguments.cache)
                    )
                    gain = f"{100 * cell['ahead']:+.1f} ± {100 * cell['error']:.1f}"
                    print(f"{key:<60}{cell['trained']:>9.1%}{cell['anew']:>9.1%}{gain:>16}")


def measure(data: Path, way: Regime, classes: int, count: int, seed: int, cache: Path) -> dict[str, Any]:
    rows = crossing.draw(data, classes, count, seed)
    trained, anew = (
        Trial(way, CROP_PX, cache, seed, changes={**FIXED, "refit_head": each}).fit(rows) for each in (False, True)
    )
    right = trial.right(anew), trial.right(trained)
    ahead, error = trial.ahead(*right)
    assert anew.result.way.tuning is not None  # it was asked for
    return {
        "trained": float(right[1].mean()),
        "anew": float(right[0].mean()),
        "ahead": ahead,
        "error": error,
        "log_loss": {"trained": trained.result.scores["test"].log_loss, "anew": anew.result.scores["test"].log_loss},
        "epochs": len(anew.result.way.tuning.history),
        "refit_seconds": anew.result.seconds["refit the head"],
        "test_images": len(right[0]),
    }


if __name__ == "__main__":
    main()
