"""Views of images follow from seed, epoch and image alone, and differ where they are to differ."""

from pathlib import Path

import numpy as np
import pytest
import torch

from service.bundle import CropGeometry, Interpolation
from tests.training.pretraining.scene import IMAGES, pictures
from training.pretraining import images
from training.pretraining.batches import Look, Views
from training.tuning import pixels
from training.tuning.augmentation import Augmentation
from training.tuning.order import Order

GEOMETRY = CropGeometry(36, 32, 32, Interpolation.INTERPOLATION_BILINEAR)


def views(folder: Path, *, count: int = 2, recoloured: bool = True, seed: int = 0, augmented: bool = True) -> Views:
    data = images.prepare(images.read(pictures(folder / "in")), "error", folder / "cache", lambda _: None)
    kept = pixels.framed(data.images, GEOMETRY, folder / "cache", lambda _: None)
    look = Look(Augmentation(area=0.3, mirrors=True) if augmented else Augmentation(), recoloured)
    return Views(kept, Order(np.zeros(IMAGES, np.int64), 5, fewest=2), look, count, GEOMETRY, seed, data.sha256)


def test_an_epoch_shows_every_image_in_so_many_views(tmp_path: Path) -> None:
    shown = list(views(tmp_path).epoch(0))
    assert [each.shape for each in shown] == [(2, 5, 32, 32, 3), (2, 5, 32, 32, 3), (2, 2, 32, 32, 3)]
    assert all(each.dtype == torch.uint8 for each in shown)
    assert not torch.equal(shown[0][0], shown[0][1])


def test_they_are_the_same_every_time_and_from_any_step_on(tmp_path: Path) -> None:
    first, again = list(views(tmp_path).epoch(1)), list(views(tmp_path).epoch(1, start_step=1))
    assert all(torch.equal(one, other) for one, other in zip(first[1:], again, strict=True))


@pytest.mark.parametrize("changed", [{"seed": 1}, {}])
def test_another_epoch_or_seed_shows_others(tmp_path: Path, changed: dict[str, int]) -> None:
    before = next(views(tmp_path).epoch(0))
    after = next(views(tmp_path, **changed).epoch(0 if changed else 1))  # type: ignore[arg-type]
    assert not torch.equal(before, after)


def test_without_changes_views_are_as_served_and_both_alike(tmp_path: Path) -> None:
    (first, *_) = views(tmp_path, recoloured=False, augmented=False).epoch(0)
    assert torch.equal(first[0], first[1])


def test_colours_change_where_they_are_to(tmp_path: Path) -> None:
    plain = next(views(tmp_path, recoloured=False).epoch(0)).float()
    changed = next(views(tmp_path).epoch(0)).float()
    means = [each.mean((2, 3)) for each in (plain, changed)]  # [V, B, 3]
    assert (means[0] - means[1]).abs().max() > 10
