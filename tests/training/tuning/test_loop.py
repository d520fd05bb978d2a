"""The loop learns what its plan says, keeps what is best, and stops where nothing good can come."""

import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.tuning.teacher import (
    PARTS,
    RECIPE,
    Colours,
    Held,
    drawn,
    learner,
    lessons,
    nothing,
    origins,
    plan,
    tunable,
)
from training.errors import CheckpointError, ExplodedError, FrozenError, TuningError
from training.tuning import loop, pace
from training.tuning.batches import Batch
from training.tuning.checkpoint import Checkpoints
from training.tuning.journal import METRICS
from training.tuning.loop import Learner
from training.tuning.record import Known, Pace, RangeTest, Tuned
from training.tuning.validation import Labelled


def tuned(folder: Path, given: Learner | None = None, taught: dict[str, Any] | None = None, **changed: Any) -> Tuned:
    """What a short training comes to, with a rate that this model learns at."""
    return loop.tune(given or learner(), lessons(**(taught or {})), plan(**{"rate": 0.02, **changed}), folder, nothing)


def test_it_learns_and_says_how(tmp_path: Path) -> None:
    told: list[int] = []
    given = learner()
    found = loop.tune(given, lessons(), plan(rate=0.02, epochs=4), tmp_path, told.append)
    record = found.record
    assert sum(told) == record.steps == 12
    assert record.start is not None
    scores = [epoch.score for epoch in record.history]
    assert scores[-1] is not None
    assert scores[-1].accuracy > 0.9
    assert record.start.accuracy < 0.6
    assert [epoch.number for epoch in record.history] == [0, 1, 2, 3]
    assert record.best == 3
    assert (record.settings.rate, record.settings.rate_rule, record.notes) == (0.02, "asked for", ())
    assert all(torch.equal(each, found.state[name]) for name, each in given.model.state_dict().items())
    assert not given.model.training


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++")
def test_compiled_it_learns_the_same(tmp_path: Path) -> None:
    plain, compiled = (tuned(tmp_path / str(each), compile=each) for each in (False, True))
    assert compiled.record.settings.compile
    for name, each in plain.state.items():
        torch.testing.assert_close(compiled.state[name], each, rtol=1e-3, atol=1e-4)


def test_only_what_is_said_to_be_trained_has_changed(tmp_path: Path) -> None:
    before = tunable().state_dict()
    found = tuned(tmp_path)
    changed = {name for name, each in found.state.items() if not torch.equal(each, before[name])}
    assert changed == set(found.trained)
    assert {name.split(".")[2] for name in changed if name.startswith("backbone")} == {"blocks", "conv_head", "bn2"}
    assert {name.split(".")[3] for name in changed if ".blocks." in name} == {"3", "4"}


def test_no_step_follows_more_of_a_gradient_than_its_longest(tmp_path: Path) -> None:
    before = tunable().state_dict()

    def moved(clip_norm: float) -> float:
        """How far a single step goes."""
        one: dict[str, Any] = {"feed": Colours(images=16), "validation": None}
        options: dict[str, Any] = {"epochs": 1, "average": "none", "warm_up": 0.0, "weight_decay": 0.0}
        found = tuned(tmp_path / str(clip_norm), taught=one, clip_norm=clip_norm, **options)
        return math.sqrt(sum(float((found.state[name] - before[name]).square().sum()) for name in found.trained))

    assert moved(0.2) == pytest.approx(2 * moved(0.1), rel=0.01)
    assert moved(1e9) > 1.5 * moved(0.2)


def test_every_part_moves_in_one_step_at_a_tenth_of_the_original_rate(tmp_path: Path) -> None:
    before = tunable().state_dict()
    found = tuned(
        tmp_path,
        taught={"feed": Colours(images=16), "validation": None},
        unfreeze_from="c1",
        rate="recipe/10",
        epochs=1,
        average="none",
        warm_up=0.0,
    )
    assert found.record.steps == 1
    assert found.record.settings.rate == pytest.approx(0.4 * 16 / 256 / 10, abs=1e-12)
    assert found.record.settings.rate_rule == "recipe/10"
    moved = {name for name in found.trained if not torch.equal(found.state[name], before[name])}
    for stage in range(5):
        assert any(f".blocks.{stage}." in name for name in moved)
    assert {"head.linear.weight", "backbone.module.conv_stem.weight", "backbone.module.conv_head.weight"} <= moved


