"""The solar cells that the demo learns from and asks about; does not train or serve anything.

They come from the package elpv-dataset: 2,624 electroluminescence images of 300 x 300 pixels, CC BY-NC-SA 4.0. A cell
that is defective with a probability of at least a half is called defective here.
"""

import csv
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

LICENCE = (
    "Learning from elpv-dataset: 2,624 images of solar cells by Buerhop-Lutz, Deitsch, Maier, Gallwitz, Berger, Doll,\n"
    "Hauch, Camus and Brabec, licensed CC BY-NC-SA 4.0: not for commercial use, and nor is what is trained on them."
)
_DEFECTIVE_FROM = 0.5
# Neighbours in the list are often pictures of one cell. Blocks keep most of them on one side of the split.
_BLOCK = 32
_GOLDEN = 16


@dataclass(frozen=True)
class Cell:
    """One image, and what an expert said of it."""

    path: Path
    label: str
    split: str


def read() -> list[Cell]:
    """All cells, three quarters of them to learn from, by blocks in the order of their numbers."""
    folder = Path(str(resources.files("elpv_dataset") / "data"))
    lines = [line.split() for line in (folder / "labels.csv").read_text().splitlines()]
    return [
        Cell(
            folder / name,
            "defective" if float(probability) >= _DEFECTIVE_FROM else "functional",
            "test" if index // _BLOCK % 4 == 3 else "train",
        )
        for index, (name, probability, _) in enumerate(lines)
    ]


def write_table(cells: list[Cell], path: Path) -> None:
    """Write the table that vertebra-train reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("path", "label", "split"))
        table.writerows((cell.path, cell.label, cell.split) for cell in cells)


def copy_golden(cells: list[Cell], folder: Path) -> None:
    """Copy cells that were not learnt from: they prove the bundle wherever it is loaded."""
    folder.mkdir(parents=True, exist_ok=True)
    for cell in held_out(cells, _GOLDEN):
        (folder / cell.path.name).write_bytes(cell.path.read_bytes())


def held_out(cells: list[Cell], count: int) -> list[Cell]:
    """So many cells that were not learnt from, as many of each label, spread over all of them."""
    chosen = []
    for label in ("defective", "functional"):
        of = [cell for cell in cells if cell.split == "test" and cell.label == label]
        chosen += of[:: len(of) // (count // 2)][: count // 2]
    return chosen
