"""Where in an image a model saw what speaks for an answer: Grad-CAM (arXiv:1610.02391); draws nothing.

Own code, because it is few lines: captum and grad-cam bring matplotlib, and do not know which stages a head reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.run import LOGITS, Stage
from training.served import Served


@dataclass(frozen=True)
class Heat:
    """How much each cell of a stage speaks for an answer.

    Attributes:
        stage: The last one that the answer depends on.
        values: float32 `[h, w]`, 1 where most speaks for it and 0 where nothing does; all 0 where nothing does at all.
    """

    stage: Stage
    values: NDArray[np.float32]


def explain(model: Served, stages: Sequence[Stage], pixels: NDArray[np.uint8], column: int) -> Heat:
    """Say where an image has what speaks for an answer.

    Args:
        model: In eval mode; nothing of it is changed, and none of its parameters need take gradients.
        stages: Its stages, from early to late.
        pixels: uint8 `[H, W, 3]`.
        column: The answer, as a column of the logits.

    Returns:
        The heat on the last stage that the answer depends on. Not always the last of all: a transformer that answers
        by a token of its own leaves the others' last numbers unread, and a head may read early stages alone.
    """
    shown = torch.tensor(pixels)[None]  # [1, H, W, 3]
    for stage in reversed(stages):
        activation, gradient = _seen(model, stage, shown, column)
        if gradient.any():
            break
    heat = (gradient.mean(dim=(1, 2), keepdim=True) * activation).sum(dim=0).relu()  # [h, w]
    highest = heat.max()
    return Heat(stage, (heat / highest if highest > 0 else heat).numpy())


def _seen(model: Served, stage: Stage, shown: Tensor, column: int) -> tuple[Tensor, Tensor]:
    """The map of a stage, and the gradient of an answer with respect to it, both `[channels, h, w]`."""
    given: list[Tensor] = []

    def leaf(_: object, __: object, answer: Tensor) -> Tensor:
        # What lies before it needs no gradient. A copy goes on, because some layers write into their input.
        given.append(answer.detach().requires_grad_())
        return given[-1].clone()

    hook = model.backbone.module.get_submodule(stage.module).register_forward_hook(leaf)
    try:
        with torch.enable_grad():
            answers = model(shown)
    finally:
        hook.remove()
    logit = answers[LOGITS][0, column]
    gradient = torch.zeros_like(given[-1])
    if logit.requires_grad:
        (gradient,) = torch.autograd.grad(logit, given[-1:], materialize_grads=True)
    shape = answers[stage.name].shape
    return _as_map(given[-1].detach(), shape)[0], _as_map(gradient, shape)[0]


def _as_map(given: Tensor, shape: Sequence[int]) -> Tensor:
    """What the module of a stage gives, as its map `[1, channels, h, w]`."""
    if given.ndim == 3:  # tokens [1, more than h * w, channels], those of the cells last
        return given[:, -shape[2] * shape[3] :].mT.reshape(tuple(shape))
    return given if given.shape == shape else given.permute(0, 3, 1, 2)
