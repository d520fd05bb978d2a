"""An epoch's order is a function of seed and epoch, and every process knows its share of it."""

import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from training.errors import TuningError
from training.tuning.order import Order, share


def labels(*counts: int) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(counts)), counts)


def shown(order: Order, seed: int = 0, epoch: int = 0) -> NDArray[np.int64]:
    return np.concatenate([draws.places for draws in order.draws(seed, epoch)])


def test_an_epoch_shows_each_image_once_and_leaves_none_out() -> None:
    order = Order(labels(50, 53), 10)
    assert (order.images, order.steps) == (103, 11)
    draws = order.draws(0, 0)
    assert [len(each.places) for each in draws] == [10] * 10 + [3]
    assert sorted(shown(order)) == list(range(103))
    assert list(shown(order)) != list(range(103))
    assert not any(each.repeats.any() for each in draws)


@pytest.mark.parametrize("balanced", [False, True])
def test_the_order_follows_from_seed_and_epoch_alone(balanced: bool) -> None:
    order = Order(labels(50, 3), 7, balanced)
    orders = {tuple(shown(order, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    again = Order(labels(50, 3), 7, balanced)
    assert {tuple(shown(again, seed, epoch)) for seed in range(3) for epoch in range(3)} == orders


def test_another_process_has_the_same_order() -> None:
    program = (
        "import numpy as np; from training.tuning.order import Order;"
        "print([draws.places.tolist() for draws in Order(np.arange(9) // 3, 4).draws(5, 2)])"
    )
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert found.strip() == str([draws.places.tolist() for draws in Order(labels(3, 3, 3), 4).draws(5, 2)])


def test_a_batch_larger_than_the_data_shows_all_of_it() -> None:
    order = Order(labels(2, 3), 64)
    assert (order.images, order.steps) == (5, 1)
    assert sorted(shown(order)) == [0, 1, 2, 3, 4]


def test_a_last_batch_of_one_is_left_out_only_for_batch_norm_and_is_another_image_each_time() -> None:
    assert [len(draws.places) for draws in Order(labels(21), 10).draws(0, 0)] == [10, 10, 1]
    order = Order(labels(21), 10, fewest=2)
    assert (order.images, order.steps) == (20, 2)
    left_out = {(set(range(21)) - set(shown(order, epoch=epoch))).pop() for epoch in range(20)}
    assert len(left_out) > 5
    assert Order(labels(22), 10, fewest=2).images == 22


@pytest.mark.parametrize("counts", [(90, 9, 1), (1, 1), (1000, 1), (7, 7, 7), (5, 5, 5, 0, 5)])
def test_balanced_classes_are_shown_equally_often(counts: tuple[int, ...]) -> None:
    order = Order(labels(*counts), 8, balanced=True)
    places = shown(order)
    assert len(places) == sum(counts)
    by_class = np.bincount(labels(*counts)[places])
    by_class = by_class[np.array(counts)[: len(by_class)] > 0]
    assert by_class.max() - by_class.min() <= 1
    for label, count in enumerate(counts):
        times = np.bincount(places, minlength=sum(counts))[labels(*counts) == label]
        assert len(times) == count
        assert not count or times.max() - times.min() <= 1


def test_balanced_classes_do_not_come_in_turn() -> None:
    # Else a batch that is mixed would mix each class with one other only.
    sequence = labels(30, 30, 30)[shown(Order(labels(30, 30, 30), 8, balanced=True))]
    assert len(set(zip(sequence[:-1].tolist(), sequence[1:].tolist(), strict=True))) == 9


def test_the_odd_place_goes_to_another_class_each_time() -> None:
    order = Order(labels(3, 3, 4), 10, balanced=True)
    most = {int(np.bincount(labels(3, 3, 4)[shown(order, epoch=epoch)]).argmax()) for epoch in range(20)}
    assert most == {0, 1, 2}


def test_repeats_count_how_often_an_image_came_before() -> None:
    draws = Order(labels(20, 2), 5, balanced=True).draws(0, 0)
    seen: dict[int, int] = {}
    for each in draws:
        for place, repeat in zip(each.places.tolist(), each.repeats.tolist(), strict=True):
            assert repeat == seen.get(place, 0)
            seen[place] = repeat + 1
    assert max(seen.values()) == 6


@pytest.mark.parametrize("images", [1, 2, 5, 8, 64])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_the_shares_of_all_processes_are_the_batch_in_its_order(images: int, world: int) -> None:
    shares = [share(images, rank, world) for rank in range(world)]
    assert {len(each.positions) for each in shares} == {-(-images // world)}
    real = np.concatenate([each.positions[each.is_real] for each in shares])
    assert real.tolist() == list(range(images))
    assert all(0 <= each.positions.min() <= each.positions.max() < images for each in shares)


@pytest.mark.parametrize(("rank", "world"), [(2, 2), (-1, 2), (0, 0)])
def test_a_process_that_there_is_not_is_named(rank: int, world: int) -> None:
    with pytest.raises(TuningError, match=rf"Expected a process of 0 to {world - 1}\. Received: {rank}"):
        share(4, rank, world)


def test_no_images_are_refused() -> None:
    with pytest.raises(TuningError, match=r"Expected images to learn from\. Received: none"):
        Order(labels(), 4)


@pytest.mark.parametrize(("batch", "fewest"), [(0, 1), (-3, 1), (1, 2), (4, 0)])
def test_batches_that_cannot_be_are_refused(batch: int, fewest: int) -> None:
    with pytest.raises(TuningError, match=rf"Expected batches of at least {max(1, fewest)} images\. Received: {batch}"):
        Order(labels(4), batch, fewest=fewest)


def test_fewer_images_than_batch_norm_needs_are_refused() -> None:
    with pytest.raises(TuningError, match=r"Expected at least 2 images, which batch norm .* Received: 1\. Train with"):
        Order(labels(1), 8, fewest=2)
