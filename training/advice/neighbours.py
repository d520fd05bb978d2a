"""What the nearest other images say of each image; does not know what the features mean."""

from collections.abc import Sequence

import torch
from torch import Tensor

from training.advice.accuracy import accuracy
from training.advice.evidence import Neighbours
from training.heads import unit

_COUNT = 20
_AGREED = 0.9
_ROWS = 512  # of cosines at a time


def neighbours(embedding: Tensor, labels: Tensor, weights: Tensor, groups: Sequence[str | None]) -> Neighbours:
    """Ask of each image its nearest others by cosine; those of its own group are not asked.

    Args:
        embedding: float32 `[N, D]`, of at least two images.
        labels: int64 `[N]`.
        weights: float64 `[N]`, above 0.
        groups: The group of each image; None for an image that is on its own.

    Returns:
        How often they are right, and how often they agree on another label.
    """
    rows, own = unit(embedding), _numbered(groups)
    count = min(_COUNT, len(rows) - 1)
    right, contradicted = [], []
    for places in torch.split(torch.arange(len(rows)), _ROWS):
        cosines = rows[places] @ rows.T  # [rows, N]
        cosines[own[places][:, None] == own] = -torch.inf
        near = cosines.topk(count, dim=1)
        asked = near.values > -torch.inf  # where a group leaves fewer others
        votes = torch.zeros(len(places), int(labels.max()) + 1)
        votes.scatter_add_(1, labels[near.indices], asked.float())
        # Of classes with as many votes the one of the nearest.
        votes.scatter_add_(1, labels[near.indices], (near.values.clamp_min(-1) + 1) * asked * 1e-3)
        answer = votes.argmax(dim=1)
        right.append(answer == labels[places])
        agreed = (labels[near.indices] == answer[:, None]) & asked
        contradicted.append(~right[-1] & (agreed.sum(dim=1) >= _AGREED * count))
    return Neighbours(
        count=count,
        accuracy=accuracy(torch.cat(right), weights),
        contradicted=float(torch.cat(contradicted).double().mean()),
    )


def _numbered(groups: Sequence[str | None]) -> Tensor:
    """A number for each group, int64 `[N]`; an image that is on its own has one of its own."""
    numbers: dict[str, int] = {}
    alone = len(groups)
    return torch.tensor(
        [
            alone + place if group is None else numbers.setdefault(group, len(numbers))
            for place, group in enumerate(groups)
        ]
    )
