"""Reads a manifest into a frozen, checked Bundle; neither runs its graph (engine.py) nor judges it (proof.py)."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from google.protobuf import json_format

from service.errors import BundleError
from vertebra.v1 import bundle_pb2

MANIFEST = "manifest.json"
FORMAT = 1
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
VERSION = re.compile(r"[1-9][0-9]{0,8}")
MIN_GOLDEN_IMAGES = 16
_SHA256 = re.compile(r"[0-9a-f]{64}")

Interpolation = bundle_pb2.Interpolation
OutputKind = bundle_pb2.OutputKind
Precision = bundle_pb2.Precision


@dataclass(frozen=True)
class CropGeometry:
    """Resize the shorter side, then cut out the centre; see CropGeometry in bundle.proto."""

    resize_shorter_px: int
    crop_height_px: int
    crop_width_px: int
    interpolation: Interpolation.ValueType


@dataclass(frozen=True)
class Output:
    """One output of the graph: `[N, *shape]` float32; see Output in bundle.proto."""

    name: str
    kind: OutputKind.ValueType
    shape: tuple[int, ...]
    embedding_space_id: str


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest and files have been checked.

    Attributes:
        path: The bundle's folder.
        manifest: The message as read, for those who pass it on; not to be changed.
        manifest_sha256: Names the bundle: the manifest holds the digests of all other files.
    """

    path: Path
    manifest: bundle_pb2.Manifest
    manifest_sha256: str
    geometry: CropGeometry
    labels: tuple[str, ...]
    logits: Output
    embedding: Output

    @property
    def name(self) -> str:
        """The model's name."""
        return self.manifest.model

    @property
    def version(self) -> int:
        """The model's version, at least 1."""
        return self.manifest.version

    @property
    def graph(self) -> Path:
        """The ONNX file."""
        return self.path / self.manifest.graphs[0].file

    @property
    def precision(self) -> Precision.ValueType:
        """What the graph's weights are stored in."""
        return self.manifest.graphs[0].precision


def load(path: Path) -> Bundle:
    """Read and check the bundle in the folder `path`.

    Args:
        path: A folder that holds manifest.json and every file that it lists.

    Returns:
        The bundle, every file of it verified against its digest.

    Raises:
        BundleError: Something is missing, changed, unknown or contradictory; the message names it.
    """
    manifest, manifest_sha256 = _read_manifest(path)
    _check_identity(manifest)
    _check_files(path, manifest)
    _check_bounds(manifest.golden)
    return Bundle(
        path=path,
        manifest=manifest,
        manifest_sha256=manifest_sha256,
        geometry=crop_geometry(manifest.geometry),
        labels=_labels(manifest),
        logits=_output(manifest, OutputKind.OUTPUT_KIND_LOGITS),
        embedding=_output(manifest, OutputKind.OUTPUT_KIND_EMBEDDING),
    )


def crop_geometry(geometry: bundle_pb2.Geometry) -> CropGeometry:
    """Check a manifest's geometry and turn it into the value that image.py works with.

    Args:
        geometry: As the manifest has it.

    Returns:
        The crop, its lengths and filter checked.

    Raises:
        BundleError: No kind is set, a length is zero, the filter is unknown, or the crop exceeds the resized side.
    """
    if geometry.WhichOneof("kind") != "crop":
        raise BundleError(f"Expected a geometry of the kind crop. Received: {geometry.WhichOneof('kind')}.")
    crop = geometry.crop
    if crop.interpolation not in (Interpolation.INTERPOLATION_BILINEAR, Interpolation.INTERPOLATION_BICUBIC):
        raise BundleError(f"Expected interpolation bilinear or bicubic. Received: {crop.interpolation}.")
    if min(crop.crop_height_px, crop.crop_width_px) < 1:
        raise BundleError(f"Expected a crop of at least 1x1. Received: {crop.crop_height_px}x{crop.crop_width_px}.")
    if max(crop.crop_height_px, crop.crop_width_px) > crop.resize_shorter_px:
        raise BundleError(
            f"Expected a crop within the resized shorter side of {crop.resize_shorter_px} pixels. "
            f"Received: {crop.crop_height_px}x{crop.crop_width_px}."
        )
    return CropGeometry(crop.resize_shorter_px, crop.crop_height_px, crop.crop_width_px, crop.interpolation)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, as 64 lower-case hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_manifest(path: Path) -> tuple[bundle_pb2.Manifest, str]:
    # Not whatever can be opened: reading a pipe would wait for ever.
    if not (path / MANIFEST).is_file():
        raise BundleError(f"Expected a bundle, a folder with {MANIFEST}. Received: {path}, which has none.")
    try:
        text = (path / MANIFEST).read_bytes()
    except OSError as error:
        raise BundleError(f"Expected {path / MANIFEST} to be readable. Received: {error.strerror}.") from error
    try:
        manifest = json_format.Parse(text, bundle_pb2.Manifest())
    except (json_format.ParseError, UnicodeDecodeError) as error:
        raise BundleError(
            f"Expected {path / MANIFEST} to be a Manifest of vertebra.v1 in JSON. Received: {error}"
        ) from error
    return manifest, hashlib.sha256(text).hexdigest()


