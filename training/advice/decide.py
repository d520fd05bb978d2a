"""Names a regime by the evidence, and the plans that are worth a race; measures nothing and trains nothing.

The signs vote: for small or large, and for similar or different. Where they contradict each other, or say too little,
both sides are raced. The head on frozen features is in every race: it costs seconds, and nothing dearer may be worse.
"""

import json
from typing import Literal

from export.document import Document
from export.run import Backbone
from training.advice.candidates import Candidate, Regime, candidates
from training.advice.evidence import Evidence, Figure
from training.advice.signs import Sign, Thresholds, signs

DECISION = "decision.json"
THRESHOLDS = Thresholds()
# By cost.
_QUADRANTS: tuple[Regime, ...] = ("small-similar", "small-different", "large-similar", "large-different")


class Alternative(Document):
    """A regime, and what speaks for it: of the four quadrants the scores make 1, and they are no probabilities."""

    regime: Regime
    score: Figure


class Leaning(Document):
    """What is taken where trying cannot tell a head from a fine-tuning, or there is no time to try, and why."""

    to: Literal["head", "backbone"]
    reason: str


# Where nothing was looked at.
UNADVISED = Leaning(to="backbone", reason="a longer training gains more where more is trained")


class Decision(Document):
    """The regime that the evidence names, as decision.json has it: nothing of it depends on the time or the place.

    Attributes:
        regime: The regime.
        plans: What is worth a race, cheapest first.
        leans: What is taken where a race does not tell.
        reasons: Why, in sentences.
        signs: What every sign says.
        alternatives: The regimes by what speaks for them, the best first.
    """

    format: Literal[2] = 2
    regime: Regime
    plans: tuple[Candidate, ...]
    leans: Leaning
    reasons: tuple[str, ...]
    signs: tuple[Sign, ...]
    alternatives: tuple[Alternative, ...]
    thresholds: Thresholds
    evidence: Evidence

    def text(self) -> str:
        """What decision.json holds."""
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"


def decide(evidence: Evidence, backbone: Backbone, limits: Thresholds = THRESHOLDS) -> Decision:
    """Name a regime.

    Args:
        evidence: What was gathered.
        backbone: The backbone that it was gathered with.
        limits: Where a figure becomes a sign.

    Returns:
        The decision: the same for the same evidence.
    """
    found = signs(evidence, backbone, limits)
    scores = _scores(found)
    regime, raced, reasons = _advice(evidence, found, scores, limits)
    return Decision(
        regime=regime,
        plans=_plans(raced, evidence, backbone),
        leans=_leaning(evidence, limits),
        reasons=reasons,
        signs=found,
        alternatives=tuple(
            Alternative(regime=regime, score=score)
            for regime, score in sorted(scores.items(), key=lambda each: -each[1])
        ),
        thresholds=limits,
        evidence=evidence,
    )


def _plans(regimes: tuple[Regime, ...], evidence: Evidence, backbone: Backbone) -> tuple[Candidate, ...]:
    plans = [plan for regime in regimes for plan in candidates(regime, evidence.size.images, backbone)]
    if "small-similar" in regimes:
        # Its head reads other stages where cross-validation says so, and is the same then.
        plans = [plan for plan in plans if plan.regime != "small-different" or plan.tuning]
    return tuple(plans)


def _leaning(evidence: Evidence, limits: Thresholds) -> Leaning:
    separability = round(evidence.separability, 3)
    far = f"a linear layer on the embedding comes {separability:.3f} of the way from the commonest class to all right"
    if separability >= limits.enough:
        return Leaning(to="head", reason=f"{far}; from {limits.enough} on a head is enough")
    return Leaning(to="backbone", reason=f"{far}; under {limits.enough} the backbone has something to learn")


