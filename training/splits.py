"""Decides which image is for what: as the data names it, or drawn; does not open images.

A draw follows from the digests of the files and a seed alone, so it is the same on every machine, whatever the order of
the files and wherever they lie, and a few images more change it little.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from export.errors import DataError
from export.labelled import LabelledImage, Split

_MIN_TRAIN = 2  # images of a class: one to learn from and one to validate on
_MIN_DRAWN = _MIN_TRAIN + 1
_SHOWN = 5
# Of the training images, what plans are compared by; of few images more, because of few answers luck decides.
_COMPARED = 0.2
_COMPARED_IMAGES, _MOST_COMPARED = 100, 0.5


class Drawable(Protocol):
    """A training image that was checked; training.dataset.Sample is one."""

    @property
    def path(self) -> Path:
        """The file."""
        ...

    @property
    def sha256(self) -> bytes:
        """The digest of the file."""
        ...

    @property
    def label(self) -> int:
        """The column of its class."""
        ...

    @property
    def group(self) -> str | None:
        """What must not be divided."""
        ...


S = TypeVar("S", bound=Drawable)


@dataclass(frozen=True)
class _Unit:
    """Images that stay together: those of one group, or one that has none."""

    order: bytes
    places: tuple[int, ...]
    labels: Counter[str]


def check(images: Sequence[LabelledImage]) -> None:
    """Refuse images that nothing can be learnt from.

    Args:
        images: Labelled, and with a split each or none at all.

    Raises:
        DataError: There is one class; a class has too few images to learn from; some images have a split and others
            have none; there are no training images, or nothing but these; a label is held out that training lacks; or
            a group is in two splits.
    """
    without = [image for image in images if image.split is None]
    if 0 < len(without) < len(images):
        raise DataError(
            f"Expected a split for every image, or for none. Received: {len(without)} of {len(images)} images without "
            f"one, {without[0].path} first."
        )
    if not without:
        _check_named(images)
    train = Counter(image.label for image in images if image.split in ("train", None))
    if len(train) < 2:
        raise DataError(
            f"Expected at least 2 classes to learn from. Received: {len(train)}, {_listed(train)}. Add images of what "
            "is not in it."
        )
    least = _MIN_TRAIN if not without else _MIN_DRAWN
    if few := sorted(label for label, count in train.items() if count < least):
        why = "in the training split" if not without else "which leaves 2 to learn from when one is held out"
        raise DataError(
            f"Expected at least {least} images of every class, {why}. Received: "
            f"{_listed(f'{label} ({train[label]})' for label in few)}. Add images, or remove the class."
        )
    apart = _apart(image for image in images if image.split in ("train", None))
    if close := sorted(label for label, units in apart.items() if len(units) < _MIN_TRAIN):
        raise DataError(
            f"Expected training images of every class in at least {_MIN_TRAIN} groups, of which one is learnt from "
            f"while another is asked about. Received: one group of {_listed(close)}. Add images of other groups, or "
            "remove the class."
        )


def draw(images: Sequence[LabelledImage], digests: Sequence[bytes], test_fraction: float, seed: int) -> list[Split]:
    """Hold images out for testing, of every class about the same part; a group is never divided.

    Args:
        images: Images that `check` let pass, without splits.
        digests: The SHA-256 of each file, no two the same.
        test_fraction: The part to hold out, above 0 and below 1.
        seed: Draws another split.

    Returns:
        "train" or "test" for each image. Every class has at least 2 images of different groups in training, and one in
        the test where its groups allow that.

    Raises:
        DataError: The fraction is none, or the groups leave nothing to hold out.
    """
    if not 0 < test_fraction < 1:
        raise DataError(f"Expected a part to hold out above 0 and below 1. Received: {test_fraction}.")
    total = Counter(image.label for image in images)
    wanted = {label: min(max(1, round(count * test_fraction)), count - _MIN_TRAIN) for label, count in total.items()}
    room = {label: count - _MIN_TRAIN for label, count in total.items()}
    units = _units(images, digests, seed)
    taken: Counter[str] = Counter()
    left = Counter(label for unit in units for label in unit.labels)
    test = [unit for unit in units if _take(unit, taken, wanted, left)]
    # A group that is larger than the part of its class: better a little too much than none.
    for unit in sorted(units, key=lambda each: len(each.places)):
        if any(taken[label] == 0 for label in unit.labels) and _take(unit, taken, room, left):
            test.append(unit)
    if not test:
        raise DataError(
            f"Expected groups of which one can be held out with 2 images of every class left. Received: {len(units)} "
            "groups that are too large. Name the splits yourself, or make groups smaller."
        )
    held_out = {place for unit in test for place in unit.places}
    return ["test" if place in held_out else "train" for place in range(len(images))]


def hold_out(samples: Sequence[S], seed: int) -> tuple[tuple[S, ...], tuple[S, ...]]:
    """Hold training images out, for a choice that the test has no say in; as `draw` does, of every class the same part.

    A fifth, but a hundred images where that is no more than half of them.

    Args:
        samples: Training images that were checked.
        seed: Draws others.

    Returns:
        Those to learn from, and those to compare by: none where that would leave a class without 2 to learn from, and
        of a class none where it has no more.
    """
    images = [LabelledImage(each.path, str(each.label), None, each.group) for each in samples]
    part = max(_COMPARED, min(_MOST_COMPARED, _COMPARED_IMAGES / len(samples)))
    try:
        parts = draw(images, [each.sha256 for each in samples], part, seed)
    except DataError:
        return tuple(samples), ()
    paired = list(zip(samples, parts, strict=True))
    learnt = tuple(each for each, part in paired if part == "train")
    return learnt, tuple(each for each, part in paired if part == "test")


def _check_named(images: Sequence[LabelledImage]) -> None:
    labels: defaultdict[Split | None, Counter[str]] = defaultdict(Counter)
    splits_of: defaultdict[str, set[str]] = defaultdict(set)
    for image in images:
        labels[image.split][image.label] += 1
        if image.group is not None:
            splits_of[image.group].add(str(image.split))
    if "train" not in labels:
        raise DataError("Expected images in the split train. Received: none.")
    if len(labels) == 1:
        raise DataError(
            "Expected images in the split test or validation beside train. Received: none. Hold some out, or give the "
            "images without splits to have some drawn."
        )
    for split in ("validation", "test"):
        if unseen := sorted(labels[split].keys() - labels["train"].keys()):
            raise DataError(
                f"Expected labels in the split {split} that training has too. Received: {_listed(unseen)}. Correct "
                "the label, or add training images of it."
            )
    if divided := sorted(group for group, splits in splits_of.items() if len(splits) > 1):
        raise DataError(
            f"Expected every group in one split. Received: {_listed(divided)} in "
            f"{' and '.join(sorted(splits_of[divided[0]]))}. What a group says must not be divided leaks."
        )


def _units(images: Sequence[LabelledImage], digests: Sequence[bytes], seed: int) -> list[_Unit]:
    places: defaultdict[bytes, list[int]] = defaultdict(list)
    for place, (image, digest) in enumerate(zip(images, digests, strict=True)):
        name = b"file" + digest if image.group is None else b"group" + image.group.encode()
        places[hashlib.sha256(f"{seed} ".encode() + name).digest()].append(place)
    return [
        _Unit(order, tuple(each), Counter(images[place].label for place in each))
        for order, each in sorted(places.items())
    ]


def _take(unit: _Unit, taken: Counter[str], most: Mapping[str, int], left: Counter[str]) -> bool:
    """Hold a unit out, unless of one of its classes too many images would be, or too few units would be left."""
    if any(taken[label] + count > most[label] or left[label] <= _MIN_TRAIN for label, count in unit.labels.items()):
        return False
    taken.update(unit.labels)
    left.subtract(unit.labels.keys())
    return True


def _apart(images: Iterable[LabelledImage]) -> dict[str, set[str]]:
    """For each class the groups that its images are of; an image without one is a group of its own."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for index, image in enumerate(images):
        found[image.label].add(f"image {index}" if image.group is None else f"group {image.group}")
    return found


def _listed(names: Iterable[str]) -> str:
    all_names = list(names)
    shown = ", ".join(all_names[:_SHOWN])
    return shown if len(all_names) <= _SHOWN else f"{shown} and {len(all_names) - _SHOWN} more"
