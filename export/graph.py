"""A torch program becomes an ONNX graph with the outputs asked for; does not judge the numbers that it gives."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, RemoveUnusedNodesPass, RemoveUnusedOpsetsPass

from export import program
from export.errors import GraphError
from service.bundle import CropGeometry

_BATCH = "N"


def convert(model: torch.export.ExportedProgram, outputs: Sequence[str], geometry: CropGeometry, path: Path) -> None:
    """Write the ONNX graph of a program: one file, checked, without the exporter's traces.

    Args:
        model: The program.
        outputs: The outputs to keep, in the order that the graph shall have.
        geometry: Says the H and W that the graph's input must have.
        path: The file to write.

    Raises:
        GraphError: The program lacks an output, the graph's input or an output is not what a bundle promises, or the
            checker finds fault with the graph.
    """
    names = program.output_names(model)
    if missing := [name for name in outputs if name not in names]:
        raise GraphError(f"Expected a program with the outputs {list(outputs)}. Received: none of the name {missing}.")
    with _quiet():
        converted = torch.onnx.export(
            model, dynamo=True, input_names=[program.INPUT], output_names=names, verbose=False
        )
    assert converted is not None  # None is the answer of the exporter before dynamo
    graph = _pruned(converted.model, outputs)
    _strip(graph.graph)
    _name_batch(graph.graph)
    _check_signature(graph.graph, geometry)
    ir.save(graph, path)
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GraphError(f"Expected a graph that the ONNX checker accepts. Received: {error}") from error


def _pruned(model: ir.Model, outputs: Sequence[str]) -> ir.Model:
    graph = model.graph
    by_name = {value.name: value for value in graph.outputs}
    graph.outputs[:] = [by_name[name] for name in outputs]
    for edit in (RemoveUnusedNodesPass(), RemoveUnusedOpsetsPass(), ClearMetadataAndDocStringPass()):
        edit(model)
    return model


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph.all_nodes():
        yield from node.outputs


def _strip(graph: ir.Graph) -> None:
    # The exporter notes the source files of this machine on nodes; the pass has cleared those, and leaves the values'.
    for value in _values(graph):
        value.metadata_props.clear()
        value.doc_string = None


def _name_batch(graph: ir.Graph) -> None:
    # The exporter calls it after the symbol that torch happened to give it.
    for value in _values(graph):
        if value.shape is not None:
            value.shape = ir.Shape([side if isinstance(side, int) else _BATCH for side in value.shape])


def _check_signature(graph: ir.Graph, geometry: CropGeometry) -> None:
    expected = f"uint8 [{_BATCH}, {geometry.crop_height_px}, {geometry.crop_width_px}, 3]"
    received = [_signature(value) for value in graph.inputs]
    if received != [expected]:
        raise GraphError(f"Expected one input, {expected}. Received: {received}.")
    for value in graph.outputs:
        if value.dtype != ir.DataType.FLOAT:
            raise GraphError(f"Expected {value.name} to be float32. Received: {_signature(value)}.")


def _signature(value: ir.Value) -> str:
    dtype = "nothing" if value.dtype is None else value.dtype.numpy().name
    shape = () if value.shape is None else value.shape.dims
    return f"{dtype} [{', '.join(str(side) for side in shape)}]"


@contextmanager
def _quiet() -> Iterator[None]:
    # The exporter deprecates its own insides and logs its rewrites; none of it is about the model.
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
