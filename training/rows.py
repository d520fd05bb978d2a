"""Takes rows of a pretrained classifier over into a new one, for classes that both have; trains nothing."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from training.errors import HeadError


def reused_rows(wanted: Sequence[str], known: Sequence[str]) -> dict[int, int]:
    """Say which class of a pretrained classifier each wanted class is.

    Args:
        wanted: The names of the new classes, by column.
        known: The names of the pretrained ones, by column.

    Returns:
        The column of the pretrained class by that of the new one, where both have the same name, whatever its capitals
        and whether words are joined by spaces, hyphens or underscores. What is in neither is left out.
    """
    columns = {_plain(name): column for column, name in reversed(list(enumerate(known)))}
    return {column: columns[_plain(name)] for column, name in enumerate(wanted) if _plain(name) in columns}


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


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
