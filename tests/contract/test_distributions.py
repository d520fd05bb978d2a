"""What is installed: one ONNX Runtime, and stubs that live beside other people's."""

import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_exactly_one_onnxruntime_is_installed() -> None:
    # Two of them write into the same folder and break each other without a word.
    names = {each.metadata["Name"].lower() for each in distributions()}
    plugins = {name for name in names if name.startswith("onnxruntime-ep-")}
    found = {name for name in names if name.split("-")[0] == "onnxruntime"} - plugins
    assert len(found) == 1, found


def test_the_stubs_live_beside_tritonclient() -> None:
    code = "import tritonclient.grpc, vertebra.client, vertebra.v1.bundle_pb2; print('both')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout == "both\n", done.stderr


def test_the_service_starts_without_what_only_training_needs() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "service", "--help"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0
    assert "usage: vertebra-serve" in done.stdout
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert {"onnxruntime", "grpc", "PIL"} <= imported, "the listing is not what this test takes it for"
    assert not imported & {"torch", "torchvision", "onnx", "onnxscript", "timm", "sklearn", "scipy", "safetensors"}
