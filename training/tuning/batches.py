"""What the fine-tuning loop is fed; knows nothing of models, losses and optimizers.

A batch is a pure function of seed, epoch and step, and what an image looks like of seed, epoch and image: a training
that goes on in the middle of an epoch, or in several processes, sees the same images as one that never stopped.
"""

import hashlib
import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import PIL
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor

from export import ahead
from service import cpu
from service.bundle import CropGeometry
from training.dataset import Sample
from training.errors import TuningError
from training.tuning.augmentation import Augmentation, augmented
from training.tuning.imbalance import Treatment
from training.tuning.mixing import Rows, mixed
from training.tuning.order import Draws, Order, share
from training.tuning.pixels import Pixels
from training.tuning.validation import Labelled

# Raised when the same facts come to show other pixels: by a change here, in augmentation.py or pixels.py.
_REVISION = "1"
# Batches that are made and wait to be taken.
_AHEAD = 3
_MOST_THREADS = 4
# Tell random numbers that are drawn with the same seed and epoch from each other, and from those of order.py.
_LOOKS, _MIXES = 2, 3


@dataclass(frozen=True)
class Batch:
    """Images for one step, and what to make of them.

    Attributes:
        pixels: uint8 `[B, H, W, 3]`.
        targets: float32 `[B, C]`, each row the part of each class, in all 1; images that are mixed have several.
        weights: float32 `[B]`: how much each image counts; 0 for one that only fills a process's share up.
    """

    pixels: Tensor
    targets: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Images:
    """Images to learn from, and what is said of them.

    Attributes:
        pixels: The images, as `pixels.framed` keeps them.
        labels: int64 `[N]`: the class of each.
        weights: float32 `[N]`, above 0: how much each counts.
        classes: How many classes there are.
    """

    pixels: Pixels
    labels: NDArray[np.int64]
    weights: NDArray[np.float32]
    classes: int


def images(samples: Sequence[Sample], pixels: Pixels, treatment: Treatment) -> Images:
    """Join pixels with what is said of the images.

    Args:
        samples: The images.
        pixels: Their pixels, in the same order.
        treatment: Says what an image of each class counts, beside what it counts by itself.

    Returns:
        The images.
    """
    labels = np.array([sample.label for sample in samples], np.int64)
    own = np.array([sample.weight for sample in samples], np.float32)
    by_class = np.array(treatment.weights, np.float32)
    return Images(pixels, labels, own * by_class[labels], len(by_class))


@dataclass(frozen=True)
class Drawn:
    """A batch without its pixels.

    Attributes:
        places: int64 `[B]`: the places of its images in the data.
        targets: As a Batch has them, like the weights.
        weights: float32 `[B]`.
    """

    places: NDArray[np.int64]
    targets: Tensor
    weights: Tensor


def check_views(views: int | None, how: Augmentation) -> None:
    """Refuse images that cannot have so many looks; None is another one each time."""
    if views is None:
        return
    if views < 1:
        raise TuningError(f"Expected at least one view of an image. Received: {views}.")
    if how.mixing:
        raise TuningError(
            f"Expected images that can have {views} views (--cached-views). Received: an augmentation that mixes them "
            "(--augmentation strong). Do without one of the two"
        )


