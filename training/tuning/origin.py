"""Where the numbers of a tensor come from, and the rule that no random one is trained together with pretrained ones.

The first gradients that a random layer sends back are noise, and would spoil what lies before it. Does not know how a
head is made: one that a linear probe gave is warmed.
"""

from collections.abc import Collection, Mapping
from typing import Literal, TypeAlias

from training.errors import TuningError

Origin: TypeAlias = Literal["pretrained", "warmed", "random"]
Origins: TypeAlias = Mapping[str, Origin]

_SHOWN = 3


def check(trained: Collection[str], parameters: Collection[str], origins: Origins) -> None:
    """Refuse what would train random tensors together with others, or over others that stay random.

    Args:
        trained: The parameters that will be trained.
        parameters: All parameters.
        origins: Where each of them comes from.

    Raises:
        TuningError: A parameter's origin is not said, or the plan breaks the rule.
    """
    if unknown := [name for name in parameters if name not in origins]:
        raise TuningError(f"Expected the origin of every parameter. Received: none of {named(unknown)}.")
    random = [name for name in parameters if origins[name] == "random"]
    if left := [name for name in random if name not in trained]:
        raise TuningError(
            f"Expected no random tensor among those that stay frozen. Received: {named(left)}. Unfreeze them or load "
            "pretrained weights"
        )
    if random and len(random) < len(trained):
        raise TuningError(
            f"Expected every layer to have been trained before pretrained ones are unfrozen. Received: "
            f"{named(random)}, which are random. Start the head from a linear probe"
        )


def named(names: Collection[str]) -> str:
    """The first few of some names, and how many more there are."""
    shown = ", ".join(list(names)[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
