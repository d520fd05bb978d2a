"""A fine-tuning begins at a probe, changes what its plan names and nothing else, and leaves nothing behind."""

import hashlib
import json
import shutil
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from export.run import EMBEDDING
from service import image
from tests.training.conftest import quiet
from tests.training.test_fit import COLOURS, draw
from training import backbones, fitting, refit, tuned
from training.advice.candidates import Candidate
from training.backbones import Card
from training.dataset import Sample
from training.errors import ExplodedError, TuningError
from training.fitting import Examples
from training.parts import parts
from training.served import Served
from training.taps import Taps
from training.tuned import FineTuned, Ground, Probed
from training.tuning import activations, loop, pace
from training.tuning.loop import Learner, Lessons
from training.tuning.plan import Plan
from training.tuning.record import Known, Tuned

LABELS = tuple(COLOURS)
IMAGES = 10  # of each class; one epoch in batches of twelve is three steps
STEPS = 3
PLAN = Plan(unfreeze_from="c4", batch_size=12, precision="fp32", channels_last=False, refit_head=False)
PROBE = Candidate(regime="large-similar", start="linear probe", taps=(EMBEDDING,), augmentation="light", tuning=PLAN)
SCRATCH = Candidate(
    regime="scratch",
    start="random",
    taps=(EMBEDDING,),
    augmentation="medium",
    tuning=PLAN.model_copy(update={"unfreeze_from": "c1", "rate": "recipe", "layer_decay": 1.0, "batch_norm": "train"}),
)


def drawn(folder: Path, images: int, first: int) -> tuple[Sample, ...]:
    paths = [
        (label, draw(folder / f"{name}-{first + number}.png", COLOURS[name], 1000 * label + first + number))
        for label, name in enumerate(LABELS)
        for number in range(images)
    ]
    return tuple(Sample(path, hashlib.sha256(path.read_bytes()).digest(), label, 1.0, None) for label, path in paths)


@dataclass(frozen=True)
class School:
    """A ground with training images alone, other images to ask about, and a probe; nothing of them is to be changed."""

    ground: Ground
    asked: tuple[Sample, ...]
    probed: Probed

    def with_cache(self, cache: Path) -> Ground:
        """The ground with a cache of one's own, which has what others have computed already."""
        shutil.copytree(self.ground.cache, cache)
        return replace(self.ground, cache=cache)


def embedded(card: Card, samples: tuple[Sample, ...]) -> Tensor:
    """What the pretrained backbone makes of images as they are served: `[N, D]`."""
    taps = Taps(backbones.parted(backbones.pretrained(card))[0], card.backbone, card.scaling)
    shown = [image.read(each.path.read_bytes(), card.geometry, image.ImageLimits()) for each in samples]
    with torch.inference_mode():
        pooled: dict[str, Tensor] = taps(torch.from_numpy(np.stack(shown)))
    return pooled[EMBEDDING].clone()


@pytest.fixture(scope="module")
def school(small: Card, tmp_path_factory: pytest.TempPathFactory) -> School:
    folder = tmp_path_factory.mktemp("school")
    train, asked = drawn(folder, IMAGES, 0), drawn(folder, 5, 100)
    (folder / "cache").mkdir()
    rows = embedded(small, train)
    examples = Examples(
        matrix=lambda _: rows.clone(),
        widths={EMBEDDING: rows.shape[1]},
        views=1,
        labels=torch.tensor([each.label for each in train]),
        weights=torch.ones(len(train), dtype=torch.float64),
        groups=[None] * len(train),
        classes=LABELS,
        seed=0,
    )
    fitted = fitting.fit("linear", [(EMBEDDING,)], examples)
    ground = Ground(small, small.geometry, train, (), tuned.counts(train, len(LABELS)), False, folder / "cache", 0)
    return School(ground, asked, Probed(fitted.head, fitted.module))


@pytest.fixture(scope="module")
def made(school: School) -> FineTuned:
    return tuned.fine_tune(school.ground, PROBE, school.probed, quiet(2))


def pretrained(card: Card) -> dict[str, Tensor]:
    backbone, _ = backbones.parted(backbones.pretrained(card))
    return {f"backbone.module.{name}": each for name, each in backbone.state_dict().items()}