@dataclass(frozen=True)
class Augmented:
    """Batches of images that are augmented as they are shown, made in threads a few ahead.

    Attributes:
        data: The images.
        order: Which of them a step shows.
        augmentation: What may happen to them.
        geometry: How large they are.
        seed: Every random number follows from it.
        views: How many looks an image has, which the epochs show in turn; None for another one each time. What a frozen
            prefix makes of so many views can be cached.

    Raises:
        TuningError: An image has no view; or so many, and is mixed, so that it has more.
    """

    data: Images
    order: Order
    augmentation: Augmentation
    geometry: CropGeometry
    seed: int
    views: int | None = None

    def __post_init__(self) -> None:
        check_views(self.views, self.augmentation)

    @property
    def images(self) -> int:
        """How many images an epoch shows."""
        return self.order.images

    def steps(self, epoch: int) -> int:  # noqa: ARG002 - all epochs are alike here
        """How many steps an epoch has."""
        return self.order.steps

    def epoch(self, number: int, start_step: int = 0, rank: int = 0, world: int = 1) -> Generator[Batch]:
        """The batches of an epoch.

        Args:
            number: The epoch, from 0.
            start_step: The first step to make.
            rank: Of several processes, which this is, from 0.
            world: How many processes there are. All get equally many images of each batch, the last ones some of weight
                0 where it cannot be divided: the mean over a batch is over the weights of all processes.

        Yields:
            Batches. What an image looks like does not depend on the number of processes.
        """
        steps = list(enumerate(self.order.draws(self.seed, number)))[start_step:]
        make = partial(self._batch, epoch=number, rank=rank, world=world)
        with closing(ahead.mapped(make, steps, _threads(), _AHEAD)) as made:
            yield from made

    @property
    def sha256(self) -> str:
        """Names all that the pixels of `view` follow from: files, geometry, augmentation, seed and versions."""
        facts = {
            "images": hashlib.sha256(b"".join(self.data.pixels.keys)).hexdigest(),
            "geometry": asdict(self.geometry),
            "augmentation": asdict(self.augmentation),
            "seed": self.seed,
            "revision": _REVISION,
            "pillow": PIL.__version__,
            "torchvision": torchvision.__version__,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def drawn(self, number: int, start_step: int = 0, rank: int = 0, world: int = 1) -> Iterator[Drawn]:
        """What `epoch` gives but for the pixels, where nothing is mixed; the arguments are the same."""
        for draws in self.order.draws(self.seed, number)[start_step:]:
            part = share(len(draws.places), rank, world)
            places = draws.places[part.positions]
            weights = np.where(part.is_real, self.data.weights[places], np.float32(0))
            yield Drawn(places, torch.from_numpy(self._targets(places)), torch.from_numpy(weights))

    def view(self, number: int) -> Generator[Tensor]:
        """Every image once, in the data's order and unmixed, as the epoch of this number shows it.

        Args:
            number: Which view, from 0.

        Yields:
            uint8 `[B, crop_height_px, crop_width_px, 3]`.
        """
        show = partial(self._shown, epoch=number)
        parts = (Draws(places, np.zeros_like(places)) for places in _parts(len(self.data.labels), self.order.batch))
        with closing(ahead.mapped(show, parts, _threads(), _AHEAD)) as made:
            for each in made:
                yield torch.from_numpy(each)

    def _batch(self, numbered: tuple[int, Draws], epoch: int, rank: int, world: int) -> Batch:
        step, draws = numbered
        count = len(draws.places)
        part = share(count, rank, world)
        if self.augmentation.mixing:
            # Each with its neighbour in the whole batch, whatever the shares: one image more than the share.
            rows = self._rows(draws, np.r_[(part.positions[0] - 1) % count, part.positions], epoch)
            random = np.random.default_rng([self.seed, epoch, step, _MIXES])
            rows = mixed(_part(rows, slice(1, None)), _part(rows, slice(None, -1)), random)
        else:
            rows = self._rows(draws, part.positions, epoch)
        weights = np.where(part.is_real, rows.weights, np.float32(0))
        return Batch(torch.from_numpy(rows.pixels), torch.from_numpy(rows.targets), torch.from_numpy(weights))

    def _rows(self, draws: Draws, positions: NDArray[np.int64], epoch: int) -> Rows:
        chosen = Draws(draws.places[positions], draws.repeats[positions])
        shown = self._shown(chosen, epoch)
        return Rows(shown, self._targets(chosen.places), self.data.weights[chosen.places])

    def _targets(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.eye(self.data.classes, dtype=np.float32)[self.data.labels[places]]

    def _shown(self, draws: Draws, epoch: int) -> NDArray[np.uint8]:
        geometry = self.geometry
        frames = self.data.pixels.read(draws.places)
        shown = np.empty((len(frames), geometry.crop_height_px, geometry.crop_width_px, 3), np.uint8)
        for row, (frame, place, repeat) in enumerate(zip(frames, draws.places, draws.repeats, strict=True)):
            look = (epoch, repeat) if self.views is None else (epoch % self.views, 0)
            random = np.random.default_rng([self.seed, *look, place, _LOOKS])
            shown[row] = augmented(frame, self.augmentation, geometry, random)
        return shown


@dataclass(frozen=True)
class Plain:
    """Batches of images as they are served, to validate and test on.

    Attributes:
        pixels: The images, as `pixels.served` keeps them.
        labels: int64 `[N]`: the class of each.
        weights: float64 `[N]`: how much each counts.
        batch: Images a batch.
    """

    pixels: Pixels
    labels: NDArray[np.int64]
    weights: NDArray[np.float64]
    batch: int

    def batches(self) -> Generator[Labelled]:
        """All images in their order, the last batch being smaller."""
        with closing(ahead.mapped(self._labelled, _parts(len(self.labels), self.batch), _threads(), _AHEAD)) as made:
            yield from made

    def _labelled(self, places: NDArray[np.int64]) -> Labelled:
        pixels, labels, weights = self.pixels.read(places), self.labels[places], self.weights[places]
        return Labelled(torch.from_numpy(pixels), torch.from_numpy(labels), torch.from_numpy(weights))


def _parts(images: int, batch: int) -> Iterator[NDArray[np.int64]]:
    return (np.arange(at, min(at + batch, images)) for at in range(0, images, batch))


def _part(rows: Rows, which: slice) -> Rows:
    return Rows(rows.pixels[which], rows.targets[which], rows.weights[which])


def _threads() -> int:
    # More than the machine has would take from the training step what it needs.
    return max(1, min(_MOST_THREADS, cpu.usable() // 2))
