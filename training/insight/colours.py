"""Makes pictures of numbers: colours, overlays, sheets of tiles; does not know what the numbers mean."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Viridis and inferno of matplotlib (CC0) at equal steps: as bright as their number is high, for all eyes and in print.
_VIRIDIS = ("440154", "482878", "3e4989", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725")
_INFERNO = ("000004", "1b0c41", "4a0c6b", "781c6d", "a52c60", "cf4446", "ed6925", "fb9b06", "f7d13d", "fcffa4")
_LEVELS = 256
# How much of the picture is still seen below the hottest place, and how bright one is where nothing is hot.
_COVER, _DIM = 0.75, 0.55
_GAP_PX = 4
_PAPER = 24


def coloured(values: NDArray[np.float32]) -> Image.Image:
    """A picture of numbers `[h, w]` from 0 to 1, a pixel each: dark blue is 0, yellow is 1."""
    picture = Image.fromarray(np.round(values * (_LEVELS - 1)).astype(np.uint8))
    picture.putpalette(_table(_VIRIDIS).tobytes())
    return picture


def overlaid(pixels: NDArray[np.uint8], heat: NDArray[np.float32]) -> Image.Image:
    """A picture with a heat over it.

    Args:
        pixels: uint8 `[H, W, 3]`; it is shown in grey and dim, so that the colours are the heat's alone.
        heat: float32 `[h, w]` from 0 to 1, smoothed to the picture's size.

    Returns:
        RGB, of the picture's size.
    """
    height, width = pixels.shape[:2]
    grey = np.asarray(Image.fromarray(pixels).convert("L").convert("RGB"), np.float32)
    wide = np.asarray(Image.fromarray(heat).resize((width, height), Image.Resampling.BILINEAR)).clip(0, 1)
    hot = _table(_INFERNO)[np.round(wide * (_LEVELS - 1)).astype(int)].astype(np.float32)
    cover = _COVER * wide[..., None]
    return Image.fromarray(np.round(_DIM * grey * (1 - cover) + hot * cover).clip(0, 255).astype(np.uint8))


def sheet(tiles: Sequence[Image.Image], columns: int) -> Image.Image:
    """Pictures of one size beside and below each other, in RGB, with dark lines between them."""
    width, height = (side + _GAP_PX for side in tiles[0].size)
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    made = Image.new("RGB", (columns * width - _GAP_PX, rows * height - _GAP_PX), (_PAPER,) * 3)
    for place, tile in enumerate(tiles):
        made.paste(tile.convert("RGB"), (place % columns * width, place // columns * height))
    return made


def enlarged(tile: Image.Image, times: int) -> Image.Image:
    """A picture of which every pixel has become a square."""
    return tile.resize((tile.width * times, tile.height * times), Image.Resampling.NEAREST)


def _table(anchors: Sequence[str]) -> NDArray[np.uint8]:
    """A colour `[256, 3]` for each level, between colours at equal distances."""
    colours = np.array([list(bytes.fromhex(anchor)) for anchor in anchors])
    at = np.linspace(0, len(anchors) - 1, _LEVELS)
    channels = [np.interp(at, np.arange(len(anchors)), channel) for channel in colours.T]
    return np.round(np.stack(channels, axis=1)).astype(np.uint8)
