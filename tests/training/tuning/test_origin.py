"""No random layer is trained together with pretrained ones, or left random beneath them."""

import pytest

from training.errors import TuningError
from training.tuning import origin
from training.tuning.origin import Origin

ALL = ("stem", "late", "head.weight", "head.bias")


def origins(stem: Origin, late: Origin, head: Origin) -> dict[str, Origin]:
    return {"stem": stem, "late": late, "head.weight": head, "head.bias": head}


@pytest.mark.parametrize(
    ("trained", "known"),
    [
        (("head.weight", "head.bias"), origins("pretrained", "pretrained", "random")),
        (("late", "head.weight", "head.bias"), origins("pretrained", "pretrained", "warmed")),
        (ALL, origins("random", "random", "random")),
        (ALL, origins("pretrained", "warmed", "warmed")),
    ],
    ids=["a head warms up", "late stages behind a warm head", "scratch", "everything"],
)
def test_what_may_be_trained(trained: tuple[str, ...], known: dict[str, Origin]) -> None:
    origin.check(trained, ALL, known)


def test_a_random_head_is_not_trained_with_a_pretrained_backbone() -> None:
    with pytest.raises(
        TuningError,
        match=r"Expected every layer to have been trained before pretrained ones are unfrozen. Received: head.weight, "
        "head.bias, which are random. Start the head from a linear probe",
    ):
        origin.check(("late", "head.weight", "head.bias"), ALL, origins("pretrained", "pretrained", "random"))


def test_nothing_is_trained_over_a_random_layer_that_stays() -> None:
    with pytest.raises(TuningError, match=r"Expected no random tensor among those that stay frozen. Received: stem\. "):
        origin.check(("late", "head.weight", "head.bias"), ALL, origins("random", "random", "random"))


def test_every_origin_is_said() -> None:
    known = {"stem": "pretrained", "late": "pretrained"}
    with pytest.raises(TuningError, match=r"Expected the origin of every parameter. Received: none of head.weight, "):
        origin.check(("late",), ALL, known)  # type: ignore[arg-type]


def test_many_names_are_cut() -> None:
    assert origin.named(("a", "b", "c")) == "a, b, c"
    assert origin.named(tuple("abcdef")) == "a, b, c and 3 more"
