"""How good a bundle is on labelled images, as the service would answer them; does not know how it was trained."""

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export import ahead, labelled
from export.errors import DataError, GraphError
from export.labelled import LabelledImage, Split
from export.progress import Advance, Steps
from export.score import ClassScore, Estimate, Scores, score
from service import bundle, cpu, image, proof
from service.bundle import Bundle, CropGeometry
from service.engine import Engine
from service.errors import BadImage
from vertebra.client.table import aligned

WORST_CLASSES = 20
_BATCH = 8
# Both cores decode while the engine waits, and the pixels of so many images are all that memory ever holds.
_DECODERS = 2
_AHEAD = 4 * _BATCH


@dataclass(frozen=True)
class Evaluation:
    """What came of an evaluation.

    Attributes:
        bundle: The bundle that answered.
        images: How many images it was asked about.
        split: What these are for, as the data says; None where it does not.
        scores: How good the answers are.
    """

    bundle: Bundle
    images: int
    split: Split | None
    scores: Scores


def evaluate(path: Path, data: Path, steps: Steps) -> Evaluation:
    """Ask a bundle about labelled images, in four steps.

    Of data that names its splits the images of `test` are asked about, those of `validation` where there are none.

    Args:
        path: The bundle's folder.
        data: A folder per class, or a table, as labelled.read takes it. Its labels are the bundle's, by name; it need
            not have all of them.
        steps: Told what runs.

    Returns:
        The scores, and what they are of.

    Raises:
        BundleError: The bundle is incomplete, changed, or fails its proof.
        DataError: The data cannot be read, has a label that the bundle does not know, or an image is unreadable.
        GraphError: The bundle answered an image with something that is no number.
    """
    with steps.step("load and prove the bundle"):
        loaded = bundle.load(path)
        engine = Engine(loaded.graph, cpu.usable())
        proof.prove(loaded, engine)
    with steps.step("read the labels"):
        images = labelled.held_out(labelled.read(data))
        expected = _columns(images, loaded.labels)
    with steps.step("answer the images", total=len(images)) as advance:
        logits = _answers([each.path for each in images], loaded, engine, advance)
    with steps.step("score the answers"):
        scores = score(logits, expected, loaded.labels)
    return Evaluation(loaded, len(images), images[0].split, scores)


def table(evaluation: Evaluation) -> str:
    """What came of an evaluation, for a terminal: the figures, and the classes of the lowest F1."""
    scores = evaluation.scores
    overall = [
        ("", "value", "95 % interval"),
        ("accuracy", *_percent(scores.accuracy)),
        ("balanced accuracy", *_percent(scores.balanced_accuracy)),
        ("macro-F1", *_percent(scores.macro_f1)),
        ("calibration error", *_percent(scores.calibration_error)),
    ]
    present = sorted((each for each in scores.per_class if each.f1), key=_f1)
    worst = present[:WORST_CLASSES]
    shown = "" if len(worst) == len(present) else f"the {len(worst)} of the lowest F1 of {len(present)} classes:\n"
    rows = [("class", "images", "recall", "95 % interval", "precision", "F1"), *map(_class_row, worst)]
    return f"{_title(evaluation)}\n\n{aligned(overall)}\n{shown}{aligned(rows)}"


def _columns(images: Sequence[LabelledImage], labels: Sequence[str]) -> NDArray[np.int64]:
    columns = {label: column for column, label in enumerate(labels)}
    wanted = Counter(each.label for each in images)
    if unknown := sorted(wanted.keys() - columns.keys()):
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise DataError(
            f"Expected labels of the bundle, which has {len(labels)}: {_some(labels)}. "
            f"Received: {_some(unknown)}{more}, with {sum(wanted[label] for label in unknown)} images."
        )
    if twice := sorted(label for label, count in Counter(labels).items() if count > 1 and label in wanted):
        raise DataError(f"Expected labels that name one class of the bundle. Received: {_some(twice)}, which name two.")
    return np.array([columns[each.label] for each in images])


def _some(labels: Sequence[str]) -> str:
    return ", ".join(map(repr, labels[:5])) + (", ..." if len(labels) > 5 else "")


def _answers(paths: Sequence[Path], loaded: Bundle, engine: Engine, advance: Advance) -> NDArray[np.float32]:
    logits: list[NDArray[np.float32]] = []
    with closing(ahead.mapped(partial(_read, geometry=loaded.geometry), paths, _DECODERS, _AHEAD)) as pixels:
        while batch := list(islice(pixels, _BATCH)):
            logits.extend(engine.run(np.stack(batch))[loaded.logits.name])
            advance(len(batch))
    answers = np.stack(logits)  # [N, C]
    if not (finite := np.isfinite(answers).all(axis=1)).all():
        raise GraphError(f"Expected logits that are numbers. Received: others for {paths[int(finite.argmin())]}.")
    return answers


def _read(path: Path, geometry: CropGeometry) -> NDArray[np.uint8]:
    try:
        # Reading a pipe would wait for ever.
        if path.exists() and not path.is_file():
            raise BadImage("Expected a file. Received: something else")
        return image.read(path.read_bytes(), geometry, image.ImageLimits())
    except (OSError, BadImage) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).rstrip(".")
        raise DataError(f"Expected an image that can be read. Received: {path}: {reason}.") from error


def _title(evaluation: Evaluation) -> str:
    of = {None: "", "train": " of the split train, which it may have learnt from"}
    split = of.get(evaluation.split, f" of the split {evaluation.split}")
    return f"{evaluation.bundle.name} version {evaluation.bundle.version} on {evaluation.images} images{split}"


def _class_row(each: ClassScore) -> tuple[str, ...]:
    recall = _percent(each.recall) if each.recall else ("", "")
    precision, f1 = (_percent(figure)[0] if figure else "" for figure in (each.precision, each.f1))
    # A class name may hold what a terminal would obey.
    return (repr(each.label)[1:-1], f"{each.images:>6}", *recall, precision, f1)


def _f1(each: ClassScore) -> float:
    return each.f1.value if each.f1 else 0.0


def _percent(estimate: Estimate) -> tuple[str, str]:
    return f"{estimate.value:6.1%}", f"{estimate.low:.1%} to {estimate.high:.1%}"
