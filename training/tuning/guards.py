"""What must hold before and while a model is trained, and what to tell a person where it does not; trains nothing."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from training.errors import ExplodedError, FrozenError, TuningError
from training.freezing import digest
from training.tuning.feed import CutBatch, Shown
from training.tuning.loss import Objective
from training.tuning.model import Tunable
from training.tuning.origin import named

# A smoothed loss of so many times the larger of that of the first steps and that of guessing has exploded.
_EXPLODED = 3.0
# How near a mean loss comes to that of guessing where nothing was learnt.
_GUESSING = 0.02


def check_numbers(tensors: Mapping[str, Tensor]) -> None:
    """Refuse a model with something else than numbers in it.

    Args:
        tensors: All that it has.

    Raises:
        TuningError: A tensor has NaN or infinity.
    """
    if broken := [name for name, each in tensors.items() if not torch.isfinite(each).all()]:
        raise TuningError(f"Expected weights that are numbers. Received: NaN or infinity in {named(broken)}.")


def unreached(model: Tunable, objective: Objective, batch: Shown) -> list[str]:
    """The trained parameters that no gradient reaches, because the head reads nothing behind them.

    Args:
        model: Arranged for a plan; its gradients are cleared.
        objective: How a step is computed.
        batch: Any batch.

    Returns:
        Their names.
    """
    # In eval mode nothing but gradients is left behind.
    model.eval()
    torch.autograd.backward(objective.loss(model, first(batch, 2)))
    names = [name for name, parameter in model.trained().items() if parameter.grad is None]
    model.zero_grad()
    return names


def first(batch: Shown, count: int) -> Shown:
    """The first images of a batch, each of which counts once."""
    targets, weights = batch.targets[:count], torch.ones(min(count, len(batch.weights)))
    if isinstance(batch, CutBatch):
        return CutBatch(batch.map[:count], {tap: each[:count] for tap, each in batch.taps.items()}, targets, weights)
    return type(batch)(batch.pixels[:count], targets, weights)


class Seal:
    """Digests of tensors that are not to change.

    Args:
        tensors: As they are now.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._digests = {name: digest({name: each}) for name, each in tensors.items()}

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Look whether they are as they were.

        Args:
            tensors: The same, now.

        Raises:
            FrozenError: One of them has changed.
        """
        changed = [name for name, before in self._digests.items() if digest({name: tensors[name]}) != before]
        if changed:
            raise FrozenError(
                f"Expected {len(self._digests)} frozen tensors to stay as they were. Received: changes in "
                f"{named(changed)}."
            )


class Guard:
    """Stops a training whose loss has exploded, before hours are spent on it.

    Args:
        classes: How many there are.
        steps: How many steps there will be.
    """

    def __init__(self, classes: int, steps: int) -> None:
        self._guessing = math.log(classes)
        self._steps = steps

    def check_loss(self, loss: float, smooth: float, first: float, step: int, rate: float) -> None:
        """Look at the loss of a step.

        Args:
            loss: The step's.
            smooth: The moving average of the last ones.
            first: The lowest of the first ones.
            step: Which step, from 0.
            rate: The learning rate.

        Raises:
            ExplodedError: It is no number, or has become many times what it was.
        """
        limit = _EXPLODED * max(first, self._guessing)
        if not math.isfinite(loss) or smooth > limit:
            raise self._exploded(f"{loss:.4g}, {smooth:.4g} smoothed", f"at most {limit:.4g}", step, rate)

    def check_gradient(self, length: float, step: int, rate: float) -> None:
        """Look at the length of a step's gradient; ExplodedError where it is no number."""
        if not math.isfinite(length):
            raise self._exploded(f"a gradient of length {length}", "a finite gradient", step, rate)

    def notes(self, loss: float) -> tuple[str, ...]:
        """What the mean loss of the last epoch says to a person."""
        if self._guessing and abs(loss - self._guessing) < _GUESSING * self._guessing:
            return (
                f"The loss ended at {loss:.3f}, which is what guessing gives (the logarithm of the number of classes, "
                f"{self._guessing:.3f}): nothing was learnt. Try a higher learning rate, and look whether the labels "
                "belong to their images.",
            )
        return ()

    def _exploded(self, received: str, expected: str, step: int, rate: float) -> ExplodedError:
        return ExplodedError(
            f"Expected {expected} in step {step + 1} of {self._steps}. Received: {received}, at the learning rate "
            f"{rate:.3g}. The training has come apart: lower the learning rate; a third of it is a good next try"
        )
