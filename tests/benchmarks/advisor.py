"""The advisor against trying everything: `fit --regime auto`, and every regime by itself, on a dozen small data sets.

    python -m tests.benchmarks.advisor --cifar10 cifar10.tar --imagenet imagenet-samples.tar [--sets NAME ...]

Every regime has at most five minutes, and all of them one cache. `auto` has a fifth of what they took together for the
same images, and a cache of its own: what it costs to choose is in its seconds. The engine's graph, made once for a
backbone and a size and not for a data set, is there for both. Its regret is what the best regime answers
more of the test images rightly; as the best is the one that these images like best, chance makes regrets larger, not
smaller. Time decides here, so nothing else should run. Figures on ImageNet's samples are optimistic: these are probably
what the backbone learnt from. A cell is kept as soon as it is measured: a second run goes on where the first stopped.
"""

import argparse
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.benchmarks import cifar10, elpv, results, trial
from tests.benchmarks.trial import Row, Trial
from training import backbones, features
from training.advice.candidates import Regime
from training.advice.decide import Decision

CROP_PX, SEED = 96, 0
LIMIT_S = 300.0
SHARE = 0.2
# All but as-is: none of these data sets has the labels of the published model.
REGIMES: tuple[Regime, ...] = ("small-similar", "small-different", "large-similar", "large-different", "scratch")
VEHICLES = ("airplane", "automobile", "ship", "truck")
# Classes of ImageNet by their places in the order of their ids, half open.
ANIMALS, THINGS = ((0, 398),), ((398, 924),)
DOGS, OTHER_MAMMALS = ((151, 269),), ((269, 300), (330, 389))
GROUPS = {
    "bird": ((7, 25), (80, 101), (127, 147)),
    "reptile": ((33, 69),),
    "hound": ((159, 179),),
    "insect": ((300, 327),),
    "primate": ((365, 385),),
    "hoofed": ((339, 356),),
}

PHOTOGRAPHS: dict[str, Mapping[str, Sequence[tuple[int, int]]]] = {
    "ImageNet, animals and things": {"animal": ANIMALS, "thing": THINGS},
    "ImageNet, six groups of animals": GROUPS,
    "ImageNet, dogs and other mammals": {"dog": DOGS, "other": OTHER_MAMMALS},
}


@dataclass(frozen=True)
class Sources:
    """Folders of images: CIFAR-10, ImageNet's samples, and one to write into."""

    cifar10: Path
    imagenet: Path
    made: Path


Rows: TypeAlias = Callable[[Sources], list[Row]]
_Asked: TypeAlias = Regime | Literal["auto"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, required=True, help="cifar10.tar or its folder")
    parser.add_argument("--imagenet", type=Path, required=True, help="one image for each class: a .tar or its folder")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), help="those to measure")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sources = Sources(
            cifar10.unpacked(arguments.cifar10, Path(folder)),
            cifar10.unpacked(arguments.imagenet, Path(folder)),
            Path(folder) / "made",
        )
        compared = {name: compare(name, SETS[name](sources)) for name in arguments.sets}
    table = {"sets": compared, **summary(compared)}
    show(table)
    print(f"kept in {results.summarize('advisor', table)}")


