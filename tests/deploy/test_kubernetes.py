"""The manifests: Kubernetes takes them, they agree with image and settings, a real service answers their probes."""

import re
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.config import Config
from service.servicers.health import LIVENESS
from tests.conftest import Service, colours, write_bundle
from tests.deploy import dockerfile

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "deploy" / "kubernetes"
OLDEST, NEWEST = "1.30", "1.37"  # the oldest that deployment.yaml promises, the newest that there are schemas of

DEPLOYMENT = yaml.safe_load((MANIFESTS / "deployment.yaml").read_text())
SERVICE = yaml.safe_load((MANIFESTS / "service.yaml").read_text())
POD = DEPLOYMENT["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
PROBES = [CONTAINER[kind]["grpc"] for kind in ("startupProbe", "livenessProbe", "readinessProbe")]
IMAGE = dockerfile.describe(dockerfile.read(ROOT / "deploy" / "Dockerfile"))
CONFIG = Config.model_validate({"repository": "/models"})
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING

WARM_BYTES = 250 * 10**6  # what a service with one small model holds after its warm-up
BYTES_A_PIXEL = 16  # what decoding takes at most
COPIES = 3  # of an image's bytes, gRPC's two among them


def validate(version: str, *files: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("kubernetes-validate")), "--strict", "-k", version, *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def number_of_bytes(quantity: str) -> int:
    units = {"Mi": 2**20, "Gi": 2**30}
    return int(quantity[:-2]) * units[quantity[-2:]]


def asked(service: Service, probe: dict[str, Any]) -> int:
    """What a probe of the manifest hears; its port is the container's, here another."""
    with grpc.insecure_channel(service.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # its types know no method
        answer = stub.Check(health_pb2.HealthCheckRequest(service=probe.get("service", "")), timeout=10)
    return int(answer.status)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_kubernetes_validate_accepts_the_manifests(version: str) -> None:
    files = sorted(MANIFESTS.iterdir())
    done = validate(version, *files)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (done.stdout + done.stderr).count(f"against version {version}") == len(files)


@pytest.mark.parametrize(("right", "wrong"), [("livenessProbe", "livelinessProbe"), ("replicas: 2", "replicas: two")])
def test_kubernetes_validate_refuses_a_slip(tmp_path: Path, right: str, wrong: str) -> None:
    file = tmp_path / "deployment.yaml"
    file.write_text((MANIFESTS / "deployment.yaml").read_text().replace(right, wrong))
    assert validate(NEWEST, file).returncode != 0


def test_the_service_finds_the_pods() -> None:
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    assert DEPLOYMENT["spec"]["selector"]["matchLabels"] == labels == SERVICE["spec"]["selector"]
    assert SERVICE["spec"]["clusterIP"] == "None"
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    # Without an address of its own a Service translates no ports.
    assert {port["targetPort"]: port["port"] for port in SERVICE["spec"]["ports"]} == ports


def test_the_image_listens_where_the_manifests_look() -> None:
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert list(ports.values()) == IMAGE.ports
    assert {probe["port"] for probe in PROBES} == {ports["grpc"]}
    annotations = DEPLOYMENT["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(ports["metrics"])
    mounts = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert mounts == {"models": IMAGE.environment["VERTEBRA_REPOSITORY"], "tmp": IMAGE.environment["HOME"]}
    assert {volume["name"] for volume in POD["volumes"]} == set(mounts)


def test_the_image_is_of_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert CONTAINER["image"] == f"{project['name']}:{project['version']}"


def test_the_pod_has_no_rights() -> None:
    of_pod, of_container = POD["securityContext"], CONTAINER["securityContext"]
    assert f"{of_pod['runAsUser']}:{of_pod['runAsGroup']}" == IMAGE.user
    assert of_pod["runAsNonRoot"] is of_container["readOnlyRootFilesystem"] is True
    assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert of_container["allowPrivilegeEscalation"] is POD["automountServiceAccountToken"] is False
    assert of_container["capabilities"] == {"drop": ["ALL"]}
    assert all(mount.get("readOnly") for mount in CONTAINER["volumeMounts"] if mount["name"] == "models")


def test_requests_have_time_to_finish() -> None:
    sleep_s = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert POD["terminationGracePeriodSeconds"] >= sleep_s + CONFIG.grace_s + 5
    # Until then every probe that could have seen the pod leave has done so.
    assert sleep_s >= 2 * CONTAINER["readinessProbe"]["periodSeconds"]


def test_the_memory_is_what_the_bounds_admit() -> None:
    resources = CONTAINER["resources"]
    cpus = int(resources["limits"]["cpu"])
    assert resources["requests"]["cpu"] == resources["limits"]["cpu"]
    decoded_pixels = min(cpus * CONFIG.max_image_pixels, CONFIG.max_inflight_pixels)
    worst_bytes = WARM_BYTES + COPIES * CONFIG.max_inflight_bytes + BYTES_A_PIXEL * decoded_pixels
    assert worst_bytes <= number_of_bytes(resources["limits"]["memory"]) <= 1.5 * worst_bytes
    assert WARM_BYTES < number_of_bytes(resources["requests"]["memory"]) < worst_bytes


def test_probes_of_a_service_that_serves(repository: Path, start_service: Callable[..., Service]) -> None:
    service = start_service(repository)
    service.wait_for("listening")
    startup, liveness, readiness = PROBES
    assert startup == liveness
    assert liveness["service"] == LIVENESS
    assert asked(service, liveness) == SERVING  # loading or not
    service.wait_for("serving")
    assert [asked(service, probe) for probe in PROBES] == [SERVING] * 3
    assert "service" not in readiness


def test_a_service_without_a_model_is_not_ready_and_not_killed(
    tmp_path: Path, start_service: Callable[..., Service]
) -> None:
    (write_bundle(tmp_path, colours()) / "model.onnx").write_bytes(b"no graph")
    service = start_service(tmp_path)
    service.wait_for("no model could be loaded; staying up so that health and ListModels can say so")
    assert [asked(service, probe) for probe in PROBES] == [SERVING, SERVING, NOT_SERVING]


def test_the_readme_asks_for_metrics_that_there_are(repository: Path, start_service: Callable[..., Service]) -> None:
    service = start_service(repository)
    service.wait_for("serving")
    with urllib.request.urlopen(service.metrics_url, timeout=10) as page:
        there = re.findall(r"# TYPE (\w+) (\w+)", page.read().decode())
    names = {name + end for name, kind in there for end in (("_bucket", "_count") if kind == "histogram" else ("",))}
    named = set(re.findall(r"\bvertebra_\w+", (ROOT / "deploy" / "README.md").read_text()))
    assert len(named) > 4
    assert named <= names
