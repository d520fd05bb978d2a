"""Which models are found, how each is doing, and who answers a request."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from service.errors import BadRequest, BundleError, NotFound, NotReady, SpaceMismatch
from service.image import ImageLimits
from service.metrics import Metrics
from service.predictor import Question
from service.repository import Failed, Loading, Model, Ready, Repository, ServingOptions, scan
from tests.conftest import colours, encode, write_bundle

OPTIONS = ServingOptions(threads=1, max_batch=6, queue_limit=8, image_limits=ImageLimits())


@pytest.fixture
def changes() -> list[Model]:
    return []


@pytest.fixture
async def models(repository: Path, changes: list[Model]) -> AsyncIterator[Repository]:
    def on_change(model: Model) -> None:
        changes.append(model)

    models = Repository(repository, OPTIONS, Metrics(CollectorRegistry()), on_change)
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

    models = Repository(repository, OPTIONS, Metrics(CollectorRegistry()), on_change)
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


async def test_a_bundle_in_the_wrong_folder_is_refused(repository: Path) -> None:
    (repository / "colours" / "1").rename(repository / "colours" / "2")
    (repository / "colours" / "1").symlink_to(repository / "colours" / "2")
    wrong = Repository(repository, OPTIONS, Metrics(CollectorRegistry()), _ignore)
    await wrong.load()
    state = wrong.models[0].state
    await wrong.close()
    assert isinstance(state, Failed)
    assert state.error == "Expected the manifest of colours/2 to name itself. Received: colours/1."


async def test_a_queue_that_dies_makes_its_model_fail(models: Repository, changes: list[Model]) -> None:
    await models.load()
    ready = models.find("colours").ready()
    ready.batcher.batch_sizes = ()  # a fault of ours: there is no size to run
    with pytest.raises(NotReady):
        await ready.predictor.analyze(Question([encode((1, 2, 3))], deadline_s=1e12))
    async with asyncio.timeout(30):
        while not isinstance(changes[-1].state, Failed):  # noqa: ASYNC110  # published by a task of its own
            await asyncio.sleep(0)
    with pytest.raises(NotReady, match=r"Received: it failed to load"):
        models.find("colours").ready()


def _ignore(_: Model) -> None:
    pass
