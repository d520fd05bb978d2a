"""Holds the answers of a running service against a folder per class; knows the client, not how results are printed."""

import math
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from vertebra.client.answers import Classification, Response
from vertebra.client.errors import FolderError, ImageError
from vertebra.client.files import image_files, is_image, is_looked_at
from vertebra.client.sync import Client

SPLITS = {"train", "val", "valid", "validation", "test"}
# So many requests keep a server busy while others are on their way.
IN_FLIGHT = 4
TOP = 5
Z = 1.959964  # the quantile of the normal distribution that 2.5 % lie above


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many of the images count, and the 95 % confidence interval (Wilson's) of their part."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ClassRecall:
    """How many images of a class were answered, and how many of them rightly; None where none was answered."""

    label: str
    images: int
    right: int
    recall: Ratio | None


@dataclass(frozen=True, slots=True)
class BrokenImage:
    """An image that has no answer, and why."""

    file: str
    label: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How good the answers of a model are.

    Attributes:
        images: How many images were answered.
        top_1: The part whose most probable label is right; None where no image was answered.
        top_5: The part that has the right label among the five most probable; None where there are not more labels.
        classes: By name.
        broken: The images without an answer; they count nowhere else.
    """

    model: str
    version: int
    images: int
    top_1: Ratio | None
    top_5: Ratio | None
    classes: tuple[ClassRecall, ...]
    broken: tuple[BrokenImage, ...]


def read(folder: str) -> dict[str, str]:
    """The image files under the class folders of `folder`, sorted, and the class of each.

    Hidden files and folders, and files that are no images by their name, are passed over.

    Args:
        folder: Holds a folder per class.

    Returns:
        The class by file; the files begin with `folder`.

    Raises:
        FolderError: There is no class folder, an image lies beside them, or one of them is empty.
        OSError: The folder cannot be read.
    """
    entries = sorted((each for each in os.scandir(folder) if is_looked_at(each.name)), key=lambda each: each.name)
    if stray := [each.name for each in entries if not each.is_dir() and is_image(each.name)]:
        raise FolderError(f"Expected a folder per class in {folder}. Received: the image {stray[0]!r} beside them.")
    classes = [each for each in entries if each.is_dir()]
    if not classes:
        raise FolderError(f"Expected a folder per class in {folder}. Received: none.")
    images: dict[str, str] = {}
    for each in classes:
        files = sorted(image_files(each.path))
        if not files:
            raise FolderError(f"Expected at least one image in the class folder {each.path}. Received: none.")
        # As training names its classes: a Mac writes accents and Korean in another form than everybody else.
        images |= dict.fromkeys(files, unicodedata.normalize("NFC", each.name))
    return images


def evaluate(
    client: Client,
    images: Mapping[str, str],
    requests: Sequence[Sequence[str]],
    *,
    model: str,
    version: int,
    progress: Callable[[int, int], None],
) -> Evaluation:
    """Ask for the labels of images whose classes are known, with several requests at a time.

    Args:
        client: Asks the server.
        images: The class of each file.
        requests: The files of each request; together those of `images`.
        model: The model's name; "" where the server has one.
        version: The model's version, 0 for the served one. It is kept to: two versions would be two figures.
        progress: Told how many images of how many are done.

    Returns:
        How good the answers are.

    Raises:
        FolderError: A class is none of the model's labels; no image was sent.
        VertebraError: A request has no answer; see vertebra.client.errors.
        OSError: A file cannot be read.
    """
    description = client.get_model(model, version=version)
    check_labels(sorted(set(images.values())), description.labels)
    found = description.model

    def ask(files: Sequence[str]) -> Response[Classification]:
        return client.classify(files, model=found.name, version=found.version, top_k=TOP)

    results: dict[str, Classification | ImageError] = {}
    threads = ThreadPoolExecutor(IN_FLIGHT)
    try:
        asked = {threads.submit(ask, files): files for files in requests}
        for answered in as_completed(asked):
            results |= zip(asked[answered], answered.result().results, strict=True)
            progress(len(results), len(images))
    finally:
        # Without a wait: after Ctrl-C the calls under way end when the client is closed.
        threads.shutdown(wait=False, cancel_futures=True)
    ranks = {file: rank(result, images[file]) for file, result in results.items() if isinstance(result, Classification)}
    return Evaluation(
        model=found.name,
        version=found.version,
        images=len(ranks),
        top_1=ratio(sum(each < 1 for each in ranks.values()), len(ranks)),
        top_5=ratio(sum(each < TOP for each in ranks.values()), len(ranks)) if len(description.labels) > TOP else None,
        classes=recalls(images, ranks),
        broken=tuple(broken(images, results)),
    )


def check_labels(wanted: Sequence[str], labels: Sequence[str]) -> None:
    unknown = [label for label in wanted if label not in labels]
    if unknown and SPLITS.issuperset(wanted):
        raise FolderError(f"Expected a folder per class. Received: {some(wanted)}, which are splits; give one of them.")
    if unknown:
        raise FolderError(
            f"Expected folders named as the model's {len(labels)} labels: {some(labels)}. Received: {some(unknown)}."
        )
    if twice := [label for label in wanted if labels.count(label) > 1]:
        raise FolderError(
            f"Expected folders that name one class of the model. Received: {some(twice)}, which name two."
        )


def some(labels: Sequence[str]) -> str:
    return ", ".join(map(repr, labels[:TOP])) + (f" and {len(labels) - TOP} more" if len(labels) > TOP else "")


def rank(answer: Classification, label: str) -> int:
    """The place of a label among the most probable ones, from 0; behind them where it is none of them."""
    names = [each.name for each in answer.labels]
    return names.index(label) if label in names else TOP


def recalls(images: Mapping[str, str], ranks: Mapping[str, int]) -> tuple[ClassRecall, ...]:
    answered = Counter(images[file] for file in ranks)
    right = Counter(images[file] for file, place in ranks.items() if place < 1)
    return tuple(
        ClassRecall(label, answered[label], right[label], ratio(right[label], answered[label]))
        for label in sorted(set(images.values()))
    )


def broken(images: Mapping[str, str], results: Mapping[str, Classification | ImageError]) -> Iterator[BrokenImage]:
    for file in images:
        result = results[file]
        if isinstance(result, ImageError):
            yield BrokenImage(file, images[file], result.code.name, result.message)


def ratio(right: int, images: int) -> Ratio | None:
    if not images:
        return None
    value = right / images
    middle = (value + Z**2 / (2 * images)) / (1 + Z**2 / images)
    half = Z * math.sqrt(value * (1 - value) / images + Z**2 / (4 * images**2)) / (1 + Z**2 / images)
    return Ratio(value, max(0.0, min(middle - half, value)), min(1.0, max(middle + half, value)))
