"""What shows that a claim holds: a test that is in this tree, or a figure that a benchmark has kept; runs neither."""

import ast
import json
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "tests" / "benchmarks" / "results"


@cache
def tests() -> frozenset[str]:
    """All tests, as "tests/a/test_b.py::test_c"; one that has parameters by its function."""
    return frozenset(
        f"{file.relative_to(ROOT).as_posix()}::{each.name}"
        for file in (ROOT / "tests").rglob("test_*.py")
        for each in ast.parse(file.read_bytes()).body
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and each.name.startswith("test_")
    )


def figure(place: str) -> float:
    """A figure that was kept, as "file.json: key > key"; KeyError or FileNotFoundError where there is none."""
    name, _, keys = place.partition(": ")
    found: Any = json.loads((RESULTS / name).read_bytes())
    for key in keys.split(" > "):
        found = found[key]
    return float(found)


def is_there(proof: str) -> bool:
    """Whether a test is in the tree, or a figure was kept."""
    if proof.startswith("tests/"):
        return proof in tests()
    try:
        figure(proof)
    except (FileNotFoundError, KeyError):
        return False
    return True
