"""Takes as many of the training images as there is time to look at; does not know what is learnt from them."""

import math
import time
from collections.abc import Sequence

from pydantic import BaseModel

from export.progress import Steps
from training.advice import subset
from training.dataset import Sample
from training.ledger import Ledger
from training.source import Source
from training.tuning import devices
from training.views import PLAIN

# Of the time that is left, what the features of all images may take: solving heads on them takes up to as long, and
# what is to be fine-tuned has to see the images again.
_LOOKING = 0.4
_WARM_UP = 8
# Images that may tell how fast features come, and twice as many until they take so long.
_TIMED = 64
_TELLING_S = 1.0


class _Portion(BaseModel):
    """How many training images there is time for."""

    images: int


def take(
    source: Source, held_out: Sequence[Sample], limit_s: float, ledger: Ledger, steps: Steps
) -> tuple[Sample, ...]:
    """Take of every class the same part of the training images, as many as there is time to compute features of.

    Args:
        source: Where features are read, and all training images.
        held_out: Images that need features as well, all of them.
        limit_s: How much time is left for everything, in seconds.
        ledger: Keeps how many they were: going on after a kill takes the same.
        steps: Tells of one step, where it has to be seen how fast features come.

    Returns:
        The training images: all where there is time for that, about eight of each class where there is for none.

    Raises:
        BackboneError: The backbone gives something else than numbers.
        CacheError: The cache cannot be read or written.
        DataError: A file is gone or was changed since it was checked.
    """

    def measure() -> _Portion:
        # What one process writes the others find; and all come here, or none.
        with devices.launched().rank_zero_first():
            return _Portion(images=_affordable(source, held_out, limit_s, steps))

    chosen = subset.choose(source.train, ledger.once("portion", _Portion, measure).images)
    if len(chosen) < len(source.train):
        steps.say(
            f"There is time to look at {len(chosen)} of {len(source.train)} training images, of every class the same "
            "part: a longer --time-limit-min learns from more of them."
        )
    return chosen


def _affordable(source: Source, held_out: Sequence[Sample], limit_s: float, steps: Steps) -> int:
    images, views = len(source.train), len(source.shown)
    learnt = source.missing(source.train, source.shown)
    if len(learnt) <= _WARM_UP + _TIMED or math.isinf(limit_s):
        return images
    asked = len(source.missing(held_out, (PLAIN,)))
    steps.more(1)
    with steps.step("time the features"):
        can_look = (_rows_per_s(source, learnt) * _LOOKING * limit_s - asked) / views
    if len(learnt) <= can_look:
        return images
    # What the cache has of them was chosen likewise, and comes first.
    return max(subset.FEWEST_A_CLASS * len(source.classes), images - len(learnt) + max(0, int(can_look)))


def _rows_per_s(source: Source, lacking: Sequence[Sample]) -> float:
    """How many rows, one for each image and view, come in a second; those that it takes to see that are kept."""
    source.only(lacking[:_WARM_UP]).extract((), lambda _: None)
    left, count = lacking[_WARM_UP:], _TIMED
    while True:
        timed, left = source.only(left[:count]), left[count:]
        started_s = time.monotonic()
        timed.extract((), lambda _: None)
        took_s = time.monotonic() - started_s
        # To open and to write the cache takes as long for a few as for many.
        if took_s >= _TELLING_S or not left:
            return len(timed.train) * len(timed.shown) / took_s
        count *= 2
