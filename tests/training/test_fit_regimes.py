"""What a run says of the way that it was made is what was done to its weights, whichever way that was."""

import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, Literal, NoReturn, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from export import run
from export.progress import Steps
from tests.training.conftest import quiet
from tests.training.test_fit import COLOURS, draw, draw_classes, table
from training import backbones, budget, dataset, description, features, fit, race, tuned, written
from training.advice.candidates import Regime, candidates, head_words
from training.advice.decide import DECISION, Decision
from training.architectures import catalogue
from training.backbones import Card
from training.dataset import Plan
from training.errors import ExplodedError, FrozenError, HeadError, TuningError
from training.fit import Order, Trained
from training.fitting import Kind
from training.parts import parts
from training.question import Question
from training.result import CURVES, FROZEN_HEAD, METRICS, Result
from training.start import Start
from training.tuning import augmentation, determinism, loop, pace
from training.tuning.augmentation import Preset
from training.tuning.journal import BOARD
from training.tuning.record import Pace

# Nothing is measured that could come out otherwise.
CHANGES = {"epochs": 1, "precision": "fp32", "channels_last": False}
HEAD = {"head.linear.weight", "head.linear.bias"}
ANEW = ", then the head anew, on the embedding and all stages"


@dataclass(frozen=True)
class Shop:
    """Where runs are made: images of three classes, and a cache that has the small backbone's graph."""

    folder: Path
    card: Card

    def make(
        self,
        regime: Regime | Literal["auto"],
        out: Path,
        data: Path | None = None,
        *,
        changes: Mapping[str, object] = CHANGES,
        augmentation: Preset | None = None,
        head: Kind = "linear",
        limit_s: float = math.inf,
    ) -> Trained:
        question = Question(
            data or self.folder / "data", Plan(), "small", self.folder / "cache", regime=regime, limit_s=limit_s
        )
        return fit.fit(Order(question, head, 0, out, changes, augmentation), quiet(fit.STEPS))

    def parameters(self, *wanted: str) -> set[str]:
        """The parameters of some parts of the backbone, by their names in a run."""
        backbone, _ = backbones.parted(backbones.pretrained(self.card))
        learnt = {name for name, _ in backbone.named_parameters()}
        found = parts(backbone, self.card.backbone)
        return {f"backbone.module.{name}" for part in wanted for name in found[part] if name in learnt}

    def moved(self, out: Path) -> set[str]:
        """The tensors of a run's backbone that are not the pretrained ones."""
        backbone, _ = backbones.parted(backbones.pretrained(self.card))
        written = load_file(out / run.WEIGHTS)
        before = {f"backbone.module.{name}": each for name, each in backbone.state_dict().items()}
        assert set(written) == {*before, *HEAD}
        return {name for name, each in before.items() if not torch.equal(each, written[name])}


