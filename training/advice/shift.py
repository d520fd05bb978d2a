"""How far images are from those that a backbone was pretrained on, by its batch norms; does not judge what is far.

Every batch norm keeps the mean and variance of each channel of what it saw in pretraining, so no pretraining image is
needed to compare: the same is measured on the images at hand, while the backbone runs as it is.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import Tensor, nn

_Norm: TypeAlias = nn.BatchNorm2d | nn.SyncBatchNorm
_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


def norms(module: nn.Module) -> dict[str, _Norm]:
    """The batch norms of a backbone that keep statistics, by their names, from early to late."""
    return {name: each for name, each in module.named_modules() if isinstance(each, _NORMS) and _keeps(each)}


def moments(module: nn.Module, run: Callable[[Tensor], object], batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """Run images through a backbone and take the moments of what every batch norm sees.

    Args:
        module: The backbone itself; it is left as it was.
        run: Sends pixels through it.
        batches: uint8 `[n, H, W, 3]` each, at least one.

    Returns:
        By the norm's name, float64 `[N, 2, channels]`: of each image the mean over its cells, and that of the squares.
    """
    seen: dict[str, list[Tensor]] = {name: [] for name in norms(module)}
    with _watched(module, seen), torch.inference_mode():
        for batch in batches:
            run(batch)
    return {name: torch.cat(each) for name, each in seen.items()}


def divergences(module: nn.Module, seen: Mapping[str, Tensor]) -> dict[str, float]:
    """Compare what batch norms saw of some images with what they saw in pretraining.

    Args:
        module: The backbone itself.
        seen: What `moments` gave, or the rows of some of its images.

    Returns:
        By the norm's name: the symmetric Kullback-Leibler divergence of two normal distributions, in nats, the mean
        over channels.
    """
    return {name: _divergence(norm, seen[name]) for name, norm in norms(module).items()}


def _keeps(norm: _Norm) -> bool:
    return norm.running_mean is not None and norm.running_var is not None


def _divergence(norm: _Norm, seen: Tensor) -> float:
    assert norm.running_mean is not None  # norms() has seen to it
    assert norm.running_var is not None
    mean, square = seen.mean(dim=0)  # [channels]
    # What the norm itself adds: a channel that is always 0 differs in nothing that matters.
    variance = (square - mean.square()).clamp_min(0) + norm.eps
    known_mean, known_variance = norm.running_mean.double(), norm.running_var.double() + norm.eps
    apart = (mean - known_mean).square()
    each = ((variance + apart) / known_variance + (known_variance + apart) / variance) / 2 - 1
    return float(each.mean())


@contextmanager
def _watched(module: nn.Module, seen: dict[str, list[Tensor]]) -> Iterator[None]:
    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0]  # [n, channels, h, w]
            seen[name].append(torch.stack([x.mean(dim=(2, 3)), x.square().mean(dim=(2, 3))], dim=1).double())

        return hook

    hooks = [norm.register_forward_pre_hook(keep(name)) for name, norm in norms(module).items()]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()
