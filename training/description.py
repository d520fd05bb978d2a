"""Says in words what is in a run; does not read its program."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError
from safetensors import safe_open

from export import run
from export.command import printable
from export.errors import RunError
from export.run import Run
from training import backbones
from training.parts import parts
from training.result import METRICS, Result

_HOW = ("frozen", "trained")
_HEAD = "head."  # as training/served.py has it
_SHOWN = 5
_LONGEST = 60
_MARGIN = 10


def describe(path: Path) -> str:
    """What a run is, what it learnt from, what is frozen in it and what was trained, and how good it is.

    Args:
        path: The run's folder.

    Returns:
        Lines for a terminal.

    Raises:
        BackboneError: This timm does not build its backbone.
        RunError: The folder is no run, or was changed; or something was trained that its regime says is frozen.
    """
    described = run.read(path)
    geometry = described.geometry
    facts = {
        "run": [f"{path}, made {described.created_time:%Y-%m-%d %H:%M} UTC"],
        "regime": [f"{described.regime.name}, {described.regime.reason}"],
        "backbone": [f"{described.backbone.name}, {described.backbone.licence}"],
        "pixels": [f"shorter side to {geometry.resize_shorter_px}, crop of {geometry.crop_height_px}"],
        "head": [f"{described.head.kind} on {', '.join(described.head.taps)}"],
        "labels": [f"{len(described.labels)}: {_some(described.labels)}"],
        "tensors": _parts(path, described),
        **_measured(path, described),
    }
    lines = [(name if line == of[0] else "", line) for name, of in facts.items() for line in of]
    return "\n".join(f"{name:<{_MARGIN}}{line}" for name, line in lines)


def _parts(path: Path, described: Run) -> list[str]:
    """How many numbers each part of the model has, and whether training made them."""
    module, _ = backbones.parted(backbones.build(described.backbone.architecture, 0))
    known = parts(module, described.backbone)
    owners = {f"backbone.module.{tensor}": part for part, tensors in known.items() for tensor in tensors}
    # Not as the file has them, which sorts by name, but as they run.
    sizes: Counter[tuple[str, str]] = Counter({(part, how): 0 for part in (*known, "head") for how in _HOW})
    with safe_open(path / run.WEIGHTS, "pt") as weights:
        names = list(weights.keys())
        _check_trained(path, described, names)
        for name in names:
            part = "head" if name.startswith(_HEAD) else owners.get(name)
            if part is None:
                raise RunError(f"Expected tensors of {described.backbone.architecture}. Received: {name} in {path}.")
            how = "trained" if name in described.trained else "frozen"
            sizes[part, how] += math.prod(weights.get_slice(name).get_shape())
    return [f"{part:<6}{size:>12,}  {how}" for (part, how), size in sizes.items() if size]


def _check_trained(path: Path, described: Run, names: Sequence[str]) -> None:
    regime, trained = described.regime.name, set(described.trained)
    expected = set() if regime == "as-is" else {name for name in names if name.startswith(_HEAD)}
    # Whichever else a fine-tuning names must be there; a head alone is all that two of the regimes have.
    allowed = expected if regime in ("as-is", "small-similar") else set(names)
    if wrong := sorted((expected - trained) | (trained - allowed)):
        raise RunError(
            f"Expected {path / run.RUN} to name {', '.join(sorted(expected)) or 'nothing'} as trained, which is what "
            f"{described.regime.name} trains. Received: {len(described.trained)} tensors, {wrong[0]} wrongly."
        )


def _measured(path: Path, described: Run) -> dict[str, list[str]]:
    try:
        result = Result.model_validate_json((path / METRICS).read_bytes())
    except FileNotFoundError:
        return {}  # as-is runs learn nothing and are tested on nothing
    except OSError as error:
        raise RunError(f"Expected {path / METRICS} as vertebra-train wrote it. Received: {error.strerror}.") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise RunError(
            f"Expected {path / METRICS} as vertebra-train wrote it. Received: {place}: {first['msg']}."
        ) from error
    of = (result.data.sha256, result.data.labels_sha256)
    if of != (described.data_sha256, described.labels_sha256):
        raise RunError(f"Expected {path / METRICS} to be of the data that {path / run.RUN} names. Received: of other.")
    counts = ", ".join(f"{sum(each)} {split}" for split, each in result.data.images.items())
    data = f"{result.data.source}: {counts}; {len(result.data.left_out)} left out, {len(result.data.leaks)} leaks"
    return {"data": [data], "measured": list(result.summary())}


def _some(labels: tuple[str, ...]) -> str:
    shown = ", ".join(printable(label)[:_LONGEST] for label in labels[:_SHOWN])
    return shown + (", ..." if len(labels) > _SHOWN else "")
