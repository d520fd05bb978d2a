"""Which models are found, how each is doing, and who answers a request."""

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from service import repository as repositories
from service.allowance import Allowance
from service.batcher import Batcher
from service.engine import Arrays, Engine
from service.errors import BadRequest, BundleError, EngineFailed, NotFound, NotReady, SpaceMismatch
from service.image import ImageLimits
from service.metrics import Metrics
from service.predictor import Answer, Question
from service.repository import Failed, Loading, Model, Ready, Repository, ServingOptions, scan
from tests.conftest import colours, encode, write_bundle
from tests.service.conftest import until

OPTIONS = ServingOptions(threads=1, max_batch=6, queue_limit=8, image_limits=ImageLimits())


def repository_of(
    root: Path, on_change: Callable[[Model], None], on_hopeless: Callable[[], None] = lambda: None
) -> Repository:
    metrics = Metrics(CollectorRegistry())
    return Repository(root, OPTIONS, metrics, on_change, on_hopeless=on_hopeless, pixels=Allowance("pixels", 10**6))


@pytest.fixture
def changes() -> list[Model]:
    return []


@pytest.fixture
async def models(repository: Path, changes: list[Model]) -> AsyncIterator[Repository]:
    def on_change(model: Model) -> None:
        changes.append(model)

    models = repository_of(repository, on_change)
    yield models
    await models.close()


def test_batch_sizes_are_the_powers_of_two() -> None:
    assert OPTIONS.batch_sizes == (1, 2, 4)


def test_the_newest_version_is_served(repository: Path) -> None:
    for version in (2, 10):
        write_bundle(repository, colours(), version)
    (repository / "colours" / "11").mkdir()  # half-written: no manifest
    for odd in ("latest", "007", "0", "99999999999", "+12", "1_000", "٣"):
        (repository / "colours" / odd).mkdir()
        (repository / "colours" / odd / "manifest.json").touch()
    (repository / ".hidden" / "3").mkdir(parents=True)
    (repository / ".hidden" / "3" / "manifest.json").touch()
    assert scan(repository) == {"colours": repository / "colours" / "10"}


def test_a_repository_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"Expected a model repository, .* Received: .*nowhere, no folder"):
        scan(tmp_path / "nowhere")


def test_an_empty_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        BundleError, match=r"Expected at least one <model>/<version>/manifest.json in .* Received: none"
    ):
        scan(tmp_path)


async def test_before_it_is_loaded_a_model_is_worth_waiting_for(models: Repository) -> None:
    assert [model.state for model in models.models] == [Loading()]
    with pytest.raises(NotReady, match=r"Expected 'colours' to be ready. Received: it is being loaded") as error:
        models.find("colours").ready()
    assert error.value.retry_after_s == 0.5


async def test_a_loaded_model_answers_by_name_or_alone(models: Repository, changes: list[Model]) -> None:
    await models.load()
    assert models.find("colours").ready(1, "c0" * 32).bundle.name == "colours"
    assert models.find("").ready().bundle.name == "colours"
    assert [type(change.state) for change in changes] == [Loading, Ready]


async def test_who_is_not_there_is_not_found(models: Repository) -> None:
    await models.load()
    with pytest.raises(NotFound, match=r"Expected one of the models 'colours'. Received: 'shapes'\."):
        models.find("shapes")
    with pytest.raises(NotFound, match=r"Expected version 1 of the model 'colours'. Received: 7\."):
        models.find("colours").ready(7)


async def test_another_embedding_space_is_refused(models: Repository) -> None:
    await models.load()
    with pytest.raises(
        SpaceMismatch, match=r"Expected the embedding space 'ee'. Received: 'colours' version 1 .* in c0c0"
    ):
        models.find("colours").ready(0, "ee")


