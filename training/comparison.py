"""What a comparison of starts has measured, as comparison.json has it, and in words; measures nothing itself."""

from export.command import printable
from export.document import Document
from export.run import Geometry
from export.score import Estimate
from training.result import Data

COMPARISON = "comparison.json"
PAGE = "comparison.html"
# Of the best that any start reached with as many labels: what counts as arrived where nobody says how much.
NEARLY = 0.95


class Start(Document):
    """Where a backbone's numbers come from.

    Attributes:
        name: "pretrained", "random", or "init" and the folder of a pretraining.
        source: As its card has it.
        test_images_seen: How many of the test images its pretraining has learnt from; None where nobody can know.
    """

    name: str
    source: str
    test_images_seen: int | None


class Point(Document):
    """How good a model was on validation images.

    Attributes:
        epoch: After how many epochs; 0 before the first step, with the head that a probe gave.
        accuracy: The part of them that it got right.
        minutes: What it had taken until then, validation left out.
    """

    epoch: int
    accuracy: float
    minutes: float


class Cell(Document):
    """One start, trained with some of the labels.

    Attributes:
        start: Its name.
        fraction: The part of the training images whose labels were used.
        images: How many these were.
        epochs: How often each was shown.
        rate: The highest learning rate, as the range test found it, or less of it where the loss exploded.
        head_minutes: What the head that it began with took, features that were not in the cache included: less than it
            would have taken where the comparison was interrupted before.
        curve: Validation, epoch by epoch.
        kept: The epoch whose weights were kept: the best on validation.
        test: The accuracy of these on the test images; None where there are none.
    """

    start: str
    fraction: float
    images: int
    epochs: int
    rate: float
    head_minutes: float
    curve: tuple[Point, ...]
    kept: int
    test: Estimate | None


class Comparison(Document):
    """Starts that were trained on one schedule.

    Attributes:
        data: The images.
        backbone: The backbone's name.
        geometry: How the images were shown.
        seed: Every random number followed from it.
        schedule: What all had in common, in words.
        validation: On how many images the curves were measured.
        reach: The accuracy that counts as arrived; None for NEARLY of the best with as many labels.
        starts: What was compared.
        cells: All starts with the fewest labels, then with more.
    """

    data: Data
    backbone: str
    geometry: Geometry
    seed: int
    schedule: str
    validation: int
    reach: float | None
    starts: tuple[Start, ...]
    cells: tuple[Cell, ...]

    def fractions(self) -> tuple[float, ...]:
        """The parts of the labels, as they were compared."""
        return tuple(dict.fromkeys(cell.fraction for cell in self.cells))

    def of(self, fraction: float) -> tuple[Cell, ...]:
        """The cells with this part of the labels."""
        return tuple(cell for cell in self.cells if cell.fraction == fraction)

    def target(self, fraction: float) -> float:
        """The accuracy that counts as arrived with this part of the labels."""
        best = max(point.accuracy for cell in self.of(fraction) for point in cell.curve)
        return NEARLY * best if self.reach is None else self.reach

    def arrived(self, cell: Cell) -> Point | None:
        """When a cell first was as accurate as that; None where it never was."""
        target = self.target(cell.fraction)
        return next((point for point in cell.curve if point.accuracy >= target), None)

    def lines(self) -> tuple[str, ...]:
        """A table for a terminal, and what speaks against believing it."""
        width = max(len(printable(start.name)) for start in self.starts)
        said = [self.legend(), f"{'labels':>8}  {'start':<{width}}  {'validation':>10}  {'test':>22}  arrived"]
        for cell in self.cells:
            best = max(point.accuracy for point in cell.curve)
            test = f"{cell.test.value:.1%} ({cell.test.low:.1%} to {cell.test.high:.1%})" if cell.test else ""
            start = printable(cell.start)
            said.append(f"{cell.images:>8,}  {start:<{width}}  {best:>10.1%}  {test:>22}  {self.arrival(cell)}")
        return (*said, *self.warnings())

    def legend(self) -> str:
        """What the columns are, in words."""
        arrived = f"{NEARLY:.0%} of the best with as many labels" if self.reach is None else f"{self.reach:.1%}"
        return (
            "validation: the best epoch's, which is the one that is tested. arrived: "
            f"validation at {arrived}, and when; what pretraining took is not counted"
        )

    def arrival(self, cell: Cell) -> str:
        """When a cell arrived, in words."""
        point, target = self.arrived(cell), self.target(cell.fraction)
        if point is None:
            return f"not at {target:.1%} in {cell.epochs} epochs, {cell.curve[-1].minutes:.1f} min"
        after = f"after {point.epoch} of {cell.epochs} epochs" if point.epoch else "before the first epoch"
        return f"at {target:.1%} {after}, {point.minutes:.1f} min"

    def warnings(self) -> tuple[str, ...]:
        """What speaks against believing the figures."""
        seen = [
            f"{printable(start.name)} has learnt from {start.test_images_seen} of the test images, without their "
            "labels: it knows them better than it will know others."
            for start in self.starts
            if start.test_images_seen
        ]
        return (*seen, "One seed and one schedule: another may turn around what lies within the intervals.")
