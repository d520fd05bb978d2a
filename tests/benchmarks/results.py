"""Keeps what a benchmark measured, with the machine and the commit that it was measured on."""

import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import onnxruntime

from service import cpu

FOLDER = Path(__file__).parent / "results"


def keep(name: str, figures: Mapping[str, object]) -> Path:
    """Write `results/<name>.json`: the figures, and where they come from."""
    FOLDER.mkdir(exist_ok=True)
    file = FOLDER / f"{name}.json"
    file.write_text(json.dumps({"origin": _origin(name), **figures}, indent=2) + "\n")
    return file


def _origin(name: str) -> dict[str, object]:
    return {
        "command": f"python -m tests.benchmarks.{name}",
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "changed_files": len(_git("status", "--porcelain", "--untracked-files=no", "--", ":!*/results/*").splitlines()),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "processor": _processor(),
        "usable_cpus": cpu.usable(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {each: version(each) for each in ("grpcio", "pillow", "numpy")}
        | {"onnxruntime": onnxruntime.__version__},
    }


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
