"""Images to learn from without labels: listed, checked and named; does not know what learns from them."""

import os
from dataclasses import dataclass
from pathlib import Path

from export import labelled
from export.errors import DataError
from export.labelled import LabelledImage
from export.progress import Advance
from training import dataset
from training.dataset import Checked, OnBad
from training.result import Fault

# Fewer than two cannot be told apart, and batch norm cannot take one alone.
FEWEST = 2


@dataclass(frozen=True)
class Unlabelled:
    """Images that can be used.

    Attributes:
        images: In the order of their files' digests.
        sha256: Names them, wherever they lie.
        left_out: What could not be used, and why.
    """

    images: tuple[Checked, ...]
    sha256: str
    left_out: tuple[Fault, ...]


def read(source: Path) -> tuple[LabelledImage, ...]:
    """List the images of a folder or a table; what is held out there for a test or for validation stays held out.

    Args:
        source: A folder with images in it or anywhere below; of one that is divided into train, validation and test
            folders, those of the last two are passed over, and everything else is taken. Or a table as for
            `export.labelled.read`.

    Returns:
        The images, sorted by path; their labels are empty.

    Raises:
        DataError: There is no such source, or no image in it.
    """
    try:
        str(source).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"Expected a path in UTF-8. Received: {os.fsencode(source)!r}. Rename it.") from error
    if source.is_dir():
        below, held_out = labelled.images_below(source), _held_out(source)
        paths = [path for path in below if path.relative_to(source).parts[0] not in held_out]
    else:
        paths = [each.path for each in labelled.read(source) if each.split in (None, "train")]
    if not paths:
        raise DataError(f"Expected images to learn from in {source}. Received: none.")
    return tuple(LabelledImage(path, "") for path in paths)


def prepare(images: tuple[LabelledImage, ...], on_bad: OnBad, cache: Path, advance: Advance) -> Unlabelled:
    """Read and decode every image; of files with the same bytes one is kept.

    Args:
        images: What `read` gave.
        on_bad: Whether to stop at files that cannot be used, or to leave them out.
        cache: The folder of what is computed once.
        advance: Told of every file.

    Returns:
        The images.

    Raises:
        DataError: Images are bad and nobody said to leave them out, or fewer than two are left.
        CacheError: The cache cannot be read or written.
    """
    readable, unreadable = dataset.check(images, cache, advance)
    usable, copies = dataset.without_copies(readable)
    faults = tuple(sorted(unreadable + copies, key=lambda fault: fault.path))
    dataset.refuse(faults, len(usable), on_bad)
    if len(usable) < FEWEST:
        raise DataError(f"Expected at least {FEWEST} images to learn from. Received: {len(usable)}.")
    ordered = tuple(sorted(usable, key=lambda each: each.sha256))
    return Unlabelled(ordered, dataset.digest((each, None) for each in ordered), faults)


def _held_out(source: Path) -> set[str]:
    """The folders for validation and test, where there is one for training beside them."""
    kinds = {each.name: labelled.SPLITS.get(each.name.lower()) for each in source.iterdir() if each.is_dir()}
    return {name for name, kind in kinds.items() if kind not in (None, "train")} if "train" in kinds.values() else set()
