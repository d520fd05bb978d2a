"""The bottleneck cache: a frozen backbone's features of images, computed once; does not know what is learnt from them.

cache/graphs/<facts>-<SHA-256>.onnx     the backbone with every tap pooled, as the engine runs it
cache/features/<facts>/facts.json       what the rows beside it follow from, for a person to read
cache/features/<facts>/*.npy            a store: for each image all taps, by the SHA-256 of its file

<facts> is the digest of all that the numbers follow from: weights, architecture, geometry, scaling, taps and versions,
and for features the provider, its precision and the view. Other facts lie elsewhere, so a stale row is never found.
"""

import hashlib
import json
import logging
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
import onnx
import onnxscript
import PIL
import timm
import torch
from google.protobuf import json_format
from numpy.typing import NDArray

from export import ahead, golden, graph, program, verify
from export.errors import DataError
from export.progress import Advance
from export.run import geometry_message
from service import cpu, image
from service.bundle import CropGeometry, sha256_of
from service.engine import Engine
from service.errors import BadImage
from service.runtime import ort
from training import backbones, views
from training.backbones import Card
from training.errors import BackboneError, CacheError
from training.store import Store, write
from training.taps import Taps
from training.views import View

# Raised when the same facts come to give other numbers: by a change here, in taps.py, views.py, export/graph.py or
# service/image.py and service/formats.
_REVISION = "2"
# With two decoders beside it the engine gave as many Lite0 rows a second at 1, 2 and 4 on two cores, and two thirds of
# them at 8 and 16; the numbers were the same to the last bit.
_BATCH = 4
_DECODERS = 2
_AHEAD = 32  # images that are decoded and wait for the engine
# What a kill may cost.
_SHARD_ROWS = 256
_SHARD_S = 30

_log = logging.getLogger(__name__)


class CheckedFile(Protocol):
    """An image file, and the digest that it had when it was checked; training.dataset.Sample is one."""

    @property
    def path(self) -> Path: ...

    @property
    def sha256(self) -> bytes: ...


@dataclass(frozen=True)
class Extractor:
    """A backbone as the engine runs it, and everything that its numbers follow from.

    Attributes:
        engine: Gives every tap, pooled, of the geometry's pixels.
        geometry: How pixels are made.
        taps: How many numbers each tap has, by its name, in the order of the engine's outputs.
        facts: What the numbers follow from, by name; of the view nothing is said.
    """

    engine: Engine
    geometry: CropGeometry
    taps: Mapping[str, int]
    facts: Mapping[str, str]


@dataclass(frozen=True)
class _Job:
    """An image, and the views of it that the cache lacks."""

    sample: CheckedFile
    shown: tuple[View, ...]


@dataclass(frozen=True)
class _Frame:
    """The pixels of one view of an image, `uint8 [H, W, 3]`."""

    sample: CheckedFile
    view: View
    pixels: NDArray[np.uint8]


