"""The backbones that can be had: a card for each, and its pretrained tensors; does not know what they are trained for.

A card says where the weights came from, under which licence, how pixels must be made and how it was pretrained. A
backbone without one cannot be registered, and weights that do not have the card's digest are not loaded. Nothing starts
from random numbers but what `scratch` is asked for.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from service.bundle import CropGeometry, sha256_of
from training.architectures import building, catalogue, unlisted, weights
from training.architectures.building import build, parted
from training.architectures.card import LARGEST_CROP_PX, Card
from training.architectures.labels import imagenet_labels, no_labels
from training.architectures.weights import LoadReport
from training.errors import BackboneError
from training.pretraining import record

# The door: what callers need that lies in the rooms behind it has its name here, too.
__all__ = [
    "CARDS",
    "Card",
    "LoadReport",
    "available",
    "build",
    "card",
    "imagenet_labels",
    "loaded",
    "parted",
    "pretrained",
    "ready",
    "scratch",
    "sized",
    "with_channels",
]

CARDS: Mapping[str, Card] = catalogue.LISTED


def card(name: str) -> Card:
    """Give the card of a backbone.

    Args:
        name: A listed name, or "timm:" and the name of any other model of timm.

    Returns:
        The card. Where its digest is None, `ready` finds the weights and fills it in.

    Raises:
        BackboneError: There is no such backbone.
    """
    if name.startswith(unlisted.PREFIX):
        return unlisted.card(name)
    try:
        return CARDS[name]
    except KeyError as error:
        raise BackboneError(
            f"Expected one of the backbones {', '.join(sorted(CARDS))}, or timm:NAME. Received: {name}."
        ) from error


def available() -> dict[str, Path | str]:
    """Where the weights of every listed backbone lie on this machine, or why they cannot be used, by name."""
    found: dict[str, Path | str] = {}
    for name, chosen in CARDS.items():
        try:
            found[name] = chosen.weights()
        except BackboneError as error:
            found[name] = str(error)
    return found


def sized(chosen: Card, resize_px: int | None, crop_px: int | None) -> CropGeometry:
    """A backbone's own geometry, or another size of it.

    Args:
        chosen: The backbone's card.
        resize_px: What the shorter side becomes; None for the card's, in proportion to the crop.
        crop_px: The side of the square that is cut out; None for the card's.

    Returns:
        The geometry.

    Raises:
        BackboneError: The backbone cannot see such a crop, or the crop is larger than what it is cut from.
    """
    own = chosen.geometry
    crop = crop_px or own.crop_height_px
    resize = resize_px or round(own.resize_shorter_px * crop / own.crop_height_px)
    seen = chosen.seen()
    if crop not in seen:
        raise BackboneError(
            f"Expected a crop of {seen.smallest_px} to {seen.largest_px} pixels, a multiple of {seen.step_px}, for "
            f"{chosen.backbone.name}. Received: {crop}."
        )
    if not crop <= resize <= LARGEST_CROP_PX * 2:
        raise BackboneError(
            f"Expected a resize of {crop} (the crop) to {LARGEST_CROP_PX * 2} pixels. Received: {resize}."
        )
    return replace(own, resize_shorter_px=resize, crop_height_px=crop, crop_width_px=crop)


def with_channels(chosen: Card, count: int) -> Card:
    """The same backbone with an input of `count` channels; the pretrained stem is adapted when it is loaded."""
    architecture = building.with_channels(chosen.backbone.architecture, count)
    return replace(chosen, backbone=chosen.backbone.model_copy(update={"architecture": architecture}))


def ready(chosen: Card, file: Path | None = None, download: bool = False) -> Card:
    """Find a backbone's weights, so that its card names the very file.

    Args:
        chosen: The backbone's card.
        file: A file of weights to take instead of the published ones; .safetensors, or .pth and .pt without code.
        download: Whether the published ones may be fetched where they are not on this machine.

    Returns:
        The card with the file's digest. Of a file of one's own it says so, and has no labels where the classifier in it
        is not of the published classes: it can then be trained, and not be served as it is. Of a file that `pretrain`
        made it says what it was made of, and by which recipe.

    Raises:
        BackboneError: The weights are not there, and the message says how to get them; they do not have the card's
            digest; or they cannot be read.
    """
    if file is not None:
        return _of_file(chosen, file)
    try:
        path = chosen.weights()
    except BackboneError:
        if not download or chosen.download is None:
            raise
        path = chosen.download()
    backbone = chosen.backbone.model_copy(update={"weights_sha256": _checked(chosen, path)})
    return replace(chosen, backbone=backbone, weights=lambda: path)


def _of_file(chosen: Card, file: Path) -> Card:
    made = record.of(file)
    if made and made.architecture != chosen.backbone.architecture:
        raise BackboneError(
            f"Expected a pretraining of {chosen.backbone.name}. Received: {file}, one of {made.backbone}."
        )
    contents = weights.read(file)
    columns = len(chosen.labels())
    module = build(chosen.backbone.architecture, columns)
    fits = columns > 0 and weights.has_classifier(module, contents)
    update: dict[str, Any] = {
        "source": f"the file {file.name}, given by who made the run, for {chosen.backbone.name}",
        "licence": "as the author of the file says",
        "weights_sha256": sha256_of(file),
    }
    return replace(
        chosen,
        backbone=made.described(chosen.backbone) if made else chosen.backbone.model_copy(update=update),
        labels=chosen.labels if fits else no_labels,
        weights=lambda: file,
        sha256_prefix="",
    )


def _checked(chosen: Card, path: Path) -> str:
    try:
        received = sha256_of(path)
    except OSError as error:
        raise BackboneError(f"Expected a file of weights that can be read. Received: {path}: {error}") from error
    expected = chosen.backbone.weights_sha256 or chosen.sha256_prefix
    if not received.startswith(expected):
        begins = "" if chosen.backbone.weights_sha256 else "that begins with "
        raise BackboneError(f"Expected {path} to have the SHA-256 {begins}{expected}. Received: {received}.")
    return received


def pretrained(chosen: Card) -> torch.nn.Module:
    """Build a backbone with its pretrained weights and its original head.

    Args:
        chosen: The backbone's card.

    Returns:
        The module, in eval mode.

    Raises:
        BackboneError: The weights are missing, have another digest, or do not fit the architecture.
    """
    return loaded(chosen)[0]


def loaded(chosen: Card) -> tuple[torch.nn.Module, LoadReport]:
    """As `pretrained`, with what came of every tensor of the file.

    Args:
        chosen: The backbone's card.

    Returns:
        The module, in eval mode, and the report.

    Raises:
        BackboneError: As of `pretrained`.
    """
    path = chosen.weights()
    _checked(chosen, path)
    module = build(chosen.backbone.architecture, len(chosen.labels()))
    return module, weights.load(module, weights.read(path), chosen.unused)


def scratch(chosen: Card, seed: int) -> tuple[Card, torch.nn.Module]:
    """Start a backbone from random numbers, as its makers did.

    Args:
        chosen: The backbone's card.
        seed: Draws the numbers.

    Returns:
        A card that says that nothing was pretrained, and the module without a classifier, in eval mode.
    """

    def none() -> Path:
        raise BackboneError(f"Expected pretrained weights. Received: {chosen.backbone.name} from scratch, without.")

    update = {"source": f"pretrained: none; random start of seed {seed}", "licence": "none", "weights_sha256": None}
    card = replace(
        chosen,
        backbone=chosen.backbone.model_copy(update=update),
        labels=no_labels,
        weights=none,
        download=None,
        sha256_prefix="",
    )
    return card, building.untrained(chosen.backbone.architecture, 0, seed)
