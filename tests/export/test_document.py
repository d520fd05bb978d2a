import math

import pytest
from pydantic import ValidationError

from export.document import Document


class Point(Document):
    x: float


def test_it_is_read_as_it_was_written() -> None:
    assert Point.model_validate_json(Point(x=0.1).model_dump_json()) == Point(x=0.1)


def test_a_name_that_it_does_not_have_is_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Point.model_validate({"x": 0.1, "y": 0.2})


@pytest.mark.parametrize("figure", [math.nan, math.inf])
def test_a_figure_that_is_no_number_is_refused(figure: float) -> None:
    with pytest.raises(ValidationError, match="finite number"):
        Point(x=figure)


def test_it_does_not_change() -> None:
    point = Point(x=0.1)
    with pytest.raises(ValidationError, match="frozen"):
        point.x = 0.2