def test_batch_norms_of_trained_parts_follow_the_plan(tmp_path: Path) -> None:
    found = tuned(tmp_path, batch_norm="train")
    counts = {name: each for name, each in found.state.items() if name.endswith("num_batches_tracked")}
    start = tunable().state_dict()
    for name, each in counts.items():
        trained = any(part in name for part in (".blocks.3.", ".blocks.4.", "module.bn2."))
        assert (each - start[name] == 6) == trained, name


@pytest.mark.parametrize("average", ["none", "ema", "tail"])
def test_the_average_is_what_is_scored_and_kept(tmp_path: Path, average: str) -> None:
    found = tuned(tmp_path, taught={"validation": None}, average=average, average_over=0.5)
    plain = tuned(tmp_path / "plain", taught={"validation": None}, average="none")
    same = torch.equal(found.state["head.linear.weight"], plain.state["head.linear.weight"])
    assert same == (average == "none")


def test_twice_the_same_to_the_bit(tmp_path: Path) -> None:
    generator = torch.get_rng_state()
    first, second = (tuned(tmp_path / name, dropout=0.3) for name in "ab")
    assert all(torch.equal(each, second.state[name]) for name, each in first.state.items())
    assert torch.equal(torch.get_rng_state(), generator)
    other = tuned(tmp_path / "c", dropout=0.3, seed=1)
    assert not torch.equal(other.state["head.linear.weight"], first.state["head.linear.weight"])


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_both_optimizers_learn(tmp_path: Path, kind: str) -> None:
    found = tuned(tmp_path, optimizer=kind, rate=0.02 if kind == "sgd" else 0.003, epochs=4)
    assert found.record.best is not None
    score = found.record.history[found.record.best].score
    assert score is not None
    assert score.accuracy > 0.8


def test_l2_sp_holds_the_backbone_near_its_start(tmp_path: Path) -> None:
    start = tunable().state_dict()

    def moved(l2_sp: float) -> float:
        found = tuned(tmp_path / str(l2_sp), epochs=4, taught={"validation": None}, l2_sp=l2_sp)
        return sum(float((found.state[name] - start[name]).norm()) for name in found.trained if "blocks" in name)

    assert moved(l2_sp=30.0) < 0.7 * moved(l2_sp=0.0)


def test_an_offset_is_added_in_training_alone(tmp_path: Path) -> None:
    """With much added to a class while it trains, the model learns to give it less."""
    offset = torch.tensor([4.0, 0, 0])
    plain, shifted = (
        tuned(tmp_path / str(number), taught={"offset": given, "validation": None}, epochs=3)
        for number, given in enumerate((None, offset))
    )

    def first_class(found: Tuned) -> float:
        model = tunable()
        model.load_state_dict(found.state)
        return float(model(drawn(30, 5)[0]).softmax(1)[:, 0].mean())

    assert first_class(shifted) < first_class(plain) - 0.1


