"""What the loop is fed follows from seed, epoch and step, in however many processes and from wherever it goes on."""

import random
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from service import image
from service.bundle import CropGeometry, Interpolation
from tests.samples import encoded, photograph
from tests.training.tuning.test_pixels import ignore, squares, written
from training.dataset import Sample
from training.errors import CacheError, TuningError
from training.tuning import imbalance, pixels
from training.tuning.augmentation import Augmentation, preset
from training.tuning.batches import Augmented, Batch, Images, Plain, images
from training.tuning.order import Order

GEOMETRY = CropGeometry(36, 32, 32, Interpolation.INTERPOLATION_BICUBIC)
COUNT = 23
LABELS = np.array([place % 3 if place else 2 for place in range(COUNT)])
STRONG = preset("strong", turns=True, images=20_000, epochs=5)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    files = squares(tmp_path_factory.mktemp("images"), COUNT, 24)
    return [
        Sample(file.path, file.sha256, int(label), 1 + place, None)
        for place, (file, label) in enumerate(zip(files, LABELS, strict=True))
    ]


@pytest.fixture(scope="module")
def data(samples: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> Images:
    kept = pixels.framed(samples, GEOMETRY, tmp_path_factory.mktemp("cache"), ignore)
    return images(samples, kept, imbalance.treat("none", (7, 8, 8)))


def fed(data: Images, how: Augmentation = STRONG, batch: int = 6, **changes: object) -> Augmented:
    made = Augmented(data, Order(data.labels, batch), how, GEOMETRY, 0)
    return replace(made, **changes)  # type: ignore[arg-type]


def same(one: Batch, other: Batch) -> bool:
    return (
        torch.equal(one.pixels, other.pixels)
        and torch.equal(one.targets, other.targets)
        and torch.equal(one.weights, other.weights)
    )


def joined(parts: Sequence[Batch]) -> Batch:
    """The shares of all processes, without what only fills them up."""
    real = [part.weights > 0 for part in parts]
    kept = [
        (part.pixels[is_real], part.targets[is_real], part.weights[is_real])
        for part, is_real in zip(parts, real, strict=True)
    ]
    pixels, targets, weights = (torch.cat(each) for each in zip(*kept, strict=True))
    return Batch(pixels, targets, weights)


def test_a_batch_is_what_the_protocol_says(data: Images) -> None:
    batches = fed(data)
    assert (batches.images, batches.steps(0)) == (COUNT, 4)
    made = list(batches.epoch(0))
    assert [len(batch.weights) for batch in made] == [6, 6, 6, 5]
    for batch in made:
        size = len(batch.weights)
        assert (batch.pixels.dtype, batch.pixels.shape) == (torch.uint8, (size, 32, 32, 3))
        assert (batch.targets.dtype, batch.targets.shape) == (torch.float32, (size, 3))
        assert (batch.weights.dtype, batch.weights.shape) == (torch.float32, (size,))
        torch.testing.assert_close(batch.targets.sum(1), torch.ones(size))
        assert batch.pixels.is_contiguous()


def test_each_image_comes_with_its_label_and_what_it_counts(data: Images, samples: list[Sample]) -> None:
    seen = set()
    for batch in fed(data, Augmentation()).epoch(3):
        for shown, target, weight in zip(batch.pixels, batch.targets, batch.weights, strict=True):
            place = round(float(weight)) - 1
            assert target.tolist() == [float(column == LABELS[place]) for column in range(3)]
            served = image.read(samples[place].path.read_bytes(), GEOMETRY, image.ImageLimits())
            np.testing.assert_array_equal(shown.numpy(), served)
            seen.add(place)
    assert seen == set(range(COUNT))


def test_class_weights_multiply_what_an_image_counts(data: Images, samples: list[Sample]) -> None:
    treatment = imbalance.treat("class weights", (7, 8, 8))
    treated = images(samples, data.pixels, treatment)
    np.testing.assert_allclose(treated.weights, data.weights * np.array(treatment.weights)[LABELS], rtol=1e-6)
    assert treated.weights.dtype == np.float32


@pytest.mark.parametrize("how", [STRONG, replace(STRONG, mixing=False)])
def test_an_epoch_that_goes_on_in_its_middle_is_as_if_it_never_stopped(data: Images, how: Augmentation) -> None:
    whole = list(fed(data, how).epoch(1))
    for start in range(5):
        rest = list(fed(data, how).epoch(1, start))
        assert len(rest) == 4 - start
        assert all(same(one, other) for one, other in zip(whole[start:], rest, strict=True))


def test_every_epoch_and_every_seed_is_another(data: Images) -> None:
    how = replace(STRONG, mixing=False)
    firsts = [next(fed(data, how, COUNT, seed=seed).epoch(epoch)) for seed in (0, 1) for epoch in (0, 1)]
    looks = [{shown.numpy().tobytes() for shown in batch.pixels} for batch in firsts]
    assert all(len(one & other) < 3 for place, one in enumerate(looks) for other in looks[:place])


def test_every_step_of_every_epoch_is_mixed_otherwise(data: Images) -> None:
    alike = fed(replace(data, weights=np.ones(COUNT, np.float32)))
    parts = {float(batch.targets.amax(1).amin()) for epoch in range(4) for batch in alike.epoch(epoch)}
    assert len(parts) > 12


@pytest.mark.parametrize("how", [STRONG, Augmentation()])
@pytest.mark.parametrize("world", [2, 3, 8])
def test_several_processes_together_see_what_one_sees(data: Images, how: Augmentation, world: int) -> None:
    alone = list(fed(data, how).epoch(0))
    together = [list(fed(data, how).epoch(0, rank=rank, world=world)) for rank in range(world)]
    for step, batch in enumerate(alone):
        parts = [each[step] for each in together]
        assert {len(part.weights) for part in parts} == {-(-len(batch.weights) // world)}
        assert same(joined(parts), batch)


def test_nobody_elses_random_numbers_are_touched_or_matter(data: Images) -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    before = torch.get_rng_state(), random.getstate(), np.random.random()
    first = list(fed(data).epoch(0))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    np.random.seed(1)
    assert np.random.random() == before[2]
    torch.manual_seed(2)
    assert all(same(one, other) for one, other in zip(first, fed(data).epoch(0), strict=True))


def test_an_image_that_is_drawn_again_looks_otherwise(data: Images) -> None:
    few = replace(data, labels=np.array([0] * (COUNT - 1) + [1]), classes=2)
    how = preset("light", turns=False, images=COUNT, epochs=1)
    balanced = fed(few, how, COUNT, order=Order(few.labels, COUNT, balanced=True))
    (batch,) = balanced.epoch(0)
    rare = batch.pixels[batch.targets[:, 1] == 1]
    assert len(rare) in (COUNT // 2, COUNT - COUNT // 2)
    assert len({shown.numpy().tobytes() for shown in rare}) == len(rare)


def test_so_many_views_come_in_turn_and_are_what_a_cache_can_keep(data: Images) -> None:
    how = replace(STRONG, mixing=False)
    viewed = fed(data, how, views=2)
    views = [torch.cat(list(viewed.view(number))) for number in (0, 1)]
    assert views[0].shape == (COUNT, 32, 32, 3)
    assert not torch.equal(*views)
    for epoch in range(4):
        shown = viewed.epoch(epoch, 1, 1, 2)
        drawn = viewed.drawn(epoch, 1, 1, 2)
        for batch, draw in zip(shown, drawn, strict=True):
            assert torch.equal(batch.pixels, views[epoch % 2][torch.from_numpy(draw.places)])
            assert torch.equal(batch.targets, draw.targets)
            assert torch.equal(batch.weights, draw.weights)
    # Without a number of them the first epochs look the same.
    assert torch.equal(torch.cat(list(fed(data, how).view(1))), views[1])


def test_what_views_follow_from_has_a_name(data: Images) -> None:
    how = replace(STRONG, mixing=False)
    viewed = fed(data, how, views=2)
    assert viewed.sha256 == fed(data, how, 3, views=5).sha256
    others = {
        viewed.sha256,
        fed(data, replace(how, area=0.9), views=2).sha256,
        fed(data, how, views=2, seed=1).sha256,
        fed(data, how, views=2, geometry=replace(GEOMETRY, crop_width_px=16)).sha256,
        fed(replace(data, pixels=replace(data.pixels, keys=data.pixels.keys[::-1])), how, views=2).sha256,
    }
    assert len(others) == 5


def test_views_of_balanced_classes_are_the_same_each_time(data: Images) -> None:
    balanced = fed(data, replace(STRONG, mixing=False), views=1, order=Order(np.r_[0, LABELS[1:]], 6, balanced=True))
    (view,) = [torch.cat(list(balanced.view(0)))]
    for batch, draw in zip(balanced.epoch(5), balanced.drawn(5), strict=True):
        assert torch.equal(batch.pixels, view[torch.from_numpy(draw.places)])


def test_views_that_cannot_be_are_refused(data: Images) -> None:
    with pytest.raises(TuningError, match=r"Expected at least one view of an image\. Received: 0\."):
        fed(data, views=0)
    with pytest.raises(
        TuningError,
        match=r"^Expected images that can have 2 views \(--cached-views\). Received: an aug",
    ):
        fed(data, views=2)


def workers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ahead")]


def test_an_epoch_that_is_left_leaves_no_thread(data: Images) -> None:
    with closing(fed(data, batch=1).epoch(0)) as batches:
        assert len(list(islice(batches, 2))) == 2
        assert workers()
    assert workers() == []


def test_batches_are_made_only_a_few_ahead(data: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    read = pixels.Pixels.read

    def counted(self: pixels.Pixels, places: Sequence[int]) -> object:
        made.append(len(places))
        return read(self, places)

    monkeypatch.setattr(pixels.Pixels, "read", counted)
    with closing(fed(data, batch=1).epoch(0)) as batches:
        next(batches)
    assert len(made) <= 5


def test_what_goes_wrong_in_a_thread_is_raised_where_the_batch_is_taken(samples: list[Sample], tmp_path: Path) -> None:
    kept = pixels.framed(samples, GEOMETRY, tmp_path, ignore)
    batches = fed(images(samples, kept, imbalance.treat("none", (7, 8, 8))), batch=1).epoch(0)
    for path in tmp_path.rglob("*.npy"):
        path.unlink()
    with pytest.raises(CacheError, match=r"Received: .*No such file"):
        list(batches)
    assert workers() == []


@pytest.mark.parametrize("how", [STRONG, Augmentation()])
@pytest.mark.parametrize("size", [(1, 1), (1, 90), (300, 200)])
def test_a_single_image_of_any_size_can_be_learnt_from(
    size: tuple[int, int], how: Augmentation, tmp_path: Path
) -> None:
    file = written(tmp_path / "only.png", encoded(photograph(size), "PNG"))
    sample = Sample(file.path, file.sha256, 0, 0.5, None)
    kept = pixels.framed([sample], GEOMETRY, tmp_path / "cache", ignore)
    only = fed(images([sample], kept, imbalance.choose([1])), how, 64)
    (batch,) = only.epoch(0)
    assert batch.pixels.shape == (1, 32, 32, 3)
    assert batch.targets.tolist() == [[1]]
    assert batch.weights.tolist() == [0.5]


def plain(samples: list[Sample], cache: Path, batch: int) -> Plain:
    kept = pixels.served(samples, GEOMETRY, cache, ignore)
    return Plain(kept, np.array([sample.label for sample in samples], np.int64), np.ones(len(samples)), batch)


def shown(of: Plain) -> tuple[Tensor, Tensor]:
    made = list(of.batches())
    return torch.cat([batch.pixels for batch in made]), torch.cat([batch.labels for batch in made])


def test_validation_shows_what_is_served_in_the_order_of_the_data(samples: list[Sample], tmp_path: Path) -> None:
    validation = plain(samples, tmp_path, 10)
    assert [len(batch.labels) for batch in validation.batches()] == [10, 10, 3]
    pixels, labels = shown(validation)
    served = [image.read(sample.path.read_bytes(), GEOMETRY, image.ImageLimits()) for sample in samples]
    np.testing.assert_array_equal(pixels.numpy(), served)
    assert (labels.dtype, labels.tolist()) == (torch.int64, LABELS.tolist())


def test_an_empty_split_has_no_batches(tmp_path: Path) -> None:
    assert list(plain([], tmp_path, 10).batches()) == []