async def test_among_several_models_a_name_is_needed(repository: Path, changes: list[Model]) -> None:
    write_bundle(repository / "more", colours(), 1, lambda manifest: setattr(manifest, "model", "shades"))
    (repository / "more" / "colours").rename(repository / "shades")
    (repository / "broken" / "1").mkdir(parents=True)
    (repository / "broken" / "1" / "manifest.json").write_text("{}")

    def on_change(model: Model) -> None:
        changes.append(model)

    models = repository_of(repository, on_change)
    await models.load()
    try:
        with pytest.raises(BadRequest, match=r"Expected the name of a model, one of 'broken', 'colours', 'shades'"):
            models.find("")
        assert models.find("shades").ready().bundle.name == "shades"
        with pytest.raises(NotReady, match=r"Expected 'broken' to be ready. Received: it failed to load") as error:
            models.find("broken").ready()
        assert error.value.retry_after_s is None
        failed = models.models[0].state
        assert isinstance(failed, Failed)
        assert failed.error == "Expected a manifest of format 1. Received: format 0."
    finally:
        await models.close()


@pytest.mark.parametrize(("room", "at_once"), [(1.0, 1), (2.5, 2)])
async def test_so_many_bundles_are_read_at_once_as_their_files_have_room(
    repository: Path, monkeypatch: pytest.MonkeyPatch, room: float, at_once: int
) -> None:
    bundle = repository / "colours"
    for name in ("reds", "greens", "blues"):
        shutil.copytree(bundle, repository / name)
    size_bytes = sum(file.stat().st_size for file in (bundle / "1").rglob("*"))
    reading: list[str] = []
    gate = threading.Event()

    def read(name: str, *_: object) -> None:
        reading.append(name)
        assert gate.wait(timeout=30)
        raise BundleError("Expected nothing more.")

    monkeypatch.setattr(repositories, "_LOADING_BYTES", int(room * size_bytes))
    monkeypatch.setattr(repositories, "_read", read)
    options = replace(OPTIONS, threads=4)
    metrics = Metrics(CollectorRegistry())
    models = Repository(
        repository, options, metrics, _ignore, on_hopeless=lambda: None, pixels=Allowance("pixels", 10**6)
    )
    loading = asyncio.ensure_future(models.load())
    await until(lambda: len(reading) == at_once)
    # One that should not begin has long begun by then.
    for _ in range(1000):
        await asyncio.sleep(0)
    assert len(reading) == at_once
    gate.set()
    await loading
    assert sorted(reading) == ["blues", "colours", "greens", "reds"]
    await models.close()


async def test_a_bundle_in_the_wrong_folder_is_refused(repository: Path) -> None:
    (repository / "colours" / "1").rename(repository / "colours" / "2")
    (repository / "colours" / "1").symlink_to(repository / "colours" / "2")
    wrong = repository_of(repository, _ignore)
    await wrong.load()
    state = wrong.models[0].state
    await wrong.close()
    assert isinstance(state, Failed)
    assert state.error == "Expected the manifest of colours/2 to name itself. Received: colours/1."


