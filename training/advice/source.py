"""What the pretrained classifier makes of the images; does not know whether it shall be kept."""

import math
import re
from collections.abc import Sequence

import torch
from sklearn.metrics import adjusted_mutual_info_score
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor, nn
from torch.nn import functional

from training.advice.accuracy import accuracy
from training.advice.evidence import Accuracy, Source
from training.advice.probes import Known
from training.backbones import imagenet_labels

_SYNSET = re.compile(r"n\d{8}")


def source(
    embedding: Tensor, classifier: nn.Linear, names: Sequence[str], labels: Sequence[str], known: Known
) -> Source:
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
    columns = matching(labels, names)
    return Source(
        classes=len(names),
        confidence=float(probabilities.max(dim=1).values.mean()),
        entropy=float(torch.special.entr(probabilities).sum(dim=1).mean()) / max(1e-12, math.log(len(names))),
        mutual_information=float(adjusted_mutual_info_score(known.labels.numpy(), logits.argmax(dim=1).numpy())),
        leep=_leep(probabilities, known),
        matched=len(columns),
        as_is=_as_is(logits, columns, known) if len(columns) == len(labels) else None,
    )


def matching(labels: Sequence[str], names: Sequence[str]) -> dict[int, int]:
    """Find the pretrained classes that labels name.

    Args:
        labels: A class's name in any case, with spaces, hyphens or underscores; or, of ImageNet, its synset id
            ("n01440764", with or without a name behind it).
        names: The names of the pretrained classes.

    Returns:
        The column of the pretrained class by the label's; of labels that name the same class only the first.
    """
    columns = {_plain(name): column for column, name in reversed(list(enumerate(names)))}
    if tuple(names) == imagenet_labels():
        info = ImageNetInfo()
        columns |= {info.index_to_label_name(index): index for index in range(len(names))}
    found: dict[int, int] = {}
    for label, name in enumerate(labels):
        synset = _SYNSET.match(name)
        column = columns.get(synset[0] if synset else _plain(name))
        if column is not None and column not in found.values():
            found[label] = column
    return found


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _as_is(logits: Tensor, columns: dict[int, int], known: Known) -> Accuracy:
    kept = logits[:, [columns[label] for label in range(len(columns))]]
    return accuracy(kept.argmax(dim=1) == known.labels, known.weights)


def _leep(probabilities: Tensor, known: Known) -> float:
    """The mean log of the label's probability, by how often it comes with each pretrained class."""
    joint = functional.one_hot(known.labels, known.classes).double().T @ probabilities.double()  # [C, K], times N
    given = joint / joint.sum(dim=0).clamp_min(1e-300)
    expected = probabilities.double() @ given.T  # [N, C]
    return float(expected[torch.arange(len(expected)), known.labels].clamp_min(1e-300).log().mean())
