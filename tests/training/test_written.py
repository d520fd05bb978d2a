"""What a run says that was trained of it is what came of it, not what was planned."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from export.run import EMBEDDING
from tests.training.made import record
from training import backbones, written
from training.advice.candidates import Candidate, candidates
from training.made import Made
from training.tuning.plan import Plan

PLANNED = "the head and the backbone from c4 on"
ANEW = ", then the head anew, on the embedding and all stages"
NO_BETTER = f", because no epoch of {PLANNED} was better on the validation images"


def made(*, fitted: bool, trained: bool, kept: bool) -> Made:
    told = record()
    assert told.refit is not None
    told = told.model_copy(update={"refit": told.refit.model_copy(update={"kept": kept})})
    plan = Candidate(
        regime="large-similar",
        start="linear probe",
        taps=(EMBEDDING,),
        augmentation="light",
        tuning=Plan(unfreeze_from="c4"),
    )
    tuned: Any = SimpleNamespace(tuned=SimpleNamespace(trained=("a tensor",) if trained else (), record=told))
    return cast(Made, SimpleNamespace(plan=plan, fitted=SimpleNamespace() if fitted else None, fine_tuned=tuned))


@pytest.mark.parametrize(
    ("fitted", "trained", "kept", "words"),
    [
        (True, True, True, PLANNED + ANEW),
        (True, True, False, PLANNED),
        (True, False, True, f"the head alone{NO_BETTER}{ANEW}"),
        (True, False, False, f"the head alone{NO_BETTER}"),
        (False, False, True, f"the head alone{NO_BETTER}{ANEW}"),
        (False, False, False, f"nothing, so that all of it is random{NO_BETTER}"),
    ],
)
def test_what_was_trained_is_told_as_it_came_out(fitted: bool, trained: bool, kept: bool, words: str) -> None:
    assert written._trains(made(fitted=fitted, trained=trained, kept=kept)) == words


@pytest.mark.parametrize(
    ("taps", "words"), [(("embedding",), "the embedding"), (("c4", "embedding"), "the embedding and all stages")]
)
def test_a_head_is_told_by_what_it_reads_and_not_by_what_was_planned(taps: tuple[str, ...], words: str) -> None:
    (plan,) = candidates("small-similar", 100, backbones.card("efficientnet_lite0").backbone)
    headed = SimpleNamespace(plan=plan, head=SimpleNamespace(taps=taps), fine_tuned=None)
    assert written._trains(cast(Made, headed)) == f"the head on {words}"