class Faulty:
    """An engine that can be told to fail or to hang; a new one is sound."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.failure: Exception | None = None
        self.gate: threading.Event | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def run(self, pixels: NDArray[np.uint8]) -> Arrays:
        if self.gate is not None:
            self.gate.wait(timeout=60)
        if self.failure is not None:
            raise self.failure
        return self._engine.run(pixels)


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> list[Faulty]:
    made: list[Faulty] = []

    def make(*arguments: Any) -> Faulty:
        made.append(Faulty(Engine(*arguments)))
        return made[-1]

    monkeypatch.setattr(repositories, "Engine", make)
    return made


async def test_a_broken_engine_is_replaced(faulty: list[Faulty], models: Repository, changes: list[Model]) -> None:
    await models.load()
    faulty[0].failure = RuntimeError("CUDA error 700")
    question = Question([encode((255, 0, 0))], deadline_s=1e12, top_k=1)
    analysis = await models.find("colours").ready().predictor.analyze(question)
    assert isinstance(analysis.answers[0], EngineFailed)
    await until(lambda: len(changes) > 2 and isinstance(changes[-1].state, Ready))
    assert [type(change.state) for change in changes] == [Loading, Ready, Loading, Ready]
    analysis = await models.find("colours").ready().predictor.analyze(question)
    assert isinstance(analysis.answers[0], Answer)
    assert analysis.answers[0].labels[0].name == "red"


async def test_while_it_is_replaced_callers_are_asked_to_come_again(
    faulty: list[Faulty], models: Repository, changes: list[Model]
) -> None:
    await models.load()
    faulty[0].failure = RuntimeError("CUDA error 700")
    ready = models.find("colours").ready()
    await ready.predictor.analyze(Question([encode((1, 2, 3))], deadline_s=1e12))
    await until(lambda: isinstance(changes[-1].state, Loading))
    with pytest.raises(NotReady, match=r"Expected 'colours' to be ready. Received: it is being loaded") as refusal:
        models.find("colours").ready()
    assert refusal.value.retry_after_s == 0.5
    await until(lambda: isinstance(changes[-1].state, Ready))


async def test_a_replacement_that_fails_is_tried_again(
    faulty: list[Faulty], models: Repository, changes: list[Model], repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repositories, "_FIRST_PAUSE_S", 0.01)
    await models.load()
    graph = repository / "colours" / "1" / "model.onnx"
    graph.rename(graph.with_suffix(".away"))
    faulty[0].failure = RuntimeError("CUDA error 700")
    await models.find("colours").ready().predictor.analyze(Question([encode((1, 2, 3))], deadline_s=1e12))
    await until(lambda: isinstance(changes[-1].state, Failed) and changes[-1].state.retry_after_s is not None)
    with pytest.raises(NotReady, match=r"it failed to load") as refusal:
        models.find("colours").ready()
    assert refusal.value.retry_after_s is not None, "it is tried again, so a caller may be, too"
    graph.with_suffix(".away").rename(graph)
    await until(lambda: isinstance(changes[-1].state, Ready))


async def test_a_broken_model_costs_the_others_nothing(
    repository: Path, changes: list[Model], faulty: list[Faulty]
) -> None:
    write_bundle(repository / "more", colours(), 1, lambda manifest: setattr(manifest, "model", "shades"))
    (repository / "more" / "colours").rename(repository / "shades")
    models = repository_of(repository, changes.append)
    await models.load()
    try:
        faulty[0].failure = RuntimeError("CUDA error 700")
        question = Question([encode((1, 2, 3))], deadline_s=1e12)
        answers = await asyncio.gather(
            *(models.find(name).ready().predictor.analyze(question) for name in ("colours", "shades"))
        )
        assert sorted(type(each.answers[0]).__name__ for each in answers) == ["Answer", "EngineFailed"]
        await until(lambda: len(faulty) == 3)
    finally:
        await models.close()


async def test_when_runs_hang_again_and_again_a_new_process_is_asked_for(
    faulty: list[Faulty], repository: Path, changes: list[Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repositories, "_MOST_STUCK", 1)
    monkeypatch.setattr(repositories, "Batcher", partial(Batcher, patience_s=0.01))
    hopeless: list[bool] = []
    models = repository_of(repository, changes.append, lambda: hopeless.append(True))
    await models.load()
    gate = threading.Event()
    try:
        for _ in range(2):
            await until(lambda: isinstance(changes[-1].state, Ready))
            faulty[-1].gate = gate
            with pytest.raises(EngineFailed):
                await submit(models)
        await until(lambda: bool(hopeless))
        state = models.models[0].state
        assert isinstance(state, Failed)
        assert state.error == "Expected runs that end. Received: 2 that hang; only a new process can help."
    finally:
        gate.set()
        await models.close()


async def submit(models: Repository) -> None:
    """One image, past the decoder."""
    ready = models.find("colours").ready()
    await ready.batcher.submit(np.zeros((8, 8, 3), np.uint8), deadline_s=1e12)


def _ignore(_: Model) -> None:
    pass
