import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from export.errors import DataError
from export.labelled import LabelledImage, Split
from training import splits
from training.dataset import Sample


def image(label: str, split: Split | None = None, group: str | None = None, name: str = "a.jpg") -> LabelledImage:
    return LabelledImage(Path(name), label, split, group)


def many(**counts: int) -> list[LabelledImage]:
    return [image(label, name=f"{label}{index}") for label, count in counts.items() for index in range(count)]


def digests(images: Sequence[LabelledImage]) -> list[bytes]:
    return [hashlib.sha256(str(each.path).encode()).digest() for each in images]


def counted(images: Sequence[LabelledImage], drawn: Sequence[Split], split: Split) -> Counter[str]:
    return Counter(each.label for each, name in zip(images, drawn, strict=True) if name == split)


def draw(images: Sequence[LabelledImage], fraction: float = 0.2, seed: int = 0) -> list[Split]:
    return splits.draw(images, digests(images), fraction, seed)


def test_of_every_class_the_same_part_is_held_out_and_at_least_one_image() -> None:
    images = many(ant=100, bee=50, cat=3, dog=7)
    drawn = draw(images)
    assert counted(images, drawn, "test") == {"ant": 20, "bee": 10, "cat": 1, "dog": 1}
    assert counted(images, drawn, "train") == {"ant": 80, "bee": 40, "cat": 2, "dog": 6}


@pytest.mark.parametrize(("count", "expected"), [(1000, 200), (300, 100), (200, 100), (60, 30)])
def test_of_few_images_more_are_held_out_to_compare_by(count: int, expected: int) -> None:
    images = [
        Sample(Path(f"{number}.png"), number.to_bytes(32, "big"), number % 2, 1.0, None) for number in range(count)
    ]
    learnt, asked = splits.hold_out(images, 0)
    assert (len(learnt), len(asked)) == (count - expected, expected)
    assert Counter(each.label for each in asked) == {0: expected // 2, 1: expected // 2}


def test_two_of_every_class_are_left_to_learn_from() -> None:
    images = many(ant=4, bee=3)
    assert counted(images, draw(images, fraction=0.9), "train") == {"ant": 2, "bee": 2}


def test_a_draw_does_not_depend_on_the_order_and_does_on_the_seed() -> None:
    images = many(ant=60, bee=40)
    shuffled = random.Random(0).sample(images, len(images))
    first = dict(zip((each.path for each in images), draw(images), strict=True))
    assert dict(zip((each.path for each in shuffled), draw(shuffled), strict=True)) == first
    assert draw(images, seed=1) != draw(images)
    # Written down, because it must be the same on every machine and for ever.
    assert [path.name for path, split in first.items() if split == "test"][:3] == ["ant21", "ant27", "ant30"]


def test_groups_are_never_divided() -> None:
    images = [image("ant" if each % 2 else "bee", group=f"g{each % 20}", name=f"{each}") for each in range(200)]
    drawn = draw(images)
    of = {
        each.group: {split for one, split in zip(images, drawn, strict=True) if one.group == each.group}
        for each in images
    }
    assert all(len(found) == 1 for found in of.values())
    assert counted(images, drawn, "test") == {"ant": 20, "bee": 20}


def test_a_group_larger_than_its_part_is_held_out_rather_than_none() -> None:
    images = [image(label, group=f"{label}{each % 3}", name=f"{label}{each}") for label in "ab" for each in range(12)]
    drawn = draw(images)
    assert counted(images, drawn, "test") == {"a": 4, "b": 4}


def test_groups_that_leave_nothing_to_hold_out_are_refused() -> None:
    images = [image(label, group="all", name=f"{label}{each}") for label in "ab" for each in range(5)]
    with pytest.raises(DataError, match=r"Received: 1 groups that are too large. Name the splits yourself"):
        draw(images)


def test_a_part_that_is_none_is_refused() -> None:
    with pytest.raises(DataError, match=r"Expected a part to hold out above 0 and below 1. Received: 1.5"):
        draw(many(ant=5, bee=5), fraction=1.5)


def test_what_can_be_learnt_from_is_let_pass() -> None:
    splits.check(many(ant=3, bee=3))
    named: list[Split] = ["train", "train", "validation"]
    splits.check([image(label, split) for label in "ab" for split in named])


NAMED = [image(label, "train") for label in "abab"]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (many(ant=9), r"Expected at least 2 classes to learn from. Received: 1, ant"),
        (many(ant=9, bee=2, cat=1), r"at least 3 images of every class.* Received: bee \(2\), cat \(1\)"),
        (
            [*NAMED, image("a", "test"), image("a")],
            r"a split for every image.* Received: 1 of 6 images without one, a.jpg",
        ),
        ([image("a", "test"), image("b", "test")], r"Expected images in the split train. Received: none"),
        (NAMED, r"in the split test or validation beside train. Received: none. Hold some out"),
        ([*NAMED, image("c", "train"), image("a", "test")], r"at least 2 images .* training split. Received: c \(1\)"),
        ([*NAMED, image("c", "test"), image("d", "test")], r"in the split test that training has too. Received: c, d"),
        ([*NAMED, image("c", "validation")], r"in the split validation that training has too. Received: c"),
        (
            [*NAMED, image("a", "train", "p1"), image("a", "test", "p1")],
            r"Expected every group in one split. Received: p1 in test and train",
        ),
        ([image("a", "train"), image("a", "train"), image("a", "test")], r"at least 2 classes .* Received: 1, a"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(images: Sequence[LabelledImage], message: str) -> None:
    with pytest.raises(DataError, match=message):
        splits.check(images)


def test_two_groups_of_every_class_are_left_to_learn_from() -> None:
    images = [image("ant", group="all", name=f"a{each}") for each in range(28)]
    images += [image("ant", name="single"), image("ant", name="other")]
    images += many(bee=10)
    splits.check(images)
    for seed in range(5):
        drawn = draw(images, seed=seed)
        left = {each.group or each.path for each, split in zip(images, drawn, strict=True) if split == "train"}
        ants = {each.group or each.path for each in images if each.label == "ant"}
        assert len(left & ants) >= 2


@pytest.mark.parametrize("split", [None, "train"])
def test_a_class_of_one_group_is_refused_before_any_work(split: Split | None) -> None:
    images = [image("ant", split, "all", f"a{each}") for each in range(5)]
    images += [image("bee", split, name=f"b{each}") for each in range(5)]
    images += [image("bee", "test", name="c")] if split else []
    with pytest.raises(DataError, match=r"in at least 2 groups, .* Received: one group of ant\. Add images of other"):
        splits.check(images)
