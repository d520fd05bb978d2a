"""Lines and marks lie where the figures say."""

import json
import math

import pytest

from tests.training import made
from training import charts
from training.charts import Chart, Line


def places(line: Line) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (point.split(",") for point in line.points.split())]


def inside(chart: Chart) -> bool:
    points = [place for line in chart.lines for place in places(line)] + [(dot.x, dot.y) for dot in chart.dots]
    marks = [tick.at for tick in chart.x_ticks] + ([chart.rule.at] if chart.rule else [])
    return (
        all(charts.LEFT <= x <= charts.RIGHT and charts.TOP <= y <= charts.BOTTOM for x, y in points)
        and all(charts.LEFT <= mark <= charts.RIGHT for mark in marks)
        and all(charts.TOP <= tick.at <= charts.BOTTOM for tick in chart.y_ticks)
    )


def test_loss_rate_and_validation_have_a_chart_each() -> None:
    loss, rate, validation = charts.of_training(made.curves(), made.record())
    assert [each.title for each in (loss, rate, validation)] == [
        "Training loss",
        "Learning rate",
        "Validation accuracy",
    ]
    assert all(inside(each) for each in (loss, rate, validation))
    assert [line.name for line in loss.lines] == ["of each step", "smoothed"]
    (line,) = rate.lines
    heights = [y for _, y in places(line)]
    assert len(heights) == made.STEPS
    assert heights == sorted(heights)
    assert heights[-1] == charts.BOTTOM
    assert [dot.title for dot in validation.dots] == [
        "before the first step: 70.0%",
        "after epoch 1: 72.0%",
        "after epoch 2: 78.0%",
    ]
    assert [tick.text for tick in validation.x_ticks] == ["0", "1", "2"]
    assert validation.dots[2].y < validation.dots[1].y < validation.dots[0].y
    assert rate.words == "Learning rate over 40 steps: at most 0.00097, 0 in the last."


def test_without_validation_and_without_steps_there_are_no_charts() -> None:
    assert [each.title for each in charts.of_training(made.curves(), made.record(validated=False))] == [
        "Training loss",
        "Learning rate",
    ]
    assert charts.of_training("", made.record(validated=False)) == ()
    assert charts.of_training(made.curves(1), made.record(validated=False)) == ()


def test_a_long_training_makes_no_long_line() -> None:
    loss, rate = charts.of_training(made.curves(100_000), made.record(validated=False))
    assert max(len(line.points) for line in (*loss.lines, *rate.lines)) < 8_000
    assert inside(loss)
    assert [tick.text for tick in loss.x_ticks][-1] == "100,000"


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_passed_over(loss: float) -> None:
    torn = json.dumps({"step": 41, "loss": loss, "rate": 1.0}) + "\n"
    assert charts.of_training(made.curves() + torn, made.record()) == charts.of_training(made.curves(), made.record())


def test_what_never_changes_has_a_chart() -> None:
    same = "".join(json.dumps({"step": step, "loss": 0.0, "rate": 0.1}) + "\n" for step in (1, 2))
    assert all(inside(each) for each in charts.of_training(same, made.record(validated=False)))


def test_a_range_test_shows_the_rate_that_was_taken() -> None:
    test = made.record().settings.range_test
    assert test is not None
    chart = charts.of_range_test(test)
    assert inside(chart)
    assert [tick.text for tick in chart.x_ticks] == ["1e-05", "1e-04", "1e-03", "1e-02", "1e-01"]
    assert chart.rule == charts.Tick(chart.x_ticks[2].at, "taken: 1.0e-03")
    # A loss that came apart does not press the fall before it flat.
    heights = [y for _, y in places(chart.lines[0])]
    assert heights[0] - heights[-1] < 2.5 * (heights[3] - heights[0])


def test_a_learning_curve_rises_with_the_images_and_says_how_sure_it_is() -> None:
    chart = charts.of_learning_curve(made.evidence())
    assert chart is not None
    assert inside(chart)
    assert [dot.title for dot in chart.dots] == ["10 images: 50.0%", "100 images: 70.0%", "200 images: 80.0%"]
    assert [dot.y for dot in chart.dots] == sorted((dot.y for dot in chart.dots), reverse=True)
    assert all(dot.high < dot.y < dot.low for dot in chart.dots)
    assert [(line.name, line.faint, len(places(line))) for line in chart.lines] == [
        ("in the proportions of the data", False, 1),
        ("as many of each class", True, 2),
    ]
    short = made.evidence().model_copy(update={"curve": made.evidence().curve[:1]})
    assert charts.of_learning_curve(short) is None


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0.0, 1.0, [0, 0.5, 1]), (0.61, 0.87, [0.7, 0.8]), (0, 62, [0, 20, 40, 60]), (3.0, 3.0, [3.0])],
)
def test_marks_are_round_numbers(low: float, high: float, ticks: list[float]) -> None:
    assert charts._round_numbers(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(1e-5, 0.2, [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]), (10, 80, [10, 20, 50]), (60, 61, [60, 61])],
)
def test_marks_of_a_logarithmic_axis_are_powers(low: float, high: float, ticks: list[float]) -> None:
    assert charts._decades(low, high) == pytest.approx(ticks)
