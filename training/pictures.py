"""Makes the pictures of a report: a map of embeddings and thumbnails; does not know what a report says of them."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from service import image
from service.errors import BadImage

MAP_POINTS = 1000
THUMBNAIL_PX = 200
# Below this a map shows nothing that a list would not, and neighbourhoods have no size.
_FEWEST_POINTS = 5
_COMPONENTS = 50
_NEIGHBOURS = 30.0
_ROUNDS = 500
_SEED = 0


@dataclass(frozen=True)
class Thumbnail:
    """A small picture to put into a page; `uri` is None where there is none, and `fault` says why."""

    uri: str | None
    width: int = 0
    height: int = 0
    fault: str = ""


def thumbnail(path: Path) -> Thumbnail:
    """A picture of at most 200 x 200 pixels of an image file, as a data URI.

    Args:
        path: An image file. It may be gone or broken by now.

    Returns:
        The picture, or why there is none.
    """
    try:
        picture = Image.fromarray(image.decode(path.read_bytes(), image.ImageLimits()))
    except OSError as error:
        return Thumbnail(None, fault=error.strerror or "cannot be read")
    except BadImage as error:
        return Thumbnail(None, fault=str(error))
    return inlined(shrunk(picture), "JPEG")


def shrunk(picture: Image.Image) -> Image.Image:
    """A picture of at most 200 x 200 pixels; it is changed."""
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    return picture


def inlined(picture: Image.Image, file_format: Literal["JPEG", "PNG"]) -> Thumbnail:
    """A picture as a data URI: JPEG for photographs, PNG for what has few colours or hard edges."""
    file = io.BytesIO()
    options: dict[str, Any] = {"quality": 85} if file_format == "JPEG" else {"optimize": True}
    picture.save(file, file_format, **options)
    uri = f"data:image/{file_format.lower()};base64," + base64.b64encode(file.getvalue()).decode()
    return Thumbnail(uri, picture.width, picture.height)


def flatten(embedding: NDArray[np.float32]) -> NDArray[np.float64] | None:
    """Lay embeddings out on a plane, near ones together (t-SNE, van der Maaten and Hinton, 2008).

    Args:
        embedding: float32 `[N, D]`, at most 1,000 rows.

    Returns:
        float64 `[N, 2]` in [0, 1], the same every time; None for fewer than five, or where all are one.
    """
    if len(embedding) < _FEWEST_POINTS or np.ptp(embedding, axis=0).max() == 0:
        return None
    components = min(_COMPONENTS, *embedding.shape)
    # On so few points threads do nothing but wait for one another: on two busy cores they took ten times the time.
    with threadpool_limits(limits=1):
        reduced = PCA(components, svd_solver="randomized", random_state=_SEED).fit_transform(
            embedding.astype(np.float64)
        )
        start = np.zeros((len(reduced), 2))
        start[:, : reduced.shape[1]] = reduced[:, :2] / reduced[:, 0].std() * 1e-4
        perplexity = min(_NEIGHBOURS, (len(reduced) - 1) / 3)
        places = TSNE(perplexity=perplexity, init=start, max_iter=_ROUNDS, random_state=_SEED).fit_transform(reduced)
    low, size = places.min(axis=0), np.ptp(places, axis=0)
    return np.asarray((places - low) / np.where(size == 0, 1, size), np.float64)
