"""What a pretraining was, as it is kept beside the weights that it made; does not know how it is done.

folder/backbone.safetensors    every tensor of the backbone, by its name in the module
folder/pretraining.json        the message Pretraining
folder/images.txt              the SHA-256 of every image that was learnt from, a line each
folder/curves.jsonl            what was measured at every step and epoch, a line of JSON each
folder/tensorboard             the same as event files, where tensorboard is installed
"""

from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from export.document import Document
from export.run import Backbone, Geometry, Recipe, Sha256
from service.bundle import sha256_of
from training.errors import BackboneError
from training.result import Fault

WEIGHTS = "backbone.safetensors"
PRETRAINING = "pretraining.json"
IMAGES = "images.txt"
CURVES = "curves.jsonl"
_SHORT = 12


class Parent(Document):
    """The weights that a pretraining began with."""

    source: str
    licence: str
    weights_sha256: Sha256


class Epoch(Document):
    """What one epoch brought.

    Attributes:
        loss: The mean while it trained.
        spread: How far apart the embeddings of the last batch lie, as a part of their length; 0 where all are alike.
        seconds: What it took.
    """

    loss: float
    spread: float
    seconds: float


class Pretraining(Document):
    """A backbone that has learnt from images without labels, and how.

    Attributes:
        method: One of training.pretraining.methods.
        images: How many it learnt from.
        data: Where they came from, as a person gave it.
        data_sha256: Names them.
        left_out: What could not be used, and why.
        backbone: The name of the card.
        architecture: As the card has it.
        geometry: How large the pictures were.
        parent: The weights that it began with; None for random numbers.
        seed: Every random number followed from it.
        batch_size: Images a step.
        optimizer: In words, with its weight decay.
        rate: The highest learning rate.
        history: The epochs.
        notes: What a person should know, in plain words.
        seconds: What it took.
        weights_sha256: Of the file of weights beside it.
    """

    format: Literal[1] = 1
    method: str
    images: int
    data: str
    data_sha256: Sha256
    left_out: tuple[Fault, ...]
    backbone: str
    architecture: str
    geometry: Geometry
    parent: Parent | None
    seed: int
    batch_size: int
    optimizer: str
    rate: float
    weight_decay: float
    history: tuple[Epoch, ...]
    notes: tuple[str, ...]
    seconds: float
    weights_sha256: Sha256

    def described(self, backbone: Backbone) -> Backbone:
        """The card of a backbone with these weights.

        Args:
            backbone: Its published card.

        Returns:
            The same with where the weights come from, and the recipe that they were made by.
        """
        begun = f"the weights of {self.parent.source}" if self.parent else f"random numbers of seed {self.seed}"
        seen = f"{self.images} images without labels ({self.data}, SHA-256 {self.data_sha256[:_SHORT]})"
        update = {
            "source": f"self-pretrained by {self.method} on {seen}, from {begun}",
            "licence": self.parent.licence
            if self.parent
            else "that of the images that it learnt from, which is not known here",
            "weights_sha256": self.weights_sha256,
            "recipe": Recipe(
                source="vertebra-train pretrain",
                data=seen,
                optimizer=self.optimizer,
                learning_rate_per_256=self.rate * 256 / self.batch_size,
                schedule="a line up, then a cosine to zero",
                epochs=len(self.history),
                weight_decay=self.weight_decay,
            ),
        }
        return backbone.model_copy(update=update)

    def summary(self) -> tuple[str, ...]:
        """What a person wants to know first, and what speaks against using it."""
        first, last = self.history[0], self.history[-1]
        return (
            f"{self.method} on {self.images} images: loss {first.loss:.4g} in the first epoch, {last.loss:.4g} in the "
            f"last of {len(self.history)}; embeddings lie {last.spread:.0%} of their length apart",
            *self.notes,
        )


def weights(folder: Path) -> Path:
    """The file of weights of a pretraining.

    Args:
        folder: As `vertebra-train pretrain` wrote it.

    Returns:
        The file.

    Raises:
        BackboneError: The folder is no pretraining.
    """
    if not (folder / PRETRAINING).is_file():
        raise BackboneError(
            f"Expected the folder of a pretraining, which has a {PRETRAINING}. Received: {folder}, which has none. "
            "Make one with: vertebra-train pretrain"
        )
    return folder / WEIGHTS


def of(file: Path) -> Pretraining | None:
    """What is known of the pretraining that made a file of weights.

    Args:
        file: Any file of weights.

    Returns:
        The pretraining; None of a file that is not of one.

    Raises:
        BackboneError: What is said of it cannot be read, or is of another file.
    """
    said = file.parent / PRETRAINING
    if file.name != WEIGHTS or not said.is_file():
        return None
    try:
        made = Pretraining.model_validate_json(said.read_bytes())
    except (OSError, ValidationError) as error:
        first = error.errors(include_url=False)[0] if isinstance(error, ValidationError) else None
        received = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else str(error)
        raise BackboneError(f"Expected {said} as vertebra-train pretrain wrote it. Received: {received}.") from error
    if (received := sha256_of(file)) != made.weights_sha256:
        raise BackboneError(f"Expected {file} to have the SHA-256 {made.weights_sha256}. Received: {received}.")
    return made


def seen(folder: Path) -> frozenset[bytes]:
    """The digests of the images that a pretraining has learnt from.

    Args:
        folder: The pretraining's.

    Returns:
        32 bytes each.

    Raises:
        BackboneError: They cannot be read.
    """
    try:
        lines = (folder / IMAGES).read_text(encoding="ascii").split()
        return frozenset(bytes.fromhex(line) for line in lines)
    except (OSError, ValueError) as error:
        raise BackboneError(
            f"Expected {folder / IMAGES} as vertebra-train pretrain wrote it. Received: {error}."
        ) from error
