"""Names the space that an embedding lies in; does not know the graph that will compute it, nor its precision."""

import hashlib
import json

import torch
from torch.export.graph_signature import InputKind

from export import program
from export.run import Output, Run, geometry_message


def embedding_space_id(run: Run, model: torch.export.ExportedProgram, output: Output) -> str:
    """The digest of everything that an embedding's numbers follow from.

    That is: the fp32 tensors that lie before it in the program (name, shape and numbers), the geometry, the scaling,
    the tap and the pooling. A head lies behind it, so retraining one leaves the id as it was; so does a precision.

    Args:
        run: Says geometry and scaling.
        model: The run's program.
        output: The embedding.

    Returns:
        The SHA-256, as 64 lower-case hexadecimal digits.
    """
    facts = {
        "geometry": geometry_message(run.geometry).SerializeToString(deterministic=True).hex(),
        "scaling": run.scaling.model_dump(),
        "tap": output.tap,
        "pooling": output.pooling,
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in sorted(_tensors_before(model, output.name).items()):
        values = tensor.detach().to(torch.float32).contiguous().numpy()
        digest.update(json.dumps([name, values.shape]).encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def _tensors_before(model: torch.export.ExportedProgram, output: str) -> dict[str, torch.Tensor]:
    # Stored tensors alone: constants that torch lifts out of the code are named by torch's version, and what they say
    # of pixels is in the scaling.
    stored = {
        spec.arg.name: spec.target
        for spec in model.graph_signature.input_specs
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and spec.target in model.state_dict
    }
    nodes = {node.name: node for node in model.graph.nodes}
    results = dict(zip(program.output_names(model), model.graph_signature.user_outputs, strict=True))
    waiting = [nodes[results[output]]]
    seen = set(waiting)
    while waiting:
        inputs = set(waiting.pop().all_input_nodes) - seen
        seen |= inputs
        waiting += inputs
    return {stored[node.name]: model.state_dict[stored[node.name]] for node in seen if node.name in stored}
