"""Which models there are and how each is doing: read, load, warm up, prove, serve. Knows no gRPC."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from service import bundle as bundles
from service import memory, proof
from service.allowance import Allowance
from service.batcher import Batcher, Death, Way
from service.bundle import Bundle, Precision
from service.device import Device
from service.engine import Engine
from service.errors import BadRequest, BundleError, NotFound, NotReady, SpaceMismatch
from service.image import ImageLimits
from service.metrics import Metrics
from service.permits import Permits
from service.predictor import Predictor
from service.providers import CPU, Provider

logger = logging.getLogger(__name__)

# When to ask again for a model that is being loaded.
_LOADING_RETRY_S = 0.5
# Bundles are read side by side, as far as their files come to no more than this: while it is loaded a graph is in
# memory about three times, as a file, parsed and optimised.
_LOADING_BYTES = 2**30
_LOADERS = 4
# To warm up and prove for the first time; TensorRT compiles for minutes. All other models wait for it, so to do so once
# more may take so many times as long, and so many seconds at least.
_WARM_UP_S = 900.0
_ONCE_MORE, _ONCE_MORE_S = 10, 10.0
# A new engine is tried at once, then after 1, 2, 4 s and so on up to a minute, also where one that started well dies
# again within a minute.
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
# So many hung runs hold on to their engines and threads; a fresh process is the only cure.
_MOST_STUCK = 3


@dataclass(frozen=True)
class ServingOptions:
    """How models are run.

    Attributes:
        threads: How many threads one run of the engine and how many decoders there may be, at least 1.
        max_batch: The largest batch that is tried. Batch sizes are the powers of two up to it.
        queue_limit: How many images of a model may be admitted and not yet answered.
        image_limits: What is refused before it is decoded.
        provider: What runs the graphs.
    """

    threads: int
    max_batch: int
    queue_limit: int
    image_limits: ImageLimits
    provider: Provider = CPU

    @property
    def lanes(self) -> int:
        """How many runs there may be at once."""
        return 1 if self.provider.one_run else self.threads

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
    nodes: Mapping[str, int]


@dataclass(frozen=True)
class Failed:
    """A model that could not be loaded, why, and in how many seconds that is tried again, if it is."""

    error: str
    retry_after_s: float | None = None


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
            case Failed(_, retry_after_s):
                raise NotReady(
                    f"Expected {self.name!r} to be ready. Received: it failed to load; ListModels says why.",
                    retry_after_s,
                )
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
    narrow: Engine
    wide: Engine | None

    @property
    def engines(self) -> Iterator[Engine]:
        yield self.narrow
        if self.wide:
            yield self.wide


class Repository:
    """The models below one folder, `<root>/<model>/<version>/manifest.json`.

    Args:
        root: The folder.
        options: How models are run.
        metrics: Where loads and batches are recorded.
        on_change: Told of each model and its state, at first and whenever that changes.
        on_hopeless: Told when only a new process can help: runs hang again and again.
        pixels: What all models together may have decoded at once.
    """

    def __init__(
        self,
        root: Path,
        options: ServingOptions,
        metrics: Metrics,
        on_change: Callable[[Model], None],
        *,
        on_hopeless: Callable[[], None],
        pixels: Allowance,
    ) -> None:
        self._options = options
        self._metrics = metrics
        self._on_change = on_change
        self._on_hopeless = on_hopeless
        self._paths = scan(root)
        self._models = {name: Model(name, int(path.name), Loading()) for name, path in self._paths.items()}
        self._device = Device(options.lanes)
        self._decoders = ThreadPoolExecutor(options.threads, thread_name_prefix="decoder")
        self._loaders = ThreadPoolExecutor(min(options.threads, _LOADERS), thread_name_prefix="loader")
        self._loading = Permits(_LOADING_BYTES)
        self._reviving: set[asyncio.Task[None]] = set()
        self._pixels = pixels
        self._allowed_s = dict.fromkeys(self._paths, _WARM_UP_S)
        self._pause_s = dict.fromkeys(self._paths, 0.0)
        self._loaded_s: dict[str, float] = {}

    @property
    def models(self) -> list[Model]:
        """All models by name, in rising order."""
        return [self._models[name] for name in sorted(self._models)]

    async def load(self) -> None:
        """Load every model, side by side; one that fails is marked and logged and costs the others nothing."""
        for model in self.models:
            self._set(model)
        await asyncio.gather(*map(self._load_one, self._models))

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
        for task in self._reviving:
            task.cancel()
        closing = [model.state.batcher.close() for model in self.models if isinstance(model.state, Ready)]
        await asyncio.gather(*closing)
        self._device.close()
        for threads in (self._decoders, self._loaders):
            threads.shutdown(wait=False, cancel_futures=True)

    def _set(self, model: Model) -> None:
        self._models[model.name] = model
        self._metrics.model_ready(model.name, isinstance(model.state, Ready))
        self._on_change(model)

    async def _load_one(self, name: str) -> None:
        started_s = time.monotonic()
        version = self._models[name].version
        try:
            ready = self._start(*await self._load(name))
        except BundleError as error:
            logger.error("model failed to load", extra={"model": name, "version": version, "error": str(error)})
            self._set(Model(name, version, Failed(str(error))))
            return
        except Exception as error:
            logger.exception("model failed to load", extra={"model": name, "version": version})
            self._set(Model(name, version, Failed(f"Expected the bundle to load. Received: {type(error).__name__}.")))
            return
        self._loaded_s[name] = time.monotonic()
        duration_s = self._loaded_s[name] - started_s
        self._metrics.model_loaded(name, _info(ready), duration_s)
        self._set(Model(name, version, ready))
        logger.info(
            "model ready",
            extra={
                "model": name,
                "version": version,
                "provider": ready.provider,
                "nodes": dict(ready.nodes),
                "max_batch": ready.batcher.max_batch,
                "load_s": round(duration_s, 3),
            },
        )

    async def _load(self, name: str) -> tuple[_Loaded, list[Way]]:
        loop = asyncio.get_running_loop()
        path = self._paths[name]
        size_bytes = min(_size_bytes(path), self._loading.total)
        await self._loading.acquire(size_bytes)
        try:
            loaded = await loop.run_in_executor(self._loaders, _read, name, path, self._options)
            # Only what runs the engine needs the device; beside other runs the warm-up would learn the wrong figures.
            async with self._device.whole():
                started_s = time.monotonic()
                ways = await self._device.run(partial(_warm_up, loaded, self._options), self._allowed_s[name])
                self._allowed_s[name] = max(_ONCE_MORE_S, _ONCE_MORE * (time.monotonic() - started_s))
        finally:
            self._loading.release(size_bytes)
        return loaded, ways

    def _died(self, name: str, why: Death) -> None:
        version = self._models[name].version
        logger.error("engine given up", extra={"model": name, "version": version, "reason": why})
        self._metrics.engine_died(name, why)
        self._set(Model(name, version, Loading()))
        if time.monotonic() - self._loaded_s[name] > _LONGEST_PAUSE_S:
            self._pause_s[name] = 0.0
        task = asyncio.create_task(self._revive(name, version))
        self._reviving.add(task)
        task.add_done_callback(self._reviving.discard)

    async def _revive(self, name: str, version: int) -> None:
        while self._device.stuck <= _MOST_STUCK:
            pause_s = self._pause_s[name]
            self._pause_s[name] = min(_LONGEST_PAUSE_S, 2 * pause_s or _FIRST_PAUSE_S)
            await asyncio.sleep(pause_s)
            await self._load_one(name)
            match self._models[name].state:
                case Ready():
                    return
                case Failed(error):
                    self._set(Model(name, version, Failed(error, self._pause_s[name])))
        error = f"Expected runs that end. Received: {self._device.stuck} that hang; only a new process can help."
        logger.critical("engines hang", extra={"model": name, "error": error})
        self._set(Model(name, version, Failed(error)))
        self._on_hopeless()

    def _start(self, loaded: _Loaded, ways: list[Way]) -> Ready:
        name = loaded.bundle.name
        batcher = Batcher(
            self._device,
            *ways,
            limit=self._options.queue_limit,
            on_batch=partial(self._metrics.batch, name),
            on_death=partial(self._died, name),
        )
        batcher.start()
        self._metrics.watch_queue(name, batcher.places.limit, lambda: batcher.waiting, lambda: batcher.places.taken)
        predictor = Predictor(
            loaded.bundle,
            batcher,
            decoders=self._decoders,
            limits=self._options.image_limits,
            pixels=self._pixels,
            metrics=self._metrics,
        )
        return Ready(loaded.bundle, predictor, batcher, loaded.narrow.provider, loaded.narrow.nodes)


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


def _size_bytes(path: Path) -> int:
    try:
        return sum(file.stat().st_size for file in path.rglob("*"))
    # Whatever is wrong with the files is found when they are read.
    except OSError:
        return 0


def _read(name: str, path: Path, options: ServingOptions) -> _Loaded:
    bundle = bundles.load(path)
    if (bundle.name, str(bundle.version)) != (name, path.name):
        raise BundleError(
            f"Expected the manifest of {name}/{path.name} to name itself. Received: {bundle.name}/{bundle.version}."
        )
    wide = Engine(bundle.graph, options.threads, options.provider) if options.lanes > 1 else None
    return _Loaded(bundle, Engine(bundle.graph, options.threads // options.lanes, options.provider), wide)


def _warm_up(loaded: _Loaded, options: ServingOptions) -> list[Way]:
    ways = []
    for engine in loaded.engines:
        # A wide batch of as many images as there are cores is never sooner than a narrow one on each.
        sizes = [size for size in options.batch_sizes if engine is loaded.narrow or size < options.lanes]
        seconds_per_image = engine.warm_up(sizes)
        ways.append(Way(engine.run, seconds_per_image))
        proof.prove(loaded.bundle, engine, max(seconds_per_image))
    # Here and not in the event loop, which it would stop for as long as it takes.
    memory.give_back()
    return ways


def _info(ready: Ready) -> dict[str, str]:
    return {
        "version": str(ready.bundle.version),
        "manifest_sha256": ready.bundle.manifest_sha256,
        "embedding_space_id": ready.bundle.embedding.embedding_space_id,
        "precision": Precision.Name(ready.bundle.precision).removeprefix("PRECISION_").lower(),
        "provider": ready.provider,
    }