def test_a_start_that_is_not_beaten_is_kept(tmp_path: Path) -> None:
    given = learner()
    with torch.no_grad():
        given.model.get_parameter("head.linear.weight").zero_()
    start = {name: each.clone() for name, each in given.model.state_dict().items()}

    @dataclass(frozen=True)
    class Misleading:
        """Labels of which the start knows all, and training none."""

        def batches(self) -> Iterator[Labelled]:
            pixels, _ = drawn(20, 3)
            labels = given.model.eval()(pixels).argmax(1) if not any(seen) else torch.zeros(20).long()
            yield Labelled(pixels, labels, torch.ones(20, dtype=torch.float64))

    seen: list[int] = []
    with torch.no_grad():
        given.model.get_parameter("head.linear.bias").copy_(torch.tensor([3.0, 0, 0]))
        start = {name: each.clone() for name, each in given.model.state_dict().items()}
    found = tuned(tmp_path, given, {"validation": Misleading(), "feed": Colours()}, epochs=2)
    assert found.record.best is None
    assert found.trained == ()
    assert all(torch.equal(each, start[name]) for name, each in found.state.items())
    assert "On the validation images no epoch was better than the start" in found.record.notes[-1]
    assert "The start was kept." in found.record.notes[-1]


@dataclass(frozen=True)
class Forgetting:
    """Images whose labels are right for the start and the first epoch alone."""

    asked: list[int] = field(default_factory=list)

    def batches(self) -> Iterator[Labelled]:
        self.asked.append(1)
        pixels, labels = drawn(30, 99)
        shown = labels if len(self.asked) <= 2 else (labels + 1) % 3
        yield Labelled(pixels, shown, torch.ones(30, dtype=torch.float64))


def test_it_stops_where_nothing_grows_better_and_keeps_the_best_epoch(tmp_path: Path) -> None:
    found = tuned(tmp_path, taught={"validation": Forgetting()}, epochs=3)
    first = tuned(tmp_path / "first", taught={"validation": Forgetting()}, epochs=3, patience=1)
    assert (found.record.stopped_early, first.record.stopped_early) == (False, True)
    assert found.record.best == first.record.best == 0
    assert len(first.record.history) == 2
    assert all(torch.equal(each, first.state[name]) for name, each in found.state.items())


def test_what_was_best_before_an_interruption_is_kept(tmp_path: Path) -> None:
    taught = lessons(validation=Forgetting())
    expected = tuned(tmp_path / "whole", taught={"validation": Forgetting()}, epochs=3)
    told: list[int] = []

    def interrupted(done: int) -> None:
        told.append(done)
        if sum(told) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.tune(learner(), taught, plan(rate=0.02, epochs=3), tmp_path / "run", interrupted, checkpoint_s=0.0)
    found = loop.tune(learner(), taught, plan(rate=0.02, epochs=3), tmp_path / "run", nothing)
    assert found.record.best == expected.record.best == 0
    assert all(torch.equal(each, expected.state[name]) for name, each in found.state.items())


@pytest.mark.parametrize("exploded", [False, True])
def test_what_the_clock_decided_is_kept_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exploded: bool
) -> None:
    def paces(fastest: bool) -> Callable[..., tuple[Pace, ...]]:
        found = ((False, 10.0), (True, 20.0 if fastest else 5.0))
        return lambda *_: tuple(
            Pace(precision="fp32", channels_last=last, images_per_s=speed, cosine=1.0, refused=None)
            for last, speed in found
        )

    explosions = [ExplodedError("once")] if exploded else []

    def interrupted(done: int) -> None:
        if done > 0:
            raise explosions.pop() if explosions else KeyboardInterrupt

    seen = Known(tested=RangeTest(rates=(), losses=(), harmless=None, diverged=None, chosen=0.02))
    asked = plan(rate="range test", precision="fp32", channels_last="auto")
    monkeypatch.setattr(pace, "measure", paces(fastest=True))
    with pytest.raises(KeyboardInterrupt):
        loop.tune(learner(), lessons(), asked, tmp_path, interrupted, known=seen)
    monkeypatch.setattr(pace, "measure", paces(fastest=False))
    found = loop.tune(learner(), lessons(), asked, tmp_path, nothing, known=seen).record
    assert found.settings.channels_last
    assert found.settings.rate == pytest.approx(0.02 / 3 if exploded else 0.02)
    # It is over the original: of what a range test has tried nobody needs to be warned.
    assert found.settings.notes == ()


