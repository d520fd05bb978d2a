"""A published model as it is, made a run: nothing is learnt; does not know what is served of it."""

from pathlib import Path

from export import program, run, staging
from export.progress import Steps
from export.run import EMBEDDING
from service.bundle import labels_sha256
from training import backbones, heads
from training.backbones import Card
from training.errors import BackboneError
from training.served import Served, describe


def as_is(name: str, out: Path, steps: Steps, weights: Path | None = None, download: bool = False) -> run.Run:
    """Make a run of a published model as it is: same data, same purpose, nothing to learn.

    Args:
        name: The backbone's name.
        out: The run's folder, which must not exist.
        steps: Tells of the three steps.
        weights: A file of weights to take instead of the published ones, with the published classes.
        download: Whether the published ones may be fetched where they are not on this machine.

    Returns:
        The run.

    Raises:
        BackboneError: There is no such backbone, or its weights are not what its card says.
        TargetError: The folder exists.
    """
    staging.refuse_existing(out)
    card = backbones.ready(backbones.card(name), weights, download)
    with steps.step("load pretrained weights"):
        module = original(card)
    with steps.step("trace the model"):
        model = program.trace(module, card.geometry)
    with steps.step("write the run"):
        made = run.Run(
            regime=run.Decision(name="as-is", reason="asked for: the published model with its own classes"),
            backbone=card.backbone,
            geometry=card.geometry,
            scaling=card.scaling,
            head=run.Head(kind="linear", taps=(EMBEDDING,)),
            trained=(),
            labels=card.labels(),
            labels_sha256=labels_sha256(card.labels()),
            outputs=describe(model, card.backbone),
            metrics={},
            data_sha256=None,
            weights_sha256=run.digest(model),
        )
        run.write(out, made, model)
    return made


def original(card: Card) -> Served:
    """The published model of a backbone, with its own head; BackboneError where it has none."""
    backbone, classifier = backbones.parted(backbones.pretrained(card))
    if classifier is None:
        raise BackboneError(f"Expected a backbone with classes of its own. Received: {card.backbone.name}, without.")
    head = heads.LinearHead((EMBEDDING,), classifier.in_features, classifier.out_features)
    head.linear = classifier
    return Served(backbone, head, card.backbone, card.scaling)
