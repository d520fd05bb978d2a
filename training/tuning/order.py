"""Which images a step learns from, and which process shows them; knows no pixels and keeps no state.

An epoch's order is a pure function of seed and epoch: whoever goes on in the middle of it needs nothing but the two.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.errors import TuningError

# Tells this file's random numbers from those that others draw with the same seed and epoch.
_STREAM = 1


@dataclass(frozen=True)
class Draws:
    """What a step shows, or a part of it.

    Attributes:
        places: int64 `[B]`: the places of images in the data set.
        repeats: int64 `[B]`: how often each has been shown in this epoch before: above 0 only where classes are
            balanced.
    """

    places: NDArray[np.int64]
    repeats: NDArray[np.int64]


@dataclass(frozen=True)
class Order:
    """How an epoch goes through the images.

    Shuffled, each image is shown once an epoch, the last batch being smaller. Balanced, an epoch is as long and every
    class has as many of its places (or one more): the images of each are gone through in a shuffled order, again and
    again where there are few, so that no image comes more often than another of its class but by one.

    Args:
        labels: int64 `[N]`: the class of each image.
        batch: Images a step, of all processes together; of fewer images all are shown at once.
        balanced: Whether all classes are shown equally often.
        fewest: A last batch of fewer images is left out: batch norm in training mode cannot take one image alone.

    Raises:
        TuningError: There is no image, or no batch of so few.
    """

    labels: NDArray[np.int64]
    batch: int
    balanced: bool = False
    fewest: int = 1

    def __post_init__(self) -> None:
        if not len(self.labels):
            raise TuningError("Expected images to learn from. Received: none.")
        if not 1 <= self.fewest <= self.batch:
            raise TuningError(f"Expected batches of at least {max(1, self.fewest)} images. Received: {self.batch}.")
        if len(self.labels) < self.fewest:
            raise TuningError(
                f"Expected at least {self.fewest} images, which batch norm needs to learn statistics. "
                f"Received: {len(self.labels)}. Train with the batch norm in eval mode"
            )

    @property
    def images(self) -> int:
        """How many images an epoch shows; of what is left out of it others are chosen each time."""
        remainder = len(self.labels) % self.batch
        return len(self.labels) - (remainder if remainder < self.fewest else 0)

    @property
    def steps(self) -> int:
        """How many steps an epoch has, at least one."""
        return -(-self.images // self.batch)

    def draws(self, seed: int, epoch: int) -> list[Draws]:
        """What each step of an epoch shows.

        Args:
            seed: Draws another order.
            epoch: Which epoch, from 0.

        Returns:
            A batch for each step.
        """
        random = np.random.default_rng([seed, epoch, _STREAM])
        places = self._balanced(random) if self.balanced else random.permutation(len(self.labels))
        places = places[: self.images]
        repeats = _repeats(places)
        starts = range(0, self.images, self.batch)
        return [Draws(places[at : at + self.batch], repeats[at : at + self.batch]) for at in starts]

    def _balanced(self, random: np.random.Generator) -> NDArray[np.int64]:
        classes = [np.flatnonzero(self.labels == label) for label in np.unique(self.labels)]
        most = -(-len(self.labels) // len(classes))
        # Column by column, all classes come near to one another wherever the epoch is cut; which have one place more,
        # changes by the epoch.
        table = np.stack([_again_and_again(classes[each], most, random) for each in random.permutation(len(classes))])
        chosen = table.T.reshape(-1)[: len(self.labels)]
        return random.permutation(chosen)


def _again_and_again(places: NDArray[np.int64], count: int, random: np.random.Generator) -> NDArray[np.int64]:
    rounds = -(-count // len(places))
    return np.concatenate([random.permutation(places) for _ in range(rounds)])[:count]


def _repeats(places: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each place, how often it came before."""
    by_place = np.argsort(places, kind="stable")
    ordered = places[by_place]
    is_first = np.r_[True, ordered[1:] != ordered[:-1]]
    first = np.maximum.accumulate(np.where(is_first, np.arange(len(places)), 0))
    repeats = np.empty(len(places), np.int64)
    repeats[by_place] = np.arange(len(places)) - first
    return repeats


@dataclass(frozen=True)
class Share:
    """A process's part of a batch.

    Attributes:
        positions: int64 `[S]`: which of the batch's images it shows; S is the same for all processes.
        is_real: bool `[S]`: false for what only fills the share up, so that all processes step together.
    """

    positions: NDArray[np.int64]
    is_real: NDArray[np.bool_]


def share(images: int, rank: int, world: int) -> Share:
    """Divide a batch among processes.

    Args:
        images: How many the batch has.
        rank: Which of the processes, from 0.
        world: How many processes there are.

    Returns:
        Neighbours in the batch; the shares of all processes are the batch, in its order.

    Raises:
        TuningError: There is no such process.
    """
    if not 0 <= rank < world:
        raise TuningError(f"Expected a process of 0 to {world - 1}. Received: {rank}.")
    size = -(-images // world)
    positions = np.arange(rank * size, (rank + 1) * size)
    return Share(np.minimum(positions, images - 1), positions < images)
