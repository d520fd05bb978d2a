"""A run: what training hands to export, and its folder; knows neither how it was trained nor what becomes of it.

weights.safetensors    every tensor of the model, by its name in the module; lasts for ever
run.json               everything else that must be known of them, the message Run; lasts for ever
model.pt2              a torch program of both (program.py), which `vertebra-train refresh` rebuilds
"""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeAlias
from uuid import uuid4

import torch
from google.protobuf import json_format
from pydantic import BeforeValidator, Field, PlainSerializer, ValidationError, model_validator
from safetensors.torch import load_file
from safetensors.torch import save as serialize

from export import program, staging
from export.document import Document
from export.errors import RunError
from service.bundle import CropGeometry, crop_geometry, labels_sha256, sha256_of
from service.errors import BundleError
from vertebra.v1 import bundle_pb2

RUN = "run.json"
WEIGHTS = "weights.safetensors"
PROGRAM = "model.pt2"

LOGITS = "logits"
EMBEDDING = "embedding"


def _geometry_from_json(value: Any) -> CropGeometry:
    if isinstance(value, CropGeometry):
        return value
    try:
        return crop_geometry(json_format.ParseDict(value, bundle_pb2.Geometry()))
    except (BundleError, json_format.ParseError) as error:
        raise ValueError(str(error)) from error


def _geometry_to_json(geometry: CropGeometry) -> dict[str, Any]:
    return json_format.MessageToDict(geometry_message(geometry), preserving_proto_field_name=True)


def geometry_message(geometry: CropGeometry) -> bundle_pb2.Geometry:
    """The geometry as a manifest has it."""
    return bundle_pb2.Geometry(
        crop=bundle_pb2.CropGeometry(
            resize_shorter_px=geometry.resize_shorter_px,
            crop_height_px=geometry.crop_height_px,
            crop_width_px=geometry.crop_width_px,
            interpolation=geometry.interpolation,
        )
    )


