"""The image, without an engine: the Dockerfile's lines are run in a folder and what they make is started."""

import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.config import Config
from service.servicers.health import LIVENESS
from tests.conftest import Service, encode, metric
from tests.deploy import dockerfile
from tests.deploy.dockerfile import Image, Instruction
from vertebra.client import Client

ROOT = Path(__file__).parents[2]
INSTRUCTIONS = dockerfile.read(ROOT / "deploy" / "Dockerfile")
IMAGE = dockerfile.describe(INSTRUCTIONS)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# A user of no name and no rights, before whom every file lies read-only, /tmp too.
CONTAINED = """
mount --bind "$ROOT" "$ROOT" && mount -o remount,bind,ro "$ROOT" && mount -o remount,bind,ro / || exit 125
exec setpriv --ambient-caps -all --inh-caps -all --bounding-set -all --no-new-privs env -i -C / "$@"
"""
HELD = ("torch", "torchvision", "onnx", "timm")  # by this environment, as far as the line of the Dockerfile asks for it


def contained(root: Path) -> list[str]:
    """The words before a command that is to run as in a container of the image that was built in this folder."""
    user, group = IMAGE.user.split(":")
    namespaces = ["unshare", "--user", f"--map-user={user}", f"--map-group={group}", "--keep-caps", "--mount"]
    environment = [f"{name}={value}" for name, value in dockerfile.placed_all(IMAGE.environment, root).items()]
    return ["env", f"ROOT={root}", *namespaces, "sh", "-c", CONTAINED, "sh", *environment]


