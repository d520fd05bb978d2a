"""Evidence of every kind names the regime that it should, and says so in words."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from tests.training.advice.drawn import BACKBONE, given
from training.advice.candidates import Regime, candidates
from training.advice.decide import Decision, decide
from training.advice.evidence import Accuracy, Evidence, Figure, Shift, Size, SourceAnswers
from training.advice.explain import explain, probe_table
from training.advice.gather import weigh

LATE = {"c5": 0.1, "embedding": 0.18}
EARLY = {"c2": 1.0, "c3": 1.0}


def shifted(z: float) -> Shift:
    return Shift(images=128, z=z, early=z, late=z, null="drawn", layers=())


def evidence(apart: dict[str, float], of: int = 600, z: float | None = None) -> Evidence:
    """Of 600 images in 3 classes."""
    return weigh(given(600, 3, apart, of=of), None, None if z is None else shifted(z), lambda _: None)


def told(found: Evidence, **said: Any) -> Evidence:
    """The same with other figures."""
    return found.model_copy(update=said)


@pytest.fixture(scope="module")
def similar() -> Evidence:
    return evidence(LATE)


def raced(decision: Decision) -> list[Regime]:
    return list(dict.fromkeys(plan.regime for plan in decision.plans))


@pytest.mark.parametrize(
    ("apart", "of", "z", "expected"),
    [
        (LATE, 600, 0.5, "small-similar"),
        (EARLY, 600, 9.0, "small-different"),
        (LATE, 50_000, 0.5, "large-similar"),
        (EARLY, 50_000, 9.0, "large-different"),
    ],
)
def test_four_data_sets_are_each_where_they_belong(apart: dict[str, float], of: int, z: float, expected: str) -> None:
    found = evidence(apart, of, z)
    decision = decide(found, BACKBONE)
    assert decision.regime == expected
    assert raced(decision) == list(dict.fromkeys(["small-similar", expected, "large-different"]))
    assert decision.alternatives[0].regime == expected
    assert sum(each.score for each in decision.alternatives) == pytest.approx(1, abs=1e-5)
    # The same data twice, gathered anew.
    assert decide(evidence(apart, of, z), BACKBONE).text() == decision.text()


def test_a_label_that_depends_on_texture_is_told_best_by_an_early_stage() -> None:
    found = evidence(EARLY)
    assert found.depth.best in {"c2", "c3"}
    assert found.depth.gain > 5 * found.depth.error
    best = next(line for line in probe_table(found).splitlines() if "best stage" in line)
    assert best.split()[0] == found.depth.best


def test_one_sign_of_three_is_a_doubt_and_both_ways_are_raced(similar: Evidence) -> None:
    decision = decide(told(similar, shift=shifted(8.0)), BACKBONE)
    assert decision.regime == "small-similar"
    assert raced(decision) == ["small-similar", "small-different", "large-different"]
    assert any("both ways are tried" in reason for reason in decision.reasons)


def test_neither_few_nor_many_races_both_sizes_cheapest_first(similar: Evidence) -> None:
    size = Size(images=6000, classes=3, scarcest=2000, commonest=2000, looked_at=600)
    decision = decide(told(similar, size=size, shift=shifted(8.0)), BACKBONE)
    assert raced(decision) == ["small-similar", "small-different", "large-similar", "large-different"]
    assert decision.regime == "small-similar"


def test_many_images_of_many_classes_are_few_of_each_and_both_sizes_are_raced(similar: Evidence) -> None:
    size = Size(images=50_000, classes=1000, scarcest=50, commonest=50, looked_at=5000)
    decision = decide(told(similar, size=size), BACKBONE)
    assert raced(decision) == ["small-similar", "large-similar", "large-different"]
    assert any("some signs say few and some say many" in reason for reason in decision.reasons)


def probed(found: Evidence, asked: float, learnt: float) -> Evidence:
    last = found.last.model_copy(update={"accuracy": Accuracy(value=asked, error=0.01), "learnt": learnt})
    others = [each for each in found.probes if each.tap != last.tap]
    chance = found.chance
    return told(found, probes=(*others, last), separability=(asked - chance) / (1 - chance))


@pytest.mark.parametrize(
    ("asked", "learnt", "looked_at", "expected"),
    [
        (0.75, 1.0, 6000, "small-similar"),  # by heart
        (0.75, 0.78, 6000, "large-similar"),  # not even what was learnt
        (0.75, 1.0, 600, None),  # a tenth, by heart, says nothing of the whole
        (0.97, 0.99, 6000, None),  # good enough
    ],
)
def test_what_a_probe_lacks_makes_a_data_set_small_or_large(
    similar: Evidence, asked: float, learnt: float, looked_at: int, expected: str | None
) -> None:
    size = Size(images=6000, classes=3, scarcest=2000, commonest=2000, looked_at=looked_at)
    decision = decide(probed(told(similar, size=size), asked, learnt), BACKBONE)
    if expected is None:
        assert raced(decision) == ["small-similar", "large-similar", "large-different"]
    else:
        assert decision.regime == expected
        assert raced(decision) == list(dict.fromkeys(["small-similar", expected, "large-different"]))


@pytest.mark.parametrize(
    ("separability", "leaning", "reason"),
    [
        (
            0.669,
            "backbone",
            "comes 0.669 of the way from the commonest class to all right; under 0.67 the backbone has",
        ),
        (0.6696, "head", "comes 0.670 of the way from the commonest class to all right; from 0.67 on a head is enough"),
    ],
)
def test_where_a_race_cannot_tell_separability_says_what_is_taken(
    similar: Evidence, separability: float, leaning: str, reason: str
) -> None:
    decision = decide(told(similar, separability=separability), BACKBONE)
    assert decision.leans.to == leaning
    assert reason in decision.leans.reason
    taken = {"head": "head on the frozen backbone", "backbone": "plan that trains most"}[leaning]
    assert f"Where that does not tell, the {taken} is taken: {decision.leans.reason}.\n" in explain(decision)


def test_where_a_head_tells_nearly_all_nothing_else_is_raced(similar: Evidence) -> None:
    size = Size(images=50_000, classes=3, scarcest=10_000, commonest=20_000, looked_at=5000)
    decision = decide(probed(told(similar, size=size, shift=shifted(9.0)), 0.995, 1.0), BACKBONE)
    assert decision.regime == "small-similar"
    assert raced(decision) == ["small-similar"]
    assert "Where that does not tell" not in explain(decision)


def test_scratch_is_tried_only_where_pretraining_is_no_help_and_images_are_many() -> None:
    lost = evidence({}, 50_000)
    assert raced(decide(lost, BACKBONE))[-1] == "scratch"
    plan = decide(lost, BACKBONE).plans[-1]
    assert plan.start == "random"
    assert plan.tuning is not None
    assert "scratch" not in raced(decide(evidence({}), BACKBONE))


def asked_itself(right: float, matched: int = 3) -> SourceAnswers:
    return SourceAnswers(
        classes=1000,
        confidence=0.8,
        entropy=0.1,
        mutual_information=0.9,
        leep=-0.1,
        matched=matched,
        as_is=Accuracy(value=right, error=0.01) if matched == 3 else None,
    )


def test_classes_that_the_published_model_tells_as_well_as_a_new_head_need_nothing(similar: Evidence) -> None:
    probe = similar.last.accuracy
    decision = decide(told(similar, source=asked_itself(probe.value - 0.9 * probe.error)), BACKBONE)
    assert decision.regime == "as-is"
    assert decision.plans[0].words() == "nothing"
    assert "all 3 labels are classes that the published model knows" in decision.reasons[0]
    worse = told(similar, source=asked_itself(probe.value - 1.1 * probe.error))
    assert decide(worse, BACKBONE).regime == "small-similar"
    assert decide(told(similar, source=asked_itself(1.0, matched=2)), BACKBONE).regime == "small-similar"


def test_the_original_rate_or_a_tenth_of_it_is_for_those_whose_original_was_sgd() -> None:
    recipe = BACKBONE.recipe.model_copy(update={"optimizer": "SGD, momentum 0.9"})
    for backbone, rates in (
        (BACKBONE, ("range test", "range test")),
        (BACKBONE.model_copy(update={"recipe": recipe}), ("recipe/10", "recipe")),
    ):
        plans = (candidates(regime, 5000, backbone)[0].tuning for regime in ("large-different", "scratch"))
        assert tuple(plan.rate for plan in plans if plan) == rates


def test_what_each_regime_trains_is_what_it_is_called_for(similar: Evidence) -> None:
    def plans(regime: Regime) -> Any:
        return candidates(regime, similar.size.images, BACKBONE)

    (head,) = plans("small-similar")
    assert head.tuning is None
    deeper = plans("small-different")
    assert [each.tuning and each.tuning.unfreeze_from for each in deeper] == [None, "c5", "c4"]
    assert deeper[0].taps == BACKBONE.taps()
    assert all(each.augmentation == "medium" for each in deeper[1:])
    (late,) = plans("large-similar")
    assert (late.tuning.unfreeze_from, late.tuning.rate, late.tuning.batch_norm) == ("c4", "range test", "eval")
    (whole,) = plans("large-different")
    assert (whole.tuning.unfreeze_from, whole.tuning.rate, whole.tuning.batch_norm) == ("c1", "range test", "eval")
    far = decide(told(similar, shift=shifted(8.0)), BACKBONE).plans[-1]
    assert far.tuning is not None
    assert (far.regime, far.tuning.batch_norm) == ("large-different", "eval")
    assert whole.tuning.epochs == 20  # of 600 images, 10 steps each


def test_decision_json_is_read_back_and_holds_everything(similar: Evidence) -> None:
    decision = decide(similar, BACKBONE)
    assert Decision.model_validate_json(decision.text()) == decision
    held = json.loads(decision.text())
    assert held["thresholds"]["few_images"] == 2000
    assert held["evidence"]["curve"][0]["per_class"] == 1
    assert held["evidence"]["probes"][0]["tap"] == "c1"


def test_the_text_says_what_why_what_next_and_what_is_not_known(similar: Evidence) -> None:
    text = explain(decide(similar, BACKBONE))
    assert text.startswith("Regime: small-similar: few images, like those of the pretraining")
    for expected in (
        "  - 600 training images; under 2,000 are few",
        "1. small-similar: the head on the embedding",
        "600 of 600 training images, by cross-validation",
        "<- best stage",
        "a class",
        "nearest other images",
        "Not known: efficientnet_lite0 has no classes of its own",
        "Not known: efficientnet_lite0 has no batch norms",
    ):
        assert expected in text
    assert all(len(line) <= 250 for line in text.splitlines())


def test_a_figure_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValidationError, match="finite"):
        Accuracy(value=float("nan"), error=0.0)


def test_figures_keep_six_digits_and_no_sign_of_zero() -> None:
    found = Accuracy(value=1 / 3, error=-1e-9)
    assert found.model_dump_json() == '{"value":0.333333,"error":0.0}'
    assert Figure is not float
