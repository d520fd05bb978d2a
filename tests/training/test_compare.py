"""Starts are compared on one schedule, with parts of the labels, and every cell is computed once."""

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from export.errors import TargetError
from tests.training.conftest import quiet
from tests.training.pretraining.scene import order as pretraining
from tests.training.test_fit import COLOURS, draw_classes
from training import compare, comparison, tuned
from training.backbones import Card
from training.compare import Order
from training.comparison import Comparison
from training.dataset import Plan, Sample
from training.errors import BackboneError
from training.pretraining.pretrain import pretrain
from training.question import Question

LABELS = tuple(COLOURS)


def order(source: Path, folder: Path, **changed: Any) -> Order:
    given: dict[str, Any] = {
        "question": Question(source, Plan(), "small", folder / "cache", resize_px=32, crop_px=32),
        "pretrained": True,
        "init": (),
        "fractions": (1.0, 0.1),
        "epochs": 1,
        "batch_size": 16,
        "reach": None,
        "out": folder / "compared",
    }
    return Order(**{**given, **changed})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    draw_classes(folder / "data", LABELS, 12)
    return folder


@pytest.fixture
def compared(registered: Card, root: Path) -> Comparison:  # noqa: ARG001
    """Made once: the second time every cell is in the cache."""
    if not (root / "pre").exists():
        pretrain(pretraining(root / "data", root, out=root / "pre"), quiet(4))
    if not (root / "compared").exists():
        compare.compare(order(root / "data", root, init=(root / "pre",)), quiet(2))
    return Comparison.model_validate_json((root / "compared" / comparison.COMPARISON).read_bytes())


def test_every_start_is_trained_with_every_part_of_the_labels(compared: Comparison, root: Path) -> None:
    starts = ["pretrained", f"init {root / 'pre'}", "random"]
    assert [start.name for start in compared.starts] == starts
    assert [(cell.fraction, cell.start) for cell in compared.cells] == [
        (fraction, start) for fraction in (0.1, 1.0) for start in starts
    ]
    # A fifth is the test's, and a fifth of the others draws the curves.
    assert {cell.images for cell in compared.of(0.1)} == {6}
    assert len({cell.images for cell in compared.of(1.0)}) == 1
    assert sum(map(sum, compared.data.images.values())) == 36


def test_all_have_one_schedule_and_a_whole_curve(compared: Comparison) -> None:
    for fraction in compared.fractions():
        assert len({cell.epochs for cell in compared.of(fraction)}) == 1
    for cell in compared.cells:
        assert [point.epoch for point in cell.curve] == list(range(cell.epochs + 1))
        assert [point.minutes for point in cell.curve] == sorted(point.minutes for point in cell.curve)
        assert cell.rate > 0
        best = max(point.accuracy for point in cell.curve)
        assert cell.curve[cell.kept].accuracy == best
        assert cell.test is not None
    # Ten times one epoch, because that is still too few steps.
    assert {cell.epochs for cell in compared.cells} == {10}


def test_only_a_head_of_a_probe_costs_time_before_the_first_step(compared: Comparison) -> None:
    for cell in compared.cells:
        assert (cell.head_minutes > 1e-4) == (cell.start != "random")
        assert cell.curve[0].minutes == pytest.approx(cell.head_minutes)


def test_where_the_starts_come_from_is_told(compared: Comparison, root: Path) -> None:
    published, own, random = compared.starts
    assert published.test_images_seen is None
    assert own.source.startswith("self-pretrained by denoising on 36 images")
    assert random.source.startswith("pretrained: none")
    # It learnt from the whole folder, of which the test was drawn later.
    assert own.test_images_seen == sum(compared.data.images["test"]) > 0
    assert any("test images, without their labels" in line for line in compared.lines())
    page = (root / "compared" / comparison.PAGE).read_text()
    assert "One seed and one schedule" in page
    assert page.count("<polyline") == 2 * len(compared.cells)


@pytest.mark.usefixtures("compared")
def test_what_was_done_is_not_done_again(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(tuned, "fine_tune", trained)
    again = order(root / "data", root, init=(root / "pre",), out=tmp_path / "again")
    assert len(compare.compare(again, quiet(2)).cells) == 6
    one = order(root / "data", root, pretrained=False, fractions=(0.1,), reach=0.5, out=tmp_path / "one")
    assert [cell.start for cell in compare.compare(one, quiet(2)).cells] == ["random"]
    with pytest.raises(AssertionError, match="trained again"):
        compare.compare(order(root / "data", root, epochs=2, out=tmp_path / "other"), quiet(2))


@pytest.mark.usefixtures("registered")
def test_what_cannot_be_compared_is_refused_before_anything_is_done(root: Path, tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="Expected the folder of a pretraining"):
        compare.compare(order(root / "data", tmp_path, init=(tmp_path,)), quiet(2))
    (tmp_path / "compared").mkdir()
    with pytest.raises(TargetError, match="Expected a folder that does not exist yet"):
        compare.compare(order(root / "data", tmp_path), quiet(2))
    assert not (tmp_path / "cache").exists()


def samples(*groups: str | None) -> tuple[Sample, ...]:
    return tuple(
        Sample(Path(f"{number}.png"), bytes([number]) * 32, number % 2, 1.0, group)
        for number, group in enumerate(groups)
    )


def test_parts_lie_within_each_other_and_have_every_class_alike() -> None:
    train = samples(*[None] * 100)
    parts = [compare.part(train, fraction, 0) for fraction in (0.01, 0.1, 0.5, 1.0)]
    assert [len(each) for each in parts] == [4, 10, 50, 100]
    for smaller, larger in pairwise(parts):
        assert set(smaller) < set(larger)
        assert set(Counter(each.label for each in smaller).values()) == {len(smaller) // 2}
    assert parts[-1] == train
    assert compare.part(train, 0.1, 1) != parts[1]


def test_of_few_images_as_many_groups_as_there_are() -> None:
    train = samples(*["a", "b"] * 20, "c", "d")
    for seed in range(5):
        assert {each.group for each in compare.part(train, 0.01, seed)} == {"a", "b", "c", "d"}