def compare(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    """The advisor's choice against the best of all regimes."""
    with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryDirectory() as other:
        card = backbones.ready(backbones.card(trial.BACKBONE))
        features.extractor(card, backbones.sized(card, CROP_PX, CROP_PX), Path(cache))
        shutil.copytree(cache, other, dirs_exist_ok=True)
        made = {regime: _cell(name, rows, regime, LIMIT_S, Path(cache)) for regime in REGIMES}
        cost_s = sum(each["seconds"] for each in made.values())
        auto = _cell(name, rows, "auto", SHARE * cost_s, Path(other))
    best = max(REGIMES, key=lambda regime: made[regime]["accuracy"])
    behind, error = trial.ahead(_bits(made[best]), _bits(auto))
    return {
        "train_images": auto["train_images"],
        "test_images": auto["test_images"],
        "accuracy": {regime: each["accuracy"] for regime, each in made.items()} | {"auto": auto["accuracy"]},
        "best": best,
        "advised": auto["advised"],
        "chosen": auto["regime"],
        "regret": behind,
        "regret_error": error,
        # What is lost by the choice alone: the regime that it chose, had it been given five minutes, too.
        "regret_of_the_regime": made[best]["accuracy"] - made[auto["regime"]]["accuracy"],
        "auto_s": auto["seconds"],
        "all_s": cost_s,
        "cost": auto["seconds"] / cost_s,
    }


def _cell(name: str, rows: Sequence[Row], regime: _Asked, limit_s: float, cache: Path) -> dict[str, Any]:
    return results.cell("advisor", f"{name}: {regime}", partial(measure, rows, regime, limit_s, cache))


def measure(rows: Sequence[Row], regime: _Asked, limit_s: float, cache: Path) -> dict[str, Any]:
    made = Trial(regime, CROP_PX, cache, SEED, limit_s=limit_s).fit(rows)
    right = trial.right(made)
    way = made.result.way
    return {
        "accuracy": float(right.mean()),
        "seed": SEED,
        "limit_s": round(limit_s, 1),
        "regime": way.regime,
        "advised": way.advised,
        "trains": way.trains,
        "learnt_from": way.images,
        "epochs": len(way.tuning.history) if way.tuning else 0,
        "train_images": sum(made.result.data.images["train"]),
        "test_images": len(right),
        "evidence": evidence(made.decision) if made.decision else None,
        "race": way.race.model_dump() if way.race else None,
        "steps_s": {name: round(took, 1) for name, took in made.result.seconds.items()},
        "right": np.packbits(right).tobytes().hex(),
    }


def evidence(decision: Decision) -> dict[str, Any]:
    """What spoke for the regime that is named."""
    seen, last = decision.evidence, decision.evidence.last
    return {
        "separability": seen.separability,
        "learnt_beyond_asked": last.learnt - last.accuracy.value,
        "simplest": seen.depth.simplest,
        "z": seen.shift.z if seen.shift else None,
        "raced": list(dict.fromkeys(plan.regime for plan in decision.plans)),
    }


def _bits(cell: Mapping[str, Any]) -> NDArray[np.bool_]:
    packed = np.frombuffer(bytes.fromhex(cell["right"]), np.uint8)
    return np.unpackbits(packed, count=cell["test_images"]).astype(bool)


def summary(compared: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    return {
        "mean_regret": statistics.mean(each["regret"] for each in compared.values()),
        "worst_regret": max(each["regret"] for each in compared.values()),
        "mean_regret_of_the_regime": statistics.mean(each["regret_of_the_regime"] for each in compared.values()),
        "mean_cost": statistics.mean(each["cost"] for each in compared.values()),
        "hours": sum(each["auto_s"] + each["all_s"] for each in compared.values()) / 3600,
    }


def show(table: Mapping[str, Any]) -> None:
    print(f"{'':<34}{'best':<18}{'':>6}  {'auto took':<18}{'':>6}{'regret':>14}{'cost':>7}")
    for name, each in table["sets"].items():
        print(
            f"{name:<34}{each['best']:<18}{each['accuracy'][each['best']]:>6.1%}  {each['chosen']:<18}"
            f"{each['accuracy']['auto']:>6.1%}{100 * each['regret']:>8.1f} ± {100 * each['regret_error']:.1f}"
            f"{each['cost']:>7.2f}"
        )
    print(
        f"regret {100 * table['mean_regret']:.1f} points on average, {100 * table['worst_regret']:.1f} at worst, for "
        f"{table['mean_cost']:.2f} of the cost; {table['hours']:.1f} hours"
    )


def natural(count: int, sources: Sources) -> list[Row]:
    """So many images of each class of CIFAR-10, and 1,000 to test on."""
    return list(_cifar10(sources.cifar10, cifar10.CLASSES, count, 100))


def grey(count: int, sources: Sources) -> list[Row]:
    """The same without colours."""
    sources.made.mkdir(exist_ok=True)
    return [row._replace(path=_grey(row, sources.made)) for row in natural(count, sources)]


def _grey(row: Row, folder: Path) -> Path:
    path = folder / f"{row.split}-{row.label}-{row.path.stem}.png"
    Image.open(row.path).convert("L").save(path)
    return path


def fine(count: int, sources: Sources) -> list[Row]:
    """Cats and dogs."""
    return list(_cifar10(sources.cifar10, ("cat", "dog"), count, 500))


def coarse(count: int, sources: Sources) -> list[Row]:
    """Vehicles and animals."""
    rows = _cifar10(sources.cifar10, cifar10.CLASSES, count, 100)
    return [row._replace(label="vehicle" if row.label in VEHICLES else "animal") for row in rows]


def _cifar10(data: Path, classes: Sequence[str], train: int, test: int) -> Iterator[Row]:
    for name in classes:
        yield from (Row(path, name, "train") for path in cifar10.drawn(data / "train" / name, train, SEED))
        yield from (Row(path, name, "test") for path in cifar10.drawn(data / "test" / name, test, SEED))


def cells(count: int, label: Literal["defect", "type"], _: Sources) -> list[Row]:
    """So many solar cells, and a quarter of all to test on."""
    found = elpv.read()
    defective = found.probabilities > elpv.PROTOCOLS[0].defective_above
    labels = elpv.LABELS[defective.astype(int)] if label == "defect" else found.types
    test = elpv.draw(found, defective, SEED, grouped=False)
    learnt = np.random.default_rng(SEED).permutation(np.flatnonzero(~test))[:count]
    rows = [Row(Path(found.paths[place]), str(labels[place]), "train") for place in learnt]
    return rows + [Row(Path(found.paths[place]), str(labels[place]), "test") for place in np.flatnonzero(test)]


def photographs(groups: Mapping[str, Sequence[tuple[int, int]]], sources: Sources, seed: int = SEED) -> list[Row]:
    """Half of the classes of each group to learn it from, the other half to test on."""
    files = sorted(file for file in sources.imagenet.iterdir() if file.suffix.lower() in {".jpg", ".jpeg"})
    rows: list[Row] = []
    for label, spans in groups.items():
        places = np.concatenate([np.arange(*span) for span in spans])
        drawn = [files[place] for place in np.random.default_rng(seed).permutation(places)]
        rows += [Row(path, label, "train" if number % 2 else "test") for number, path in enumerate(drawn)]
    return rows


SETS: dict[str, Rows] = {
    "CIFAR-10, 10 a class": partial(natural, 10),
    "CIFAR-10, 100 a class": partial(natural, 100),
    "CIFAR-10, 200 a class": partial(natural, 200),
    "CIFAR-10 in grey, 50 a class": partial(grey, 50),
    "CIFAR-10, cat and dog, 500": partial(fine, 500),
    "CIFAR-10, vehicle and animal, 20": partial(coarse, 20),
    "solar cells, defects, all": partial(cells, 1968, "defect"),
    "solar cells, defects, 300": partial(cells, 300, "defect"),
    "solar cells, type, 300": partial(cells, 300, "type"),
    **{name: partial(photographs, groups) for name, groups in PHOTOGRAPHS.items()},
}


if __name__ == "__main__":
    main()
