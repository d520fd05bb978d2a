"""The committed stubs are what the protos generate, and the protos keep their style."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_committed_stubs_are_fresh(tmp_path: Path) -> None:
    subprocess.run(["make", "-s", "-o", ".venv/dev", "stubs", f"STUBS={tmp_path}"], cwd=ROOT, check=True, timeout=60)
    fresh = {file.name: file.read_text() for file in (tmp_path / "vertebra" / "v1").iterdir()}
    committed = {
        file.name: file.read_text()
        for file in (ROOT / "protos" / "vertebra" / "v1").iterdir()
        if file.suffix in (".py", ".pyi") and file.name != "__init__.py"
    }
    assert len(fresh) == 6
    assert committed == fresh, "run `make stubs`"