def changed(found: FineTuned, before: dict[str, Tensor]) -> set[str]:
    state = found.module.state_dict()
    return {name for name, each in before.items() if not torch.equal(each, state[name])}


def named(card: Card, *wanted: str) -> set[str]:
    """The parameters of some parts of the backbone."""
    backbone, _ = backbones.parted(backbones.pretrained(card))
    learnt = {name for name, _ in backbone.named_parameters()}
    found = parts(backbone, card.backbone)
    return {f"backbone.module.{name}" for part in wanted for name in found[part] if name in learnt}


def test_only_the_parts_that_the_plan_names_have_changed(school: School, made: FineTuned) -> None:
    expected = named(school.ground.card, "c4", "c5", "top")
    assert changed(made, pretrained(school.ground.card)) == expected
    assert set(made.tuned.trained) == {*expected, "head.linear.weight", "head.linear.bias"}
    probe = {f"head.{name}": each for name, each in school.probed.module.state_dict().items()}
    assert changed(made, probe) == set(probe)


def test_it_says_which_head_and_backbone_it_has(school: School, made: FineTuned) -> None:
    assert made.head == school.probed.head
    assert made.card == school.ground.card
    assert not made.module.training


def test_it_answers_at_least_as_rightly_as_the_probe(school: School, made: FineTuned) -> None:
    found = tuned.answers(made.module, school.ground, school.asked, quiet(1))
    labels = np.array([each.label for each in school.asked])
    assert found.logits.dtype == np.float32
    assert found.embedding.dtype == np.float32
    assert found.logits.shape == (len(labels), len(LABELS))
    rows = embedded(school.ground.card, school.asked)
    assert found.embedding.shape == rows.shape
    with torch.no_grad():
        probe = school.probed.module({EMBEDDING: rows}).numpy()
    right = (found.logits.argmax(1) == labels).mean()
    assert right >= (probe.argmax(1) == labels).mean()
    assert right > 0.8


