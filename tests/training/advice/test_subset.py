"""Some of every class, the same ones every time."""

from collections import Counter
from pathlib import Path

from training.advice import subset
from training.dataset import Sample


def samples(labels: list[int], groups: list[str | None] | None = None) -> list[Sample]:
    given = groups or [None] * len(labels)
    return [
        Sample(Path(f"{place}.png"), place.to_bytes(32, "big"), label, 1.0, group)
        for place, (label, group) in enumerate(zip(labels, given, strict=True))
    ]


def test_few_images_are_all_looked_at() -> None:
    every = samples([0, 1] * 5)
    assert subset.choose(every, 10) == tuple(every)


def test_of_every_class_the_same_part_is_taken_and_of_a_small_one_five() -> None:
    chosen = subset.choose(samples([0] * 800 + [1] * 190 + [2] * 10), 100)
    counts = Counter(each.label for each in chosen)
    assert len(chosen) <= 100
    assert counts[2] == 5
    assert 3 < counts[0] / counts[1] < 4.5
    assert [each.sha256 for each in chosen] == sorted(each.sha256 for each in chosen)


def test_more_classes_than_images_to_look_at_keep_two_each() -> None:
    chosen = subset.choose(samples([place % 40 for place in range(400)]), 50)
    assert Counter(each.label for each in chosen) == dict.fromkeys(range(40), 2)


def test_a_class_does_not_shrink_to_one_group() -> None:
    groups: list[str | None] = ["first"] * 50 + ["second"] * 50 + [None] * 100
    chosen = subset.choose(samples([0] * 100 + [1] * 100, groups), 20)
    assert {each.group for each in chosen if each.label == 0} == {"first", "second"}
