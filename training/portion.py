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
_TIMED = 64  # images that tell how fast features come
_WARM_UP = 8
_FEWEST_A_CLASS = 8


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
    images = ledger.once("portion", _Portion, lambda: _Portion(images=_affordable(source, held_out, limit_s, steps)))
    chosen = subset.choose(source.train, images.images)
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
    with steps.step("see how fast features come"):
        can_look = (_rows_per_s(source, learnt) * _LOOKING * limit_s - asked) / views
    if len(learnt) <= can_look:
        return images
    return max(_FEWEST_A_CLASS * len(source.classes), int(images * can_look / len(learnt)))


def _rows_per_s(source: Source, lacking: Sequence[Sample]) -> float:
    """How many rows, one for each image and view, come in a second; those that it takes to see that are kept."""
    # By one process, as all will be: what it writes the others find.
    with devices.launched().rank_zero_first():
        source.only(lacking[:_WARM_UP]).extract((), _silent)
        timed = source.only(lacking[_WARM_UP : _WARM_UP + _TIMED])
        started_s = time.monotonic()
        timed.extract((), _silent)
        return len(timed.train) * len(timed.shown) / (time.monotonic() - started_s)


def _silent(_: int) -> None:
    """Tells nobody: it is a part of a step that has no total."""
