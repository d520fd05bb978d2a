"""The places of one model: who is admitted, and whether the engine is in time for it; knows no image and no engine."""

import bisect
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from service.errors import BadRequest, DeadlineUnreachable, Overloaded

# How much of the estimate of the engine's speed the newest batch makes up, and how far above it a batch counts at most:
# one stall of the whole machine is no reason to refuse what comes after it.
_NEWEST = 0.1
_HIGHEST = 2.0
# How much of the slack the newest request makes up.
_SLACK_NEWEST = 0.05
# As late as one answer may count while answers have been in time.
_LATEST_S = 0.1


@dataclass
class _Slack:
    """How much later answers come than expected: the mean and four mean deviations, as TCP reckons its timeout.

    It holds what the estimate leaves out: decoders and batches that are waited for, busy neighbours.
    """

    mean_s: float = 0.0
    deviation_s: float = 0.0

    @property
    def seconds(self) -> float:
        return self.mean_s + 4 * self.deviation_s

    def learn(self, late_s: float) -> None:
        # What comes early says nothing of what comes late; and one stall is no reason to refuse all that follows it.
        late_s = min(max(0.0, late_s), max(_LATEST_S, _HIGHEST * self.seconds))
        self.deviation_s += _SLACK_NEWEST * (abs(late_s - self.mean_s) - self.deviation_s)
        self.mean_s += _SLACK_NEWEST * (late_s - self.mean_s)


class Places:
    """So many images may be admitted and not yet answered, and only those that can be answered in time.

    Args:
        limit: How many.
        seconds_per_image: The first estimate of the engine's speed, from the warm-up.
        clock: Monotonic seconds.

    Attributes:
        limit: How many there are.
        seconds_per_image: The present estimate of the engine's speed, all lanes together.
    """

    def __init__(self, limit: int, seconds_per_image: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self.seconds_per_image = seconds_per_image
        self._clock = clock
        self._deadlines_s: list[float] = []  # of the admitted images, rising
        self._slack = _Slack()

    @property
    def taken(self) -> int:
        """How many images are admitted and not yet answered."""
        return len(self._deadlines_s)

    @contextmanager
    def hold(self, images: int, deadline_s: float, running_s: Iterable[float]) -> Iterator[float]:
        """Hold places for all images of a request.

        Args:
            images: How many, at least 1.
            deadline_s: When the caller stops waiting, in seconds of the clock.
            running_s: The deadlines of the images that the engine has already.

        Yields:
            How long the engine is expected to take for them and for what goes before them, in seconds. The places are
            given back when the block ends.

        Raises:
            BadRequest: There are not that many places.
            Overloaded: Not that many places are free now.
            DeadlineUnreachable: At its present speed the engine would finish after the deadline.
        """
        self._check_room(images)
        expected_s = self._check_deadline(images, deadline_s, running_s)
        for _ in range(images):
            bisect.insort(self._deadlines_s, deadline_s)
        try:
            yield expected_s
        finally:
            first = bisect.bisect_left(self._deadlines_s, deadline_s)
            del self._deadlines_s[first : first + images]

    def answered(self, late_s: float) -> None:
        """Learn from an image that was answered, so much later than was expected when it was admitted, in seconds."""
        self._slack.learn(late_s)

    def learn(self, seconds_per_image: float) -> None:
        """Correct the estimate by a batch that was run."""
        newest = min(seconds_per_image, _HIGHEST * self.seconds_per_image)
        self.seconds_per_image += _NEWEST * (newest - self.seconds_per_image)

    def _check_room(self, images: int) -> None:
        if images > self.limit:
            raise BadRequest(f"Expected at most {self.limit} images. Received: {images}.")
        if self.taken + images > self.limit:
            # The earliest that as many places can be free again.
            excess = self.taken + images - self.limit
            raise Overloaded(
                f"Expected room for {images} images. Received: {self.taken} of {self.limit} places taken.",
                retry_after_s=excess * self.seconds_per_image,
            )

    def _check_deadline(self, images: int, deadline_s: float, running_s: Iterable[float]) -> float:
        """How long the engine is expected to take for the images and for what goes before them, in seconds."""
        # What has an earlier deadline goes first, and so does what is in the engine already. An idle engine is worth a
        # try whatever the estimate: without one, an estimate that is too high would never be corrected.
        now_s = self._clock()
        first = bisect.bisect_right(self._deadlines_s, deadline_s)
        ahead = first + sum(running > deadline_s for running in running_s)
        expected_s = (ahead + images) * self.seconds_per_image
        needed_s = expected_s + self._slack.seconds if self.taken else 0.0
        left_s = deadline_s - now_s
        if left_s <= 0:
            raise DeadlineUnreachable(
                f"Expected a deadline to come. Received: one that passed {-left_s * 1000:.0f} ms ago."
            )
        if needed_s > left_s:
            raise DeadlineUnreachable(
                f"Expected at least {needed_s * 1000:.0f} ms until the deadline. Received: {left_s * 1000:.0f} ms.",
                retry_after_s=needed_s - left_s,
            )
        self._check_those_behind(first, images, now_s)
        return expected_s

    def _check_those_behind(self, first: int, images: int, now_s: float) -> None:
        # Who has been admitted with a later deadline was promised an answer, too.
        for place, deadline_s in enumerate(self._deadlines_s[first:], first + 1):
            spare_s = deadline_s - now_s - self._slack.seconds - place * self.seconds_per_image
            if 0 <= spare_s < images * self.seconds_per_image:
                raise Overloaded(
                    f"Expected room for {images} images before those with a later deadline. Received: room for "
                    f"{int(spare_s / self.seconds_per_image)}.",
                    retry_after_s=images * self.seconds_per_image - spare_s,
                )
