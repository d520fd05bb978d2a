"""Makes of labelled images a data set that can be trusted: checked, split, named; does not know what learns from it."""

import hashlib
import json
import os
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from export import ahead
from export.errors import DataError
from export.labelled import LabelledImage, Split
from export.progress import Advance
from service import image
from service.bundle import labels_sha256
from service.errors import BadImage
from training import splits, twins
from training.result import Data, Fault, Leak, Repeat
from training.store import Store

OnBad: TypeAlias = Literal["error", "skip"]

_LIMITS = image.ImageLimits()
_THREADS = 2  # Pillow lets go of the GIL, and of the machine something shall be left
_AHEAD = 16  # files that are read while one is waited for
_SHARD_ROWS = 2048
_SHOWN = 5
# Each is held against all others, twice, and in a mirror: of so many that takes 20 seconds, of ten times as many half
# an hour.
_MOST_COMPARED = 20_000
_SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Checked:
    """An image that was read and decoded whole.

    Attributes:
        image: What is said of it.
        sha256: The digest of its file, 32 bytes.
    """

    image: LabelledImage
    sha256: bytes

    @property
    def path(self) -> Path:
        """The file."""
        return self.image.path


@dataclass(frozen=True, slots=True)
class Sample:
    """An image to learn from or to test on.

    Attributes:
        path: The file.
        sha256: Its digest, 32 bytes.
        label: The column of its class.
        weight: How much it counts in training, above 0.
        group: What must not be divided between folds; None for an image that is on its own.
    """

    path: Path
    sha256: bytes
    label: int
    weight: float
    group: str | None


@dataclass(frozen=True)
class Plan:
    """How a data set is made.

    Attributes:
        on_bad: Whether to stop at files that cannot be used, or to leave them out.
        test_fraction: The part to hold out where the data names no splits.
        seed: Draws another split.
    """

    on_bad: OnBad = "error"
    test_fraction: float = 0.2
    seed: int = 0


@dataclass(frozen=True)
class Dataset:
    """Images that can be used.

    Attributes:
        splits: Train, and test or validation or both, each in the order of its files' digests.
        data: What is to be said of them: it counts all, and knows leaks and repeats of those in the splits alone.
        left: Training images that there is no time for.
    """

    splits: Mapping[Split, tuple[Sample, ...]]
    data: Data
    left: tuple[Sample, ...] = ()

    @property
    def held_out(self) -> dict[Split, tuple[Sample, ...]]:
        """All that is not learnt from, by split."""
        return {split: samples for split, samples in self.splits.items() if split != "train"}

    def learning_from(self, train: Sequence[Sample]) -> "Dataset":
        """The same with some of its training images: what is said of the others as images that were learnt from goes.

        Args:
            train: Some of them, in their order.

        Returns:
            A data set that counts and names the same images.
        """
        chosen = {sample.sha256 for sample in train}
        left = tuple(sample for sample in self.splits["train"] if sample.sha256 not in chosen)
        paths = {str(sample.path) for sample in left}
        leaks = tuple(each for each in self.data.leaks if each.of != "train" or each.twin not in paths)
        repeats = self.data.repeats and tuple(each for each in self.data.repeats if not {each.path, each.twin} & paths)
        data = self.data.model_copy(update={"leaks": leaks, "repeats": repeats})
        return Dataset({**self.splits, "train": tuple(train)}, data, (*self.left, *left))


@dataclass(frozen=True, slots=True)
class _Found:
    """What was found of a file: its digest, and its sketch where the cache has none."""

    sha256: bytes
    sketch: NDArray[Any] | None


def prepare(images: Sequence[LabelledImage], source: Path, plan: Plan, cache: Path, advance: Advance) -> Dataset:
    """Check every image, split them, fix the label map, and look for images that are there twice, changed a little.

    Args:
        images: What `export.labelled.read` gave.
        source: Where they came from, as a person gave it.
        plan: How the data set is made.
        cache: The folder in which is kept what a decoded image looks like, so that a second time files are only read.
        advance: Told twice of every file: when it is checked, and when it has been held against others.

    Returns:
        The data set. The order of `images` and the place of their folder change nothing in it but paths.

    Raises:
        DataError: Images are bad and the plan is to stop; or too few are left, or their labels or splits are not what
            they must be.
        CacheError: The cache cannot be read or written.
    """
    # Before files are read for minutes, and again of what they leave.
    splits.check(images)
    readable, unreadable = check(images, cache, advance)
    usable, copies = without_copies(readable)
    faults = sorted(unreadable + copies, key=lambda fault: fault.path)
    refuse(faults, len(usable), plan.on_bad)
    try:
        splits.check([each.image for each in usable])
    except DataError as error:
        raise DataError(f"{error} ({len(faults)} files were left out.)") from error
    chosen = _split(usable, plan)
    store = _store(cache)
    sketches = {split: store.rows([each.sha256 for each in of]) for split, of in chosen.items()}
    labels = tuple(sorted({each.image.label for each in usable}))
    columns = {label: column for column, label in enumerate(labels)}
    data = Data(
        source=str(source),
        sha256=digest((each, split) for split, images in chosen.items() for each in images),
        labels=labels,
        labels_sha256=labels_sha256(labels),
        images={split: _counts(each, labels) for split, each in chosen.items()},
        left_out=tuple(faults),
        leaks=tuple(_leaks(chosen, sketches, advance)),
        repeats=_repeats(chosen["train"], sketches["train"]),
    )
    # Those that are held against nothing before them.
    advance(len(images) - sum(len(of) for split, of in chosen.items() if split != "train"))
    return Dataset({split: tuple(_sample(each, columns) for each in of) for split, of in chosen.items()}, data)


