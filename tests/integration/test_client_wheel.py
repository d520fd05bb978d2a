"""The client's wheel in an environment that has nothing else, and in one that has tritonclient, against a service."""

import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Service, encode

ROOT = Path(__file__).parents[2]
ASK = """
import sys
from vertebra.client import Client
with Client(sys.argv[1]) as client:
    (answer,) = client.classify([sys.argv[2]], top_k=1).answers()
print(answer.labels[0].name)
"""


def pip_install(python: Path, *what: str) -> None:
    """Install from the index that pip is set up for; skips where there is none."""
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    unreachable = ("No matching distribution found for grpcio", "Failed to establish a new connection")
    if done.returncode and any(reason in done.stderr for reason in unreachable):
        pytest.skip(f"no package index can be reached: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT / "protos", check=True, capture_output=True)
    (wheel,) = folder.glob("vertebra_client-*.whl")
    return wheel


@pytest.mark.registry
@pytest.mark.timeout(300)
@pytest.mark.parametrize("beside", [[], ["tritonclient[grpc]"]], ids=["alone", "beside tritonclient"])
def test_the_wheel_works_against_a_running_service(
    wheel: Path, beside: list[str], repository: Path, tmp_path: Path, start_service: Callable[..., Service]
) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip_install(python, str(wheel), *beside)
    installed = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True, check=True).stdout
    assert "vertebra-client" in installed
    for server_side in ("onnxruntime", "torch", "pydantic", "prometheus"):
        assert server_side not in installed
    (tmp_path / "green.png").write_bytes(encode((0, 200, 0)))
    service = start_service(repository)
    service.wait_for("serving")
    imports = "import tritonclient.grpc\n" if beside else ""
    command = [str(python), "-c", imports + ASK, service.address, "green.png"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout == "green\n", done.stderr
    program = [str(python.with_name("vertebra-client")), "classify", service.address, "green.png", "--top-k", "1"]
    done = subprocess.run(program, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "green" in done.stdout
