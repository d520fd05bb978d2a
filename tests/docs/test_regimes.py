"""docs/regimes.md says what the code does: regimes, thresholds, settings, fields."""

import typing

import pytest

from tests.docs import pages
from training import backbones, race
from training.__main__ import Fit
from training.advice import subset
from training.advice.candidates import Candidate, Regime, candidates
from training.advice.decide import Decision
from training.advice.signs import Thresholds
from training.tuning import augmentation, imbalance, rates
from training.tuning.plan import Plan

PAGE = pages.text("regimes.md")
LITE0 = backbones.card("efficientnet_lite0").backbone
RESNET50 = backbones.card("resnet50").backbone
PRESETS: tuple[augmentation.Preset, ...] = ("light", "medium", "strong")
CROPS = {name: augmentation.preset(name, turns=False, images=1, epochs=1) for name in PRESETS}
REGIMES: tuple[Regime, ...] = typing.get_args(Regime)


def plans(regime: Regime) -> tuple[Candidate, ...]:
    return candidates(regime, 50_000, LITE0)


def batch_norms(made: tuple[Candidate, ...]) -> set[str]:
    return {str(plan.tuning.batch_norm) for plan in made if plan.tuning} or {""}


def cells(regime: Regime) -> list[str]:
    """What its line in the table must say."""
    made = plans(regime)
    places = [plan.tuning.unfreeze_from if plan.tuning else None for plan in made]
    tuned = [plan.tuning for plan in made if plan.tuning]
    (batch_norm,) = batch_norms(made)
    words = {"pretrained classifier": "the published classifier", "linear probe": "a linear probe"}
    return [
        f"`{regime}`",
        ", or ".join("nowhere" if place is None else place for place in places),
        tuned[0].rate if tuned and isinstance(tuned[0].rate, str) else "",
        batch_norm,
        ", or ".join(dict.fromkeys(plan.augmentation for plan in made)),
        words.get(made[0].start, "a random start"),
    ]


@pytest.mark.parametrize("regime", REGIMES)
def test_the_table_of_regimes_is_what_they_do(regime: Regime) -> None:
    assert cells(regime) in pages.table(PAGE, "regime |")


def test_no_regime_is_missing() -> None:
    assert [row[0] for row in pages.table(PAGE, "regime |")] == [f"`{regime}`" for regime in REGIMES]


def test_thresholds_are_those_of_the_code() -> None:
    said = {row[0].strip("`"): float(row[1].replace(",", "")) for row in pages.table(PAGE, "threshold |")}
    assert said == Thresholds().model_dump()


def test_every_threshold_is_used_in_the_rules() -> None:
    rules = PAGE[PAGE.index("| it speaks for") : PAGE.index("| threshold |")] + PAGE[PAGE.index("### From signs") :]
    assert [name for name in Thresholds.model_fields if f"`{name}`" not in rules] == []


def test_settings_are_the_plans_own() -> None:
    plan = Plan(unfreeze_from=None).model_dump()
    told_of_elsewhere = {"unfreeze_from", "rate", "epochs", "seed"}
    settings = pages.table(PAGE, "setting of a fine-tuning")
    assert {name.strip("`") for name, *_ in settings} == plan.keys() - told_of_elsewhere
    for ticked, value, flag, _ in settings:
        name = ticked.strip("`")
        assert value == str(plan[name])
        assert flag == (f"`--{name.replace('_', '-')}`" if name in Fit.model_fields else "`--plan`")


def test_figures_in_the_text_are_the_codes() -> None:
    mixed = f"{augmentation.MIXING_IMAGES:,} images and {augmentation.MIXING_EPOCHS} epochs"
    flat = " ".join(PAGE.split())
    for said in (
        f"ResNet-50 was pretrained with {RESNET50.recipe.learning_rate_per_256:g} for 256 images",
        f"a batch of 64 is fine-tuned with {rates.fine_tuning(RESNET50.recipe, 64):g}.",
        f"no more than {subset.MOST:,} training images",
        f"{race._ROUNDS[0]:.0%}".replace("%", " % of what `--time-limit-min` leaves"),
        f"gets {race._ROUNDS[1]:.0%}".replace("%", " % in the second"),
        f"With fewer than {race._MANY} images held out a race",
        f"at least {mixed}",
        f"Up to {imbalance.MOST_ALIKE:g} times",
        f"Up to {imbalance.MOST_WEIGHTED:g} times",
        *(f"`{name}` crops at least {each.area}" for name, each in CROPS.items()),
        "at least 600 steps, of at most 20 epochs",
    ):
        assert said in flat, said
    few, some, many = (candidates("large-similar", images, LITE0)[0] for images in (64, 6400, 50_000))
    assert [plan.tuning and plan.tuning.epochs for plan in (few, some, many)] == [20, 6, 1]


def test_the_fields_of_decision_json_are_named() -> None:
    assert [row[0].strip("`") for row in pages.table(PAGE, "field |")] == list(Decision.model_fields)