class _Shard:
    """Rows on their way into a store: written when they are many or have waited for long."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys: list[bytes] = []
        self._rows: list[np.void] = []
        self._written_s = time.monotonic()

    def put(self, key: bytes, row: np.void) -> None:
        self._keys.append(key)
        self._rows.append(row)
        if len(self._keys) >= _SHARD_ROWS or time.monotonic() - self._written_s >= _SHARD_S:
            self.write()

    def write(self) -> None:
        self._store.add(self._keys, np.array(self._rows))
        self._keys, self._rows = [], []
        self._written_s = time.monotonic()


@dataclass(frozen=True)
class Counts:
    """How many rows, one for each image and view, the cache had, and how many the engine computed."""

    from_cache: int
    computed: int


def extractor(card: Card, geometry: CropGeometry, cache: Path) -> Extractor:
    """Load a backbone's graph from the cache; trace, convert, verify and keep it where the cache has none.

    Args:
        card: The backbone.
        geometry: How pixels are made: the card's own, or another size.
        cache: The cache's folder; it need not exist.

    Returns:
        What extracts features.

    Raises:
        BackboneError: The pretrained weights are missing or not what the card says.
        CacheError: The cache cannot be written to.
        Disagreement: The graph does not answer as torch does.
    """
    facts = _graph_facts(card, geometry)
    name = _digest(facts)
    path = _find(cache / "graphs", name) or _make(card, geometry, cache / "graphs", name)
    engine = Engine(path, cpu.usable())
    engine_facts = {
        "provider": engine.provider,
        "precision": "fp32",
        "onnxruntime": ort.__version__,
        "pillow": PIL.__version__,
    }
    return Extractor(engine, geometry, _widths(path), {**facts, **engine_facts})


def extract(
    samples: Sequence[CheckedFile], shown: Sequence[View], extractor: Extractor, cache: Path, advance: Advance
) -> Counts:
    """Put into the cache what it lacks of the features of images.

    Rows are written as they come, in shards: what is there stays there, whatever ends this.

    Args:
        samples: The images.
        shown: The views of each.
        extractor: The backbone.
        cache: The cache's folder.
        advance: Told of every row, an image and view each.

    Returns:
        Where the rows came from. Of files with the same bytes only the first is computed.

    Raises:
        BackboneError: The backbone gives something else than numbers.
        CacheError: The cache cannot be read or written.
        DataError: A file is gone or was changed since it was checked.
    """
    stores = {view: _store(extractor, view, cache) for view in shown}
    work = _work(samples, stores)
    computed = sum(len(job.shown) for job in work)
    from_cache = len(samples) * len(shown) - computed
    advance(from_cache)
    if work:
        _fill(stores, work, extractor, advance)
    return Counts(from_cache, computed)


def missing(samples: Sequence[CheckedFile], shown: Sequence[View], extractor: Extractor, cache: Path) -> set[bytes]:
    """Say which images `extract` would pass through the backbone.

    Args:
        samples: The images.
        shown: The views of each.
        extractor: The backbone.
        cache: The cache's folder.

    Returns:
        The digests of the files of which the cache lacks any of the views.

    Raises:
        CacheError: The cache cannot be read.
    """
    return {job.sample.sha256 for job in _work(samples, {view: _store(extractor, view, cache) for view in shown})}


def rows(
    samples: Sequence[CheckedFile], view: View, extractor: Extractor, cache: Path, taps: Sequence[str]
) -> dict[str, NDArray[np.float32]]:
    """Read features from the cache, after `extract` has put them there.

    Args:
        samples: The images.
        view: The view of each.
        extractor: The backbone.
        cache: The cache's folder.
        taps: Which of the extractor's taps.

    Returns:
        For each of the taps its float32 `[samples, D]` array, in the order of the samples.

    Raises:
        CacheError: The cache cannot be read, or lacks a row.
    """
    store = _store(extractor, view, cache)
    try:
        return store.fields([sample.sha256 for sample in samples], taps)
    except KeyError as error:
        raise CacheError(
            f"Expected the features of all {len(samples)} images in {cache}. Received: some were taken away. "
            "Start again: they will be made again"
        ) from error


def picture(sample: CheckedFile, geometry: CropGeometry) -> image.Picture:
    """Decode an image as it was when it was checked.

    Args:
        sample: The image.
        geometry: Says how large the picture is needed.

    Returns:
        The picture.

    Raises:
        DataError: The file is gone or was changed since it was checked, or cannot be read.
    """
    try:
        data = sample.path.read_bytes()
    except OSError as error:
        raise DataError(
            f"Expected {sample.path}, which was there when it was checked. Received: {error.strerror}."
        ) from error
    if (received := hashlib.sha256(data)).digest() != sample.sha256:
        raise DataError(
            f"Expected {sample.path} as it was when it was checked, with the SHA-256 {sample.sha256.hex()}. "
            f"Received: {received.hexdigest()}. Start again when nothing writes to it"
        )
    try:
        return image.decode_for(data, geometry, image.ImageLimits())
    except BadImage as error:
        raise DataError(f"Expected {sample.path} to be an image that can be read. Received: {error}") from error


def _graph_facts(card: Card, geometry: CropGeometry) -> dict[str, str]:
    described = json_format.MessageToDict(geometry_message(geometry), preserving_proto_field_name=True)
    return {
        "backbone": card.backbone.name,
        "weights_sha256": card.digest(),
        "architecture": card.backbone.architecture,
        "geometry": json.dumps(described, sort_keys=True),
        "scaling": card.scaling.model_dump_json(),
        "taps": " ".join(card.backbone.taps()),
        "revision": _REVISION,
        "torch": torch.__version__,
        "timm": timm.__version__,
        "onnx": onnx.__version__,
        "onnxscript": onnxscript.__version__,
    }


def _digest(facts: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _find(folder: Path, name: str) -> Path | None:
    for path in sorted(folder.glob(f"{name}-*.onnx")):
        if path.stem == f"{name}-{sha256_of(path)}":
            return path
        _log.warning("Passing over the damaged %s of the cache, which will be made again.", path)
    return None


def _make(card: Card, geometry: CropGeometry, folder: Path, name: str) -> Path:
    model = program.trace(Taps(backbones.pretrained(card), card.backbone, card.scaling), geometry)
    images = golden.generate(geometry).pixels
    with TemporaryDirectory() as aside:
        draft = Path(aside) / "backbone.onnx"
        graph.convert(model, program.output_names(model), geometry, draft)
        verify.verify(Engine(draft, cpu.usable()), images, program.answers(model, images))
        path = folder / f"{name}-{sha256_of(draft)}.onnx"
        write(path, draft.read_bytes())
    return path


def _widths(path: Path) -> dict[str, int]:
    outputs = onnx.load(path).graph.output
    return {output.name: output.type.tensor_type.shape.dim[1].dim_value for output in outputs}


def _store(extractor: Extractor, view: View, cache: Path) -> Store:
    facts = {**extractor.facts, "view": view.name}
    folder = cache / "features" / _digest(facts)
    if not (folder / "facts.json").exists():
        write(folder / "facts.json", (json.dumps(facts, indent=2) + "\n").encode())
    return Store(folder, _dtype(extractor))


def _dtype(extractor: Extractor) -> np.dtype[Any]:
    return np.dtype([(tap, "<f4", (width,)) for tap, width in extractor.taps.items()])


def _work(samples: Sequence[CheckedFile], stores: Mapping[View, Store]) -> list[_Job]:
    first: dict[bytes, CheckedFile] = {}
    for sample in samples:
        first.setdefault(sample.sha256, sample)
    missing = {view: set(store.missing(first)) for view, store in stores.items()}
    jobs = [_Job(sample, tuple(view for view in stores if key in missing[view])) for key, sample in first.items()]
    return [job for job in jobs if job.shown]


def _fill(stores: Mapping[View, Store], work: Sequence[_Job], extractor: Extractor, advance: Advance) -> None:
    shards = {view: _Shard(store) for view, store in stores.items()}
    dtype = _dtype(extractor)
    with closing(_decoded(work, extractor.geometry)) as frames:
        while batch := list(islice(frames, _BATCH)):
            answers = extractor.engine.run(np.stack([frame.pixels for frame in batch]))
            made = np.empty(len(batch), dtype)
            for tap in extractor.taps:
                _check_numbers(tap, answers[tap], batch)
                made[tap] = answers[tap]
            for frame, row in zip(batch, made, strict=True):
                shards[frame.view].put(frame.sample.sha256, row)
            advance(len(batch))
    for shard in shards.values():
        shard.write()


def _check_numbers(tap: str, rows: NDArray[np.float32], batch: Sequence[_Frame]) -> None:
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        broken = batch[int(finite.argmin())]
        raise BackboneError(
            f"Expected features that are numbers. Received: others in the tap {tap}, view {broken.view.name}, of "
            f"{broken.sample.path}. Nothing can be learnt from them"
        )


def _decoded(work: Sequence[_Job], geometry: CropGeometry) -> Generator[_Frame]:
    """Every view of every image, in their order, decoded by threads a little ahead of who takes them."""
    with closing(ahead.mapped(partial(_read, geometry=geometry), work, _DECODERS, _AHEAD)) as decoded:
        for frames in decoded:
            yield from frames


def _read(job: _Job, geometry: CropGeometry) -> list[_Frame]:
    sample = job.sample
    made = views.pixels(picture(sample, geometry), job.shown, geometry, sample.sha256)
    return [_Frame(sample, view, each) for view, each in zip(job.shown, made, strict=True)]
