"""Keeps what a benchmark measured, with the machine and the commit that it was measured on."""

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from service import cpu
from service.runtime import ort

FOLDER = Path(__file__).parent / "results"


def keep(name: str, figures: Mapping[str, object], *, variant: str = "", flags: str = "") -> Path:
    """Write `results/<name>.json` or `results/<name>_<variant>.json`: the figures, and where they come from."""
    FOLDER.mkdir(exist_ok=True)
    file = FOLDER / (f"{name}_{variant}.json" if variant else f"{name}.json")
    file.write_text(json.dumps({"origin": _origin(f"{name} {flags}".rstrip()), **figures}, indent=2) + "\n")
    return file


def cell(name: str, key: str, measure: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """One cell of the table `results/<name>.json`: as it was kept, or measured now and kept at once.

    A benchmark of many cells goes on where it was stopped; `rm` begins it anew. Each cell says when and at which commit
    it was measured.
    """
    file = FOLDER / f"{name}.json"
    cells: dict[str, dict[str, Any]] = json.loads(file.read_text())["cells"] if file.exists() else {}
    if key not in cells:
        # Of what was measured, whatever is committed meanwhile.
        started_s, commit = time.perf_counter(), _commit()
        figures = measure()
        seconds = round(time.perf_counter() - started_s, 1)
        cells[key] = {**figures, "seconds": seconds, "commit": commit, "time": _now()}
        keep(name, {"cells": cells})
        print(f"{key}: {json.dumps(figures)}", flush=True)
    return cells[key]


def summarize(name: str, summary: Mapping[str, object]) -> Path:
    """Put what the cells of `results/<name>.json` come to beside them, until another cell is measured."""
    cells = json.loads((FOLDER / f"{name}.json").read_text())["cells"]
    return keep(name, {"summary": summary, "cells": cells})


def _origin(command: str) -> dict[str, object]:
    return {
        "command": f"python -m tests.benchmarks.{command}",
        "commit": _commit(),
        "changed_files": len(_git("status", "--porcelain", "--untracked-files=no", "--", ":!*/results/*").splitlines()),
        "time": _now(),
        "processor": _processor(),
        "usable_cpus": cpu.usable(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {each: version(each) for each in ("grpcio", "pillow", "numpy", "torch")}
        | {"onnxruntime": ort.__version__},
    }


def _commit() -> str:
    return _git("rev-parse", "--short=12", "HEAD")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
