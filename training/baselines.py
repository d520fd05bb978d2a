"""Simple ways to use the same features, for comparison; does not choose or tune anything."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn import functional

from export.labelled import Split
from export.score import Estimate, wilson
from training.heads import unit
from training.result import Baseline

_NEIGHBOURS = 20
_LEARNING_RATE, _MOMENTUM, _BATCH, _EPOCHS = 0.01, 0.9, 64, 10

_Answer: TypeAlias = Callable[[Tensor], Tensor]  # columns int64 `[M]` for embeddings float32 `[M, D]`


def compare(embedding: Tensor, labels: Tensor, held_out: Mapping[Split, tuple[Tensor, Tensor]]) -> tuple[Baseline, ...]:
    """Learn from the plain embeddings of the training split in simple ways, and test each.

    Args:
        embedding: float32 `[N, D]`.
        labels: int64 `[N]`.
        held_out: Embeddings float32 `[M, D]` and labels int64 `[M]` of the other splits.

    Returns:
        The baselines.
    """
    neighbours = min(_NEIGHBOURS, len(labels))
    ways: list[tuple[str, str, _Answer]] = [
        ("kNN", f"votes of the {neighbours} nearest training images by cosine", _knn(embedding, labels, neighbours)),
        (
            "SGD head",
            f"one linear layer from a random start: SGD, learning rate {_LEARNING_RATE}, momentum {_MOMENTUM}, batch "
            f"{_BATCH}, {_EPOCHS} epochs; nothing standardised, nothing tuned",
            _sgd(embedding, labels),
        ),
    ]
    return tuple(Baseline(name=name, description=what, accuracy=_test(answer, held_out)) for name, what, answer in ways)


def _test(answer: _Answer, held_out: Mapping[Split, tuple[Tensor, Tensor]]) -> dict[Split, Estimate]:
    return {
        split: wilson(int((answer(embedding) == labels).sum()), len(labels))
        for split, (embedding, labels) in held_out.items()
    }


def _knn(embedding: Tensor, labels: Tensor, neighbours: int) -> _Answer:
    # Between vectors of unit length the nearest by distance is the nearest by cosine, and scikit-learn finds it sooner.
    model = KNeighborsClassifier(neighbours).fit(unit(embedding).numpy(), labels.numpy())

    def answer(asked: Tensor) -> Tensor:
        # The threads of scikit-learn and torch wait by spinning, and take the cores from each other.
        with threadpool_limits(1, user_api="blas"):
            return torch.from_numpy(model.predict(unit(asked).numpy()))

    return answer


def _sgd(embedding: Tensor, labels: Tensor) -> _Answer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = nn.Linear(embedding.shape[1], int(labels.max()) + 1)
        optimizer = torch.optim.SGD(layer.parameters(), lr=_LEARNING_RATE, momentum=_MOMENTUM)
        for _ in range(_EPOCHS):
            for batch in torch.split(torch.randperm(len(labels)), _BATCH):
                optimizer.zero_grad()
                torch.autograd.backward(functional.cross_entropy(layer(embedding[batch]), labels[batch]))
                optimizer.step()

    def answer(asked: Tensor) -> Tensor:
        with torch.no_grad():
            columns: Tensor = layer(asked).argmax(dim=1)
        return columns

    return answer
