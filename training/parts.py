"""Cuts a backbone into its parts, in the order in which they run; freezes none of them.

A part ends where the card's stage of its name ends and holds all that runs since the stage before, so the first also
holds the stem; TOP holds what runs behind the last stage. "Train from c4 on" therefore means the same everywhere.
"""

from collections.abc import Iterable

from torch import nn

from export.run import Backbone, Stage
from training.errors import BackboneError, TuningError

TOP = "top"


def parts(module: nn.Module, backbone: Backbone) -> dict[str, tuple[str, ...]]:
    """Say which part of a backbone each of its tensors belongs to.

    Args:
        module: A backbone without its classifier, as backbones.parted gives it.
        backbone: Names its stages.

    Returns:
        The names of parameters and buffers in the module's state_dict, by part, the parts in the order in which they
        run: the stages by their names, then TOP where something runs behind them. Every tensor is in one part.

    Raises:
        BackboneError: The module's parts are not listed in the order of the stages.
    """
    # Modules list what they hold in the order in which it runs; the tests hold every registered backbone to that.
    places = {name: place for place, (name, _) in enumerate(module.named_modules())}
    ends = {stage.name: _end(stage, places) for stage in backbone.stages}
    if list(ends.values()) != sorted(set(ends.values())):
        raise BackboneError(f"Expected the stages of {backbone.name} one behind the other. Received: {ends}.")
    found: dict[str, list[str]] = {name: [] for name in (*ends, TOP)}
    for tensor in module.state_dict():
        place = places[tensor.rpartition(".")[0]]
        found[next((name for name, end in ends.items() if place <= end), TOP)].append(tensor)
    return {name: tuple(tensors) for name, tensors in found.items() if tensors or name != TOP}


def _end(stage: Stage, places: dict[str, int]) -> int:
    if stage.module not in places:
        raise BackboneError(f"Expected a module {stage.module}, where the stage {stage.name} ends. Received: none.")
    return max(place for name, place in places.items() if f"{name}.".startswith(f"{stage.module}."))


def trained_from(known: Iterable[str], first: str | None) -> tuple[str, ...]:
    """The parts that train where a plan unfreezes from one of them on.

    Args:
        known: All parts of a backbone, from input to output.
        first: The first that trains; None for none of them.

    Returns:
        Their names, from input to output.

    Raises:
        TuningError: There is no such part.
    """
    if first is None:
        return ()
    names = tuple(known)
    if first not in names:
        raise TuningError(f"Expected one of the parts {', '.join(names)} to unfreeze from. Received: {first}.")
    return names[names.index(first) :]
