"""Defective solar cells: `fit` on elpv-dataset, 75/25, stratified by label and type.

    python -m tests.benchmarks.elpv [--seeds 10] [--views 0]
    python -m tests.benchmarks.elpv --regime auto --seeds 3 [--time-limit-min 45]

The second lets the evidence say whether the backbone is fine-tuned, too. Three protocols: defective from a probability
of 0.5 on; defective above 0; and the first again with pictures of the same cell kept on one side of the split, for
which near-duplicates, as the data check finds them, are joined to groups. Cells that are mono- and polycrystalline are
told apart in each. A cell of the table is kept as soon as it is measured: a second run goes on where the first was
stopped, in the middle of a fine-tuning, too.
"""

import argparse
import statistics
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from service import image
from tests.benchmarks import results, trial
from tests.benchmarks.trial import Row, Trial
from training import twins

DATA = Path(str(resources.files("elpv_dataset") / "data"))
FOLDS = 4  # one of them is a quarter
CROP_PX = 224  # and the resize: the whole frame
LABELS = np.array(["functional", "defective"])


@dataclass(frozen=True)
class Protocol:
    """Which cells count as defective, and whether copies of a cell may lie on both sides of the split."""

    name: str
    defective_above: float
    grouped: bool


PROTOCOLS = (
    Protocol("defective from 0.5", 0.4, False),  # the probabilities are 0, 1/3, 2/3 and 1
    Protocol("defective above 0", 0.0, False),
    Protocol("defective from 0.5, copies on one side", 0.4, True),
)


@dataclass(frozen=True)
class Cells:
    """All cells: `[2624]` each."""

    paths: NDArray[np.str_]
    probabilities: NDArray[np.float64]
    types: NDArray[np.str_]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--views", type=int, default=0, help="as for vertebra-train fit")
    parser.add_argument("--regime", choices=("small-similar", "auto"), default="small-similar")
    parser.add_argument("--time-limit-min", type=float, default=45, help="of one model, where the regime is auto")
    parser.add_argument("--crop-px", type=int, default=CROP_PX, help="the side of what the backbone sees")
    parser.add_argument("--cache", type=Path, default=Path(".demo/cache"), help="where features are kept")
    arguments = parser.parse_args()
    trial_of = partial(Trial, arguments.regime, arguments.crop_px, arguments.cache, views=arguments.views)
    said = "" if arguments.crop_px == CROP_PX else f"{arguments.crop_px} px, "
    if arguments.regime == "auto":
        # A module may be mounted either way up: what is augmented is turned, as Deitsch and others did.
        trial_of = partial(trial_of, turns=True, limit_s=60 * arguments.time_limit_min)
        said += f"auto in {arguments.time_limit_min:g} min, "
    for protocol in PROTOCOLS:
        found = [
            results.cell(
                "elpv",
                f"{protocol.name}, {said}{arguments.views} views, seed {seed}",
                partial(measure, protocol, trial_of(seed=seed)),
            )
            for seed in range(arguments.seeds)
        ]
        print(f"{protocol.name}, {said}{arguments.views} views, {len(found)} seeds:")
        for name in ("accuracy", "balanced_accuracy", "macro_f1", "mono", "poly", "leaks"):
            values = [float(each[name]) for each in found]
            deviation = f", deviation {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            print(f"  {name:<18} mean {statistics.mean(values):.4f}{deviation}")


def measure(protocol: Protocol, made_by: Trial) -> dict[str, object]:
    found = read()
    is_defective = found.probabilities > protocol.defective_above
    test = draw(found, is_defective, made_by.seed, protocol.grouped)
    made = made_by.fit(
        Row(
            Path(path),
            str(LABELS[int(is_defective[index])]),
            "test" if test[index] else "train",
            str(copies()[index]) if protocol.grouped else "",
        )
        for index, path in enumerate(found.paths)
    )
    held_out, scores, way = made.held_out["test"], made.result.scores["test"], made.result.way
    right = trial.right(made)
    places = {path: index for index, path in enumerate(found.paths)}
    shown = [places[str(path)] for path in held_out.paths]
    kinds, probabilities = found.types[shown], found.probabilities[shown]
    return {
        "accuracy": scores.accuracy.value,
        "balanced_accuracy": scores.balanced_accuracy.value,
        "macro_f1": scores.macro_f1.value,
        "mono": float(right[kinds == "mono"].mean()),
        "poly": float(right[kinds == "poly"].mean()),
        # What part is right of the cells that the experts were so sure of.
        "by_probability": {
            f"{each:.2f}": float(right[probabilities == each].mean()) for each in np.unique(probabilities)
        },
        "test_images": len(right),
        "leaks": len(made.result.data.leaks),
        "taps": len(made.run.head.taps),
        "regime": way.regime,
        "trains": way.trains,
        "epochs": len(way.tuning.history) if way.tuning else 0,
        "heats": [heat.model_dump() for heat in way.race.heats] if way.race else [],
    }


@cache
def read() -> Cells:
    lines = [line.split() for line in (DATA / "labels.csv").read_text().splitlines()]
    names, probabilities, types = zip(*lines, strict=True)
    return Cells(np.array([str(DATA / name) for name in names]), np.array(probabilities, float), np.array(types))


def draw(cells: Cells, is_defective: NDArray[np.bool_], seed: int, grouped: bool) -> NDArray[np.bool_]:
    """Which cells to test on: a quarter, with the same share of each label and type as in all."""
    strata = np.char.add(is_defective.astype(int).astype(str), cells.types)
    everything = np.arange(len(strata))
    if grouped:
        folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
        _, chosen = next(iter(folds.split(everything, strata, copies())))
    else:
        _, chosen = train_test_split(everything, test_size=1 / FOLDS, random_state=seed, stratify=strata)
    test = np.zeros(len(strata), bool)
    test[chosen] = True
    return test


@cache
def copies() -> NDArray[np.int64]:
    """The group of each cell: those that near-duplicates lead to from it, and it alone where there are none."""
    sketches = np.stack(
        [twins.sketch(image.decode(Path(path).read_bytes(), image.ImageLimits())) for path in read().paths]
    )
    group = np.arange(len(sketches))
    for index in range(len(sketches)):
        others = np.delete(np.arange(len(sketches)), index)
        (found,) = twins.find(sketches[index : index + 1], sketches[others], lambda _: None)
        if found >= 0:
            twin = others[found]
            group[group == group[twin]] = group[index]
    return group


if __name__ == "__main__":
    main()
