"""Chooses the training images that evidence is gathered from; does not read them."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from training.dataset import Sample

MOST = 5_000
# Of a class about so many are learnt from, however short the time is.
FEWEST_A_CLASS = 8
_LEAST = 5  # of a class: one for each fold


def choose(samples: Sequence[Sample], most: int = MOST) -> tuple[Sample, ...]:
    """Take of every class the same part, and five of a small one.

    Args:
        samples: Training images, in the order of their digests, which is as good as drawn.
        most: How many to take about; more only where a class would keep fewer than two.

    Returns:
        Some of the samples, in their order: the same for the same files.
    """
    if len(samples) <= most:
        return tuple(samples)
    of = defaultdict(list)
    for place, sample in enumerate(samples):
        of[sample.label].append(place)
    least = max(2, min(_LEAST, most // len(of)))
    share = (most - least * len(of)) / len(samples)
    taken = sorted(
        place for places in of.values() for place in _apart(samples, places)[: least + max(0, int(share * len(places)))]
    )
    return tuple(samples[place] for place in taken)


def _apart(samples: Sequence[Sample], places: Sequence[int]) -> list[int]:
    """Places, one of every group first: a class must not shrink to one group, which folds could not divide."""
    seen: Counter[str] = Counter()
    rounds = []
    for place in places:
        group = samples[place].group
        rounds.append(0 if group is None else seen[group])
        if group is not None:
            seen[group] += 1
    return [place for _, place in sorted(zip(rounds, places, strict=True))]
