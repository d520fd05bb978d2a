"""A decision in the words and tables that a person reads on a terminal; adds nothing to it."""

from collections.abc import Iterator, Sequence

from export.command import printable
from training.advice.candidates import Regime
from training.advice.decide import Decision
from training.advice.evidence import Accuracy, Evidence
from training.errors import TrainingError

_MEANS: dict[Regime, str] = {
    "as-is": "the published model as it is; nothing is trained",
    "small-similar": "few images, like those of the pretraining: the backbone stays frozen, a head is trained",
    "small-different": "few images, unlike those of the pretraining: a head on several stages, then the last stages",
    "large-similar": "images enough, like those of the pretraining: the late stages and the head are trained",
    "large-different": "images enough, unlike those of the pretraining: everything is trained",
    "scratch": "images enough that pretraining is no help for: everything is trained from a random start",
}

ALL_LAYERS = ("all",)
_LEANS = {"head": "head on the frozen backbone is taken", "backbone": "plan that trains most is taken"}


def explain(decision: Decision) -> str:
    """Say what was decided, why, and by what evidence."""
    return "\n".join(_lines(decision))


def chosen(layers: Sequence[str], known: Sequence[str]) -> Sequence[str]:
    """The layers to tell of, of those that there are; TrainingError where one is none of them."""
    told = known if tuple(layers) == ALL_LAYERS else layers
    if unknown := [each for each in told if each not in known]:
        raise TrainingError(
            f"Expected for --layers all or some of {', '.join(known)}. Received: {printable(unknown[0])}."
        )
    return told


def probe_table(evidence: Evidence, layers: Sequence[str] = ALL_LAYERS) -> str:
    """How well a linear layer on each stage, each probe and the embedding does, with a line of heads.

    Args:
        evidence: What was gathered.
        layers: Those to tell of, or "all".

    Returns:
        The table.

    Raises:
        TrainingError: There is no such layer.
    """
    told = chosen(layers, [each.tap for each in evidence.probes])
    rows = [("tap", "stride", "numbers", "accuracy", "+/-", "of learnt", "LogME")]
    for each in evidence.probes:
        if each.tap not in told:
            continue
        mark = " <- best stage" if each.tap == evidence.depth.best else ""
        rows.append(
            (
                each.tap,
                "" if each.stride is None else str(each.stride),
                str(each.width),
                f"{each.accuracy.value:.1%}",
                f"{each.accuracy.error:.1%}",
                f"{each.learnt:.1%}",
                f"{each.log_me:.3f}{mark}",
            )
        )
    widths = [max(len(row[column].split(" <-")[0]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(_row(row, widths) for row in rows)


def _lines(decision: Decision) -> Iterator[str]:
    evidence = decision.evidence
    yield f"Regime: {decision.regime}: {_MEANS[decision.regime]}."
    yield ""
    yield "Why:"
    yield from (f"  - {reason}" for reason in decision.reasons)
    silent = [each.sentence for each in decision.signs if not each.speaks]
    if silent and decision.regime != "as-is":
        yield "Looked at as well, and no sign of anything:"
        yield from (f"  - {sentence}" for sentence in silent)
    yield ""
    yield f"To be tried on the training images, cheapest first ({evidence.backbone}):"
    for place, each in enumerate(decision.plans, start=1):
        how = f"; augmentation {each.augmentation}, {each.tuning.epochs} epochs to begin with" if each.tuning else ""
        yield f"  {place}. {each.regime}: {each.words()}{how}"
    if any(each.tuning for each in decision.plans[1:]):
        yield f"  Where that does not tell, the {_LEANS[decision.leans.to]}: {decision.leans.reason}."
    yield ""
    size = evidence.size
    yield f"What a linear layer makes of {size.looked_at:,} of {size.images:,} training images, by cross-validation:"
    yield probe_table(evidence)
    yield ""
    yield "The embedding learnt from fewer images:"
    yield "  images    " + "".join(f"{each.images:>8,}" for each in evidence.curve)
    yield "  a class   " + "".join(f"{each.per_class or '':>8}" for each in evidence.curve)
    yield "  accuracy  " + "".join(f"{each.accuracy.value:>8.1%}" for each in evidence.curve)
    yield ""
    yield from _beside(evidence)


def _beside(evidence: Evidence) -> Iterator[str]:
    near = evidence.neighbours
    yield f"The {near.count} nearest other images agree with the label of {_percent(near.accuracy)}" + (
        f"; {near.contradicted:.1%} of the labels are contradicted by nearly all of them." if near.contradicted else "."
    )
    if asked := evidence.source:
        yield (
            f"The pretrained classifier is {asked.confidence:.0%} sure of its own answers, which tell "
            f"{max(0.0, asked.mutual_information):.0%} of what the labels say; {asked.matched} of "
            f"{evidence.size.classes} labels are classes of its own."
        )
    yield from (f"Not known: {each}." for each in evidence.missing)


def _percent(accuracy: Accuracy) -> str:
    return f"{accuracy.value:.1%} (+/- {accuracy.error:.1%})"


def _row(cells: tuple[str, ...], widths: list[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    return "  " + "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)])