def _check_identity(manifest: bundle_pb2.Manifest) -> None:
    if manifest.format != FORMAT:
        raise BundleError(f"Expected a manifest of format {FORMAT}. Received: format {manifest.format}.")
    if not NAME.fullmatch(manifest.model):
        raise BundleError(f"Expected a model name that matches {NAME.pattern}. Received: {manifest.model!r}.")
    if manifest.version < 1:
        raise BundleError(f"Expected a version of at least 1. Received: {manifest.version}.")


def _check_files(path: Path, manifest: bundle_pb2.Manifest) -> None:
    listed = {file.path for file in manifest.files}
    golden = manifest.golden
    needed = [graph.file for graph in manifest.graphs] + [*golden.images, golden.expected_file]
    if missing := [file for file in needed if file not in listed]:
        raise BundleError(f"Expected the manifest to list every file that it names. Received: no entry for {missing}.")
    if not manifest.graphs:
        raise BundleError("Expected at least one graph. Received: none.")
    if len(golden.images) < MIN_GOLDEN_IMAGES:
        raise BundleError(f"Expected at least {MIN_GOLDEN_IMAGES} golden images. Received: {len(golden.images)}.")
    for file in manifest.files:
        _check_file(path, file)


def _check_file(path: Path, file: bundle_pb2.File) -> None:
    relative = PurePosixPath(file.path)
    if relative.is_absolute() or ".." in relative.parts or not relative.parts:
        raise BundleError(f"Expected a path inside the bundle. Received: {file.path!r}.")
    if (path / relative).exists() and not (path / relative).is_file():
        raise BundleError(f"Expected {file.path} to be a file. Received: something else of that name.")
    try:
        size_bytes = (path / relative).stat().st_size
        sha256 = sha256_of(path / relative) if size_bytes == file.size_bytes else ""
    except OSError as error:
        raise BundleError(f"Expected the file {file.path} in {path}. Received: {error.strerror}.") from error
    if size_bytes != file.size_bytes:
        raise BundleError(f"Expected {file.path} to have {file.size_bytes} bytes. Received: {size_bytes}.")
    if sha256 != file.sha256:
        raise BundleError(f"Expected {file.path} to have the SHA-256 {file.sha256}. Received: {sha256}.")


def _check_bounds(golden: bundle_pb2.Golden) -> None:
    for bound in golden.bounds:
        # A key that was left out reads as 0 and would switch the proof off; NaN would too.
        if not (0 < bound.lowest_cosine <= 1 and 0 < bound.mean_cosine <= 1):
            received = f"{bound.lowest_cosine} and {bound.mean_cosine}"
            raise BundleError(f"Expected golden bounds in (0, 1]. Received: {received}.")
    precisions = Counter(bound.precision for bound in golden.bounds)
    if twice := [Precision.Name(precision) for precision, count in precisions.items() if count > 1]:
        raise BundleError(f"Expected one golden bound a precision. Received: several for {twice}.")


def labels_sha256(labels: Sequence[str]) -> str:
    """Name a label map.

    Args:
        labels: The names of the classes, by column.

    Returns:
        The SHA-256 of the names as a JSON list without spaces, in UTF-8, as 64 lower-case hexadecimal digits.
    """
    return hashlib.sha256(json.dumps(list(labels), ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()


def _labels(manifest: bundle_pb2.Manifest) -> tuple[str, ...]:
    labels = tuple(manifest.labels)
    if "" in labels:
        raise BundleError(f"Expected a name for every label. Received: an empty one at index {labels.index('')}.")
    columns = _output(manifest, OutputKind.OUTPUT_KIND_LOGITS).shape[0]
    if len(labels) != columns:
        raise BundleError(f"Expected {columns} labels, one for each column of the logits. Received: {len(labels)}.")
    if (received := labels_sha256(labels)) != manifest.labels_sha256:
        raise BundleError(f"Expected labels with the SHA-256 {manifest.labels_sha256!r}. Received: {received}.")
    return labels


def _output(manifest: bundle_pb2.Manifest, kind: OutputKind.ValueType) -> Output:
    found = [output for output in manifest.outputs if output.kind == kind]
    if len(found) != 1 or len(found[0].shape) != 1:
        raise BundleError(
            f"Expected exactly one output of the kind {OutputKind.Name(kind)}, a vector. "
            f"Received: {[(output.name, list(output.shape)) for output in found]}."
        )
    output = found[0]
    if [each.name for each in manifest.outputs].count(output.name) != 1:
        raise BundleError(f"Expected outputs of different names. Received: {output.name!r} twice.")
    if kind == OutputKind.OUTPUT_KIND_EMBEDDING and not _SHA256.fullmatch(output.embedding_space_id):
        raise BundleError(
            f"Expected an embedding space id of 64 hexadecimal digits. Received: {output.embedding_space_id!r}."
        )
    return Output(output.name, output.kind, tuple(output.shape), output.embedding_space_id)
