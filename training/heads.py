"""The heads that read a frozen backbone's taps, as modules; does not train them (fitting.py does)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.run import Head
from training.errors import HeadError

# Of the median deviation of a tap's features.
LEAST = 0.1


def build(head: Head, widths: Mapping[str, int], classes: int) -> nn.Module:
    """Build an untrained head, to be filled at once.

    Args:
        head: What it shall be.
        widths: How many numbers each tap has, by its name.
        classes: How many columns its logits have.

    Returns:
        A module from pooled taps `[N, width]` by name to logits `[N, classes]`.

    Raises:
        HeadError: It reads a tap that there is not.
    """
    if unknown := [tap for tap in head.taps if tap not in widths]:
        raise HeadError(f"Expected a head on the taps {', '.join(widths)}. Received: one on {', '.join(unknown)}.")
    inputs = sum(widths[tap] for tap in head.taps)
    if head.kind == "linear":
        return LinearHead(head.taps, inputs, classes)
    if head.kind == "cosine":
        return CosineHead(head.taps, inputs, classes)
    assert head.hidden is not None  # Head has seen to it
    return MlpHead(head.taps, inputs, head.hidden, classes)


class LinearHead(nn.Module):
    """One linear layer over the taps, one after the other; scaler and temperature are folded into it.

    Args:
        taps: The taps that it reads.
        inputs: How many numbers they have in all.
        classes: How many columns its logits have.
    """

    def __init__(self, taps: tuple[str, ...], inputs: int, classes: int) -> None:
        super().__init__()
        self._taps = taps
        self.linear = nn.Linear(inputs, classes)

    def forward(self, pooled: Mapping[str, Tensor]) -> Tensor:
        """Logits float32 `[N, classes]` of taps float32 `[N, width]` by name."""
        logits: Tensor = self.linear(joined(pooled, self._taps))
        return logits


class MlpHead(nn.Module):
    """Two linear layers with a ReLU between them; the scaler is folded into the first, the temperature into the second.

    Args:
        taps: The taps that it reads.
        inputs: How many numbers they have in all.
        hidden: How many numbers lie between the layers.
        classes: How many columns its logits have.
    """

    def __init__(self, taps: tuple[str, ...], inputs: int, hidden: int, classes: int) -> None:
        super().__init__()
        self._taps = taps
        self.first = nn.Linear(inputs, hidden)
        self.second = nn.Linear(hidden, classes)

    def forward(self, pooled: Mapping[str, Tensor]) -> Tensor:
        """Logits float32 `[N, classes]` of taps float32 `[N, width]` by name."""
        logits: Tensor = self.second(self.first(joined(pooled, self._taps)).relu())
        return logits


class CosineHead(nn.Module):
    """The cosine between the taps and a prototype of each class, times a scale (arXiv:1804.09458).

    Args:
        taps: The taps that it reads.
        inputs: How many numbers they have in all.
        classes: How many prototypes there are.
    """

    scale: Tensor

    def __init__(self, taps: tuple[str, ...], inputs: int, classes: int) -> None:
        super().__init__()
        self._taps = taps
        self.prototypes = nn.Parameter(torch.zeros(classes, inputs))  # of unit length
        self.register_buffer("scale", torch.ones(()))

    def forward(self, pooled: Mapping[str, Tensor]) -> Tensor:
        """Logits float32 `[N, classes]` of taps float32 `[N, width]` by name."""
        return self.scale * functional.linear(unit(joined(pooled, self._taps)), self.prototypes)


def take_off(head: nn.Module, log_prior: Sequence[float]) -> None:
    """Take off each class's logit what a head has learnt of how common the class is.

    Args:
        head: A linear head or an MlpHead; or a CosineHead, which has learnt none of that and stays as it is.
        log_prior: What to take off, for each class.
    """
    if not isinstance(head, CosineHead):
        last = head.get_parameter("linear.bias" if isinstance(head, LinearHead) else "second.bias")
        with torch.no_grad():
            last.sub_(torch.tensor(log_prior))


def joined(pooled: Mapping[str, Tensor], taps: tuple[str, ...]) -> Tensor:
    """The taps one after the other: `[N, their widths in all]`."""
    return torch.cat([pooled[tap] for tap in taps], dim=1)


def unit(vectors: Tensor) -> Tensor:
    """Vectors `[N, D]` scaled to the length one."""
    return functional.normalize(vectors, dim=1)


@dataclass(frozen=True)
class Scaler:
    """What standardises features: each has mean 0 and deviation 1 after it, where it varies as the others do.

    A feature that is nearly silent on these images speaks on others: divided by next to nothing, it would make logits
    of thousands there.

    Attributes:
        mean: float32 `[D]`.
        deviation: float32 `[D]`, at least LEAST of the median of its tap; 1 for a feature that never changes.
    """

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, features: Tensor, widths: Sequence[int]) -> "Scaler":
        """The scaler of features float32 `[N, D]`, of taps that have so many each, which are D together."""
        deviation, mean = torch.std_mean(features, dim=0, correction=0)
        constant = deviation <= 1e-6 * mean.abs().clamp_min(1e-6)
        silent = torch.where(constant, torch.nan, deviation)
        least = torch.cat([(LEAST * tap.nanmedian()).expand(len(tap)) for tap in torch.split(silent, list(widths))])
        return cls(mean, torch.where(constant, 1.0, torch.maximum(deviation, least)))

    def standardise_(self, features: Tensor) -> Tensor:
        """Standardise features `[N, D]` in place, because there may be gigabytes of them."""
        return features.sub_(self.mean).div_(self.deviation)

    def fold_into(self, layer: nn.Linear) -> None:
        """Make a layer that was trained on standardised features one for features as they come."""
        with torch.no_grad():
            layer.weight.div_(self.deviation)
            layer.bias.sub_(layer.weight @ self.mean)
