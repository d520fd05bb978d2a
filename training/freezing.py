"""What it means that something is frozen: its parameters, its buffers and its mode; does not choose what is."""

import hashlib
import json
from collections.abc import Mapping

from torch import Tensor, nn


class Frozen(nn.Module):
    """Makes the module that it is mixed into one that learns nothing, whatever is done to what holds it.

    After `freeze` no parameter takes a gradient, and the mode stays eval under `.train()`: a batch norm in train mode
    would go on moving its mean and variance, and drop-out would go on dropping, although no parameter learns.
    """

    def freeze(self) -> None:
        """Let no parameter learn, and go into eval mode for good."""
        self.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> "Frozen":
        """Stay in eval mode."""
        del mode
        super().train(False)
        return self


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Name tensors by all that they are: name, dtype, shape and bytes; their order does not matter.

    Args:
        tensors: Parameters and buffers, as a state_dict has them.

    Returns:
        Their SHA-256, 64 lower-case hexadecimal digits.
    """
    hashed = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        hashed.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        hashed.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return hashed.hexdigest()