def test_answers_of_what_was_not_trained_are_those_of_the_probe(school: School) -> None:
    card = school.ground.card
    backbone, _ = backbones.parted(backbones.pretrained(card))
    module = Served(backbone, school.probed.module, card.backbone, card.scaling).eval()
    found = tuned.answers(module, school.ground, school.asked, quiet(1))
    rows = embedded(card, school.asked)
    np.testing.assert_allclose(found.embedding, rows.numpy(), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        np.testing.assert_allclose(found.logits, school.probed.module({EMBEDDING: rows}).numpy(), rtol=1e-4, atol=1e-4)


def test_curves_have_a_line_for_every_step_and_epoch(made: FineTuned) -> None:
    lines = [json.loads(line) for line in made.curves.splitlines()]
    assert len([line for line in lines if "rate" in line]) == made.tuned.record.steps == STEPS
    assert [line["epoch"] for line in lines if "epoch" in line] == [0]


def test_what_is_not_forgotten_is_not_trained_again(
    school: School, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground = school.with_cache(tmp_path / "cache")
    first = tuned.fine_tune(ground, PROBE, school.probed, quiet(2))
    with monkeypatch.context() as patched:
        patched.setattr(loop, "_step", None)  # whoever takes a step fails
        again = tuned.fine_tune(ground, PROBE, school.probed, quiet(2))
    assert changed(again, dict(first.module.state_dict())) == set()
    assert again.curves == first.curves
    tuned.forget(again)
    assert not list((ground.cache / "trainings").iterdir())


def test_what_exploded_leaves_nothing_behind(school: School, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ground = school.with_cache(tmp_path / "cache")
    trainings = ground.cache / "trainings"
    before = sorted(trainings.glob("*"))
    seen = []

    def explode(_: object, __: object, ___: object, folder: Path, *____: object, **_____: object) -> None:
        folder.mkdir(parents=True)
        (folder / "metrics.jsonl").touch()
        seen.append(folder)
        raise ExplodedError("Expected at most 3. Received: nan.")

    monkeypatch.setattr(loop, "tune", explode)
    other = PROBE.model_copy(update={"augmentation": "none"})
    with pytest.raises(ExplodedError):
        tuned.fine_tune(ground, other, school.probed, quiet(2))
    assert [folder.parent for folder in seen] == [trainings]
    assert sorted(trainings.glob("*")) == before


def test_neither_the_probe_nor_the_plan_is_changed(school: School, tmp_path: Path) -> None:
    ground = school.with_cache(tmp_path / "cache")
    before = deepcopy(school.probed.module.state_dict())
    first = tuned.fine_tune(ground, PROBE, school.probed, quiet(2))
    tuned.paces(ground, PROBE, school.probed)
    for name, each in school.probed.module.state_dict().items():
        assert torch.equal(each, before[name])
    assert all(each.requires_grad and each.grad is None for each in school.probed.module.parameters())
    # So that the next plan that starts from it is the same as if it had been the first.
    second = tuned.fine_tune(ground, PROBE, school.probed, quiet(2))
    assert changed(second, dict(first.module.state_dict())) == set()


def test_what_the_frozen_parts_make_of_a_few_looks_is_computed_once(
    school: School, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert PROBE.tuning is not None
    plan = PROBE.model_copy(update={"tuning": PROBE.tuning.model_copy(update={"cached_views": 2, "epochs": 3})})
    ground = school.with_cache(tmp_path / "cache")
    found = tuned.fine_tune(ground, plan, school.probed, quiet(2))
    tuned.forget(found)
    assert len(list((ground.cache / "cuts").iterdir())) == 2
    monkeypatch.setattr(activations, "_rows", None)  # whoever runs the frozen parts again fails
    again = tuned.fine_tune(ground, plan, school.probed, quiet(2))
    assert changed(again, dict(found.module.state_dict())) == set()
    tuned.forget(again)
    monkeypatch.setattr(tuned, "_kept", lambda _, looks, *__: looks)
    without = tuned.fine_tune(ground, plan, school.probed, quiet(2)).module.state_dict()
    for name, each in found.module.state_dict().items():
        torch.testing.assert_close(each, without[name], rtol=1e-5, atol=1e-6)


def test_a_random_start_trains_everything(school: School, tmp_path: Path) -> None:
    ground = school.with_cache(tmp_path / "cache")
    found = tuned.fine_tune(ground, SCRATCH, None, quiet(2))
    parameters = {name for name, _ in found.module.named_parameters()}
    assert parameters <= set(found.tuned.trained)
    assert found.card.backbone.weights_sha256 is None
    card, backbone = backbones.scratch(ground.card, ground.seed)
    assert found.card.backbone == card.backbone
    start = {f"backbone.module.{name}": each for name, each in backbone.state_dict().items()}
    # The statistics of batch norms have followed the images, too.
    assert changed(found, start) == set(start)
    logits = tuned.answers(found.module, ground, school.asked, quiet(1)).logits
    assert logits.shape == (len(school.asked), len(LABELS))


def test_a_random_head_follows_from_the_seed_and_leaves_the_generator_alone(school: School, tmp_path: Path) -> None:
    ground = school.with_cache(tmp_path / "cache")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = tuned.fine_tune(ground, SCRATCH, None, quiet(2))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = tuned.fine_tune(ground, SCRATCH, None, quiet(2))
    assert changed(second, dict(first.module.state_dict())) == set()


def test_images_to_validate_on_say_how_good_the_start_was(school: School, tmp_path: Path) -> None:
    ground = replace(school.with_cache(tmp_path / "cache"), validation=school.asked)
    record = tuned.fine_tune(ground, PROBE, school.probed, quiet(2)).tuned.record
    assert record.start is not None
    assert [each.score is not None for each in record.history] == [True]


@pytest.mark.parametrize("start", ["probe", "random"])
def test_what_is_left_open_is_measured_once(
    school: School, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    candidate, probed = (PROBE, school.probed) if start == "probe" else (SCRATCH, None)
    assert candidate.tuning is not None
    left = candidate.model_copy(update={"tuning": candidate.tuning.model_copy(update={"precision": "auto"})})
    ground = school.with_cache(tmp_path / "cache")
    paces = tuned.paces(ground, left, probed)
    assert {each.precision for each in paces} == {"fp32", "bf16"}
    assert all(each.images_per_s > 0 for each in paces)
    monkeypatch.setattr(pace, "measure", lambda *_: pytest.fail("this was measured"))
    settings = tuned.fine_tune(ground, left, probed, quiet(2), Known(paces=paces)).tuned.record.settings
    assert settings.paces == paces
    with pytest.raises(pytest.fail.Exception, match="this was measured"):
        tuned.fine_tune(replace(ground, seed=9), left, probed, quiet(2))


def test_a_part_that_there_is_not_is_refused(school: School, tmp_path: Path) -> None:
    ground = school.with_cache(tmp_path / "cache")
    wrong = PROBE.model_copy(update={"tuning": PLAN.model_copy(update={"unfreeze_from": "c9"})})
    with pytest.raises(TuningError, match=r"Expected one of the parts c1, .* to unfreeze from. Received: c9"):
        tuned.fine_tune(ground, wrong, school.probed, quiet(2))


def test_a_killed_training_is_gone_on_from_by_the_same_one_and_in_the_way_of_no_other(
    school: School, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: list[Path] = []

    def stop(_: object, __: object, ___: object, folder: Path, *____: object, **_____: object) -> None:
        folders.append(folder)
        raise TuningError("stopped")

    monkeypatch.setattr(loop, "tune", stop)
    ground = school.with_cache(tmp_path / "cache")
    head = deepcopy(school.probed.module)
    with torch.no_grad():
        next(head.parameters()).add_(1.0)
    for shown, plan, probed in (
        (ground, PROBE, school.probed),
        (ground, PROBE, school.probed),
        (ground, PROBE, replace(school.probed, module=head)),
        (ground, PROBE.model_copy(update={"augmentation": "strong"}), school.probed),
        (ground, PROBE.model_copy(update={"tuning": PLAN.model_copy(update={"epochs": 2})}), school.probed),
        (replace(ground, seed=1), PROBE, school.probed),
        (replace(ground, train=ground.train[:-1]), PROBE, school.probed),
        (replace(ground, validation=school.asked), PROBE, school.probed),
        (replace(ground, turns=True), PROBE, school.probed),
        (replace(ground, counts=(*ground.counts[:-1], 90.0)), PROBE, school.probed),
    ):
        with pytest.raises(TuningError, match="stopped"):
            tuned.fine_tune(shown, plan, probed, quiet(2))
    assert folders[0] == folders[1]
    assert len(set(folders)) == len(folders) - 1


def test_unequal_classes_begin_with_the_answers_of_the_probe(school: School, tmp_path: Path) -> None:
    """Where an offset is added in training, it is taken off the head first: nothing moves, so that is what is seen."""
    rare = [each for each in school.ground.train if each.label == 1][:1]
    common = [each for each in school.ground.train if each.label != 1]
    train = (*common, *common, *rare)
    ground = replace(
        school.ground, cache=tmp_path / "cache", train=train, counts=tuned.counts(train, school.ground.classes)
    )
    still = PROBE.model_copy(update={"tuning": PLAN.model_copy(update={"rate": 1e-30})})
    made = tuned.fine_tune(ground, still, school.probed, quiet(2))
    treated = tuned.treatment(ground, "auto")
    assert treated.kind == "logit adjustment"
    before = school.probed.module.get_parameter("linear.bias")
    torch.testing.assert_close(made.module.get_parameter("head.linear.bias"), before - torch.tensor(treated.offsets))


def test_a_training_that_is_cut_short_treats_unequal_classes_as_all_of_their_images_ask_for(
    school: School, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a cut leaves is more alike, here all alike; the head was fitted to all images, and is rid of their prior."""
    offsets: list[Tensor | None] = []
    tune = loop.tune

    def watched(learner: Learner, lessons: Lessons, *rest: Any, **named: Any) -> Tuned:
        offsets.append(lessons.offset)
        return tune(learner, lessons, *rest, **named)

    monkeypatch.setattr(loop, "tune", watched)
    everything = (20.0,) * (school.ground.classes - 1) + (1.0,)
    ground = replace(school.ground, cache=tmp_path / "cache", counts=everything)
    still = PROBE.model_copy(update={"tuning": PLAN.model_copy(update={"rate": 1e-30})})
    made = tuned.fine_tune(ground, still, school.probed, quiet(2))
    treated = tuned.treatment(ground, "auto")
    assert treated.kind == "logit adjustment"
    assert "20 times as many images" in treated.reason
    (offset,) = offsets
    assert offset is not None
    assert len(set(offset.tolist())) == 1
    prior = torch.log(torch.tensor(everything) / sum(everything))
    torch.testing.assert_close(
        made.module.get_parameter("head.linear.bias"), school.probed.module.get_parameter("linear.bias") - prior
    )


REFITTED = PROBE.model_copy(update={"tuning": PLAN.model_copy(update={"refit_head": True})})


def test_a_refitted_head_reads_every_tap_of_the_backbone_as_it_has_become(
    school: School, tmp_path: Path, made: FineTuned
) -> None:
    ground = school.with_cache(tmp_path / "cache")
    found = tuned.fine_tune(ground, REFITTED, school.probed, quiet(2))
    taps = ground.card.backbone.taps()
    assert (found.head.kind, found.head.taps) == ("linear", taps)
    # The backbone is the one that is fine-tuned without it, too.
    backbone = {name: each for name, each in made.module.state_dict().items() if name.startswith("backbone.")}
    assert changed(found, backbone) == set()
    told = found.tuned.record.refit
    assert told is not None
    assert (told.images, told.features) == (
        len(ground.train),
        found.module.get_parameter("head.linear.weight").shape[1],
    )
    assert (told.before, told.after, told.kept) == (None, None, True)
    logits = tuned.answers(found.module, ground, school.asked, quiet(1)).logits
    assert (logits.argmax(1) == [each.label for each in school.asked]).mean() > 0.8


def test_where_it_is_worse_on_validation_images_the_head_stays_as_it_was_and_that_is_told(
    school: School, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground = replace(school.with_cache(tmp_path / "cache"), validation=school.asked)
    better = tuned.fine_tune(ground, REFITTED, school.probed, quiet(2))
    assert better.tuned.record.refit is not None
    assert better.tuned.record.refit.kept
    tuned.forget(better)
    monkeypatch.setattr(refit, "TRAINED", 0.0)
    monkeypatch.setattr(refit, "l2", lambda _: 1e9)  # so that it answers nothing but the commonest class
    worse = tuned.fine_tune(ground, REFITTED, school.probed, quiet(2))
    told = worse.tuned.record.refit
    assert told is not None
    record = worse.tuned.record
    assert told.before == (record.start if record.best is None else record.history[record.best].score)
    assert told.before is not None
    assert told.after is not None
    assert told.before.weighed > told.after.weighed
    assert not told.kept
    assert worse.head == school.probed.head
    assert worse.module.get_parameter("head.linear.weight").shape[1] < told.features
    assert worse.tuned.record.notes[-1].startswith(
        "Refitted to all stages, the head had 33.3% of the validation images"
    )
    assert worse.tuned.record.notes[-1].endswith("It was left as it was.")


def test_killed_while_the_head_is_refitted_it_ends_with_the_same_weights(
    school: School, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground = school.with_cache(tmp_path / "cache")
    whole = tuned.fine_tune(ground, REFITTED, school.probed, quiet(2))
    tuned.forget(whole)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(refit, "_gathered", interrupt)
        with pytest.raises(KeyboardInterrupt):
            tuned.fine_tune(ground, REFITTED, school.probed, quiet(2))
    monkeypatch.setattr(loop, "_step", None)  # whoever takes a step fails
    again = tuned.fine_tune(ground, REFITTED, school.probed, quiet(2))
    assert again.head == whole.head
    assert changed(again, dict(whole.module.state_dict())) == set()


def test_weights_are_handed_on_as_they_usually_lie(school: School, tmp_path: Path) -> None:
    """torch.export warns of any that do not."""
    lying = PROBE.model_copy(update={"tuning": PLAN.model_copy(update={"channels_last": True})})
    made = tuned.fine_tune(replace(school.ground, cache=tmp_path / "cache"), lying, school.probed, quiet(2))
    assert made.tuned.record.settings.channels_last
    assert all(each.is_contiguous() for each in made.module.state_dict().values())
