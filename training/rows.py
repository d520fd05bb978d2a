"""Takes rows of a pretrained classifier over into a new one, for classes that both have; trains nothing."""

import re
from collections.abc import Mapping, Sequence

import torch
from timm.data.imagenet_info import ImageNetInfo
from torch import nn

from training.architectures.labels import imagenet_labels
from training.errors import HeadError

_SYNSET = re.compile(r"n\d{8}")


def reused_rows(wanted: Sequence[str], known: Sequence[str]) -> dict[int, int]:
    """Say which class of a pretrained classifier each wanted class is.

    Args:
        wanted: The names of the new classes, by column: of a pretrained class in any case, with spaces, hyphens or
            underscores; or, of ImageNet, its synset id ("n01440764", with or without a name behind it).
        known: The names of the pretrained ones, by column.

    Returns:
        The column of the pretrained class by that of the new one; of new ones that name the same class only the first.
    """
    columns = {_plain(name): column for column, name in reversed(list(enumerate(known)))}
    if tuple(known) == imagenet_labels():
        info = ImageNetInfo()
        columns |= {info.index_to_label_name(index): index for index in range(len(known))}
    found: dict[int, int] = {}
    for place, name in enumerate(wanted):
        synset = _SYNSET.match(name)
        column = columns.get(synset[0] if synset else _plain(name))
        if column is not None and column not in found.values():
            found[place] = column
    return found


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def reused(classifier: nn.Linear, rows: Mapping[int, int], classes: int) -> nn.Linear:
    """Make a classifier of the rows of another one.

    Args:
        classifier: The pretrained one: `[N, D]` to `[N, K]`.
        rows: As `reused_rows` gives them.
        classes: How many columns the new one has.

    Returns:
        The new one: `[N, D]` to `[N, classes]`. A class without a row begins as the mean of all pretrained ones, which
        prefers it to none: it is no random layer, and has learnt nothing yet.

    Raises:
        HeadError: A row is beyond what one of the two has.
    """
    if wrong := {new: old for new, old in rows.items() if new >= classes or old >= classifier.out_features}:
        raise HeadError(f"Expected rows below {classes}, from rows below {classifier.out_features}. Received: {wrong}.")
    made = nn.Linear(classifier.in_features, classes, bias=classifier.bias is not None)
    with torch.no_grad():
        for ours, theirs in zip(made.parameters(), classifier.parameters(), strict=True):
            ours.copy_(theirs.mean(dim=0, keepdim=True).expand_as(ours))
            for new, old in rows.items():
                ours[new] = theirs[old]
    return made