def check(
    images: Sequence[LabelledImage], cache: Path, advance: Advance
) -> tuple[tuple[Checked, ...], tuple[Fault, ...]]:
    """Read and decode every file.

    Args:
        images: The images; labels and splits do not matter.
        cache: As for `prepare`.
        advance: Told of every file that is checked.

    Returns:
        Those that can be read, in their order, and what is wrong with the others.

    Raises:
        CacheError: The cache cannot be read or written.
    """
    store = _store(cache)
    checked: list[Checked] = []
    faults: list[Fault] = []
    waiting: dict[bytes, NDArray[Any]] = {}
    try:
        # Closed, so that its threads have ended before anything else happens.
        with closing(ahead.mapped(partial(_inspect, store=store), images, _THREADS, _AHEAD)) as inspected:
            for each, found in zip(images, inspected, strict=True):
                if isinstance(found, str):
                    faults.append(Fault(path=_shown(each.path), reason=found))
                else:
                    checked.append(Checked(each, found.sha256))
                    if found.sketch is not None:
                        waiting[found.sha256] = found.sketch
                if len(waiting) >= _SHARD_ROWS:
                    _keep(waiting, store)
                advance(1)
    # Ctrl-C too: what was decoded need not be again.
    finally:
        _keep(waiting, store)
    return tuple(checked), tuple(faults)


def without_copies(images: Sequence[Checked]) -> tuple[tuple[Checked, ...], tuple[Fault, ...]]:
    """Keep of files with the same bytes the first of each split by path; and none where their labels differ.

    Args:
        images: The images.

    Returns:
        Those to keep, in their order, and what is wrong with the others.
    """
    same: defaultdict[bytes, list[Checked]] = defaultdict(list)
    for each in sorted(images, key=lambda each: str(each.path)):
        same[each.sha256].append(each)
    faults: dict[int, Fault] = {}
    for copies in same.values():
        first: dict[Split | None, Checked] = {}
        for each in copies:
            if other := next((one for one in copies if one.image.label != each.image.label), None):
                reason = f"labelled {each.image.label!r}, and its copy {other.path} {other.image.label!r}"
            elif (kept := first.setdefault(each.image.split, each)) is not each:
                reason = "listed twice" if kept.path == each.path else f"a copy of {kept.path}"
            else:
                continue
            faults[id(each)] = Fault(path=str(each.path), reason=reason)
    return tuple(each for each in images if id(each) not in faults), tuple(faults.values())


def refuse(faults: Sequence[Fault], usable: int, on_bad: OnBad) -> None:
    """Raise DataError where files are bad and nobody said to leave them out, or where nothing is left without them.

    Args:
        faults: What is wrong, file by file.
        usable: How many files are left without them.
        on_bad: Whether to leave them out.

    Raises:
        DataError: It names the first five, their reasons, and what to do.
    """
    if not faults or (on_bad == "skip" and usable):
        return
    shown = "".join(f"\n  {fault.path}: {fault.reason}" for fault in faults[:_SHOWN])
    more = f"\n  and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
    files = f"{len(faults)} of {len(faults) + usable} that cannot:{shown}{more}\n"
    if not usable:
        raise DataError(f"Expected files that can be used. Received: {files}None is left. Repair them.")
    raise DataError(
        f"Expected files that can all be used. Received: {files}Repair or remove them, or leave them out with "
        "--on-bad skip."
    )


def named(*splits: Sequence[Sample]) -> bytes:
    """Name images to learn from, in their order, and what each counts as and for: 32 bytes.

    Args:
        *splits: Those of each split.

    Returns:
        The SHA-256.
    """
    lines = [[(each.sha256.hex(), each.label, each.weight, each.group) for each in samples] for samples in splits]
    return hashlib.sha256(json.dumps(lines).encode()).digest()


def digest(images: Iterable[tuple[Checked, Split | None]]) -> str:
    """Name images, their labels, weights and splits, wherever they lie and in whatever order.

    Args:
        images: Each with its split.

    Returns:
        64 lower-case hexadecimal digits.
    """
    lines = [json.dumps([each.sha256.hex(), each.image.label, split, each.image.weight]) for each, split in images]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _store(cache: Path) -> Store:
    return Store(cache / "images" / str(twins.REVISION), twins.SKETCH)