def _advice(
    evidence: Evidence, found: tuple[Sign, ...], scores: dict[Regime, float], limits: Thresholds
) -> tuple[Regime, tuple[Regime, ...], tuple[str, ...]]:
    """The regime, those to race, and the reasons."""
    if reason := _as_is(evidence):
        return "as-is", ("as-is", "small-similar"), (reason,)
    spoken = tuple(each.sentence for each in found if each.speaks)
    if evidence.separability >= limits.solved:
        reason = (
            f"a linear layer on the frozen embedding answers {evidence.last.accuracy.value:.1%} right: there is little "
            "that fine-tuning could add"
        )
        return "small-similar", ("small-similar",), (reason, *spoken)
    sizes, kinds = _sizes(found), _kinds(found)
    open_to = [regime for regime in _QUADRANTS if _size(regime) in sizes and _kind(regime) in kinds]
    advised = max(open_to, key=scores.__getitem__)  # of equals the cheapest
    # To train everything is tried whatever is named: a fitted head, a careful rate and batch norms that keep their
    # statistics make it less of a risk to few images than the quadrants say (README.md).
    raced = tuple(dict.fromkeys(("small-similar", *open_to, "large-different")))
    if sizes == ("large",) and _best(evidence) < limits.lost:
        raced = (*raced, "scratch")
    return advised, raced, (*spoken, *_doubts(found, sizes, kinds))


def _best(evidence: Evidence) -> float:
    """The separability of the best of all taps, less two errors: of so many some look good by chance."""
    surely = max(each.accuracy.value - 2 * each.accuracy.error for each in evidence.probes)
    return (surely - evidence.chance) / (1 - evidence.chance)


def _as_is(evidence: Evidence) -> str | None:
    if evidence.source is None or evidence.source.as_is is None:
        return None
    own, probe = evidence.source.as_is.value, evidence.last.accuracy
    if own < probe.value - probe.error:
        return None
    return (
        f"all {evidence.size.classes} labels are classes that the published model knows; as it is, it names the right "
        f"one of them for {own:.1%} of the images, where a new head does for {probe.value:.1%}, give or take "
        f"{probe.error:.1%}"
    )


def _scores(found: tuple[Sign, ...]) -> dict[Regime, float]:
    small, large = _votes(found, "small"), _votes(found, "large")
    is_large = (1 + large) / (2 + small + large)
    of_difference = [each for each in found if each.side == "different"]
    is_different = (1 + _votes(found, "different")) / (2 + len(of_difference))
    return {
        regime: (is_large if _size(regime) == "large" else 1 - is_large)
        * (is_different if _kind(regime) == "different" else 1 - is_different)
        for regime in _QUADRANTS
    }


def _sizes(found: tuple[Sign, ...]) -> tuple[str, ...]:
    """The sizes that are not ruled out."""
    small, large = bool(_votes(found, "small")), bool(_votes(found, "large"))
    return ("small", "large") if small == large else ("small",) if small else ("large",)


def _kinds(found: tuple[Sign, ...]) -> tuple[str, ...]:
    """Whether similar or different, where one of them is ruled out."""
    votes = _votes(found, "different")
    return ("similar",) if votes == 0 else ("similar", "different") if votes == 1 else ("different",)


def _doubts(found: tuple[Sign, ...], sizes: tuple[str, ...], kinds: tuple[str, ...]) -> list[str]:
    doubts = []
    if len(sizes) == 2:
        why = "some signs say few and some say many" if _votes(found, "small") else "it is neither few images nor many"
        doubts.append(f"{why}: both sizes are tried")
    if len(kinds) == 2:
        doubts.append("one sign alone says that the images are different: both ways are tried")
    if kinds == ("similar",):
        doubts.append("no sign says that the images are different from those of the pretraining")
    return doubts


def _votes(found: tuple[Sign, ...], side: str) -> int:
    return sum(each.speaks for each in found if each.side == side)


def _size(regime: Regime) -> str:
    return regime.split("-")[0]


def _kind(regime: Regime) -> str:
    return regime.split("-")[1]
