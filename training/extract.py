"""Writes a backbone's features of labelled images to a file for a person to use; learns nothing from them."""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from export import labelled
from export.document import Document
from export.errors import TargetError
from export.progress import Steps
from export.run import EMBEDDING, Backbone, Geometry, Scaling, Sha256
from training import backbones, dataset, features
from training.dataset import Checked
from training.named import find
from training.result import Fault
from training.views import PLAIN

_PARQUET = ".parquet"


@dataclass(frozen=True)
class Order:
    """What to extract, and where to.

    Attributes:
        data: Labelled images, as labelled.read takes them, or a name that `named.find.table` knows.
        backbone: The backbone's name.
        resize_px: As for backbones.sized, like crop_px.
        all_taps: Whether to write the stages and probes, too, and not the embedding alone.
        out: The file of features, .npz or .parquet; neither it nor its manifest may exist.
        cache: The cache's folder.
        on_bad: What to do with a file that cannot be used.
        weights: A file of weights to take instead of the published ones.
        download: Whether weights and a data set may be fetched.
    """

    data: Path
    backbone: str
    resize_px: int | None
    crop_px: int | None
    all_taps: bool
    out: Path
    cache: Path
    on_bad: dataset.OnBad
    weights: Path | None = None
    download: bool = False


class Manifest(Document):
    """What a file of features holds, and everything that its numbers follow from.

    Attributes:
        features: The name of the file beside it.
        paths: The images, in the order of the rows.
        labels: The label of each.
        taps: How many numbers each tap has; a tap is an array float32 `[rows, D]` of its name.
        facts: What the numbers follow from beside that: provider, precision and versions.
        left_out: Files that were left out, as --on-bad skip asks.
    """

    format: Literal[1] = 1
    created_time: datetime = Field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    features: str
    rows: int
    paths: tuple[str, ...]
    labels: tuple[str, ...]
    taps: dict[str, int]
    backbone: Backbone
    geometry: Geometry
    scaling: Scaling
    facts: dict[str, str]
    data: str
    data_sha256: Sha256
    left_out: tuple[Fault, ...]


def extract(order: Order, steps: Steps) -> Manifest:
    """Write the features of every image that can be used, in the order of the data, and a manifest beside them.

    Args:
        order: What to extract.
        steps: Tells of the four steps.

    Returns:
        The manifest as written: of `features.npz` it is `features.manifest.json`.

    Raises:
        BackboneError: There is no such backbone, or its weights are not what its card says.
        CacheError: The cache cannot be read or written.
        DataError: The data cannot be read, or holds a file that cannot be used.
        TargetError: A file exists already, or has a suffix that cannot be written.
    """
    _check_target(order.out)
    card = backbones.ready(backbones.card(order.backbone), order.weights, order.download)
    geometry = backbones.sized(card, order.resize_px, order.crop_px)
    images = labelled.read(find.table(order.data, order.cache, order.download, steps))
    with steps.step("check the images", len(images)) as advance:
        rows, faults = dataset.check(images, order.cache, advance)
        dataset.refuse(faults, len(rows), order.on_bad)
    with steps.step("load the backbone"):
        extractor = features.extractor(card, geometry, order.cache)
        taps = list(extractor.taps) if order.all_taps else [EMBEDDING]
    with steps.step("extract features", len(rows)) as advance:
        features.extract(rows, (PLAIN,), extractor, order.cache, advance)
    with steps.step("write the features"):
        manifest = Manifest(
            features=order.out.name,
            rows=len(rows),
            paths=tuple(str(row.path) for row in rows),
            labels=tuple(row.image.label for row in rows),
            taps={tap: extractor.taps[tap] for tap in taps},
            backbone=card.backbone,
            geometry=extractor.geometry,
            scaling=card.scaling,
            facts=dict(extractor.facts),
            data=str(order.data),
            data_sha256=dataset.digest((row, row.image.split) for row in rows),
            left_out=faults,
        )
        _write(order.out, rows, features.rows(rows, PLAIN, extractor, order.cache, taps), manifest)
    return manifest


def _check_target(out: Path) -> None:
    if out.suffix not in _WRITERS:
        raise TargetError(f"Expected a file that ends in {' or '.join(_WRITERS)}. Received: {out}.")
    if not out.name.isprintable():
        # Bytes that are no UTF-8 among them: the manifest could not name it.
        raise TargetError(f"Expected a file name in UTF-8 without control characters. Received: {out.name!r}.")
    _refuse_existing(out)
    if out.suffix == _PARQUET and importlib.util.find_spec("pyarrow") is None:
        raise TargetError(
            f"Expected pyarrow, to write {out}. Received: it is not installed. Install it with: "
            "pip install 'vertebra[parquet]'"
        )


def _refuse_existing(out: Path) -> None:
    for path in (out, _manifest_of(out)):
        if path.exists():
            raise TargetError(f"Expected a file that does not exist yet. Received: {path}, which does.")


def _manifest_of(out: Path) -> Path:
    return out.with_name(f"{out.stem}.manifest.json")


def _write(out: Path, rows: Sequence[Checked], taps: Mapping[str, NDArray[np.float32]], manifest: Manifest) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as aside:
        draft, manifest_draft = Path(aside) / out.name, Path(aside) / _manifest_of(out).name
        _WRITERS[out.suffix](draft, _columns(rows), taps)
        manifest_draft.write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        _refuse_existing(out)
        # The manifest first: alone it is a few lines, and says which file it lacks.
        manifest_draft.rename(_manifest_of(out))
        draft.rename(out)


def _columns(rows: Sequence[Checked]) -> dict[str, list[str]]:
    return {
        "path": [str(row.path) for row in rows],
        "label": [row.image.label for row in rows],
        "split": [row.image.split or "" for row in rows],
        "sha256": [row.sha256.hex() for row in rows],
    }


def _write_npz(path: Path, columns: Mapping[str, list[str]], taps: Mapping[str, NDArray[np.float32]]) -> None:
    words = {name: np.array(column, np.str_) for name, column in columns.items()}
    np.savez(path, allow_pickle=False, **words, **taps)


def _write_parquet(path: Path, columns: Mapping[str, list[str]], taps: Mapping[str, NDArray[np.float32]]) -> None:
    # Not at the top: an extra brings pyarrow.
    import pyarrow  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    vectors = {
        name: pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(tap.reshape(-1)), tap.shape[1])
        for name, tap in taps.items()
    }
    parquet.write_table(pyarrow.table({**columns, **vectors}), path)


_WRITERS = {".npz": _write_npz, _PARQUET: _write_parquet}
