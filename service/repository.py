"""Which models there are and how each is doing: read, load, warm up, prove, serve. Knows no gRPC."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from service import bundle as bundles
from service import proof
from service.batcher import Batcher, Slot
from service.bundle import Bundle, Precision
from service.engine import Engine
from service.errors import BadRequest, BundleError, NotFound, NotReady, SpaceMismatch
from service.image import ImageLimits
from service.metrics import Metrics
from service.predictor import Predictor

logger = logging.getLogger(__name__)

# When to ask again for a model that is being loaded.
_LOADING_RETRY_S = 0.5


@dataclass(frozen=True)
class ServingOptions:
    """How models are run.

    Attributes:
        threads: How many threads one run of the engine and how many decoders there may be, at least 1.
        max_batch: The largest batch that is tried. Batch sizes are the powers of two up to it.
        queue_limit: How many images of a model may be admitted and not yet answered.
        image_limits: What is refused before it is decoded.
    """

    threads: int
    max_batch: int
    queue_limit: int
    image_limits: ImageLimits

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The batch sizes that are tried in the warm-up, rising from 1."""
        return tuple(2**power for power in range(self.max_batch.bit_length()))


@dataclass(frozen=True)
class Ready:
    """A model that answers."""

    bundle: Bundle
    predictor: Predictor
    batcher: Batcher
    provider: str


@dataclass(frozen=True)
class Failed:
    """A model that could not be loaded, and why."""

    error: str


@dataclass(frozen=True)
class Loading:
    """A model that is being read, warmed up and proved."""


@dataclass(frozen=True)
class Model:
    """A model of the repository: its name, the version served (the highest there is), and how it is doing."""

    name: str
    version: int
    state: Loading | Ready | Failed

    def ready(self, version: int = 0, expected_embedding_space_id: str = "") -> Ready:
        """What answers for this model.

        Args:
            version: The version that shall answer; 0 for whichever is served.
            expected_embedding_space_id: The space that the caller expects; empty for any.

        Returns:
            The loaded model.

        Raises:
            NotFound: Another version is served.
            NotReady: The model is being loaded or has failed to load.
            SpaceMismatch: It answers in another embedding space.
        """
        if version not in (0, self.version):
            raise NotFound(f"Expected version {self.version} of the model {self.name!r}. Received: {version}.")
        match self.state:
            case Loading():
                raise NotReady(f"Expected {self.name!r} to be ready. Received: it is being loaded.", _LOADING_RETRY_S)
            case Failed():
                raise NotReady(f"Expected {self.name!r} to be ready. Received: it failed to load; ListModels says why.")
            case Ready() as ready:
                space = ready.bundle.embedding.embedding_space_id
                if expected_embedding_space_id not in ("", space):
                    raise SpaceMismatch(
                        f"Expected the embedding space {expected_embedding_space_id[:64]!r}. "
                        f"Received: {self.name!r} version {self.version} answers in {space}."
                    )
                return ready


@dataclass(frozen=True)
class _Loaded:
    bundle: Bundle
    engine: Engine
    seconds_per_image: Mapping[int, float]  # by batch size