@pytest.mark.parametrize(("due_s", "written"), [(10.0, 1), (0.0, 3)])
def test_little_epochs_are_not_all_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, due_s: float, written: int
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(loop, "_EPOCH_S", due_s)
    monkeypatch.setattr(Checkpoints, "write", lambda _, at, __: seen.append(at.epoch))
    loop.tune(learner(), lessons(), plan(rate=0.02, epochs=3), tmp_path, nothing)
    assert seen == [1, 2, 3][-written:]


def test_figures_are_written_for_every_step_and_epoch(tmp_path: Path) -> None:
    tuned(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 3, 4, 5, 6, 6]
    assert set(lines[0]) == {"step", "loss", "rate", "gradient_norm"}
    assert {"epoch", "epoch_loss", "validation_accuracy", "validation_log_loss"} < set(lines[3])
    assert lines[5]["rate"] < lines[1]["rate"] < 0.02 * 1.01


def test_a_rate_far_too_high_is_stopped_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TuningError, match=r"Expected at most .* of 60\. Received: .* lower the learning rate"):
        tuned(tmp_path, rate=300.0, epochs=20, unfreeze_from="c1", warm_up=0.0, clip_norm=1e9, average="none")


def test_a_rate_over_the_original_is_told(tmp_path: Path) -> None:
    found = tuned(tmp_path, rate=0.03)
    assert found.record.notes[0].startswith("The learning rate 0.03 is over 0.025, which this backbone was pretrained")


def test_ten_times_the_original_comes_apart_where_a_tenth_of_it_learns(tmp_path: Path) -> None:
    """Claim 8: from weights that know the task, a rate far too high loses what they know."""
    knows = tuned(tmp_path / "start", epochs=4)

    def after(rate: float | str) -> float:
        given = learner()
        given.model.load_state_dict(knows.state)
        hard: dict[str, Any] = {"unfreeze_from": "c1", "clip_norm": 100.0, "warm_up": 0.0, "epochs": 8}
        found = tuned(tmp_path / str(rate)[:4], given, rate=rate, **hard)
        return found.record.history[-1].loss

    assert after("recipe/10") < knows.record.history[-1].loss
    with pytest.raises(TuningError, match="The training has come apart"):
        after(0.25)


def test_a_rate_that_a_range_test_chose_too_high_is_lowered_and_all_begins_anew(tmp_path: Path) -> None:
    knows = tuned(tmp_path / "start", epochs=4)
    hard = {"rate": "range test", "unfreeze_from": "c1", "clip_norm": 100.0, "warm_up": 0.0, "epochs": 4}

    def after(name: str, chosen: float, told: list[int] | None = None) -> Tuned:
        given = learner()
        given.model.load_state_dict(knows.state)
        seen = RangeTest(rates=(), losses=(), harmless=None, diverged=None, chosen=chosen)
        heard = nothing if told is None else told.append
        return loop.tune(
            given, lessons(), plan(**hard), tmp_path / name, heard, known=Known(tested=seen), checkpoint_s=0.0
        )

    found = after("high", 0.25)
    seen = found.record.settings.range_test
    assert seen is not None
    assert seen.lowered > 0
    assert found.record.settings.rate == seen.chosen == pytest.approx(0.25 / 3**seen.lowered)
    assert found.record.notes[-1].startswith("At the rate that the range test named, 0.25, the loss exploded, and all")
    # As if nothing had been tried before, on disk, too.
    same = after("low", seen.chosen)
    assert found.state.keys() == same.state.keys()
    assert all(torch.equal(each, same.state[name]) for name, each in found.state.items())
    steps = [line["step"] for line in map(json.loads, (tmp_path / "high" / METRICS).read_text().splitlines())]
    assert steps == sorted(steps)
    told: list[int] = []
    again = after("high", 0.25, told)
    assert (told, again.record.settings) == ([found.record.steps], found.record.settings)


