"""What the pretrained classifier makes of the images; does not know whether it shall be kept."""

import math
from collections.abc import Sequence

import torch
from sklearn.metrics import adjusted_mutual_info_score
from torch import Tensor, nn
from torch.nn import functional

from training import rows
from training.advice.accuracy import accuracy
from training.advice.evidence import Accuracy, SourceAnswers
from training.advice.probes import Targets


def source(
    embedding: Tensor, classifier: nn.Linear, names: Sequence[str], labels: Sequence[str], known: Targets
) -> SourceAnswers:
    """Ask the pretrained classifier.

    Args:
        embedding: float32 `[N, D]`.
        classifier: The backbone's own, `[N, D]` to `[N, K]`.
        names: The names of its classes, K.
        labels: The names of the labels, by column.
        known: What is said of the images.

    Returns:
        How sure it is, and how far its answers tell the labels.
    """
    with torch.inference_mode():
        logits = classifier(embedding)  # [N, K]
    probabilities = logits.softmax(dim=1)
    columns = rows.reused_rows(labels, names)
    return SourceAnswers(
        classes=len(names),
        confidence=float(probabilities.max(dim=1).values.mean()),
        entropy=float(torch.special.entr(probabilities).sum(dim=1).mean()) / max(1e-12, math.log(len(names))),
        mutual_information=float(adjusted_mutual_info_score(known.labels.numpy(), logits.argmax(dim=1).numpy())),
        leep=_leep(probabilities, known),
        matched=len(columns),
        as_is=_as_is(logits, columns, known) if len(columns) == len(labels) else None,
    )


def _as_is(logits: Tensor, columns: dict[int, int], known: Targets) -> Accuracy:
    kept = logits[:, [columns[label] for label in range(len(columns))]]
    return accuracy(kept.argmax(dim=1) == known.labels, known.weights)


def _leep(probabilities: Tensor, known: Targets) -> float:
    """The mean log of the label's probability, by how often it comes with each pretrained class."""
    joint = functional.one_hot(known.labels, known.classes).double().T @ probabilities.double()  # [C, K], times N
    given = joint / joint.sum(dim=0).clamp_min(1e-300)
    expected = probabilities.double() @ given.T  # [N, C]
    return float(expected[torch.arange(len(expected)), known.labels].clamp_min(1e-300).log().mean())
