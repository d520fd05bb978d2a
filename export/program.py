"""A model as a torch program that answers every output, and its file; does not know what the outputs are for.

The file is derived from a run's weights: torch promises its format to no other version, so it carries a stamp of the
torch that wrote it and of the weights that it holds. A tensor in it may be a pickle, which is read as data alone.
"""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.errors import ProgramError
from service.bundle import CropGeometry
from service.engine import Arrays

INPUT = "pixels"
_STAMP = "vertebra.json"
# https://docs.pytorch.org/docs/stable/notes/serialization.html
_WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
# Two, because torch takes a dimension of one for a constant.
_EXAMPLE_BATCH = 2
_BATCH = 8


def trace(module: torch.nn.Module, geometry: CropGeometry) -> torch.export.ExportedProgram:
    """Record what a module does with a batch of any size.

    Args:
        module: Takes `pixels`, uint8 `[N, H, W, 3]`; returns a dict of float32 `[N, ...]`, by output.
        geometry: Says H and W.

    Returns:
        The program, in eval mode and without gradients.
    """
    module = module.eval().requires_grad_(False)
    shape = (_EXAMPLE_BATCH, geometry.crop_height_px, geometry.crop_width_px, 3)
    batch = torch.export.Dim("N", min=1)
    return torch.export.export(
        module, (torch.zeros(shape, dtype=torch.uint8),), dynamic_shapes={INPUT: {0: batch}}, strict=False
    )


def save(program: torch.export.ExportedProgram, path: Path, weights_sha256: str) -> None:
    """Write a program with its stamp.

    Args:
        program: The program.
        path: The file, which ends in .pt2.
        weights_sha256: The digest of the weights file that holds the same tensors.
    """
    stamp = json.dumps({"torch": torch.__version__, "weights_sha256": weights_sha256})
    # In memory first: where the disk is full, torch's own way to a file ends the whole process.
    data = io.BytesIO()
    torch.export.save(program, data, extra_files={_STAMP: stamp})
    path.write_bytes(data.getvalue())


def load(path: Path, weights_sha256: str) -> torch.export.ExportedProgram:
    """Read a program, after a look at its stamp.

    Args:
        path: The file.
        weights_sha256: The digest of the run's weights file.

    Returns:
        The program.

    Raises:
        ProgramError: There is none, it is broken, another torch minor version wrote it, or it holds other weights or
            something else than tensors; the message names the command that rebuilds it.
    """
    remedy = f"Rebuild it with: vertebra-train refresh {path.parent}"
    stamp = _stamp(path, remedy)
    if _minor(stamp["torch"]) != _minor(torch.__version__):
        raise ProgramError(
            f"Expected {path.name} of torch {_minor(torch.__version__)}. Received: of torch {stamp['torch']}. {remedy}"
        )
    if stamp["weights_sha256"] != weights_sha256:
        raise ProgramError(
            f"Expected {path.name} to hold the weights {weights_sha256}. "
            f"Received: the weights {stamp['weights_sha256']}. {remedy}"
        )
    try:
        with _weights_only():
            return torch.export.load(path)
    except pickle.UnpicklingError as error:
        raise ProgramError(f"Expected nothing but tensors in {path}. Received: a pickle of code. {remedy}") from error


@contextmanager
def _weights_only() -> Iterator[None]:
    """Have torch run nothing that a pickle says, also where it does not ask for that itself."""
    before = os.environ.get(_WEIGHTS_ONLY)
    os.environ[_WEIGHTS_ONLY] = "1"
    try:
        yield
    finally:
        del os.environ[_WEIGHTS_ONLY]
        if before is not None:
            os.environ[_WEIGHTS_ONLY] = before


def output_names(program: torch.export.ExportedProgram) -> tuple[str, ...]:
    """The names of a program's outputs, in the order in which it returns them."""
    spec = program.call_spec.out_spec
    assert spec is not None  # torch.export always sets it
    by_name: dict[str, Any] = spec.unflatten(range(spec.num_leaves))
    return tuple(by_name)


def output_shapes(program: torch.export.ExportedProgram) -> dict[str, tuple[int, ...]]:
    """The shape of one image's answer, without the batch dimension, by output."""
    values = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
    results = program.graph_signature.user_outputs
    return {
        name: tuple(int(side) for side in values[result].shape[1:])
        for name, result in zip(output_names(program), results, strict=True)
    }


def answers(program: torch.export.ExportedProgram, pixels: NDArray[np.uint8]) -> Arrays:
    """Run a program over images in batches of eight.

    Args:
        program: The program.
        pixels: `uint8 [images, H, W, 3]`.

    Returns:
        For each output its float32 `[images, ...]` array.
    """
    module = program.module()
    with torch.inference_mode():
        parts = [module(batch) for batch in torch.split(torch.tensor(pixels), _BATCH)]
    return {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}


def _stamp(path: Path, remedy: str) -> dict[str, str]:
    # Read as the archive that it is: torch would parse the whole program first, which may fail across versions.
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith(f"/{_STAMP}"))
            stamp: dict[str, str] = json.loads(archive.read(name))
            return stamp
    except (OSError, zipfile.BadZipFile, StopIteration, ValueError) as error:
        raise ProgramError(
            f"Expected a program that vertebra-train wrote in {path}. Received: {error!r}. {remedy}"
        ) from error


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
