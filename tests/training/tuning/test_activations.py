"""What a frozen prefix makes of images is computed once, and learnt from as if it were computed each time."""

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.training.test_store import largest_file
from tests.training.tuning.teacher import CLASSES, RECIPE, drawn, learner, lessons, nothing, origins, plan, tunable
from training.errors import CacheError, TuningError
from training.tuning import activations, loop
from training.tuning.activations import CutFeed, Shown
from training.tuning.batches import Batch, Drawn
from training.tuning.loop import Learner
from training.tuning.model import Tunable
from training.tuning.order import Order, share
from training.tuning.plan import Precision

IMAGES = 40
PIXELS, LABELS = drawn(IMAGES, 11)
WEIGHTS = (1 + LABELS / 4).numpy().astype(np.float32)
ORDER = Order(LABELS.numpy(), 16)


@dataclass
class Two:
    """The images and their mirror images, and how often they were asked for."""

    images: int = IMAGES
    asked: int = 0

    def steps(self, epoch: int) -> int:  # noqa: ARG002
        return ORDER.steps

    def drawn(self, number: int, start_step: int = 0, rank: int = 0, world: int = 1) -> Iterator[Drawn]:
        for draws in ORDER.draws(5, number)[start_step:]:
            part = share(len(draws.places), rank, world)
            places = draws.places[part.positions]
            weights = torch.from_numpy(np.where(part.is_real, WEIGHTS[places], np.float32(0)))
            yield Drawn(places, torch.eye(CLASSES)[LABELS[places]], weights)

    def view(self, number: int) -> Iterator[Tensor]:
        self.asked += 1
        shown = PIXELS if number == 0 else PIXELS.flip(2)
        yield from (shown[start : start + 16] for start in range(0, IMAGES, 16))


