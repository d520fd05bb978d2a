"""Finds held-out images that the backbone can hardly tell from one that was learnt from or chosen by; judges none.

What twins.py cannot see because it compares place by place, a backbone does: a copy that was cropped or turned a
little, or the same thing photographed once more. How near is near is told as there, by the tenth neighbour after it.
Measured on embeddings of EfficientNet-Lite0, with altered copies of held-out images put among those learnt from:

                                          mirrored  a tenth cut off  a quarter  turned by 10 degrees   others
- 1,000 of ImageNet, 300 held out              all              all       87 %                  91 %        0
- 12,000 of CIFAR-10, 2,000 held out          98 %             59 %        9 %                   9 %       12

Of the 12 nine are one photograph, looked at one by one; three show the same aeroplane. Of solar cells, which are all
alike to it, it finds 116 of 656, those without a flaw among them: so this is for a person to look at, and no leak.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from export.labelled import Split
from training import heads
from training.dataset import Sample
from training.result import Leak, Lookalike
from training.twins import CLOSER, RANK

# Of fewer images the tenth is of another kind, and whatever is of the same kind is much closer.
_FEWEST = 10 * RANK
# Comparisons that are made: 10,000 images with 60,000 take half a minute on two cores.
_MOST = 10**9
_BLOCK = 2**22  # distances at a time, 16 MiB
_ROUNDING = 1e-6  # what a distance of float32 vectors is uncertain by


def find(
    embeddings: Mapping[Split, Tensor], splits: Mapping[Split, Sequence[Sample]], leaks: Sequence[Leak]
) -> tuple[Lookalike, ...] | None:
    """Find the lookalikes that held-out images have in a split before theirs.

    Args:
        embeddings: What the backbone makes of the images of each split, float32 `[N, D]`.
        splits: The images, in the order train, validation, test.
        leaks: What is known already: these images are not listed again.

    Returns:
        The pairs, the nearest first; None where there are too many images to hold each against all others.
    """
    known = {(leak.split, leak.path) for leak in leaks}
    order = list(splits)
    if _comparisons([len(splits[split]) for split in order]) > _MOST:
        return None
    units = {split: heads.unit(embeddings[split]).numpy() for split in order}
    found: list[Lookalike] = []
    for number, split in enumerate(order[1:], start=1):
        seen = order[:number]
        earlier = [(name, sample) for name in seen for sample in splits[name]]
        if len(earlier) < _FEWEST:
            continue
        places, distances = nearest(units[split], np.concatenate([units[name] for name in seen]))
        for place in np.flatnonzero(distances <= CLOSER).tolist():
            path, (of, other) = str(splits[split][place].path), earlier[places[place]]
            if (split, path) not in known:
                distance = float(distances[place])
                found.append(Lookalike(split=split, path=path, of=of, other=str(other.path), distance=distance))
    return tuple(sorted(found, key=lambda each: each.distance))


def _comparisons(counts: Sequence[int]) -> int:
    return sum(count * sum(counts[:number]) for number, count in enumerate(counts))


def nearest(asked: NDArray[np.float32], among: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Find the nearest of some directions to each of others.

    Args:
        asked: Vectors of unit length, float32 `[N, D]`.
        among: More than ten others, float32 `[M, D]`.

    Returns:
        The place of the nearest for each, int64 `[N]`; and how far it is, as a part of how far the tenth after it is,
        float32 `[N]` in [0, 1]: 1 minus the cosine is the distance.
    """
    places, distances = np.zeros(len(asked), np.int64), np.zeros(len(asked), np.float32)
    step = max(1, _BLOCK // len(among))
    for start in range(0, len(asked), step):
        block = slice(start, start + step)
        far = np.maximum(1 - asked[block] @ among.T, _ROUNDING)  # [step, M]
        tenth = np.partition(far, RANK, axis=1)[:, RANK]
        places[block], distances[block] = far.argmin(axis=1), far.min(axis=1) / tenth
    return places, distances