def _keep(sketches: dict[bytes, NDArray[Any]], store: Store) -> None:
    store.add(list(sketches), np.array(list(sketches.values()), twins.SKETCH))
    sketches.clear()


def _inspect(each: LabelledImage, store: Store) -> _Found | str:
    try:
        str(each.path).encode()
        data = _read(each.path)
        sha256 = hashlib.sha256(data).digest()
        is_new = bool(store.missing([sha256]))
        return _Found(sha256, twins.sketch(image.decode(data, _LIMITS)) if is_new else None)
    except UnicodeEncodeError:
        return "Expected a name in UTF-8. Received: these bytes."
    except BadImage as error:
        return str(error)
    except OSError as error:
        return f"{error.strerror or error}."


def _read(path: Path) -> bytes:
    status = path.stat()
    # A pipe would be waited for until somebody writes into it, and a device may never end.
    if not stat.S_ISREG(status.st_mode):
        raise BadImage("Expected a file. Received: a folder, a pipe or a device.")
    if status.st_size == 0:
        raise BadImage("Expected an image. Received: an empty file.")
    if status.st_size > _LIMITS.max_bytes:
        raise BadImage(f"Expected at most {_LIMITS.max_bytes} bytes. Received: {status.st_size}.")
    return path.read_bytes()


def _split(images: Sequence[Checked], plan: Plan) -> dict[Split, list[Checked]]:
    # By digest, so that what comes after does not depend on where the files lie.
    ordered = sorted(images, key=lambda each: each.sha256)
    named = [each.image.split for each in ordered if each.image.split is not None]
    given = [each.image for each in ordered]
    drawn = named or splits.draw(given, [each.sha256 for each in ordered], plan.test_fraction, plan.seed)
    chosen: dict[Split, list[Checked]] = {split: [] for split in _SPLITS if split in drawn}
    for split, each in zip(drawn, ordered, strict=True):
        chosen[split].append(each)
    return chosen


def _leaks(
    chosen: Mapping[Split, Sequence[Checked]], sketches: Mapping[Split, NDArray[Any]], advance: Advance
) -> Iterator[Leak]:
    """The twins that held-out images have in a split before theirs: what is chosen by validation is seen there, too."""
    order = list(chosen)
    for number, split in enumerate(order[1:], start=1):
        # As one: what is unusually near is told by how near others are, of which a small split has too few.
        earlier = [(seen, each) for seen in order[:number] for each in chosen[seen]]
        copies = {each.sha256: (seen, each) for seen, each in reversed(earlier)}
        places = twins.find(sketches[split], np.concatenate([sketches[seen] for seen in order[:number]]), advance)
        for each, place in zip(chosen[split], places, strict=True):
            found = copies.get(each.sha256) or (earlier[place] if place >= 0 else None)
            if found is None:
                continue
            seen, twin = found
            kind: Literal["duplicate", "near-duplicate"] = (
                "duplicate" if twin.sha256 == each.sha256 else "near-duplicate"
            )
            yield Leak(split=split, path=str(each.path), of=seen, twin=str(twin.path), kind=kind)


def _repeats(train: Sequence[Checked], sketches: NDArray[Any]) -> tuple[Repeat, ...] | None:
    """Each training image with the one that it nearly is, and with one of another label; none of its own group."""
    if len(train) > _MOST_COMPARED:
        return None
    groups = _families(place if each.image.group is None else each.image.group for place, each in enumerate(train))
    pairs: set[tuple[int, int]] = set()
    for families in (groups, _families(each.image.label for each in train)):
        found = twins.within(sketches, families)
        pairs |= {(min(pair), max(pair)) for pair in enumerate(found.tolist()) if pair[1] >= 0}
    repeats = (
        Repeat(path=str(one.path), label=one.image.label, twin=str(other.path), twin_label=other.image.label)
        for one, other in ((train[first], train[second]) for first, second in sorted(pairs))
        if one.image.group is None or one.image.group != other.image.group
    )
    return tuple(sorted(repeats, key=lambda each: each.label == each.twin_label))


def _families(names: Iterable[str | int]) -> NDArray[np.int64]:
    """A number for each name, the same for the same one."""
    numbers: dict[str | int, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)


def _counts(images: Sequence[Checked], labels: Sequence[str]) -> tuple[int, ...]:
    counts = Counter(each.image.label for each in images)
    return tuple(counts[label] for label in labels)


def _sample(checked: Checked, columns: Mapping[str, int]) -> Sample:
    said = checked.image
    return Sample(checked.path, checked.sha256, columns[said.label], said.weight, said.group)


def _shown(path: Path) -> str:
    return os.fsencode(path).decode(errors="backslashreplace")
