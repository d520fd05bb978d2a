"""Probes find what tells labels apart, where it is, and how much of it a few images give away."""

import pytest
import torch
from sklearn.linear_model import RidgeClassifier

from tests.training.advice.drawn import BACKBONE, given, telling
from training.advice import probes
from training.advice.probes import TapProbe, Targets
from training.errors import HeadError

STAGES = [*(stage.name for stage in BACKBONE.stages), "embedding"]


def every(images: int, classes: int, apart: dict[str, float]) -> tuple[dict[str, TapProbe], Targets]:
    seen = given(images, classes, apart)
    return probes.every(seen.taps, BACKBONE, seen.known(), lambda _: None), seen.known()


def test_a_probe_is_as_accurate_as_a_ridge_of_scikit_learn_on_the_same_folds() -> None:
    labels = torch.arange(120) % 3
    seen = given(120, 3, {})
    features = telling(labels, 20, 0.5)
    found = probes.probe("c1", 2, features, seen.known()).probe
    scaled = ((features - features.mean(0)) / features.std(0, correction=0)).numpy()
    right = 0
    for learnt, asked in seen.known().parts():
        model = RidgeClassifier(alpha=found.penalty * len(learnt)).fit(scaled[learnt], labels[learnt].numpy())
        right += int((model.predict(scaled[asked]) == labels[asked].numpy()).sum())
    assert found.accuracy.value == pytest.approx(right / 120, abs=0.009)  # one image
    assert found.accuracy.error == pytest.approx((right / 120 * (1 - right / 120) / 120) ** 0.5, rel=0.05)
    assert found.learnt >= found.accuracy.value


@pytest.mark.parametrize("tap", ["c1", "c4", "embedding"])
def test_the_best_stage_is_the_one_that_tells_the_labels(tap: str) -> None:
    found, known = every(120, 3, {tap: 1.0})
    depth = probes.depth([found[each] for each in STAGES], known)
    assert depth.best == depth.simplest == tap
    assert (depth.gain > 3 * depth.error) == (tap != "embedding")


def test_of_stages_that_tell_as_much_the_latest_is_best_and_the_earliest_simplest() -> None:
    found, known = every(120, 3, {"c3": 20.0, "c5": 20.0, "embedding": 20.0})
    depth = probes.depth([found[each] for each in STAGES], known)
    assert (depth.best, depth.simplest) == ("embedding", "c3")
    assert depth.gain == 0
    assert depth.error > 0  # a hundred images are not certainty


def test_labels_by_chance_are_answered_by_chance_and_learnt_by_heart() -> None:
    found, _ = every(100, 2, {})
    embedding = found["c5"].probe  # 320 numbers
    assert abs(embedding.accuracy.value - 0.5) < 0.15
    assert embedding.learnt > 0.8


def test_the_curve_rises_with_the_images_and_ends_at_the_probe() -> None:
    seen = given(600, 2, {"embedding": 0.2})
    found = probes.curve(seen.taps["embedding"], seen.known())
    by_class = {each.per_class: each for each in found if each.per_class}
    assert list(by_class) == [1, 5, 10, 50]
    assert [by_class[count].images for count in by_class] == [2, 10, 20, 100]
    parts = [each for each in found if each.per_class is None]
    assert [each.images for each in parts] == [120, 240, 480]
    assert parts[-1].accuracy == probes.probe("embedding", None, seen.taps["embedding"], seen.known()).probe.accuracy
    assert by_class[1].accuracy.value + 0.1 < parts[-1].accuracy.value


def test_constant_features_and_constant_columns_are_no_trouble() -> None:
    seen = given(40, 2, {})
    flat = probes.probe("c1", 2, torch.full((40, 8), 7.0), seen.known()).probe
    assert flat.accuracy.value <= 0.5
    mixed = torch.cat([torch.full((40, 8), 7.0), telling(seen.labels, 4, 20.0)], dim=1)
    assert probes.probe("c1", 2, mixed, seen.known()).probe.accuracy.value == 1


def test_two_images_a_class_are_enough() -> None:
    found, known = every(6, 3, {"embedding": 9.0})
    assert found["embedding"].probe.accuracy.value == 1
    assert found["embedding"].probe.accuracy.error > 0.1
    assert int(known.folds.max()) == 1


def test_one_image_a_class_is_refused_in_plain_words() -> None:
    with pytest.raises(HeadError, match=r"at least 2 training images .* Received: 1 of 'class 0'"):
        given(3, 3, {}).known()


def test_a_thousand_classes_work() -> None:
    seen = given(2000, 1000, {"embedding": 3.0})
    found = probes.probe("embedding", None, seen.taps["embedding"], seen.known()).probe
    assert found.accuracy.value > 0.9


def test_folds_without_images_are_passed_over() -> None:
    labels = torch.arange(12) % 2
    known = Targets(labels, torch.ones(12, dtype=torch.float64), torch.tensor([0, 0, 2, 2] * 3), 2)
    assert len(known.parts()) == 2
    assert probes.probe("c1", 2, telling(labels, 3, 9.0), known).probe.accuracy.value == 1


def test_a_class_missing_from_what_a_fold_learns_is_answered_wrong_and_no_more() -> None:
    labels = torch.tensor([0, 1] * 6 + [2, 2])
    known = Targets(labels, torch.ones(14, dtype=torch.float64), torch.tensor([0, 0, 1, 1] * 3 + [0, 0]), 3)
    found = probes.probe("c1", 2, telling(labels, 3, 9.0), known).probe
    assert found.accuracy.value == pytest.approx(12 / 14, abs=1e-6)
    assert probes.curve(telling(labels, 3, 9.0), known)[-1].accuracy.value == pytest.approx(12 / 14, abs=1e-6)
