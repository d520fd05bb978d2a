"""The filters of a backbone's first layer, as pictures; does not know whether training changed them."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from training.architectures import building
from training.architectures.building import RGB
from training.insight import colours


def first_layer(backbone: nn.Module) -> NDArray[np.uint8]:
    """Draw what the filters of the first layer look for.

    Args:
        backbone: As backbones.build makes it, of one or three channels.

    Returns:
        uint8 `[filters, h, w, 3]`: middle grey is a weight of 0, and each filter has its largest weight at full
        brightness or darkness. Those of one channel are grey.
    """
    parameter = backbone.get_parameter(f"{building.stem(backbone)}.weight")
    weight = parameter.detach().cpu().numpy()  # [filters, 1 or 3, h, w]
    largest = np.abs(weight).max(axis=(1, 2, 3), keepdims=True)
    values = weight / np.where(largest == 0, 1, largest)  # -1 to 1
    drawn = np.repeat(values, RGB // values.shape[1], axis=1).transpose(0, 2, 3, 1)
    return np.asarray(np.round((drawn + 1) * 127.5), np.uint8)


def sheet(drawn: NDArray[np.uint8], filter_px: int, columns: int) -> Image.Image:
    """Filters beside and below each other.

    Args:
        drawn: uint8 `[filters, h, w, 3]`.
        filter_px: How many pixels wide each becomes at least, every weight a square.
        columns: How many there are in a row.

    Returns:
        One picture.
    """
    times = -(-filter_px // drawn.shape[2])
    return colours.sheet([colours.enlarged(Image.fromarray(each), times) for each in drawn], columns)