Geometry = Annotated[CropGeometry, BeforeValidator(_geometry_from_json), PlainSerializer(_geometry_to_json)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Triple = tuple[float, float, float]
# What is trained: nothing; a head; a head on several stages, or the last stages; late stages; everything; everything,
# from a random start.
Regime: TypeAlias = Literal["as-is", "small-similar", "small-different", "large-similar", "large-different", "scratch"]


class Scaling(Document):
    """How 8-bit numbers become the backbone's input: (pixel / 255 - mean) / deviation, a channel of RGB each."""

    mean: Triple
    deviation: Triple


class Stage(Document):
    """A part of a backbone that ends in a feature map of `channels` at one `stride`; `module` is its last, in timm."""

    name: str
    stride: int
    channels: int
    module: str


class Probe(Document):
    """A place inside a backbone that only heads read, as the mean over its cells; `module` gives it, in timm."""

    name: str
    channels: int
    module: str


class Recipe(Document):
    """How a backbone was pretrained, and where that is written; learning rates of a fine-tune are derived from it."""

    source: str
    data: str
    optimizer: str
    learning_rate_per_256: float
    schedule: str
    epochs: int | None
    weight_decay: float


class Backbone(Document):
    """What is known of the backbone that a model was made from; `weights_sha256` is of the pretrained file, if any."""

    name: str
    architecture: str
    source: str
    licence: str
    weights_sha256: Sha256 | None
    stages: tuple[Stage, ...]
    probes: tuple[Probe, ...]
    recipe: Recipe

    def taps(self) -> tuple[str, ...]:
        """The names of all that a head may read."""
        return (*(stage.name for stage in self.stages), *(probe.name for probe in self.probes), EMBEDDING)


class Output(Document):
    """One output of the program: `[N, *shape]` float32, from one tap of the backbone or, as logits, from the head."""

    name: str
    kind: Literal["feature_map", "embedding", "logits"]
    shape: tuple[int, ...]
    tap: str | None = None
    stride: int | None = None
    pooling: Literal["avg"] | None = None


class Head(Document):
    """What makes logits of the taps: with backbone and weights, enough to build the model again.

    Attributes:
        kind: "linear" takes the taps one after the other through one linear layer, "mlp" through two with a ReLU
            between them, "cosine" takes the cosine to a prototype of each class.
        taps: The stages and probes that it reads, each as the mean over its cells, and the embedding.
        hidden: The width between the two layers of an mlp.
    """

    kind: Literal["linear", "mlp", "cosine"]
    taps: Annotated[tuple[str, ...], Field(min_length=1)]
    hidden: int | None = None

    @model_validator(mode="after")
    def _a_width_for_an_mlp(self) -> "Head":
        if (self.kind == "mlp") != (self.hidden is not None):
            raise ValueError(f"Expected how many numbers lie between two layers, of an mlp alone. Got {self.hidden}")
        return self


class Decision(Document):
    """Which regime a model was made with, and why."""

    name: Regime
    reason: str


class Run(Document):
    """Everything that must be known of a model's weights, for ever.

    Attributes:
        created_time: When the weights were final, in UTC.
        trained: The tensors that training made; all others are the pretrained file's, bit by bit.
        labels: The class names by column of the logits.
        labels_sha256: Names the label map; see labelled.labels_sha256.
        outputs: What the program answers, in its order.
        metrics: What was measured on held-out images, by name; empty where nothing was.
        data_sha256: Names the images that the model learnt from; None where it learnt from none.
        weights_sha256: The digest of the weights file.
    """

    format: Literal[2] = 2
    created_time: datetime = Field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    regime: Decision
    backbone: Backbone
    geometry: Geometry
    scaling: Scaling
    head: Head
    trained: tuple[str, ...]
    labels: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
    labels_sha256: Sha256
    outputs: tuple[Output, ...]
    metrics: Mapping[str, float]
    data_sha256: Sha256 | None
    weights_sha256: Sha256

    @model_validator(mode="after")
    def _one_label_a_column(self) -> "Run":
        shape = self.output(LOGITS).shape
        if shape != (len(self.labels),):
            raise ValueError(f"Expected a label for each column of the logits {list(shape)}. Got {len(self.labels)}")
        return self

    @model_validator(mode="after")
    def _the_label_map_that_was_trained(self) -> "Run":
        if (received := labels_sha256(self.labels)) != self.labels_sha256:
            raise ValueError(f"Expected labels with the SHA-256 {self.labels_sha256}. Got labels with {received}")
        return self

    def output(self, name: str) -> Output:
        """The output `name`; ValueError where there is none."""
        for output in self.outputs:
            if output.name == name:
                return output
        raise ValueError(f"Expected an output {name}. Received: {[output.name for output in self.outputs]}.")


def digest(model: torch.export.ExportedProgram) -> str:
    """The digest that the weights file of a program will have."""
    return hashlib.sha256(_weights_file(model)).hexdigest()


def _weights_file(model: torch.export.ExportedProgram) -> bytes:
    return serialize({name: tensor.contiguous() for name, tensor in model.state_dict.items()})


def write(
    path: Path, run: Run, model: torch.export.ExportedProgram, reports: Mapping[str, str | Path] = MappingProxyType({})
) -> None:
    """Write a run's folder, whole or not at all.

    Args:
        path: The folder, which must not exist.
        run: What is known of the model.
        model: Its program, with the run's outputs in their order.
        reports: What is to lie beside it, by name: texts, or folders of files, which are copied.

    Raises:
        RunError: The run contradicts the program.
        TargetError: The folder exists.
    """
    _check_program(run, model)
    with staging.staged(path, beside=path.parent) as folder:
        (folder / WEIGHTS).write_bytes(_weights_file(model))
        program.save(model, folder / PROGRAM, run.weights_sha256)
        for name, report in reports.items():
            if isinstance(report, Path):
                staging.copy_files(report, folder / name)
            else:
                (folder / name).write_text(report, encoding="utf-8")
        (folder / RUN).write_text(run.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read(path: Path) -> Run:
    """Read what is known of a run, its weights checked against their digest.

    Args:
        path: The run's folder.

    Returns:
        The run.

    Raises:
        RunError: The folder is no run, or its weights were changed.
    """
    try:
        text = (path / RUN).read_bytes()
    except FileNotFoundError as error:
        received = f"{path}, which has none" if path.is_dir() else f"{path}, which does not exist"
        raise RunError(f"Expected a run: a folder with {RUN}. Received: {received}.") from error
    except OSError as error:
        raise RunError(f"Expected a run: a folder with {RUN}. Received: {path}: {error.strerror}.") from error
    try:
        run = Run.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise RunError(f"Expected {path / RUN} to be a run of format 2. Received: {place}: {first['msg']}.") from error
    try:
        received = sha256_of(path / WEIGHTS)
    except OSError as error:
        raise RunError(f"Expected the file {WEIGHTS} in {path}. Received: {error.strerror}.") from error
    if received != run.weights_sha256:
        raise RunError(f"Expected {path / WEIGHTS} to have the SHA-256 {run.weights_sha256}. Received: {received}.")
    return run


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of the run in the folder `path`, by their names in the module."""
    return load_file(path / WEIGHTS)


def read_program(path: Path, run: Run) -> torch.export.ExportedProgram:
    """Load the program of a run.

    Args:
        path: The run's folder.
        run: What `read` gave of it.

    Returns:
        The program, with the run's outputs in their order.

    Raises:
        ProgramError: It must be rebuilt; see program.load.
        RunError: The run contradicts the program.
    """
    model = program.load(path / PROGRAM, run.weights_sha256)
    _check_outputs(run, model)
    return model


def _check_program(run: Run, model: torch.export.ExportedProgram) -> None:
    _check_outputs(run, model)
    if (received := digest(model)) != run.weights_sha256:
        raise RunError(f"Expected a program of the weights {run.weights_sha256}. Received: one of {received}.")


def _check_outputs(run: Run, model: torch.export.ExportedProgram) -> None:
    expected = {output.name: output.shape for output in run.outputs}
    received = program.output_shapes(model)
    if list(expected.items()) != list(received.items()):
        raise RunError(f"Expected the outputs {expected}, as {RUN} has them. Received: a program with {received}.")


def replace_program(path: Path, run: Run, model: torch.export.ExportedProgram) -> None:
    """Put another program into a run's folder, whole or not at all.

    Args:
        path: The run's folder.
        run: What is known of the model.
        model: The program, of the same weights.

    Raises:
        RunError: The run contradicts the program.
    """
    _check_program(run, model)
    draft = path / f".{uuid4().hex}.pt2"
    try:
        program.save(model, draft, run.weights_sha256)
        draft.replace(path / PROGRAM)
    finally:
        draft.unlink(missing_ok=True)