@dataclass
class Uncached:
    """The same images as a CutFeed shows, as pixels."""

    images: int = IMAGES

    def steps(self, epoch: int) -> int:  # noqa: ARG002
        return ORDER.steps

    def epoch(self, number: int, start_step: int = 0, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        for each in Two().drawn(number, start_step, rank, world):
            shown = PIXELS if number % 2 == 0 else PIXELS.flip(2)
            yield Batch(shown[each.places], each.targets, each.weights)


def arranged(unfreeze_from: str | None = "c4", seed: int = 0) -> Tunable:
    model = tunable(seed=seed)
    model.arrange(plan(unfreeze_from=unfreeze_from))
    return model


def shown(looks: Two) -> Shown:
    return Shown(looks, 2, IMAGES, "0" * 64)


def kept(
    cache: Path, model: Tunable | None = None, looks: Two | None = None, precision: Precision = "fp32"
) -> tuple[NDArray[Any], ...]:
    return activations.kept(model or arranged(), shown(looks or Two()), precision, cache, nothing)


def feed(rows: tuple[NDArray[Any], ...], model: Tunable) -> CutFeed:
    return CutFeed(rows, model.cut().prefix, Two())


@pytest.mark.parametrize("unfreeze_from", ["c2", "c4", "top", None])
def test_cached_and_uncached_epochs_give_the_same_weights(tmp_path: Path, unfreeze_from: str | None) -> None:
    model = arranged(unfreeze_from)
    cached = feed(kept(tmp_path, model), model)
    chosen = plan(rate=0.02, unfreeze_from=unfreeze_from, epochs=3)
    first, second = (
        loop.tune(learner(), lessons(feed=each), chosen, tmp_path / name, nothing)
        for name, each in (("uncached", Uncached()), ("cached", cached))
    )
    for name, each in first.state.items():
        torch.testing.assert_close(second.state[name], each, rtol=0, atol=1e-6, msg=name)


def test_in_half_the_room_it_rounds_to_three_digits(tmp_path: Path) -> None:
    model = arranged()
    whole, half = kept(tmp_path, model), kept(tmp_path, model, precision="bf16")
    assert half[0].dtype["map"].itemsize * 2 == whole[0].dtype["map"].itemsize
    exact, rounded = (next(feed(rows, model).epoch(0)) for rows in (whole, half))
    assert rounded.map.dtype == torch.float32
    torch.testing.assert_close(rounded.map, exact.map, rtol=1 / 128, atol=1e-6)
    assert torch.equal(rounded.taps["c2"], exact.taps["c2"])


def test_it_is_computed_once(tmp_path: Path) -> None:
    looks, told = Two(), list[int]()
    first = kept(tmp_path, looks=looks)
    assert looks.asked == 2
    model = arranged()
    # What lies behind the cut may be another: it was not asked.
    with torch.no_grad():
        model.get_parameter("backbone.module.conv_head.weight").zero_()
        model.get_parameter("head.linear.weight").zero_()
    second = activations.kept(model, shown(looks), "fp32", tmp_path, told.append)
    assert looks.asked == 2
    assert sum(told) == 2 * IMAGES
    assert all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("other", ["weights", "statistics", "scaling", "cut", "pixels", "precision"])
def test_a_cache_of_something_else_misses(tmp_path: Path, other: str) -> None:
    kept(tmp_path)
    looks, model, asked = Two(), arranged("c3" if other == "cut" else "c4"), "0" * 64
    precision: Precision = "bf16" if other == "precision" else "fp32"
    with torch.no_grad():
        match other:
            case "weights":
                model.get_parameter("backbone.module.conv_stem.weight")[0, 0, 0, 0] += 1e-6
            case "statistics":
                model.get_buffer("backbone.module.bn1.running_var")[0] += 1e-6
            case "scaling":
                model.backbone.mean += 1
            case "pixels":
                asked = "1" * 64
    activations.kept(model, replace(shown(looks), sha256=asked), precision, tmp_path, nothing)
    assert looks.asked == 2


def test_a_damaged_file_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept(tmp_path)
    path = sorted((tmp_path / "cuts").iterdir())[0]
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    looks = Two()
    rows = kept(tmp_path, looks=looks)
    assert looks.asked == 1
    assert "Passing over the damaged" in caplog.text
    assert len(rows) == len(list((tmp_path / "cuts").iterdir())) == 2


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    with (
        largest_file(200_000),
        pytest.raises(
            CacheError,
            match=r"Expected room for the activations of 40 images in .*cuts\. Received: File too large, \d+ bytes",
        ),
    ):
        kept(tmp_path, arranged("c2"))
    assert list((tmp_path / "cuts").iterdir()) == []


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match=os.strerror(errno.ENOTDIR)):
        kept(tmp_path / "file")


def test_only_an_old_draft_is_removed(tmp_path: Path) -> None:
    (tmp_path / "cuts").mkdir()
    for name, age_s in ((".old.tmp", 3700), (".young.tmp", 3500)):
        path = tmp_path / "cuts" / name
        path.write_bytes(b"half")
        os.utime(path, (path.stat().st_mtime - age_s,) * 2)
    kept(tmp_path)
    assert {path.name for path in (tmp_path / "cuts").iterdir() if path.suffix == ".tmp"} == {".young.tmp"}


def test_activations_of_another_cut_are_refused(tmp_path: Path) -> None:
    model = arranged("c3")
    given = Learner(tunable(), origins(tunable()), RECIPE)
    with pytest.raises(
        TuningError, match=r"Expected activations at the cut behind blocks\.2\. Received: those behind blocks\.1\."
    ):
        loop.tune(given, lessons(feed=feed(kept(tmp_path, model), model)), plan(), tmp_path / "run", nothing)


def test_processes_share_each_batch(tmp_path: Path) -> None:
    model = arranged()
    cached = feed(kept(tmp_path, model), model)
    whole = list(cached.epoch(1))
    parts = [list(cached.epoch(1, start_step=2, rank=rank, world=3)) for rank in range(3)]
    assert [len(each) for each in parts] == [1, 1, 1]
    assert [len(part[0].weights) for part in parts] == [3, 3, 3]
    real = torch.cat([part[0].map[part[0].weights > 0] for part in parts])
    assert torch.equal(real, whole[2].map)
    assert torch.equal(torch.cat([part[0].weights for part in parts])[:8], whole[2].weights)
