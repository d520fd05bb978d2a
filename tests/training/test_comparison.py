"""What a comparison says: when a start arrived, and on its page nothing that was not measured."""

from pathlib import Path

import pytest

from export.score import wilson
from service.bundle import CropGeometry, Interpolation
from training import comparison_page
from training.comparison import Cell, Comparison, Point, Start
from training.result import Data

GEOMETRY = CropGeometry(72, 64, 64, Interpolation.INTERPOLATION_BILINEAR)


def cell(start: str, *accuracies: float, fraction: float = 1.0) -> Cell:
    curve = tuple(Point(epoch=at, accuracy=each, minutes=at / 2) for at, each in enumerate(accuracies))
    return Cell(
        start=start,
        fraction=fraction,
        images=100,
        epochs=len(accuracies) - 1,
        rate=0.01,
        head_minutes=0.0,
        curve=curve,
        kept=accuracies.index(max(accuracies)),
        test=wilson(80, 100),
    )


def compared(*cells: Cell, reach: float | None = None, seen: int | None = 0) -> Comparison:
    names = dict.fromkeys(each.start for each in cells)
    return Comparison(
        data=Data(
            source="<b>flowers</b>",
            sha256="0" * 64,
            labels=("a", "b"),
            labels_sha256="1" * 64,
            images={"train": (50, 50)},
            left_out=(),
            leaks=(),
        ),
        backbone="small",
        geometry=GEOMETRY,
        seed=0,
        schedule="the same",
        validation=20,
        reach=reach,
        starts=tuple(Start(name=name, source="somewhere", test_images_seen=seen) for name in names),
        cells=cells,
    )


def test_a_start_whose_name_a_terminal_would_obey_has_a_line_like_others() -> None:
    found = compared(cell("init runs/a\nb\x1b[2J", 0.5, 0.9), seen=3)
    _, _, line, warning, _ = found.lines()
    assert "  init runs/a\\nb\\x1b[2J  " in line
    assert warning.startswith("init runs/a\\nb\\x1b[2J has learnt from 3 of the test images")


def test_arrived_is_nearly_the_best_of_any_start_with_as_many_labels() -> None:
    early, late = cell("pretrained", 0.7, 0.96, 1.0), cell("random", 0.5, 0.6, 0.94)
    few = cell("random", 0.2, 0.4, fraction=0.1)
    found = compared(few, early, late)
    assert found.target(1.0) == pytest.approx(0.95)
    assert found.target(0.1) == pytest.approx(0.38)
    assert found.arrived(early) == early.curve[1]
    assert found.arrived(late) is None
    assert found.arrival(early) == "at 95.0% after 1 of 2 epochs, 0.5 min"
    assert found.arrival(late) == "not at 95.0% in 2 epochs, 1.0 min"


def test_how_much_counts_may_be_said() -> None:
    found = compared(cell("pretrained", 0.7, 0.9), reach=0.6)
    assert found.arrival(found.cells[0]) == "at 60.0% before the first epoch, 0.0 min"


def test_what_speaks_against_it_is_said() -> None:
    assert len(compared(cell("random", 0.5, 0.6)).warnings()) == 1
    assert (
        compared(cell("init pre", 0.5, 0.6), seen=3).warnings()[0].startswith("init pre has learnt from 3 of the test")
    )


def test_lines_are_a_table() -> None:
    lines = compared(cell("pretrained", 0.7, 0.9), cell("random", 0.5, 0.6)).lines()
    assert lines[0].endswith(
        "arrived: validation at 95% of the best with as many labels, and when; what pretraining took is not counted"
    )
    assert lines[1].split() == ["labels", "start", "validation", "test", "arrived"]
    assert lines[2].split()[:3] == ["100", "pretrained", "90.0%"]
    assert "80.0% (71.1% to 86.7%)" in lines[3]


def test_the_page_draws_every_start_and_escapes_names() -> None:
    page = comparison_page.render(compared(cell("<i>x</i>", 0.5, 0.6), cell("random", 0.5, 0.5)))
    assert "&lt;b&gt;flowers" in page
    assert "<i>" not in page
    assert page.count("<polyline") == 4
    assert '<circle cx="468.0" cy="12.0"' in page


def test_a_curve_that_does_not_move_is_drawn() -> None:
    page = comparison_page.render(compared(cell("random", 0.0, 0.0), reach=0.5))
    assert 'points="48.0,204.0 468.0,204.0"' in page


def test_a_name_that_is_not_utf_8_is_written(tmp_path: Path) -> None:
    page = comparison_page.render(compared(cell("init \udcff", 0.5, 0.6)))
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    assert "\\udcff" in page
