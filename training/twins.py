"""Finds pictures that other pictures are too, changed a little; does not know files, splits or labels.

A picture is compared by a sketch, 16 x 16 grey levels, of which the slow changes from side to side count less than
edges (the weights of its cosine transform grow with the frequency, which undoes the 1/f of natural images). Copies that
were recompressed, scaled, recoloured, moved by a fiftieth or mirrored stay alike; cropped or turned ones do not: those
are for lookalikes.py.

How alike two sketches are says little where all pictures are alike: solar cells of one make, each with its own dirt,
reach 0.99. So a twin has to be much closer than the tenth picture after it. Measured on

- CIFAR-10, of whose test images ciFAIR (Barz and Denzler, 2020) finds about 3.3 % in training too: 220 of 10,000
  are found as they are, and the 80 least alike of them, looked at one by one, are all one photograph or a retouched
  one; 23 more are found in a mirror, of which 21 are. It takes 8 s on two cores, and 0.2 GB;
- ELPV, 2,624 solar cells, many of them photographed twice: of 27 pairs that show one cell 23 are found, of 26 pairs of
  cells that only look alike 2. In a random quarter for testing, 220 to 240 of 656 cells have a twin in training. A
  difference hash of 256 bits has half of all cells within 40 bits of another one, and finds 86 pairs of CIFAR-10 there.

A picture of which training has more than ten copies is found only where one has the very same sketch: else the tenth
is as close.
"""

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

from export.progress import Advance

# The number changes when the sketches do, or which files can be read.
REVISION = 2
_SIDE = 16
SKETCH = np.dtype([("grey", np.uint8, (_SIDE, _SIDE)), ("colour", np.uint8, 3)])

_ALIKE = 0.6  # unrelated photographs seldom come over 0.5
CLOSER = 0.4  # of the distance to the tenth picture after it
RANK = 10
_FLAT = 1.0  # grey levels of deviation, under which there is nothing but rounding and noise to compare
_BLOCK = 2**22  # similarities at a time, 16 MiB
# Of a picture seen in a mirror every other cosine from left to right has the other sign.
_MIRRORED = np.tile((-1) ** np.arange(_SIDE), _SIDE).astype(np.float32)


def sketch(pixels: NDArray[np.uint8]) -> NDArray[Any]:
    """Make of a picture what it is compared by.

    Args:
        pixels: `uint8 [h, w, 3]`, RGB.

    Returns:
        One row of dtype `SKETCH`, `[]`.
    """
    small = Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BOX)
    row = np.zeros((), SKETCH)
    row["grey"] = np.asarray(small.convert("L"))
    row["colour"] = np.asarray(small).mean(axis=(0, 1)).round()
    return row


def find(held_out: NDArray[Any], train: NDArray[Any], advance: Advance) -> NDArray[np.int64]:
    """Find the twin of each held-out picture among the training pictures.

    Args:
        held_out: Sketches `[N]`.
        train: Sketches `[M]`, at least one.
        advance: Told of every held-out picture.

    Returns:
        The place of its twin in `train` for each held-out picture, -1 for those that have none; int64 `[N]`.
    """
    return _find(held_out, train, np.full(len(held_out), -1), np.zeros(len(train), np.int64), advance)


def within(pictures: NDArray[Any], families: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find the twin of each picture among those of other families.

    Args:
        pictures: Sketches `[N]`.
        families: int64 `[N]`, from 0: pictures of one family, each with itself at least, are not held together.

    Returns:
        The place of its twin for each, -1 for those that have none; int64 `[N]`.
    """
    return _find(pictures, pictures, families, families, lambda _: None)


def _find(
    asked: NDArray[Any],
    among: NDArray[Any],
    of_asked: NDArray[np.int64],
    of_among: NDArray[np.int64],
    advance: Advance,
) -> NDArray[np.int64]:
    twins = _same(asked, among, of_asked, of_among)
    own = asked is among
    rank = min(RANK, len(among) - 1 - own)
    if rank < 0:
        advance(len(asked))
        return twins
    theirs = _descriptors(among)  # [M, 255]
    step = max(1, _BLOCK // len(among))
    for start in range(0, len(asked), step):
        block = slice(start, start + step)
        ours = _descriptors(asked[block])  # [step, 255]
        places, related = np.arange(len(ours)), of_asked[block, None] == of_among
        for shown in (ours, ours * _MIRRORED):
            alike = shown @ theirs.T  # [step, M]
            if own:
                alike[places, start + places] = -np.inf
            usual = np.partition(alike, len(among) - 1 - rank, axis=1)[:, len(among) - 1 - rank]
            if own:
                alike[related] = -np.inf
            best = alike.argmax(axis=1)
            closest = alike.max(axis=1)
            is_twin = (closest >= _ALIKE) & (1 - closest <= CLOSER * (1 - usual))
            twins[block] = np.where((twins[block] < 0) & is_twin, best, twins[block])
        advance(len(ours))
    return twins


def _descriptors(sketches: NDArray[Any]) -> NDArray[np.float32]:
    u = np.arange(_SIDE, dtype=np.float32)
    frequency = np.sqrt(u[:, None] ** 2 + u[None, :] ** 2)  # 0 for the mean, which so falls out
    waves = dctn(sketches["grey"].astype(np.float32), axes=(1, 2), norm="ortho") * frequency  # [N, 16, 16]
    waves = waves.reshape(len(sketches), -1)
    length = np.linalg.norm(waves, axis=1, keepdims=True)
    # A flat picture has no edges to compare: it is like no other but the same, not like all other flat ones.
    flat = sketches["grey"].std(axis=(1, 2)) < _FLAT
    length[flat] = np.inf
    return np.asarray(waves / length, np.float32)


def _same(
    asked: NDArray[Any], among: NDArray[Any], of_asked: NDArray[np.int64], of_among: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The first of another family that has the very same sketch."""
    firsts: defaultdict[bytes, dict[int, int]] = defaultdict(dict)
    for place, (row, family) in enumerate(zip(among, of_among.tolist(), strict=True)):
        firsts[row.tobytes()].setdefault(family, place)
    found = (
        next((place for other, place in firsts.get(row.tobytes(), {}).items() if other != family), -1)
        for row, family in zip(asked, of_asked.tolist(), strict=True)
    )
    return np.array(list(found), np.int64)
