"""Files of weights: reads them without running what is in them, and fits them into a module or says why not.

Nothing is left out in silence: what came of every tensor is in the report. Does not know where a file came from.
"""

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import adapt_input_conv
from torch import Tensor, nn

from training.architectures.building import RGB, classifier, stem
from training.errors import BackboneError

# What trainers put around the tensors, and before their names.
_WRAPPERS = ("state_dict", "model", "model_state_dict")
_PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")
_SHOWN = 3
# Torch's batch norms count batches for an average that none of these uses, and older files do not have it.
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Contents:
    """The tensors of a file, and which wrappers and prefixes were taken off them to get there."""

    tensors: Mapping[str, Tensor]
    unwrapped: tuple[str, ...]


@dataclass(frozen=True)
class LoadReport:
    """What came of the tensors of a file.

    Attributes:
        loaded: How many are in the module now.
        unwrapped: Which wrappers and prefixes of names were taken off.
        by_position: Whether names were of another implementation, so that tensors were matched by their order.
        missing: Counters of batches that the file does not have.
        unexpected: Tensors of the file that the module has no place for: its classifier's, or what its card names.
        adapted: The stem's, where the module takes another number of channels than the file.
    """

    loaded: int
    unwrapped: tuple[str, ...] = ()
    by_position: bool = False
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    adapted: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The report for a person, what is as expected left out."""
        said = [f"{self.loaded} tensors loaded"]
        if self.unwrapped:
            said.append(f"taken out of: {', '.join(self.unwrapped)}")
        if self.by_position:
            said.append("matched by position: the file has the names of another implementation")
        for what in ("missing", "unexpected", "adapted"):
            if names := getattr(self, what):
                said.append(f"{what}: {_some(names)}")
        return said


def read(path: Path) -> Contents:
    """Read a file of weights.

    Args:
        path: .safetensors, or what torch.save wrote of a mapping of names to tensors, alone or as a trainer wraps it.

    Returns:
        Its tensors, all of numbers.

    Raises:
        BackboneError: The file cannot be read, holds code or something else than tensors, or a number that is none.
    """
    tensors, unwrapped = _unwrapped(_loaded(path))
    strange = [str(name) for name, each in tensors.items() if not isinstance(each, Tensor) or not isinstance(name, str)]
    if strange or not tensors:
        raise BackboneError(
            f"Expected {path} to hold tensors by their names. Received: {_some(strange) if strange else 'none'}."
        )
    for name, each in tensors.items():
        if each.is_floating_point() and not bool(torch.isfinite(each).all()):
            raise BackboneError(f"Expected weights that are numbers. Received: NaN or infinity in {name} of {path}.")
    return Contents(tensors, unwrapped)


def _loaded(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BackboneError(
            f"Expected {path} to hold tensors alone. Received: a file that is damaged or that holds code, which is not "
            "run. Have its author save the state_dict, or convert it to .safetensors"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, SafetensorError) as error:
        raise BackboneError(f"Expected a file of weights that can be read. Received: {path}: {error}") from error


def _unwrapped(found: Any) -> tuple[Mapping[Any, Any], tuple[str, ...]]:
    taken: list[str] = []
    while isinstance(found, Mapping):
        inner = next((key for key in _WRAPPERS if isinstance(found.get(key), Mapping)), None)
        if inner is None:
            return found, tuple(taken)
        taken.append(inner)
        found = found[inner]
    return {}, tuple(taken)


def load(module: nn.Module, contents: Contents, unused: Sequence[str] = ()) -> LoadReport:
    """Fit the tensors of a file into a module.

    Every tensor must find its place, but for these, which the report names: the classifier's, where the module has
    none; what begins as the card says; counters of batches. A stem of three channels is adapted to the module's: summed
    for one, repeated and scaled for others.

    Args:
        module: As building.build makes it; it is changed.
        contents: What `read` gave.
        unused: How names of tensors begin that have no place.

    Returns:
        What came of them.

    Raises:
        BackboneError: A tensor is missing, left over or of another shape; the message names it.
    """
    expected = module.state_dict()
    tensors, prefixes = _bared(contents.tensors, expected)
    if by_position := not tensors.keys() & expected.keys():
        tensors = renamed(tensors, expected)
    _check_architecture(tensors, expected, type(module).__name__)
    adapted = _adapted(module, tensors, expected)
    tensors = {**tensors, **adapted}
    _check_shapes(tensors, expected)
    missing = tuple(name for name in expected if name not in tensors)
    if wrong := [name for name in missing if not name.endswith(_COUNTER)]:
        raise BackboneError(f"Expected a tensor for every name. Received: none for {_some(wrong)}.")
    unexpected = tuple(name for name in tensors if name not in expected)
    allowed = (*unused, f"{classifier(module)}.")
    if wrong := [name for name in unexpected if not name.startswith(allowed)]:
        raise BackboneError(f"Expected a place for every tensor. Received: none for {_some(wrong)}.")
    fitting = {name: tensors.get(name, tensor) for name, tensor in expected.items()}
    module.load_state_dict(fitting)
    return LoadReport(
        loaded=len(expected) - len(missing),
        unwrapped=(*contents.unwrapped, *prefixes),
        by_position=by_position,
        missing=missing,
        unexpected=unexpected,
        adapted=tuple(adapted),
    )


def has_classifier(module: nn.Module, contents: Contents) -> bool:
    """Whether a file holds a classifier of the very shape that the module has."""
    expected = module.state_dict()
    tensors, _ = _bared(contents.tensors, expected)
    if not tensors.keys() & expected.keys():
        tensors = renamed(tensors, expected)
    name = f"{classifier(module)}.weight"
    return name in tensors and tensors[name].shape == expected[name].shape


def _bared(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors without what stands before all their names, as long as no name is known."""
    found, taken = dict(tensors), []
    while not found.keys() & expected.keys():
        prefix = next((each for each in _PREFIXES if all(name.startswith(each) for name in found)), None)
        if prefix is None:
            break
        taken.append(prefix)
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return found, tuple(taken)


