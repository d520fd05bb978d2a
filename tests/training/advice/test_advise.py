"""From images on a disk to a decision, through the real engine and a small backbone."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export import labelled
from tests.training.conftest import quiet
from training import backbones, dataset, features
from training.advice import advise, subset
from training.advice.decide import Decision
from training.backbones import Card
from training.dataset import Plan
from training.errors import BackboneError, HeadError, TrainingError
from training.features import Extractor
from training.question import Question

COLOURS = {"ant": (220, 60, 40), "bee": (40, 200, 60), "cat": (40, 60, 220)}


def draw(folder: Path, images: int, labels: dict[str, tuple[int, int, int]] = COLOURS) -> Path:
    """Pictures of nearly one colour under noise."""
    for number, (label, colour) in enumerate(labels.items()):
        (folder / label).mkdir(parents=True)
        for index in range(images):
            random = np.random.default_rng(1000 * number + index)
            noise = random.normal(0, 40, (40, 48, 3)) + random.normal(0, 30, 3)
            pixels = (np.array(colour) + noise).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{index:02}.png")
    return folder


@pytest.fixture(scope="module")
def cache(small: Card, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the small backbone's graph: converting it takes seconds."""
    folder = tmp_path_factory.mktemp("cache")
    features.extractor(small, small.geometry, folder)
    return folder


@pytest.fixture
def advised(small: Card, cache: Path, tmp_path: Path) -> Callable[..., Decision]:
    def run(folder: Path, again: str = "again") -> Decision:
        shutil.copytree(cache, tmp_path / again, dirs_exist_ok=True)
        extractor = features.extractor(small, small.geometry, tmp_path / again)
        data = dataset.prepare(labelled.read(folder), folder, Plan(), tmp_path / again, lambda _: None)
        return advise.advise(data, extractor, small, tmp_path / again, quiet(3))

    return run


def test_the_same_images_give_the_same_file_wherever_they_lie(advised: Callable[..., Decision], tmp_path: Path) -> None:
    first = advised(draw(tmp_path / "one", 10))
    (tmp_path / "elsewhere").mkdir()
    shutil.copytree(tmp_path / "one", tmp_path / "elsewhere" / "two")
    second = advised(tmp_path / "elsewhere" / "two", again="a new cache")
    assert first.text() == second.text()
    assert str(tmp_path) not in first.text()


def test_the_question_of_a_person_is_answered_from_a_folder(registered: Card, cache: Path, tmp_path: Path) -> None:
    folder = draw(tmp_path / "images", 6)
    question = Question(folder, Plan(), registered.backbone.name, cache)
    decision = advise.of(question, quiet(5))
    assert decision.evidence.backbone == "small"
    assert decision.evidence.size.images == 15  # one of each class is held out
    with pytest.raises(BackboneError, match="Received: tiny"):
        advise.of(replace(question, backbone="tiny"), quiet(5))


def test_a_layer_that_the_backbone_has_not_is_refused_before_its_features_are_computed(
    registered: Card, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advise, "advise", lambda *_: pytest.fail("it has gone on to the features"))
    question = Question(draw(tmp_path / "images", 6), Plan(), registered.backbone.name, cache)
    with pytest.raises(TrainingError, match=r"^Expected for --layers all or some of c1, .*embedding\. Received: c9\.$"):
        advise.of(question, quiet(2), ["c9"])


def test_held_out_images_are_not_read(
    advised: Callable[..., Decision], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "images"
    draw(folder / "train", 8)
    draw(folder / "test", 3, dict(zip(COLOURS, reversed(COLOURS.values()), strict=True)))
    read: list[Path] = []
    extract, picture = features.extract, features.picture

    def extracting(samples, *rest):  # type: ignore[no-untyped-def] # passed through
        read.extend(sample.path for sample in samples)
        return extract(samples, *rest)

    def seen(sample, geometry):  # type: ignore[no-untyped-def] # passed through
        read.append(sample.path)
        return picture(sample, geometry)

    monkeypatch.setattr(features, "extract", extracting)
    monkeypatch.setattr(features, "picture", seen)
    decision = advised(folder)
    assert read
    assert all("train" in path.parts for path in read)
    assert decision.evidence.size.images == 24


def test_what_is_known_of_the_backbone_is_told(advised: Callable[..., Decision], small: Card, tmp_path: Path) -> None:
    decision = advised(draw(tmp_path / "images", 10))
    found = decision.evidence
    assert [each.tap for each in found.probes] == list(small.backbone.taps())
    assert found.source is not None
    assert found.source.matched == 3  # ant, bee and cat are classes of its own
    assert found.source.as_is is not None
    assert found.shift is not None
    assert found.shift.images == found.size.looked_at == 24
    assert found.shift.z is None
    assert all(each.divergence > 0 for each in found.shift.layers)
    assert "never measured" in found.missing[0]
    assert "efficientnet_lite0" not in decision.text()


def test_a_backbone_without_classes_of_its_own_is_not_asked_for_them(
    advised: Callable[..., Decision], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parted = backbones.parted
    monkeypatch.setattr(backbones, "parted", lambda module: (parted(module)[0], None))
    decision = advised(draw(tmp_path / "images", 6))
    assert decision.evidence.source is None
    assert any("no classes of its own" in each for each in decision.evidence.missing)


def test_few_images_are_not_compared_with_the_pretraining(advised: Callable[..., Decision], tmp_path: Path) -> None:
    decision = advised(draw(tmp_path / "images", 3))
    assert decision.evidence.size.looked_at == 6  # one of each class is held out
    assert decision.evidence.shift is None
    assert any("fewer than 16 images" in each for each in decision.evidence.missing)
    assert decision.regime in {"small-similar", "small-different", "as-is"}


def test_one_group_a_class_is_refused_in_plain_words(small: Card, cache: Path, tmp_path: Path) -> None:
    folder = draw(tmp_path / "images", 4)
    data = dataset.prepare(labelled.read(folder), folder, Plan(), cache, lambda _: None)
    train = tuple(replace(each, group=f"of {each.label}") for each in data.splits["train"])
    extractor: Extractor = features.extractor(small, small.geometry, cache)
    with pytest.raises(HeadError, match="not of one group"):
        advise.advise(replace(data, splits={**data.splits, "train": train}), extractor, small, cache, quiet(3))


def test_no_more_images_are_looked_at_than_needed(
    advised: Callable[..., Decision], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subset.choose, "__defaults__", (12,))
    decision = advised(draw(tmp_path / "images", 10))
    assert decision.evidence.size.images == 24
    assert decision.evidence.size.looked_at <= 15
    assert json.loads(decision.text())["evidence"]["size"]["looked_at"] == decision.evidence.size.looked_at
