"""What makes a process compute the same each time, and refuses what cannot; decides nothing else."""

import os

import torch
from torch import nn

from service.bundle import CropGeometry
from training.errors import TuningError
from training.tuning import devices

# What torch writes of an operation that has none: torch.use_deterministic_algorithms.
_HAS_NONE = "deterministic implementation"


def insist() -> dict[str, object]:
    """Make this process compute the same each time, on a GPU too.

    Returns:
        What is to be changed in plans for it, by the names of tuning.plan.Plan: nothing is decided by how fast it was
        just now.
    """
    # cuBLAS asks for it: https://docs.nvidia.com/cuda/cublas/#results-reproducibility
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    return {"precision": "fp32", "channels_last": False}


def check(backbone: nn.Module, geometry: CropGeometry) -> None:
    """Refuse a backbone that this device cannot learn the same twice, if that is insisted on.

    On a GPU the gradients of an adaptive pool to more than one place, which AlexNet and VGG have, are summed in any
    order, and so are those of a bicubic resize, as of a ViT's positions at another crop than it was pretrained on.

    Args:
        backbone: As TappedBackbone is: pixels in, tensors by name out.
        geometry: How large the pixels are.

    Raises:
        TuningError: There is such a gradient.
    """
    if not torch.are_deterministic_algorithms_enabled():
        return
    fabric = devices.launched()
    blank = torch.zeros(1, geometry.crop_height_px, geometry.crop_width_px, 3, dtype=torch.uint8)
    try:
        given = fabric.to_device(backbone).eval()(fabric.to_device(blank))
        sum(each.sum() for each in given.values()).backward()
    except RuntimeError as error:
        if _HAS_NONE not in str(error):
            raise
        raise TuningError(
            f"Expected a backbone that learns the same each time on this device. Received: {error} Train it without "
            "--deterministic, or on the CPU."
        ) from error
    finally:
        backbone.cpu()
