"""Trains heads on cached features, every choice made by cross-validation inside the training split.

Knows neither where the features came from nor what the held-out images are: it never sees them.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from torch import Tensor, nn
from torch.nn import functional

from export.run import Head
from training import heads, mlp
from training.convergence import Convergence
from training.errors import HeadError
from training.logistic import Problem, Solution
from training.result import Calibration, HeadResult, Trial
from training.tuning import imbalance
from training.tuning.imbalance import Treatment

Kind: TypeAlias = Literal["linear", "mlp", "cosine"]

# From strong to weak, in half decades; a path ends where two more steps have brought nothing.
L2_PATH = tuple(10 ** (0.5 - step / 2) for step in range(14))
_PATIENCE = 2
WEIGHT_DECAYS = (1.0, 0.1)
_FOLDS = 5
# From so many images on three folds tell as much as five: the error of the accuracy is below a third of a point.
_MANY_IMAGES = 20_000
_FEW_FOLDS = 3
# Close enough to compare strengths of L2; the layer that is kept is solved to logistic.TOLERANCE.
_COARSE = 1e-3


@dataclass(frozen=True)
class Examples:
    """What a head learns from.

    Attributes:
        matrix: Gives taps of all views of all images, the plain view first and then view by view: a new float32
            `[views * N, D]`, which may be changed.
        widths: How many numbers each tap has.
        views: How many views there are.
        labels: int64 `[N]`.
        weights: float64 `[N]`, above 0: how much each image counts.
        groups: What must not be divided between folds, for each image; None for an image that is on its own.
        classes: Their names, by column.
        seed: Draws the folds.
        treated: How unequal classes are treated; None where every image is to count alike.
    """

    matrix: Callable[[tuple[str, ...]], Tensor]
    widths: Mapping[str, int]
    views: int
    labels: Tensor
    weights: Tensor
    groups: Sequence[str | None]
    classes: Sequence[str]
    seed: int
    treated: Treatment | None = None

    def repeated(self, per_image: Tensor) -> Tensor:
        """What is said of images `[N]`, of the rows of `matrix`."""
        return per_image.repeat(self.views)

    def right(self, logits: Tensor, asked: Tensor) -> float:
        """What part of some images logits `[N, C]` answer rightly, with all classes counting alike where treated."""
        if self.treated:
            logits = logits - torch.tensor(self.treated.log_prior)
        right, weights = (logits.argmax(dim=1) == self.labels[asked]).double(), self._counts[asked]
        return float((right * weights).sum() / weights.sum())

    @cached_property
    def _counts(self) -> Tensor:
        """How much each image counts where candidates are compared, float64 `[N]`."""
        if not self.treated:
            return self.weights
        return self.weights * torch.from_numpy(imbalance.importance(self.treated, self.labels.tolist()))

    def width_of(self, taps: Sequence[str]) -> tuple[int, ...]:
        """How many numbers each of these taps has."""
        return tuple(self.widths[tap] for tap in taps)


@dataclass(frozen=True)
class Fitted:
    """A trained head, what it is, and the evidence that it was chosen by."""

    module: nn.Module
    head: Head
    result: HeadResult


@dataclass(frozen=True)
class _Part:
    """One fold: which rows are learnt from, by their weights `[views * N]`, and which images are asked about."""

    number: int
    weights: Tensor
    held_out: Tensor


@dataclass(frozen=True)
class _Candidate:
    """One way to train a head, and the logits `[N, C]` that it gave for the images of the folds that it did not see."""

    trial: Trial
    logits: Tensor
    folds: int

    def l2(self) -> float:
        """The strength of its penalty, for heads that have one."""
        assert self.trial.l2 is not None
        return self.trial.l2


def fit(kind: Kind, candidates: Sequence[tuple[str, ...]], examples: Examples) -> Fitted:
    """Train a head.

    Args:
        kind: Which head.
        candidates: The sets of taps to choose from, cheapest first. A linear head tries each of them, a cosine head
            takes the first and an mlp the last.
        examples: What it learns from.

    Returns:
        The head.

    Raises:
        HeadError: A class has fewer than two images that may be divided.
    """
    folds = _folds(examples)
    if kind == "cosine":
        # It learns nothing of how common a class is.
        return _cosine(candidates[0], replace(examples, treated=None), folds)
    fitted = _linear(candidates, examples, folds) if kind == "linear" else _mlp(candidates[-1], examples, folds)
    if examples.treated:
        heads.take_off(fitted.module, examples.treated.log_prior)
    return fitted


def _linear(candidates: Sequence[tuple[str, ...]], examples: Examples, folds: Tensor) -> Fitted:
    tried: list[_Candidate] = []
    for taps in candidates:
        problem, scaler = _problem(taps, examples)
        tried += _path(problem, taps, examples, folds)
    best = _best(tried)
    if best.trial.taps != candidates[-1]:  # the last problem, the largest, is still at hand
        problem, scaler = _problem(best.trial.taps, examples)
    solution = problem.solve(best.l2(), examples.repeated(examples.weights))
    calibration = temperature(best.logits, examples.labels, examples.weights)
    module = linear_head(best.trial.taps, solution, scaler, calibration.temperature)
    head = Head(kind="linear", taps=best.trial.taps)
    return Fitted(module, head, _result(head, module, calibration, tried, Convergence.of(solution)))


def linear_head(
    taps: tuple[str, ...], solution: Solution, scaler: heads.Scaler, temperature: float = 1.0
) -> heads.LinearHead:
    """Make a head of a layer that was solved on standardised features.

    Args:
        taps: What the layer reads.
        solution: The layer.
        scaler: What standardised the features.
        temperature: What the logits are divided by.

    Returns:
        The head, for features as they come.
    """
    module = heads.LinearHead(taps, len(scaler.mean), len(solution.bias))
    with torch.no_grad():
        module.linear.weight.copy_(solution.weight / temperature)
        module.linear.bias.copy_(solution.bias / temperature)
    scaler.fold_into(module.linear)
    return module


def _problem(taps: tuple[str, ...], examples: Examples) -> tuple[Problem, heads.Scaler]:
    features = examples.matrix(taps)
    scaler = heads.Scaler.of(features, examples.width_of(taps))
    return Problem(scaler.standardise_(features), examples.repeated(examples.labels), len(examples.classes)), scaler


def _path(problem: Problem, taps: tuple[str, ...], examples: Examples, folds: Tensor) -> list[_Candidate]:
    """Every strength of L2 from strong to weak, each fold beginning where it ended a strength before."""
    ended: dict[int, Solution] = {}
    tried: list[_Candidate] = []
    for l2 in L2_PATH:

        def answer(part: _Part, l2: float = l2) -> Tensor:
            ended[part.number] = problem.solve(l2, part.weights, ended.get(part.number), _COARSE)
            return problem.logits(ended[part.number], part.held_out)

        tried.append(_candidate(taps, l2, examples, folds, answer))
        if len(tried) - max(tried.index(_best(tried)), tried.index(_surest(tried))) > _PATIENCE:
            break
    return tried


def _mlp(taps: tuple[str, ...], examples: Examples, folds: Tensor) -> Fitted:
    features = examples.matrix(taps)
    scaler = heads.Scaler.of(features, examples.width_of(taps))
    rows = mlp.Rows(scaler.standardise_(features), examples.repeated(examples.labels), len(examples.classes))
    tried: list[_Candidate] = []
    for decay in WEIGHT_DECAYS:

        def answer(part: _Part, decay: float = decay) -> Tensor:
            return mlp.train(rows, part.weights, decay, examples.seed).logits(features[part.held_out])

        tried.append(_candidate(taps, decay, examples, folds, answer))
    best = _best(tried)
    layers = mlp.train(rows, examples.repeated(examples.weights), best.l2(), examples.seed)
    calibration = temperature(best.logits, examples.labels, examples.weights)
    module = heads.MlpHead(taps, len(scaler.mean), mlp.HIDDEN, len(examples.classes))
    with torch.no_grad():
        module.first.load_state_dict(layers.first.state_dict())
        module.second.weight.copy_(layers.second.weight / calibration.temperature)
        module.second.bias.copy_(layers.second.bias / calibration.temperature)
    scaler.fold_into(module.first)
    head = Head(kind="mlp", taps=taps, hidden=mlp.HIDDEN)
    return Fitted(module, head, _result(head, module, calibration, tried))


def _cosine(taps: tuple[str, ...], examples: Examples, folds: Tensor) -> Fitted:
    rows, labels = heads.unit(examples.matrix(taps)), examples.repeated(examples.labels)

    def prototypes(weights: Tensor) -> Tensor:
        """The mean direction of each class, `[C, D]` of unit length."""
        sums = torch.zeros(len(examples.classes), rows.shape[1])
        return heads.unit(sums.index_add_(0, labels, rows * weights.float()[:, None]))

    only = _candidate(taps, None, examples, folds, lambda part: rows[part.held_out] @ prototypes(part.weights).T)
    # A cosine is at most 1: the scale, the inverse of a temperature, is what makes a probability of it.
    calibration = temperature(only.logits, examples.labels, examples.weights)
    module = heads.CosineHead(taps, rows.shape[1], len(examples.classes))
    with torch.no_grad():
        module.prototypes.copy_(prototypes(examples.repeated(examples.weights)))
        module.scale.fill_(1 / calibration.temperature)
    head = Head(kind="cosine", taps=taps)
    return Fitted(module, head, _result(head, module, calibration, [only]))


def temperature(logits: Tensor, labels: Tensor, weights: Tensor) -> Calibration:
    """Find what logits must be divided by for their softmax to be as sure as it is right (arXiv:1706.04599).

    One answer in N + 2 is taken for wrong, as Platt did (1999): a few images, all answered right, are no reason to be
    sure without end.

    Args:
        logits: float32 `[N, C]` of images that the head was not trained on.
        labels: int64 `[N]`.
        weights: float64 `[N]`.

    Returns:
        The temperature, between a 150th and 20, with the log loss without and with it.
    """

    doubt = 1 / (len(labels) + 2)

    def doubtful(log_temperature: float) -> float:
        return _log_loss(logits / np.exp(log_temperature), labels, weights, doubt)

    best = float(np.exp(minimize_scalar(doubtful, bounds=(-5.0, 3.0), method="bounded").x))
    return Calibration(
        temperature=best,
        log_loss_before=_log_loss(logits, labels, weights),
        log_loss_after=_log_loss(logits / best, labels, weights),
    )


def _log_loss(logits: Tensor, labels: Tensor, weights: Tensor, doubt: float = 0.0) -> float:
    each = functional.cross_entropy(logits.double(), labels, reduction="none", label_smoothing=doubt)
    return float((each * weights).sum() / weights.sum())


def _folds(examples: Examples) -> Tensor:
    return folds(examples.labels, examples.groups, examples.classes, examples.seed)


def folds(columns: Tensor, grouped: Sequence[str | None], classes: Sequence[str], seed: int) -> Tensor:
    """Divide images for a cross-validation, every class alike and no group at all.

    Args:
        columns: The label of each image, int64 `[N]`.
        grouped: The group of each; None for an image that is on its own.
        classes: Their names, by column.
        seed: Draws the folds.

    Returns:
        The fold of each image, int64 `[N]`, from 0.

    Raises:
        HeadError: A class has fewer than two images that may be divided.
    """
    labels = columns.numpy()
    # An image without a group is a group of its own.
    groups = [f"{index}" if group is None else f"group {group}" for index, group in enumerate(grouped)]
    apart = Counter(label for label, _ in set(zip(labels.tolist(), groups, strict=True)))
    scarcest = min(range(len(classes)), key=apart.__getitem__)
    count = min(_FEW_FOLDS if len(labels) >= _MANY_IMAGES else _FOLDS, apart[scarcest])
    if count < 2:
        raise HeadError(
            "Expected of every class at least 2 training images that are not of one group. Received: "
            f"{apart[scarcest]} of {classes[scarcest]!r}. Add images, or remove the class."
        )
    drawn = {"n_splits": count, "shuffle": True, "random_state": seed}
    if len(set(groups)) < len(groups):
        parts = StratifiedGroupKFold(**drawn).split(labels, labels, groups)
    else:
        parts = StratifiedKFold(**drawn).split(labels, labels)
    drawn_folds = torch.zeros(len(labels), dtype=torch.int64)
    for number, (_, held_out) in enumerate(parts):
        drawn_folds[torch.from_numpy(held_out)] = number
    return drawn_folds


def _candidate(
    taps: tuple[str, ...],
    l2: float | None,
    examples: Examples,
    folds: Tensor,
    answer: Callable[[_Part], Tensor],
) -> _Candidate:
    logits = torch.zeros(len(folds), len(examples.classes))
    accuracies = []
    for number in range(int(folds.max()) + 1):
        learnt = torch.where(folds == number, 0.0, examples.weights)
        # Rows of the first, plain view: what was augmented is learnt from and never asked about.
        held_out = torch.nonzero(folds == number)[:, 0]
        logits[held_out] = answer(_Part(number, examples.repeated(learnt), held_out))
        accuracies.append(examples.right(logits[held_out], held_out))
    trial = Trial(
        taps=taps,
        l2=l2,
        accuracy=float(np.mean(accuracies)),
        deviation=float(np.std(accuracies, ddof=1)),
        log_loss=_log_loss(logits, examples.labels, examples.weights),
        chosen=False,
    )
    return _Candidate(trial, logits, len(accuracies))


def _best(tried: Sequence[_Candidate]) -> _Candidate:
    """The most accurate; of equals the one that was tried first, which is the cheapest and the most penalised."""
    return max(tried, key=lambda each: each.trial.accuracy)


def _surest(tried: Sequence[_Candidate]) -> _Candidate:
    """That of the lowest log loss, which still falls where all answers are the most frequent class for a while."""
    return min(tried, key=lambda each: each.trial.log_loss)


def _result(
    head: Head,
    module: nn.Module,
    calibration: Calibration,
    tried: Sequence[_Candidate],
    convergence: Convergence | None = None,
) -> HeadResult:
    best = _best(tried)
    return HeadResult(
        kind=head.kind,
        taps=head.taps,
        parameters=sum(each.numel() for each in module.parameters()),
        images=len(best.logits),
        folds=best.folds,
        trials=tuple(each.trial.model_copy(update={"chosen": each is best}) for each in tried),
        convergence=convergence,
        calibration=calibration,
    )
