"""The files of a bundle: golden set, digests, and the manifest last; does not convert or measure what it writes."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from google.protobuf import json_format

from export.errors import TargetError
from export.golden import GoldenSet
from export.run import EMBEDDING, LOGITS, Run, geometry_message
from export.space import embedding_space_id
from export.verify import EIGHT_BITS, FP32, SIXTEEN_BITS, Verification
from service.bundle import FORMAT, MANIFEST, NAME, VERSION, OutputKind, Precision, sha256_of
from service.engine import Arrays
from service.runtime import ort
from vertebra.v1 import bundle_pb2

GRAPH = "model.onnx"
OUTPUTS = (LOGITS, EMBEDDING)
_EXPECTED = "golden/expected.npz"
_BOUNDS = {
    Precision.PRECISION_FP32: FP32,
    Precision.PRECISION_FP16: SIXTEEN_BITS,
    Precision.PRECISION_BF16: SIXTEEN_BITS,
    Precision.PRECISION_INT8: EIGHT_BITS,
}


@dataclass(frozen=True)
class Identity:
    """Which bundle of a repository this is."""

    model: str
    version: int


@dataclass(frozen=True)
class Contents:
    """What a bundle says beside its graph.

    Attributes:
        expected: For each output of the graph torch's float32 `[images, ...]` array on the golden images.
        verifications: What was measured of the graph.
    """

    run: Run
    program: torch.export.ExportedProgram
    golden: GoldenSet
    expected: Arrays
    verifications: Sequence[Verification]


def identify(repository: Path, model: str) -> Identity:
    """The identity of a model's next bundle: one above its highest version, 1 where it has none.

    Args:
        repository: A folder of `<model>/<version>/` bundles; it need not exist.
        model: The model's name.

    Returns:
        The identity.

    Raises:
        TargetError: The name cannot be a model's.
    """
    if not NAME.fullmatch(model):
        raise TargetError(
            f"Expected a model name of 1 to 64 characters out of a-z, 0-9, '_' and '-'. Received: {model!r}. "
            "Give one with --name"
        )
    folder = repository / model
    versions = [int(path.name) for path in folder.iterdir() if VERSION.fullmatch(path.name)] if folder.is_dir() else []
    return Identity(model, max(versions, default=0) + 1)


def write(folder: Path, identity: Identity, contents: Contents) -> None:
    """Write everything but the graph, which lies in the folder already; the manifest comes last.

    Args:
        folder: The folder, with the graph in it.
        identity: Which bundle this is.
        contents: What it says.
    """
    images = _write_golden(folder, contents)
    manifest = _manifest(identity, contents, images)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        manifest.files.add(path=name, sha256=sha256_of(path), size_bytes=path.stat().st_size)
    text = json_format.MessageToJson(manifest, preserving_proto_field_name=True)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _write_golden(folder: Path, contents: Contents) -> list[str]:
    (folder / _EXPECTED).parent.mkdir()
    for name, data in contents.golden.files.items():
        (folder / "golden" / name).write_bytes(data)
    np.savez(folder / _EXPECTED, allow_pickle=False, **{name: contents.expected[name] for name in OUTPUTS})
    return [f"golden/{name}" for name in contents.golden.files]


def _manifest(identity: Identity, contents: Contents, images: Sequence[str]) -> bundle_pb2.Manifest:
    run = contents.run
    return bundle_pb2.Manifest(
        format=FORMAT,
        model=identity.model,
        version=identity.version,
        created_time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        geometry=geometry_message(run.geometry),
        labels=run.labels,
        labels_sha256=run.labels_sha256,
        outputs=_outputs(contents),
        graphs=[bundle_pb2.Graph(precision=Precision.PRECISION_FP32, file=GRAPH)],
        golden=bundle_pb2.Golden(
            source=contents.golden.source,
            images=images,
            expected_file=_EXPECTED,
            bounds=[bundle_pb2.GoldenBound(precision=each, **asdict(bound)) for each, bound in _BOUNDS.items()],
        ),
        backbone=bundle_pb2.Backbone(
            name=run.backbone.name,
            source=run.backbone.source,
            licence=run.backbone.licence,
            weights_sha256=run.backbone.weights_sha256 or "",
        ),
        weights_sha256=run.weights_sha256,
        verifications=[bundle_pb2.Verification(**asdict(each)) for each in contents.verifications],
        producers=_producers(),
    )


def _outputs(contents: Contents) -> list[bundle_pb2.Output]:
    logits, embedding = contents.run.output(LOGITS), contents.run.output(EMBEDDING)
    return [
        bundle_pb2.Output(name=LOGITS, kind=OutputKind.OUTPUT_KIND_LOGITS, shape=logits.shape),
        bundle_pb2.Output(
            name=EMBEDDING,
            kind=OutputKind.OUTPUT_KIND_EMBEDDING,
            shape=embedding.shape,
            tap=embedding.tap or "",
            pooling=embedding.pooling or "",
            embedding_space_id=embedding_space_id(contents.run, contents.program, embedding),
        ),
    ]


def _producers() -> dict[str, str]:
    # ONNX Runtime is installed under a name for each of its builds.
    versions = {name: metadata.version(name) for name in ("vertebra", "onnx", "onnxscript")}
    return {**versions, "torch": torch.__version__, "onnxruntime": ort.__version__}
