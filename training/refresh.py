"""Rebuilds what a run derives from its weights, for the torch that is installed; learns nothing."""

from pathlib import Path

from export import program, run
from export.progress import Steps
from export.run import EMBEDDING, Run
from training import backbones, heads
from training.errors import BackboneError
from training.served import Served


def refresh(path: Path, steps: Steps) -> None:
    """Rebuild the program of a run from its weights and its description.

    Args:
        path: The run's folder.
        steps: Tells of the two steps.

    Raises:
        BackboneError: The weights do not fit the backbone's architecture.
        HeadError: The head cannot be built as it is described.
        RunError: The folder is no run, or was changed.
    """
    with steps.step("read the run"):
        described = run.read(path)
        module = rebuilt(path, described)
    with steps.step("trace the model"):
        run.replace_program(path, described, program.trace(module, described.geometry))


def rebuilt(path: Path, described: Run) -> Served:
    """The model of a run, of its weights and its description.

    Args:
        path: The run's folder.
        described: What run.read gave of it.

    Returns:
        The model, in eval mode.

    Raises:
        BackboneError: The weights do not fit the backbone's architecture.
        HeadError: The head cannot be built as it is described.
    """
    card = described.backbone
    widths = {stage.name: stage.channels for stage in card.stages}
    widths |= {probe.name: probe.channels for probe in card.probes}
    widths[EMBEDDING] = described.output(EMBEDDING).shape[0]
    module = Served(
        backbones.build(card.architecture, 0),
        heads.build(described.head, widths, len(described.labels)),
        card,
        described.scaling,
    )
    try:
        module.load_state_dict(run.read_weights(path))
    except RuntimeError as error:
        raise BackboneError(
            f"Expected the weights in {path} to fit {described.backbone.architecture}. Received: {error}"
        ) from error
    return module.eval()
