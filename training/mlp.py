"""Trains the two layers of an MLP head on cached features with AdamW; does not choose its settings."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

HIDDEN = 512
_EPOCHS = 30
_LEAST_STEPS = 300  # of few images thirty epochs are a few dozen steps, which leave it near its random start
_BATCH = 256
_LEARNING_RATE = 1e-3
_DROPOUT = 0.5


@dataclass(frozen=True)
class Rows:
    """What is learnt from.

    Attributes:
        features: float32 `[N, D]`, standardised.
        labels: int64 `[N]`.
        classes: How many columns the logits have.
    """

    features: Tensor
    labels: Tensor
    classes: int


@dataclass(frozen=True)
class Layers:
    """The trained layers, without the drop-out that lay between them in training."""

    first: nn.Linear
    second: nn.Linear

    def logits(self, features: Tensor) -> Tensor:
        """float32 `[N, C]` of standardised features float32 `[N, D]`."""
        with torch.no_grad():
            logits: Tensor = self.second(self.first(features).relu())
        return logits


def train(rows: Rows, weights: Tensor, weight_decay: float, seed: int) -> Layers:
    """Train both layers from a random start, the learning rate falling to nothing along a half cosine.

    Args:
        rows: What is learnt from.
        weights: float64 `[N]`, how much each row counts; those of 0 are not looked at.
        weight_decay: AdamW's, on the weights alone.
        seed: Draws the start, the order of the rows and the drop-out.

    Returns:
        The layers, as the last step left them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first = nn.Linear(rows.features.shape[1], HIDDEN)
        second = nn.Linear(HIDDEN, rows.classes)
        _descend(nn.Sequential(first, nn.ReLU(), nn.Dropout(_DROPOUT), second), rows, weights, weight_decay)
    return Layers(first, second)


def _descend(model: nn.Sequential, rows: Rows, weights: Tensor, weight_decay: float) -> None:
    used = torch.nonzero(weights)[:, 0]
    weights = (weights / weights[used].mean()).float()
    decayed = [each for each in model.parameters() if each.ndim > 1]
    free = [each for each in model.parameters() if each.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}],
        lr=_LEARNING_RATE,
        fused=True,  # of few images the steps of millions of weights are what takes the time: one pass, not ten
    )
    batches = -(-len(used) // _BATCH)
    epochs = max(_EPOCHS, -(-_LEAST_STEPS // batches))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    for _ in range(epochs):
        for batch in torch.split(used[torch.randperm(len(used))], _BATCH):
            optimizer.zero_grad()
            each = functional.cross_entropy(model(rows.features[batch]), rows.labels[batch], reduction="none")
            torch.autograd.backward((each * weights[batch]).mean())
            optimizer.step()
            schedule.step()
