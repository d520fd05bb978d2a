"""Puts a comparison of starts into one page for a person; measures nothing itself.

The page needs no network and no script, and every name in it goes through the template's escaping.
"""

from collections.abc import Callable
from dataclasses import dataclass

from training import page
from training.comparison import Cell, Comparison, Point

TEMPLATE = "comparison.html.j2"
WIDTH, HEIGHT = 480, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 468, 12, 204


@dataclass(frozen=True)
class _Line:
    """A start's curve: the place of the start, which is its colour, and points as SVG has them."""

    start: int
    points: str
    dots: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True)
class _Chart:
    """Validation accuracy with one part of the labels, by epochs or by minutes."""

    across: str
    last: str
    low: str
    high: str
    target: float
    lines: tuple[_Line, ...]


@dataclass(frozen=True)
class _Row:
    cell: Cell
    start: int
    best: float
    arrival: str


@dataclass(frozen=True)
class _Part:
    """All that is shown of one part of the labels."""

    fraction: float
    images: int
    target: float
    charts: tuple[_Chart, ...]
    rows: tuple[_Row, ...]


def render(found: Comparison) -> str:
    """The page.

    Args:
        found: What was measured.

    Returns:
        HTML.
    """
    return page.render(
        TEMPLATE,
        {"percent": "{:.1%}".format},
        found=found,
        parts=[_part(found, fraction) for fraction in found.fractions()],
        box=(WIDTH, HEIGHT),
        left=_LEFT,
        right=_RIGHT,
        top=_TOP,
        bottom=_BOTTOM,
    )


def _part(found: Comparison, fraction: float) -> _Part:
    cells, names = found.of(fraction), [start.name for start in found.starts]
    rows = tuple(
        _Row(
            cell=cell,
            start=names.index(cell.start),
            best=max(point.accuracy for point in cell.curve),
            arrival=found.arrival(cell),
        )
        for cell in cells
    )
    charts = (
        _chart(rows, found.target(fraction), "epochs", lambda point: point.epoch),
        _chart(rows, found.target(fraction), "minutes", lambda point: point.minutes),
    )
    return _Part(fraction, cells[0].images, found.target(fraction), charts, rows)


def _chart(rows: tuple[_Row, ...], target: float, across: str, of: Callable[[Point], float]) -> _Chart:
    values = [point.accuracy for row in rows for point in row.cell.curve]
    low, high = min(*values, target), max(*values, target)
    last = max(of(point) for row in rows for point in row.cell.curve)

    def x(point: Point) -> float:
        return round(_LEFT + (_RIGHT - _LEFT) * of(point) / (last or 1), 1)

    def y(accuracy: float) -> float:
        return round(_BOTTOM - (_BOTTOM - _TOP) * (accuracy - low) / ((high - low) or 1), 1)

    lines = []
    for row in rows:
        dots = tuple(
            (x(each), y(each.accuracy), f"{row.cell.start}, {_told(of(each))} {across}: {each.accuracy:.1%}")
            for each in row.cell.curve
        )
        lines.append(_Line(row.start, " ".join(f"{across_px},{up_px}" for across_px, up_px, _ in dots), dots))
    return _Chart(across, _told(last), f"{low:.1%}", f"{high:.1%}", y(target), tuple(lines))


def _told(across: float) -> str:
    """Epochs as they are, minutes to a tenth."""
    return str(across) if isinstance(across, int) else f"{across:.1f}"