def _check_architecture(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], kind: str) -> None:
    known = sum(name in expected and expected[name].shape == tensor.shape for name, tensor in tensors.items())
    if known * 2 < max(len(expected), len(tensors)):
        raise BackboneError(
            f"Expected weights of the architecture {kind}, {len(expected)} tensors. Received: those of another one: "
            f"{known} of its {len(tensors)} tensors have the name and shape of one"
        )


def _check_shapes(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    wrong = [
        f"{name} {list(tensors[name].shape)} for {list(each.shape)}"
        for name, each in expected.items()
        if name in tensors and tensors[name].shape != each.shape
    ]
    if wrong:
        raise BackboneError(
            f"Expected tensors of the module's shapes. Received: {_some(wrong)}. Name the backbone that they are of."
        )


def _adapted(module: nn.Module, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    try:
        name = f"{stem(module)}.weight"
    except BackboneError:
        return {}
    theirs, ours = tensors.get(name), expected[name]
    if theirs is None or theirs.ndim != ours.ndim or theirs.shape[1] != RGB or ours.shape[1] == RGB:
        return {}
    return {name: adapt_input_conv(ours.shape[1], theirs)}


def renamed(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give tensors the names that another implementation of the same architecture has for them.

    Both implementations list their modules in the order of execution, so tensors match by position; the role (`weight`,
    `running_mean`) and the shape of every pair must agree.

    Args:
        tensors: Tensors by the names of the file.
        expected: Tensors by the names of the module.

    Returns:
        The former by the names of the latter.

    Raises:
        BackboneError: There are more or fewer, or a pair does not agree; the message names it.
    """
    if len(tensors) != len(expected):
        raise BackboneError(
            f"Expected {len(expected)} tensors. Received: {len(tensors)}, none of them by a name of this architecture."
        )
    for (theirs, tensor), (ours, wanted) in zip(tensors.items(), expected.items(), strict=True):
        if _role(theirs) != _role(ours) or tensor.shape != wanted.shape:
            raise BackboneError(
                f"Expected the tensor {ours} {list(wanted.shape)}. Received: {theirs} {list(tensor.shape)}."
            )
    return dict(zip(expected, tensors.values(), strict=True))


def _role(name: str) -> str:
    return name.rpartition(".")[2]


def _some(names: Sequence[str]) -> str:
    left = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {left} more" if left > 0 else "")
