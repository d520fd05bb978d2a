"""Makes a card of what timm knows of one of its models, for `timm:NAME`; the listed ones have better cards.

timm does not tell how its weights were trained: the card assumes a rate by the kind of network, and says so.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import timm
import torch
from torch import Tensor, nn

from export.run import Recipe, Stage
from training.architectures import building, catalogue
from training.architectures.card import LARGEST_CROP_PX, Card, Sizes
from training.errors import BackboneError

PREFIX = "timm:"
_STAGES = 4
_CONVOLUTIONS = Recipe(
    source="assumed, because timm does not tell it: that of a ResNet (arXiv:1512.03385)",
    data="see its source",
    optimizer="SGD, momentum 0.9",
    learning_rate_per_256=0.1,
    schedule="not told",
    epochs=None,
    weight_decay=1e-4,
)
_TRANSFORMERS = _CONVOLUTIONS.model_copy(
    update={
        "source": "assumed, because timm does not tell it: that of DeiT (arXiv:2012.12877)",
        "optimizer": "AdamW",
        "learning_rate_per_256": 2.5e-4,
        "weight_decay": 0.05,
    }
)


def card(name: str) -> Card:
    """Make the card of one of timm's models.

    Args:
        name: "timm:" and timm's name, with or without the tag of its weights.

    Returns:
        The card; its stages are timm's, with the channels that a forward pass of the untrained module gives.

    Raises:
        BackboneError: timm has no such model, publishes no weights of it, or it gives no maps.
    """
    model = name.removeprefix(PREFIX)
    if not timm.is_model(model):
        raise BackboneError(f"Expected a model of timm. Received: {name}.{_near(model)}")
    made = catalogue.of_timm(name, model, (), _CONVOLUTIONS)
    module = building.build(made.backbone.architecture, 0)
    stages = _stages(module, _maps(module, made.geometry.crop_height_px, name))
    recipe = _TRANSFORMERS if any(isinstance(each, nn.LayerNorm) for each in module.modules()) else _CONVOLUTIONS
    return replace(
        made,
        backbone=made.backbone.model_copy(update={"stages": stages, "recipe": recipe}),
        sizes=_sizes(module, made.geometry.crop_height_px, stages),
    )


def _near(model: str) -> str:
    found = timm.list_models(f"*{model}*")[:5]
    return f" Near it: {', '.join(found)}" if found else ""


def _maps(module: Any, side: int, name: str) -> list[Tensor]:
    if not hasattr(module, "forward_intermediates") or not getattr(module, "feature_info", None):
        raise BackboneError(f"Expected a model of timm that gives the maps of its stages. Received: {name}.")
    try:
        with torch.inference_mode():
            maps: list[Tensor] = module.forward_intermediates(torch.zeros(1, 3, side, side), intermediates_only=True)
    except (AssertionError, NotImplementedError, RuntimeError, TypeError) as error:
        raise BackboneError(f"Expected {name} to give the maps of its stages. Received: {error}") from error
    if len(maps) != len(module.feature_info) or any(each.ndim != 4 for each in maps):
        raise BackboneError(
            f"Expected a map of every stage of {name}. Received: {[list(each.shape) for each in maps]}."
        )
    return maps


def _stages(module: Any, maps: Sequence[Tensor]) -> tuple[Stage, ...]:
    strides = [each["reduction"] for each in module.feature_info]
    return tuple(
        Stage(
            name=f"c{number}",
            stride=strides[place],
            channels=maps[place].shape[1],
            module=module.feature_info[place]["module"],
        )
        for number, place in enumerate(_ends(strides), start=1)
    )


def _ends(strides: Sequence[int]) -> list[int]:
    """The last place of every stride; where there are hardly two, as in a transformer, four at equal distances."""
    ends = [place for place, stride in enumerate(strides) if stride not in strides[place + 1 :]]
    if len(ends) > 2 or len(strides) < _STAGES:
        return ends
    return [len(strides) * number // _STAGES - 1 for number in range(1, _STAGES + 1)]


def _sizes(module: nn.Module, own: int, stages: Sequence[Stage]) -> Sizes:
    coarsest = max(stage.stride for stage in stages)
    said: Any = module
    if said.pretrained_cfg.get("fixed_input_size") and not building.resizes(module):
        return Sizes(own, own, own)
    # Nobody has tried how small its pictures may be.
    return Sizes(min(own, 3 * coarsest), LARGEST_CROP_PX, coarsest if own % coarsest == 0 else 1)