@pytest.fixture(scope="module")
def shop(small: Card, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    draw_classes(folder / "data", list(COLOURS), 8)
    features.extractor(small, small.geometry, folder / "cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbones, "CARDS", {"small": small})
        yield Shop(folder, small)


def result(out: Path) -> Result:
    return Result.model_validate_json((out / METRICS).read_bytes())


def test_with_many_similar_images_the_late_half_is_trained(shop: Shop, tmp_path: Path) -> None:
    out = tmp_path / "large"
    shop.make("large-similar", out)
    described, written = run.read(out), result(out)
    expected = shop.parameters("c4", "c5", "top")
    assert set(described.trained) == expected | HEAD
    assert shop.moved(out) == expected
    assert (described.regime.name, described.regime.reason) == ("large-similar", "asked for: large-similar")
    way = written.way
    assert (way.regime, way.trains) == ("large-similar", f"the head and the backbone from c4 on{ANEW}")
    assert (way.advised, way.race, way.reasons) == (None, None, ())
    assert way.overridden == (
        "regime large-similar",
        "backbone small",
        "epochs 1",
        "precision fp32",
        "channels-last False",
    )
    assert way.tuning is not None
    assert way.tuning.plan.epochs == 1
    assert way.imbalance is None
    assert written.backbone.sha256_before == written.backbone.sha256_after
    assert len((out / CURVES).read_text().splitlines()) == way.tuning.steps + 1
    board = EventAccumulator(str(out / BOARD))
    board.Reload()
    assert len(board.Scalars("rate")) == way.tuning.steps
    assert not (out / DECISION).exists()
    assert written.scores["test"].accuracy.value == 1.0
    before = written.baselines[0]
    assert (before.name, before.accuracy["test"].value) == (FROZEN_HEAD, 1.0)
    assert not any("has more of the test images right" in each for each in written.summary())


def test_a_random_start_has_no_tensor_of_the_pretrained_model(shop: Shop, tmp_path: Path) -> None:
    out = tmp_path / "scratch"
    shop.make("scratch", out)
    described, written = run.read(out), result(out)
    everything = shop.parameters("c1", "c2", "c3", "c4", "c5", "top")
    assert everything | HEAD <= set(described.trained)
    assert everything <= shop.moved(out)
    assert written.way.trains == f"everything, from a random start{ANEW}"
    assert (written.features, written.head, written.baselines) == (None, None, ())
    assert written.summary()[1].endswith(" images")  # and is held against nothing
    assert described.backbone.weights_sha256 is None
    assert written.backbone.parameters == 0


def test_plans_of_two_regimes_that_have_become_one_do_not_race_themselves(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, everything = (candidates(regime, 24, shop.card.backbone) for regime in ("large-similar", "large-different"))
    assert late[0].tuning != everything[0].tuning
    monkeypatch.setattr(fit, "candidates", lambda *_: (*late, *everything))
    made = shop.make("large-similar", tmp_path / "one", changes={**CHANGES, "unfreeze_from": "c5"})
    assert (made.result.way.regime, made.result.way.race) == ("large-similar", None)


def test_of_plans_that_have_become_one_the_first_keeps_its_place(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, head, everything = (
        plan
        for regime in ("large-similar", "small-similar", "large-different")
        for plan in candidates(regime, 24, shop.card.backbone)
    )
    monkeypatch.setattr(fit, "candidates", lambda *_: (late, head, everything))
    question = Question(shop.folder / "data", Plan(), "small", shop.folder / "cache", regime="large-similar")
    order = Order(question, "linear", 0, tmp_path / "run", {"unfreeze_from": "c5"})
    data = dataset.Dataset({"train": ()}, cast(Any, None))
    _, plans = fit._plans(order, data, shop.card, None, quiet(1))
    assert [plan.regime for plan in plans] == ["large-similar", "small-similar"]


def test_left_alone_it_says_what_was_advised_and_what_was_tried(shop: Shop, tmp_path: Path) -> None:
    # Two shades that are hard to tell apart: something is to be tried.
    for number, label in enumerate(("darker", "lighter")):
        for index in range(8):
            shade = 120 + 6 * number
            draw(tmp_path / "data" / label / f"{index}.png", (shade, shade, shade), 1000 * number + index)
    out = tmp_path / "auto"
    shop.make("auto", out, tmp_path / "data")
    decision = Decision.model_validate_json((out / DECISION).read_text())
    described, way = run.read(out), result(out).way
    assert (way.advised, way.reasons) == (decision.regime, decision.reasons)
    assert "regime" not in " ".join(way.overridden)
    assert described.regime.name == way.regime
    moved = shop.moved(out)
    assert set(described.trained) == moved | HEAD
    assert bool(moved) == (way.tuning is not None) == (out / CURVES).exists()
    if len(decision.plans) > 1:
        assert way.race is not None
        assert described.regime.reason == way.race.reason
        assert way.regime == decision.plans[way.race.chosen].regime
    else:
        assert described.regime.reason == "; ".join(decision.reasons)


def test_where_no_time_is_left_to_train_the_winner_the_best_head_stays(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def won(course: Any, _: object) -> tuple[int, str]:
        return max(course.runners), "it won"

    monkeypatch.setattr(race, "_winner", won)
    monkeypatch.setattr(budget, "SPENT", 0.0)
    out = tmp_path / "late"
    changes = {**CHANGES, "epochs": 8, "rate": 0.01}
    made = shop.make("small-different", out, changes=changes, limit_s=1e6)
    way = made.result.way
    assert way.race is not None
    # Once all of them is less than half of that.
    assert max(each.images * each.epochs for each in way.race.heats) > 2 * way.images
    assert (way.trains, way.race.chosen, way.tuning) == (head_words(made.run.head.taps), 0, None)
    assert way.race.heats[0].trains.startswith("the head on the embedding")
    assert made.run.regime.reason.endswith(
        "it won; the time that was left is too short for that on all images, so a head stays"
    )
    assert shop.moved(out) == set()


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> Mapping[str, object]:
    """Time for 4 of 8 epochs and a head behind them, at the pace that is measured: none to spare for a race."""
    images = len(COLOURS) * 8 * 4 // 5
    monkeypatch.setattr(tuned, "paces", lambda *_: (at_pace(5.25 * images / 0.85e6),))
    return {**CHANGES, "epochs": 8, "rate": 0.01}


def test_of_a_few_images_in_a_hurry_there_is_no_race_and_all_the_time_is_for_the_training(
    shop: Shop, tmp_path: Path, hurried: Mapping[str, object]
) -> None:
    out = tmp_path / "hurried"
    made = shop.make("small-different", out, changes=hurried, limit_s=1e6)
    way = made.result.way
    assert way.race is not None
    assert (way.race.heats, way.race.validation, way.race.images) == ((), 0, way.images)
    trains = f"the head and the backbone from c5 on{ANEW}"
    assert (way.trains, way.tuning and len(way.tuning.history)) == (trains, 4)
    reason = "The time was too short for a race of so few images to tell more than luck, so there was none: a longer"
    assert f"<p>{reason} training gains more where more is trained.</p>" in (out / "report.html").read_text()


def test_what_was_chosen_and_comes_apart_gives_way_to_a_head(
    shop: Shop, tmp_path: Path, hurried: Mapping[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: object) -> None:
        raise ExplodedError("Expected at most 3. Received: nan.")

    monkeypatch.setattr(tuned, "fine_tune", explode)
    made = shop.make("small-different", tmp_path / "exploded", changes=hurried, limit_s=1e6)
    assert (made.result.way.trains, made.result.way.tuning) == (head_words(made.run.head.taps), None)
    assert made.run.regime.reason.endswith("where more is trained; its loss exploded, so a head stays")
    assert shop.moved(tmp_path / "exploded") == set()
    # One plan that was asked for alone is not given up for another. What was decided stays, to be gone on with.
    other = replace(shop, folder=shutil.copytree(shop.folder, tmp_path / "shop"))
    with pytest.raises(ExplodedError):
        other.make("large-similar", tmp_path / "asked", changes=hurried)


def test_the_head_that_won_is_the_head_that_is_written(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of pictures that all look alike, twelve times as many of one class: what is answered is a matter of treatment."""
    counts = {"blue": (2, 9), "red": (24, 9)}
    rows = [
        (draw(tmp_path / "data" / f"{label}{index}.png", COLOURS["green"], index + 100 * train), label, split)
        for label, (train, validation) in counts.items()
        for index, split in enumerate(["train"] * train + ["validation"] * validation)
    ]
    source = table(tmp_path / "t.csv", rows, "path,label,split")
    judged: list[NDArray[np.bool_]] = []

    def right(*given: Any) -> NDArray[np.bool_]:
        judged.append(answered(*given))
        return judged[-1]

    answered = Start.right
    monkeypatch.setattr(Start, "right", right)
    monkeypatch.setattr(race, "_winner", lambda *_: (0, "won"))
    made = shop.make("small-different", tmp_path / "run", source)
    (before,) = judged
    held_out = made.held_out["validation"]
    np.testing.assert_array_equal(held_out.logits.argmax(1) == held_out.expected, before)
    assert before[held_out.expected == 0].sum() > 0  # the rare class is named
    assert made.result.way.imbalance is not None
    assert "logits are adjusted" in made.result.way.imbalance
    assert any(made.result.way.imbalance in each for each in made.result.summary())


def test_where_no_image_can_be_held_out_there_is_no_race_and_a_run_all_the_same(shop: Shop, tmp_path: Path) -> None:
    rows = [
        (draw(tmp_path / f"{label}{index}.png", COLOURS[label], 50 + index), label, "train" if index < 2 else "test")
        for label in COLOURS
        for index in range(4)
    ]
    out = tmp_path / "scarce"
    made = shop.make("small-different", out, table(tmp_path / "data.csv", rows, "path,label,split"))
    way = made.result.way
    assert way.race is not None
    assert (way.race.heats, way.race.validation, way.tuning) == ((), 0, None)
    assert "too few images to hold any out" in (out / "report.html").read_text()


def test_the_published_classes_are_answered_without_any_training(shop: Shop, tmp_path: Path) -> None:
    for label, colour in (("bee", "blue"), ("dog", "red")):
        for index in range(4):
            draw(tmp_path / "data" / label / f"{index}.png", COLOURS[colour], index + 100 * len(colour))
    out = tmp_path / "published"
    shop.make("as-is", out, tmp_path / "data")
    described = run.read(out)
    assert described.labels == ("bee", "dog")
    assert described.trained == ()
    assert "frozen" in description.describe(out)
    assert shop.moved(out) == set()
    classifier = backbones.parted(backbones.pretrained(shop.card))[1]
    assert classifier is not None
    assert torch.equal(load_file(out / run.WEIGHTS)["head.linear.weight"], classifier.weight[[1, 3]])
    assert result(out).way.trains == "nothing"
    page = (out / "report.html").read_text()
    assert "It learnt nothing from these images" in page
    assert "The logits were divided" not in page


def test_classes_that_were_not_published_cannot_be_answered_as_is(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(HeadError, match=r"Received: blue, green, red, which it does not know"):
        shop.make("as-is", tmp_path / "published")
    assert not (tmp_path / "published").exists()


def test_a_part_that_the_backbone_has_not_is_refused_before_a_folder_is_made(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(TuningError, match=r"Expected one of the parts c1, .* to unfreeze from. Received: c9"):
        shop.make("large-similar", tmp_path / "wrong", changes={**CHANGES, "unfreeze_from": "c9"})
    assert not (tmp_path / "wrong").exists()


def test_it_is_refused_before_the_features_of_all_images_are_computed(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "_extract", None)  # whoever goes on to them fails
    with pytest.raises(TuningError, match=r"Expected one of the parts c1, .* to unfreeze from. Received: c9"):
        shop.make("small-different", tmp_path / "wrong", changes={**CHANGES, "unfreeze_from": "c9"})


def test_fewer_epochs_than_planned_are_told(shop: Shop, tmp_path: Path) -> None:
    made = shop.make("large-similar", tmp_path / "short", changes={**CHANGES, "epochs": 50}, limit_s=0.01)
    assert made.result.way.epochs == 50
    said = (
        "it was shown each image in 1 of 50 epochs, for which --time-limit-min had room: with more time it may become"
    )
    assert any(line.startswith(said) for line in made.result.summary())
    assert "(1 of 50 epochs, for which there was time)" in (tmp_path / "short" / "report.html").read_text()


def test_what_nothing_comes_of_is_told(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(Steps, "say", lambda _, text: told.append(text))
    shop.make("small-similar", tmp_path / "head", changes={"unfreeze_from": "c4", "epochs": 3})
    assert told == ["Not used, because nothing is to be fine-tuned: unfreeze-from, epochs."]


def test_a_head_that_nothing_is_frozen_for_is_told_and_is_no_choice(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(Steps, "say", lambda _, text: told.append(text))
    shop.make("large-similar", tmp_path / "out", head="cosine")
    assert told == ["Not used, because only a head on a frozen backbone is chosen: head."]
    assert "head cosine" not in result(tmp_path / "out").way.overridden


def test_a_rate_over_the_original_is_told_of_before_and_after(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(Steps, "say", lambda _, text: told.append(text))
    made = shop.make("large-similar", tmp_path / "out", changes={**CHANGES, "rate": 0.05})
    (warning,) = told
    assert warning.startswith("The learning rate 0.05 is over 0.00")
    assert warning in made.result.summary()


@pytest.mark.parametrize(
    ("changes", "rate"),
    [
        ({}, "recipe/10"),
        ({"optimizer": "sgd"}, "recipe/10"),
        ({"optimizer": "adamw"}, "range test"),
        ({"optimizer": "adamw", "rate": "recipe/10"}, "recipe/10"),
        ({"optimizer": "adamw", "rate": 0.001}, 0.001),
    ],
)
def test_a_rate_for_sgd_is_not_taken_for_another_optimizer_but_on_request(
    changes: Mapping[str, object], rate: float | str
) -> None:
    resnet = catalogue.LISTED["resnet18"].backbone
    (plan,) = candidates("large-similar", 100, resnet)
    question = Question(Path("data"), Plan(), "resnet18", Path("cache"), regime="large-similar", limit_s=math.inf)
    found = fit._changed(plan, Order(question, "linear", 0, Path("out"), changes), resnet.stages[0].name)
    assert found.tuning is not None
    assert found.tuning.rate == rate


def test_looks_that_cannot_be_kept_are_refused_before_the_features_of_all_images_are_computed(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "_extract", None)  # whoever goes on to them fails
    monkeypatch.setattr(augmentation, "MIXING_IMAGES", 10)
    changes = {**CHANGES, "epochs": 9, "cached_views": 2}
    with pytest.raises(TuningError, match=r"^Expected images that can have 2 views \(--cached-views\)\. Received"):
        shop.make("large-similar", tmp_path / "out", changes=changes, augmentation="strong")


def test_the_strongest_augmentation_and_a_short_time_are_kept_to(shop: Shop, tmp_path: Path) -> None:
    out = tmp_path / "strong"
    shop.make("large-similar", out, changes={**CHANGES, "epochs": 50}, augmentation="strong", limit_s=0.01)
    way = result(out).way
    assert way.tuning is not None
    assert way.tuning.plan.epochs == 1
    assert "augmentation strong" in way.overridden


@pytest.mark.parametrize(("regime", "kept"), [("large-similar", 2), ("large-different", None)])
def test_what_frozen_parts_make_is_kept_where_there_are_any(
    shop: Shop, tmp_path: Path, regime: Regime, kept: int | None
) -> None:
    before = len(list((shop.folder / "cache").glob("cuts/*.npy")))
    shop.make(regime, tmp_path / "out", changes={**CHANGES, "epochs": 3, "rate": 0.01, "cached_views": 2})
    way = result(tmp_path / "out").way
    assert way.tuning is not None
    assert way.tuning.plan.cached_views == kept
    assert ("cached-views 2" in way.overridden) == (kept is not None)
    assert len(list((shop.folder / "cache").glob("cuts/*.npy"))) == before + (kept or 0)


def test_nothing_is_kept_of_looks_that_do_not_come_again(shop: Shop, tmp_path: Path) -> None:
    before = len(list((shop.folder / "cache").glob("cuts/*.npy")))
    changes = {**CHANGES, "epochs": 2, "rate": 0.02, "cached_views": 2}
    shop.make("large-similar", tmp_path / "out", changes=changes)
    assert len(list((shop.folder / "cache").glob("cuts/*.npy"))) == before


def test_what_was_broken_off_is_gone_on_with_however_fast_the_machine_is_by_then(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How far a plan is cut depends on how fast it trains here, and what lies in the cache on how far it was cut."""
    changes = {**CHANGES, "epochs": 5, "rate": 0.01}
    decided, trainings = shop.folder / "cache" / "decided", shop.folder / "cache" / "trainings"
    images = len(COLOURS) * 8 * 4 // 5
    # What was refused before has left how many images it would have looked at.
    before = set(decided.iterdir()) if decided.exists() else set()
    with monkeypatch.context() as patch:
        patch.setattr(tuned, "paces", lambda *_: (at_pace(4.25 * images / 0.85e6),))
        patch.setattr(tuned, "answers", interrupt)
        with pytest.raises(KeyboardInterrupt):
            shop.make("large-similar", tmp_path / "out", changes=changes, limit_s=1e6)
    # How many images are looked at, and what is made of them.
    assert len(set(decided.iterdir()) - before) == 2
    assert len(list(trainings.iterdir())) == 1
    monkeypatch.setattr(tuned, "paces", lambda *_: (at_pace(2.25 * images / 0.85e6),))
    monkeypatch.setattr(loop, "_step", lambda *_: pytest.fail("this was done before"))
    shop.make("large-similar", tmp_path / "out", changes=changes, limit_s=1e6)
    way = result(tmp_path / "out").way
    assert way.tuning is not None
    assert (way.tuning.plan.epochs, len(way.tuning.history)) == (3, 3)
    assert set(decided.iterdir()) == before
    assert list(trainings.iterdir()) == []


def test_killed_in_the_midst_of_an_epoch_it_ends_with_the_same_weights(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {**CHANGES, "epochs": 2, "batch_size": 4, "rate": 0.01}
    monkeypatch.setattr(loop, "tune", partial(loop.tune, checkpoint_s=0))
    taken: list[int] = []
    step = loop._step

    def counted(training: Any, batch: Any) -> Mapping[str, float]:
        taken.append(training.at.step)
        return step(training, batch)

    def killed(training: Any, batch: Any) -> Mapping[str, float]:
        return interrupt() if training.at.step == 7 else step(training, batch)

    monkeypatch.setattr(loop, "_step", counted)
    whole = shop.make("large-similar", tmp_path / "whole", changes=changes)
    assert taken == list(range(10))
    monkeypatch.setattr(loop, "_step", killed)
    with pytest.raises(KeyboardInterrupt):
        shop.make("large-similar", tmp_path / "again", changes=changes)
    taken.clear()
    monkeypatch.setattr(loop, "_step", counted)
    again = shop.make("large-similar", tmp_path / "again", changes=changes)
    assert taken == [7, 8, 9]
    assert again.run.weights_sha256 == whole.run.weights_sha256


def test_a_frozen_tensor_that_changed_is_no_run(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretrained = written._pretrained
    monkeypatch.setattr(
        written, "_pretrained", lambda *given: {name: each + 1 for name, each in pretrained(*given).items()}
    )
    with pytest.raises(
        FrozenError, match=r"^Expected what was frozen to keep the tensors \w{64}\. Received: \w{64}\.$"
    ):
        shop.make("small-similar", tmp_path / "run", changes={})
    assert list(tmp_path.iterdir()) == []


def at_pace(images_per_s: float) -> Pace:
    return Pace(precision="fp32", channels_last=False, images_per_s=images_per_s, cosine=1.0, refused=None)


def interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


@pytest.fixture
def determined() -> Iterator[dict[str, object]]:
    yield determinism.insist()
    torch.use_deterministic_algorithms(False)


def test_twice_the_same_command_gives_the_same_weights(
    shop: Shop, tmp_path: Path, determined: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever way of computing is measured to be the fastest this time."""
    plain = at_pace(100.0)
    other = plain.model_copy(update={"precision": "bf16", "channels_last": True})
    fastest = cycle((plain, other, other))
    monkeypatch.setattr(pace, "best", lambda *_: next(fastest))
    changes = {"epochs": 1, **determined}
    made = [shop.make("large-similar", tmp_path / name, changes=changes).run for name in ("first", "second")]
    assert made[0].weights_sha256 == made[1].weights_sha256
    assert torch.are_deterministic_algorithms_enabled()