def test_what_comes_apart_at_every_rate_is_told(tmp_path: Path) -> None:
    knows = tuned(tmp_path / "start", epochs=4)
    given = learner()
    given.model.load_state_dict(knows.state)
    seen = RangeTest(rates=(), losses=(), harmless=None, diverged=None, chosen=1e4)
    hard = plan(rate="range test", unfreeze_from="c1", clip_norm=100.0, warm_up=0.0)
    with pytest.raises(ExplodedError, match=r"at the learning rate 346\. The training has come apart"):
        loop.tune(given, lessons(), hard, tmp_path / "high", nothing, known=Known(tested=seen))


def test_a_random_head_is_refused_over_a_pretrained_backbone(tmp_path: Path) -> None:
    given = learner(head="random")
    with pytest.raises(TuningError, match=r"Expected every layer to have been trained before pretrained ones"):
        tuned(tmp_path, given)
    assert list(tmp_path.iterdir()) == []


def test_everything_may_start_random(tmp_path: Path) -> None:
    given = learner(backbone="random", head="random")
    found = tuned(tmp_path, given, unfreeze_from="c1", rate="recipe", batch_norm="train", epochs=1)
    assert found.record.settings.rate_rule == "recipe"
    assert found.record.notes == ()


def test_a_frozen_tensor_that_changes_is_an_error(tmp_path: Path) -> None:
    given = learner()

    @dataclass
    class Meddling(Colours):
        def epoch(self, number: int, start_step: int = 0, rank: int = 0, world: int = 1) -> Iterator[Batch]:
            yield from super().epoch(number, start_step, rank, world)
            given.model.state_dict()["backbone.module.bn1.running_mean"][0] += 1e-3

    with pytest.raises(FrozenError, match=r"frozen tensors to stay as they were\. .*module\.bn1\.running_mean"):
        tuned(tmp_path, given, {"feed": Meddling()})


def test_no_steps_are_told(tmp_path: Path) -> None:
    with pytest.raises(TuningError, match=r"Expected at least one step to train\. Received: 0 images an epoch\."):
        tuned(tmp_path, taught={"feed": Colours(images=0)})


def test_a_batch_larger_than_the_data_is_one_smaller_batch(tmp_path: Path) -> None:
    found = tuned(tmp_path, taught={"feed": Colours(images=5, batch=64)}, batch_size=64, rate="recipe/10", epochs=3)
    assert found.record.steps == 3
    assert found.record.settings.rate == pytest.approx(0.4 * 5 / 256 / 10, abs=1e-12)
    assert found.record.notes[0].startswith("A batch of 64 is more than the 5 images: each step shows all of them")


def test_a_batch_in_which_nothing_counts_is_told(tmp_path: Path) -> None:
    @dataclass
    class Weightless(Colours):
        def epoch(self, number: int, start_step: int = 0, rank: int = 0, world: int = 1) -> Iterator[Batch]:
            for batch in super().epoch(number, start_step, rank, world):
                yield replace(batch, weights=torch.zeros_like(batch.weights))

    with pytest.raises(TuningError, match=r"Expected images that count in step 1\. Received: none of a weight"):
        tuned(tmp_path, taught={"feed": Weightless()})


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    given = learner()
    with torch.no_grad():
        given.model.get_parameter("backbone.module.conv_head.weight")[0] = math.nan
    with pytest.raises(TuningError, match=r"Expected weights that are numbers\. .*module\.conv_head\.weight"):
        tuned(tmp_path, given)


def test_what_the_head_does_not_read_stays_frozen_and_is_told(tmp_path: Path) -> None:
    model = tunable(("c4",))
    found = tuned(tmp_path, Learner(model, origins(model), RECIPE), unfreeze_from="c4")
    assert not any("conv_head" in name or ".blocks.4." in name for name in found.trained)
    assert any(".blocks.3." in name for name in found.trained)
    assert found.record.notes[0].startswith("The head reads nothing that depends on backbone.module.blocks.4.0.")


def test_training_that_learns_nothing_says_so(tmp_path: Path) -> None:
    model = tunable()
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.zero_()
    found = tuned(tmp_path, Learner(model, origins(model), RECIPE), {"validation": None}, rate=1e-9)
    assert "which is what guessing gives" in found.record.notes[-1]


