"""Neighbours vote by cosine, never for themselves, and never for their own group."""

import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from tests.training.advice.drawn import noise, telling
from training.advice.neighbours import neighbours


def ones(images: int) -> torch.Tensor:
    return torch.ones(images, dtype=torch.float64)


def test_they_are_those_of_scikit_learn_without_the_image_itself() -> None:
    labels = torch.arange(60) % 2  # of two classes 20 votes may be equal, of an odd number they are not
    features = telling(labels, 8, 0.6)
    right = 0.0
    for place in range(60):
        others = torch.arange(60) != place
        model = KNeighborsClassifier(20, metric="cosine", algorithm="brute").fit(features[others], labels[others])
        near = model.kneighbors(features[place][None], return_distance=False)[0]
        votes = labels[others][near].bincount(minlength=2)
        right += float(votes[labels[place]] > votes[1 - labels[place]])
        right += 0.5 * float(votes[0] == votes[1])
    assert neighbours(features, labels, ones(60), [None] * 60).accuracy.value == pytest.approx(right / 60, abs=0.06)


def test_images_of_the_own_group_are_not_asked() -> None:
    # Pairs of copies, labelled by chance: whoever may ask the copy is always right.
    features = noise(60, 16, 0).repeat_interleave(2, dim=0)
    labels = (noise(60, 1, 1)[:, 0] > 0).long().repeat_interleave(2)
    groups = [f"{place // 2}" for place in range(120)]
    assert neighbours(features, labels, ones(120), groups).accuracy.value < 0.7


def test_fewer_images_than_neighbours_are_no_trouble() -> None:
    found = neighbours(torch.tensor([[1.0, 0], [1, 0.1], [0, 1]]), torch.tensor([0, 0, 1]), ones(3), [None] * 3)
    assert found.count == 2


def test_a_label_that_nearly_all_neighbours_contradict_is_counted() -> None:
    labels = torch.arange(80) % 2
    features = telling(labels, 6, 9.0)
    labels[0] = 1 - labels[0]
    found = neighbours(features, labels, ones(80), [None] * 80)
    assert found.contradicted == pytest.approx(1 / 80, abs=1e-6)
    assert found.accuracy.value == pytest.approx(79 / 80, abs=1e-6)


def test_groups_that_leave_no_others_are_no_trouble() -> None:
    found = neighbours(noise(4, 3, 0), torch.tensor([0, 0, 1, 1]), ones(4), ["a", "a", "b", "b"])
    assert found.accuracy.value == 0
