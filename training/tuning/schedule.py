"""How the learning rate goes up and down by the step; does not know how high it is."""

import math


def factor(step: int, steps: int, warm_up: float) -> float:
    """What part of its highest value the rate has: a line up, then a cosine down to zero behind the last step.

    Args:
        step: From 0.
        steps: How many there are in all epochs.
        warm_up: The fraction of them in which the rate rises.

    Returns:
        More than 0, so that no step is wasted, and at most 1.
    """
    rising = round(steps * warm_up)
    if step < rising:
        return (step + 1) / (rising + 1)
    return (1 + math.cos(math.pi * (step - rising) / (steps - rising))) / 2