class Repository:
    """The models below one folder, `<root>/<model>/<version>/manifest.json`.

    Args:
        root: The folder.
        options: How models are run.
        metrics: Where loads and batches are recorded.
        on_change: Told of each model and its state, at first and whenever that changes.
    """

    def __init__(
        self, root: Path, options: ServingOptions, metrics: Metrics, on_change: Callable[[Model], None]
    ) -> None:
        self._options = options
        self._metrics = metrics
        self._on_change = on_change
        self._paths = scan(root)
        self._models = {name: Model(name, int(path.name), Loading()) for name, path in self._paths.items()}
        self._slot = Slot()
        self._decoders = ThreadPoolExecutor(options.threads, thread_name_prefix="decoder")

    @property
    def models(self) -> list[Model]:
        """All models by name, in rising order."""
        return [self._models[name] for name in sorted(self._models)]

    async def load(self) -> None:
        """Load every model, one after the other; one that fails is marked and logged and costs the others nothing."""
        for model in self.models:
            self._set(model)
        for name, path in self._paths.items():
            await self._load_one(name, path)

    def find(self, name: str) -> Model:
        """Find a model, however it is doing.

        Args:
            name: The model's name; may be empty where there is exactly one.

        Returns:
            The model.

        Raises:
            BadRequest: No name, and more than one model.
            NotFound: No such model.
        """
        if name in self._models:
            return self._models[name]
        names = ", ".join(repr(each) for each in sorted(self._models))
        if name:
            raise NotFound(f"Expected one of the models {names}. Received: {name[:64]!r}.")
        if len(self._models) != 1:
            raise BadRequest(f"Expected the name of a model, one of {names}. Received: none.")
        return next(iter(self._models.values()))

    async def close(self) -> None:
        """Answer those who wait with NotReady and let go of the threads, without waiting for what cannot be stopped."""
        closing = [model.state.batcher.close() for model in self.models if isinstance(model.state, Ready)]
        await asyncio.gather(*closing)
        self._slot.close()
        self._decoders.shutdown(wait=False, cancel_futures=True)

    def _set(self, model: Model) -> None:
        self._models[model.name] = model
        self._metrics.model_ready(model.name, isinstance(model.state, Ready))
        self._on_change(model)

    async def _load_one(self, name: str, path: Path) -> None:
        started_s = time.monotonic()
        version = int(path.name)
        loop = asyncio.get_running_loop()
        try:
            # One at a time on a device, for the same reason as batches.
            async with self._slot.lock:
                loaded = await loop.run_in_executor(self._slot.thread, _load, name, path, self._options)
        except BundleError as error:
            logger.error("model failed to load", extra={"model": name, "version": version, "error": str(error)})
            self._set(Model(name, version, Failed(str(error))))
            return
        except Exception as error:
            logger.exception("model failed to load", extra={"model": name, "version": version})
            self._set(Model(name, version, Failed(f"Expected the bundle to load. Received: {type(error).__name__}.")))
            return
        ready = self._start(loaded)
        duration_s = time.monotonic() - started_s
        self._metrics.model_loaded(name, _info(ready), duration_s)
        self._set(Model(name, version, ready))
        logger.info(
            "model ready",
            extra={
                "model": name,
                "version": version,
                "provider": ready.provider,
                "max_batch": ready.batcher.batch_sizes[-1],
                "load_s": round(duration_s, 3),
            },
        )

    def _died(self, name: str, version: int, error: BaseException) -> None:
        self._set(Model(name, version, Failed(f"Expected a queue that is served. Received: {type(error).__name__}.")))

    def _start(self, loaded: _Loaded) -> Ready:
        name = loaded.bundle.name
        batcher = Batcher(
            loaded.engine.run,
            self._slot,
            batch_sizes=tuple(loaded.seconds_per_image),
            limit=self._options.queue_limit,
            seconds_per_image=min(loaded.seconds_per_image.values()),
            on_batch=partial(self._metrics.batch, name),
            on_death=partial(self._died, name, loaded.bundle.version),
        )
        batcher.start()
        self._metrics.watch_queue(name, batcher.limit, lambda: batcher.waiting, lambda: batcher.admitted)
        predictor = Predictor(
            loaded.bundle,
            batcher,
            decoders=self._decoders,
            limits=self._options.image_limits,
            metrics=self._metrics,
        )
        return Ready(loaded.bundle, predictor, batcher, loaded.engine.provider)


def scan(root: Path) -> dict[str, Path]:
    """Find the newest bundle of each model.

    Args:
        root: A folder of `<model>/<version>/` folders. Other names, and versions without a manifest, are passed over.

    Returns:
        The bundle's folder by model name, in rising order of the names.

    Raises:
        BundleError: There is no such folder, or no bundle in it.
    """
    try:
        paths = sorted(root.glob(f"*/*/{bundles.MANIFEST}")) if root.is_dir() else None
    except OSError as error:
        raise BundleError(f"Expected a model repository that can be read. Received: {error}.") from error
    if paths is None:
        raise BundleError(f"Expected a model repository, a folder of <model>/<version>/. Received: {root}, no folder.")
    found: dict[str, Path] = {}
    for version in (path.parent for path in paths):
        if bundles.NAME.fullmatch(version.parent.name) and bundles.VERSION.fullmatch(version.name):
            newest = found.get(version.parent.name)
            if newest is None or int(newest.name) < int(version.name):
                found[version.parent.name] = version
    if not found:
        raise BundleError(f"Expected at least one <model>/<version>/{bundles.MANIFEST} in {root}. Received: none.")
    return found


def _load(name: str, path: Path, options: ServingOptions) -> _Loaded:
    bundle = bundles.load(path)
    if (bundle.name, str(bundle.version)) != (name, path.name):
        raise BundleError(
            f"Expected the manifest of {name}/{path.name} to name itself. Received: {bundle.name}/{bundle.version}."
        )
    engine = Engine(bundle.graph, options.threads)
    seconds_per_image = engine.warm_up(options.batch_sizes)
    proof.prove(bundle, engine)
    return _Loaded(bundle, engine, seconds_per_image)


def _info(ready: Ready) -> dict[str, str]:
    return {
        "version": str(ready.bundle.version),
        "manifest_sha256": ready.bundle.manifest_sha256,
        "embedding_space_id": ready.bundle.embedding.embedding_space_id,
        "precision": Precision.Name(ready.bundle.precision).removeprefix("PRECISION_").lower(),
        "provider": ready.provider,
    }
