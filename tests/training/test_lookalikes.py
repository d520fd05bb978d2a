"""What the backbone can hardly tell apart, by embeddings that a test makes up."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.labelled import Split
from training import lookalikes
from training.dataset import Sample
from training.result import Leak, Lookalike

Rows: TypeAlias = Sequence[NDArray[np.float64]] | NDArray[np.float64]

IMAGES, WIDTH = 150, 64
_random = np.random.default_rng(0)
LEARNT = _random.normal(size=(IMAGES, WIDTH))


def near(place: int, by: float = 0.1) -> NDArray[np.float64]:
    """A picture of the same thing as one that was learnt from."""
    return np.asarray(LEARNT[place] + by * np.random.default_rng([place, 1]).normal(size=WIDTH))


def samples(split: str, count: int) -> tuple[Sample, ...]:
    return tuple(Sample(Path(f"{split}/{number}.png"), bytes(32), 0, 1.0, None) for number in range(count))


class Embeddings:
    """The images of each split, and what a backbone makes of them."""

    def __init__(self, **rows: Rows) -> None:
        self.splits: dict[Split, tuple[Sample, ...]] = {}
        self._embeddings: dict[Split, Tensor] = {}
        for name, of in rows.items():
            split = cast(Split, name)
            self.splits[split] = samples(split, len(of))
            self._embeddings[split] = torch.from_numpy(np.array(of, np.float32))

    def find(self, leaks: Sequence[Leak] = ()) -> tuple[Lookalike, ...] | None:
        return lookalikes.find(self._embeddings, self.splits, leaks)

    def found(self, leaks: Sequence[Leak] = ()) -> list[tuple[str, str, str, str]]:
        pairs = self.find(leaks)
        assert pairs is not None
        assert all(0 <= each.distance <= 0.4 for each in pairs)
        assert [each.distance for each in pairs] == sorted(each.distance for each in pairs)
        return [(each.split, Path(each.path).stem, each.of, Path(each.other).stem) for each in pairs]


def strangers(count: int) -> list[NDArray[np.float64]]:
    return list(np.random.default_rng(1).normal(size=(count, WIDTH)))


def test_what_is_much_closer_than_the_tenth_is_found_nearest_first() -> None:
    made = Embeddings(train=LEARNT, test=[*strangers(30), near(7, 0.3), near(9)])
    assert made.found() == [("test", "31", "train", "9"), ("test", "30", "train", "7")]


def test_how_bright_a_picture_is_makes_no_difference() -> None:
    assert Embeddings(train=LEARNT, test=[50 * near(7)]).found() == [("test", "0", "train", "7")]


def test_test_images_are_held_against_those_that_are_chosen_by_too() -> None:
    chosen = strangers(3)
    made = Embeddings(train=LEARNT, validation=[*chosen, near(4)], test=[chosen[1], near(9)])
    assert sorted(made.found()) == [
        ("test", "0", "validation", "1"),
        ("test", "1", "train", "9"),
        ("validation", "3", "train", "4"),
    ]


def test_a_leak_is_not_told_twice() -> None:
    leak = Leak(split="test", path="test/0.png", twin="train/9.png", kind="near-duplicate")
    made = Embeddings(train=LEARNT, test=[near(9), near(7)])
    assert made.found([leak]) == [("test", "1", "train", "7")]


def test_where_all_are_alike_none_is_much_closer() -> None:
    alike = LEARNT[0] + 0.1 * np.random.default_rng(2).normal(size=(IMAGES, WIDTH))
    assert Embeddings(train=alike, test=[near(0)]).found() == []


def test_a_few_images_tell_nothing() -> None:
    assert Embeddings(train=LEARNT[:99], test=[near(9)]).found() == []
    assert Embeddings(train=LEARNT[:100], test=[near(9)]).found() == [("test", "0", "train", "9")]


def test_too_many_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Embeddings(train=LEARNT, validation=strangers(2), test=[near(7)])
    monkeypatch.setattr(lookalikes, "_MOST", 2 * IMAGES + IMAGES + 2)
    assert made.found() == [("test", "0", "train", "7")]
    monkeypatch.setattr(lookalikes, "_MOST", 2 * IMAGES + IMAGES + 1)
    assert made.find() is None


@pytest.mark.parametrize("block", [1, 2**22])
def test_blocks_make_no_difference(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookalikes, "_BLOCK", block)
    asked = np.array([*strangers(5), near(7)], np.float32)
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    among = (LEARNT / np.linalg.norm(LEARNT, axis=1, keepdims=True)).astype(np.float32)
    places, distances = lookalikes.nearest(asked, among)
    far = 1 - asked @ among.T
    np.testing.assert_array_equal(places, far.argmin(axis=1))
    np.testing.assert_allclose(distances, far.min(axis=1) / np.sort(far, axis=1)[:, 10], rtol=1e-4)
