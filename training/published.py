"""The head that a published model has for the classes that a person asks about; trains nothing."""

from torch import nn

from export.run import EMBEDDING, Head
from training import backbones, heads, rows
from training.backbones import Card
from training.errors import HeadError
from training.fitting import Fitted
from training.result import HeadResult


def head(card: Card, labels: tuple[str, ...]) -> Fitted:
    """Take the published classifier's rows for some classes, as they are.

    Args:
        card: The backbone.
        labels: The classes, by column.

    Returns:
        The head.

    Raises:
        BackboneError: The weights are missing or not what the card says.
        HeadError: The published model does not know all of the classes.
    """
    _, classifier = backbones.parted(backbones.pretrained(card))
    known = card.labels()
    found = rows.reused_rows(labels, known)
    if not isinstance(classifier, nn.Linear) or len(found) < len(labels):
        missing = [label for column, label in enumerate(labels) if column not in found]
        raise HeadError(
            f"Expected classes that {card.backbone.name} was published with. Received: {', '.join(missing[:5])}, which "
            "it does not know. Train a head for them"
        )
    module = heads.LinearHead((EMBEDDING,), classifier.in_features, len(labels))
    module.linear = rows.reused(classifier, found, len(labels))
    return Fitted(
        module.eval(),
        Head(kind="linear", taps=(EMBEDDING,)),
        HeadResult(
            kind="linear",
            taps=(EMBEDDING,),
            parameters=sum(each.numel() for each in module.parameters()),
            images=0,
            folds=0,
            trials=(),
            convergence=None,
            calibration=None,
        ),
    )