def test_what_auto_means_is_measured_and_kept(tmp_path: Path) -> None:
    found = tuned(tmp_path, precision="auto", channels_last="auto", epochs=1)
    assert len(found.record.settings.paces) == 4
    assert found.record.settings.precision in ("fp32", "bf16")
    assert found.record.settings.compile is False


def test_a_range_test_says_that_it_decided(tmp_path: Path) -> None:
    found = tuned(tmp_path, rate="range test", epochs=1)
    settings = found.record.settings
    assert settings.rate_rule == "range test"
    assert settings.range_test is not None
    assert settings.rate == settings.range_test.chosen


@pytest.mark.parametrize("changed", [{"precision": "bf16"}, {"channels_last": True}])
def test_other_arithmetic_learns_as_well(tmp_path: Path, changed: dict[str, Any]) -> None:
    found = tuned(tmp_path, epochs=4, **changed)
    score = found.record.history[-1].score
    assert score is not None
    assert score.accuracy > 0.85
    assert all(each.dtype != torch.bfloat16 and each.is_contiguous() for each in found.state.values())


def test_a_finished_training_is_not_done_again(tmp_path: Path) -> None:
    first = tuned(tmp_path)
    feed, told = Colours(), list[int]()
    second = loop.tune(learner(), lessons(feed=feed), plan(rate=0.02), tmp_path, told.append)
    assert told == [6]
    assert feed.asked == [(0, 0)] * len(feed.asked)  # looked at, not learnt from
    assert second.record == first.record
    assert all(torch.equal(each, second.state[name]) for name, each in first.state.items())


@pytest.mark.parametrize(
    ("changed", "taught", "said"),
    [
        ({"epochs": 3}, {}, "steps is 6, not 9, epochs is 2, not 3"),
        ({}, {"sha256": "f" * 64}, "the data is 000000000000, not ffffffffffff"),
        ({"rate": 0.01}, {}, r"rate is 0\.02, not 0\.01"),
        ({}, {"offset": torch.zeros(3)}, "the offset is None, not "),
    ],
    ids=["plan", "data", "rate", "offset"],
)
def test_a_checkpoint_of_another_training_is_refused(
    tmp_path: Path, changed: dict[str, Any], taught: dict[str, Any], said: str
) -> None:
    tuned(tmp_path)
    with pytest.raises(CheckpointError, match=rf"Received: one of another: {said}"):
        tuned(tmp_path, taught=taught, **changed)


def test_a_checkpoint_of_another_start_or_architecture_is_refused(tmp_path: Path) -> None:
    tuned(tmp_path)
    other = tunable(seed=1)
    with pytest.raises(CheckpointError, match=r"Received: one of another: the start is [0-9a-f]+, not [0-9a-f]+"):
        tuned(tmp_path, Learner(other, origins(other), RECIPE))
    narrow = tunable(("embedding",))
    with pytest.raises(CheckpointError, match=r"Received: one of another: the architecture is [0-9a-f]+, not "):
        tuned(tmp_path, Learner(narrow, origins(narrow), RECIPE))


def test_progressive_sizes_are_learnt_from(tmp_path: Path) -> None:
    @dataclass
    class Growing(Colours):
        def epoch(self, number: int, start_step: int = 0, rank: int = 0, world: int = 1) -> Iterator[Batch]:
            yield from Colours(side_px=32 * (1 + number)).epoch(number, start_step, rank, world)

    assert tuned(tmp_path, taught={"feed": Growing()}).record.steps == 6


def test_parts_are_in_the_order_in_which_they_run() -> None:
    assert tunable().trained_parts(plan(unfreeze_from="c1")) == PARTS


def test_held_out_images_are_the_same_each_time() -> None:
    first, second = (torch.cat([each.pixels for each in Held().batches()]) for _ in range(2))
    assert isinstance(first, Tensor)
    assert torch.equal(first, second)
