"""Learning rates, derived from the one that a backbone was pretrained with; does not know how they change by step."""

from collections.abc import Sequence

from export.run import Recipe

# Of the original: the weights are to be moved a little from where they are, not to be found again.
FINE_TUNING = 0.1
_PER_IMAGES = 256


def original(recipe: Recipe, batch_size: int) -> float:
    """The rate of the pretraining, scaled with the batch (arXiv:1706.02677)."""
    return recipe.learning_rate_per_256 * batch_size / _PER_IMAGES


def fine_tuning(recipe: Recipe, batch_size: int) -> float:
    """A tenth of the original: what pretrained weights are trained on with."""
    return original(recipe, batch_size) * FINE_TUNING


def by_part(rate: float, layer_decay: float, trained: Sequence[str]) -> dict[str, float]:
    """The rate of each trained part: the later, the higher.

    Args:
        rate: Of the last part, which the head shares.
        layer_decay: What a part has of the rate of the one behind it.
        trained: The trained parts from first to last.

    Returns:
        Their rates, by name.
    """
    return {part: rate * layer_decay**distance for distance, part in enumerate(reversed(trained))}


def warnings(rate: float, recipe: Recipe, batch_size: int, *, from_random: bool) -> tuple[str, ...]:
    """What a person should know of a rate before anything is trained with it.

    Args:
        rate: The highest.
        recipe: How the backbone was pretrained.
        batch_size: Images a step.
        from_random: Whether nothing is pretrained.

    Returns:
        Sentences; none where all is well.
    """
    most = original(recipe, batch_size)
    if from_random or rate <= most:
        return ()
    return (
        f"The learning rate {rate:.3g} is over {most:.3g}, which this backbone was pretrained with "
        f"({recipe.optimizer}, {recipe.learning_rate_per_256:g} for each {_PER_IMAGES} images): what it has learnt may "
        "be lost. Look at how the training loss begins in the report: where it rises at first, give a lower --rate.",
    )