def start(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command as in a container, to its end."""
    return subprocess.run([*contained(root), *command], capture_output=True, text=True, check=False, timeout=60)


def runs() -> list[Instruction]:
    return [each for each in INSTRUCTIONS if each.name == "RUN"]


def the_check() -> str:
    """The line that fails a build which holds torch."""
    (found,) = (each.value for each in runs() if "torch" in each.value)
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that stands for the image's `/`, everything installed; removed at the end, for it takes 0.5 GB."""
    root = tmp_path_factory.mktemp("image")
    try:
        dockerfile.build(INSTRUCTIONS, ROOT, root)
        yield root
    except subprocess.CalledProcessError as error:
        unreachable = ("No matching distribution found for hatchling", "Failed to establish a new connection")
        if any(reason in error.stderr for reason in unreachable):
            pytest.skip(f"no package index can be reached: {error.stderr.strip().splitlines()[-1]}")
        pytest.fail(f"{error.cmd[-1]}: {error.stdout}{error.stderr}")
    finally:
        shutil.rmtree(root)


@pytest.fixture
def container(root: Path) -> Path:
    """The same, where a process can be held as in a container."""
    if shutil.which("unshare") is None or (done := start(root, "true")).returncode:
        pytest.skip(f"no user namespaces here: {done.stderr.strip() if shutil.which('unshare') else 'no unshare'}")
    return root


def test_the_context_is_what_is_copied_and_nothing_else() -> None:
    first, *patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    copied = {source for each in INSTRUCTIONS for source in dockerfile.copied(each)}
    assert first == "*"
    assert {each.removeprefix("!") for each in patterns if each.startswith("!")} == copied
    assert [each for each in patterns if not each.startswith("!")] == ["**/__pycache__"]


def test_a_change_of_code_installs_no_dependency_again() -> None:
    installing = next(index for index, each in enumerate(INSTRUCTIONS) if "[$EXTRA]" in each.value)
    before = [source for each in INSTRUCTIONS[:installing] for source in dockerfile.copied(each)]
    assert before == ["pyproject.toml"]
    assert all("--no-deps" in each.value for each in runs() if "install" in each.value and "EXTRA" not in each.value)


def test_a_container_is_nobody_and_listens_where_it_says() -> None:
    user, group = map(int, IMAGE.user.split(":"))
    assert min(user, group) > 0
    settings = {
        name.removeprefix("VERTEBRA_").lower(): value
        for name, value in IMAGE.environment.items()
        if name.startswith("VERTEBRA_")
    }
    config = Config.model_validate(settings)
    assert [config.address, config.metrics_address] == [f"0.0.0.0:{port}" for port in IMAGE.ports]
    assert len(IMAGE.entrypoint) == 1  # a program and no shell, which would keep the signal to itself
    assert IMAGE.entrypoint[0] in PROJECT["project"]["scripts"]
    assert IMAGE.stop_signal == signal.SIGTERM.name


def test_no_telemetry() -> None:
    assert IMAGE.environment["ORT_DISABLE_TELEMETRY"] == "1"


def test_a_build_that_holds_torch_fails(tmp_path: Path) -> None:
    here = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    with pytest.raises(subprocess.CalledProcessError) as failed:
        dockerfile.run(the_check(), tmp_path, here, tmp_path)
    received = failed.value.stderr.partition("Expected an image without what only training needs. Received: ")[2]
    assert received, failed.value.stderr
    assert all(repr(each) in received for each in HELD)


def test_what_fails_a_build_is_what_the_service_may_not_import() -> None:
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    (forbidden,) = (each["forbidden_modules"] for each in contracts if each.get("source_modules") == ["service"])
    named = the_check().partition("names = '")[2].partition("'")[0].split()
    assert named == forbidden


def test_an_instruction_that_is_not_known_is_refused() -> None:
    with pytest.raises(NotImplementedError, match=r"Expected an instruction that this file knows\. Received: ADD\."):
        dockerfile.describe([Instruction("ADD", "https://example.com/ /")])


@pytest.mark.registry
@pytest.mark.timeout(600)
def test_the_image_serves_without_writing_a_file(
    container: Path, repository: Path, start_service: Callable[..., Service]
) -> None:
    service = start_service(repository, program=IMAGE.entrypoint, launcher=contained(container))
    service.wait_for("serving")
    with Client(service.address) as client:
        (answer,) = client.classify([encode((0, 200, 0))], top_k=1).answers()
        assert answer.labels[0].name == "green"
    with grpc.insecure_channel(service.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)  # its types know no method
        for name in ("", LIVENESS, "colours"):
            answered = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
            assert answered.status == health_pb2.HealthCheckResponse.SERVING
    assert metric(service, "vertebra_model_ready", model="colours") == 1
    assert service.stop() == 0
    # All that was said is a log line: no library has complained of what it could not write.
    service.wait_for("stopped")
    assert [line for line in service.log if "level" not in line] == []


@pytest.mark.registry
@pytest.mark.timeout(600)
def test_a_container_has_no_rights(container: Path, tmp_path: Path) -> None:
    said = start(container, "sh", "-c", f"id -u; touch {container}/a /tmp/b {tmp_path}/c; mount -o remount,bind,rw /")
    assert said.stdout == "10001\n"
    refused = said.stderr.strip().splitlines()
    assert [line.endswith("Read-only file system") for line in refused[:3]] == [True, True, True], refused
    assert len(refused) > 3, "a mount must be refused as well"


@pytest.mark.registry
@pytest.mark.timeout(600)
def test_the_image_holds_the_service_and_nothing_else(root: Path) -> None:
    environment = dockerfile.placed_all(IMAGE.environment, root)
    code = """
from importlib.metadata import distributions
import service.server
print(service.server.__file__)
print(*sorted({each.metadata["Name"].lower() for each in distributions()}))
"""
    command = [str(root / "opt/vertebra/bin/python3"), "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd="/")
    file, names = done.stdout.splitlines()
    assert Path(file).is_relative_to(root), "it was installed, not linked to"
    packages = Path(file).parents[1]
    assert (packages / "service" / "__pycache__").is_dir(), "the bytecode is there, for it cannot be written later"
    assert {each.name for each in packages.iterdir()}.isdisjoint({"training", "export", "tests"})
    installed = set(names.split())
    assert {"vertebra", "grpcio", "pillow"} <= installed
    assert installed.isdisjoint({"pip", "setuptools", *HELD})
    assert len({name for name in installed if name.startswith("onnxruntime")}) == 1


def test_the_image_is_described_by_its_last_stage() -> None:
    two = [Instruction("FROM", "a"), Instruction("USER", "0"), Instruction("FROM", "b"), Instruction("USER", "7:7")]
    assert dockerfile.describe(two) == Image(user="7:7")
