"""A head learns from every view of the training images, and is asked about others as they are."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from export.run import EMBEDDING, Head
from training import features, fitting
from training import source as sources
from training.dataset import Sample
from training.features import Counts, Extractor
from training.fitting import Examples, Fitted
from training.source import Source
from training.views import MIRRORED, PLAIN, View, views

WIDTHS = {"c1": 2, EMBEDDING: 3}
TAPS = ("c1", EMBEDDING)
CACHE = Path("nowhere")


def sample(number: int, group: str | None = None) -> Sample:
    weight = 1.0 + number / 10
    return Sample(Path(f"{number}.png"), number.to_bytes(32, "big"), number % 2, weight, group)


def row(number: int, view: View, tap: str) -> list[float]:
    """Numbers that say whose they are."""
    begins = 1000.0 * list(WIDTHS).index(tap) + 100 * (view == MIRRORED) + number
    return [begins + column / 10 for column in range(WIDTHS[tap])]


def stored(
    samples: Sequence[Sample], view: View, _: Extractor, cache: Path, taps: Sequence[str]
) -> dict[str, NDArray[np.float32]]:
    assert cache == CACHE
    numbers = [int(each.path.stem) for each in samples]
    return {tap: np.array([row(number, view, tap) for number in numbers], np.float32) for tap in taps}


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Source:
    """Four images in two views, whose features are in the cache."""
    monkeypatch.setattr(features, "rows", stored)
    extractor = cast(Extractor, SimpleNamespace(taps=WIDTHS))
    train = tuple(sample(number, f"group {number // 2}") for number in range(4))
    return Source(train, extractor, views(1), ("ant", "bee"), CACHE, 7)


@pytest.fixture
def learnt(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any, Examples]]:
    """What heads were asked for, and what they were given to learn from."""
    calls: list[tuple[Any, Any, Examples]] = []
    monkeypatch.setattr(fitting, "fit", lambda *given: calls.append(given))
    return calls


def test_a_head_learns_from_all_views_one_behind_the_other(
    source: Source, learnt: list[tuple[Any, Any, Examples]]
) -> None:
    source.fit("linear", [(EMBEDDING,), TAPS])
    ((kind, candidates, examples),) = learnt
    assert (kind, candidates) == ("linear", [(EMBEDDING,), TAPS])
    expected = [row(n, view, "c1") + row(n, view, EMBEDDING) for view in (PLAIN, MIRRORED) for n in range(4)]
    assert torch.equal(examples.matrix(TAPS), torch.tensor(expected))
    assert (examples.views, examples.seed, examples.classes) == (2, 7, ("ant", "bee"))
    assert examples.labels.tolist() == [0, 1, 0, 1]
    assert examples.weights.tolist() == [1.0, 1.1, 1.2, 1.3]
    assert examples.groups == ["group 0", "group 0", "group 1", "group 1"]


def test_features_may_be_changed_by_who_asks_for_them(source: Source, learnt: list[tuple[Any, Any, Examples]]) -> None:
    source.fit("linear", [TAPS])
    examples = learnt[0][2]
    before = examples.matrix(TAPS).clone()
    examples.matrix(TAPS).zero_()
    assert torch.equal(examples.matrix(TAPS), before)


@pytest.mark.parametrize(("most", "images"), [(200, 20), (199, 18), (100, 10)])
def test_of_more_than_there_is_room_for_a_part_of_every_class_is_learnt_from(
    source: Source, learnt: list[tuple[Any, Any, Examples]], monkeypatch: pytest.MonkeyPatch, most: int, images: int
) -> None:
    """Two views of twenty images, of which the wider candidate reads five numbers each."""
    monkeypatch.setattr(sources, "_MOST", most)
    larger = replace(source, train=tuple(sample(number) for number in range(20)))
    larger.fit("linear", [(EMBEDDING,), TAPS])
    examples = learnt[0][2]
    assert examples.labels.tolist() == [0, 1] * (images // 2)
    assert examples.matrix(TAPS).shape == (2 * images, 5)


def test_fewer_images_are_another_source(source: Source, learnt: list[tuple[Any, Any, Examples]]) -> None:
    source.only(list(source.train[2:])).fit("linear", [(EMBEDDING,)])
    examples = learnt[0][2]
    assert examples.matrix((EMBEDDING,))[:, 0].tolist() == [1002, 1003, 1102, 1103]
    assert examples.labels.tolist() == [0, 1]
    assert len(source.train) == 4


def test_held_out_images_are_extracted_as_they_are_and_those_to_learn_from_in_all_views(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Sequence[Sample], Sequence[View]]] = []

    def extract(samples: Sequence[Sample], shown: Sequence[View], *_: object) -> Counts:
        asked.append((samples, shown))
        return Counts(from_cache=len(shown), computed=10 * len(samples))

    monkeypatch.setattr(features, "extract", extract)
    held_out = [sample(8)]
    assert source.extract(held_out, lambda _: None) == Counts(3, 50)
    assert asked == [(source.train, (PLAIN, MIRRORED)), (held_out, (PLAIN,))]


class Recording(torch.nn.Module):
    """A head that answers with what it is given of one tap."""

    def forward(self, pooled: dict[str, torch.Tensor]) -> torch.Tensor:
        self.given = pooled
        return pooled["c1"]


@pytest.mark.parametrize("at_once", [1, 2, 4096])
@pytest.mark.parametrize("taps", [("c1",), ("c1", EMBEDDING)])
def test_answers_come_with_the_embedding_whatever_the_head_reads(
    source: Source, taps: tuple[str, ...], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_ASKED_AT_ONCE", at_once)
    module = Recording()
    fitted = Fitted(module, Head(kind="linear", taps=taps), cast(Any, None))
    held_out = [sample(9), sample(6)]
    found = source.answer(fitted, held_out)
    assert set(module.given) == {"c1", EMBEDDING}
    assert found.paths == (Path("9.png"), Path("6.png"))
    assert found.expected.tolist() == [1, 0]
    np.testing.assert_array_equal(found.logits, np.array([row(n, PLAIN, "c1") for n in (9, 6)], np.float32))
    np.testing.assert_array_equal(found.embedding, np.array([row(n, PLAIN, EMBEDDING) for n in (9, 6)], np.float32))


def test_what_is_known_of_images_is_their_plain_embedding_and_label(source: Source) -> None:
    embedding, labels = source.known([sample(3), sample(2)])
    assert embedding.tolist() == torch.tensor([row(n, PLAIN, EMBEDDING) for n in (3, 2)]).tolist()
    assert labels.tolist() == [1, 0]
