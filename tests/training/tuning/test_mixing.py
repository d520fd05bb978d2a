"""Mixed images are said to be what they are, and what they count is kept."""

import numpy as np
import pytest

from training.tuning.mixing import Rows, mixed


def rows(values: tuple[int, ...], weights: tuple[float, ...], size: tuple[int, int] = (10, 16)) -> Rows:
    """Images of one colour, each of a class of its own."""
    pixels = np.stack([np.full((*size, 3), value, np.uint8) for value in values])
    targets = np.eye(8, dtype=np.float32)[np.array(values) // 10]
    return Rows(pixels, targets, np.array(weights, np.float32))


OWN, OTHERS = rows((10, 20, 70), (1, 1, 1)), rows((70, 10, 20), (1, 1, 1))


def test_targets_say_how_much_of_an_image_is_to_be_seen() -> None:
    kinds = set()
    for seed in range(40):
        made = mixed(OWN, OTHERS, np.random.default_rng(seed))
        np.testing.assert_allclose(made.targets.sum(1), 1, rtol=1e-6)
        # A colour is ten times its class, so what is seen and what is said give the same number.
        said = made.targets @ (np.arange(8) * 10)
        np.testing.assert_allclose(made.pixels.mean((1, 2, 3)), said, atol=0.51)
        kinds.add("cut" if set(np.unique(made.pixels)) <= {10, 20, 70} else "mixed")
        assert made.pixels.dtype == np.uint8
        assert made.targets.dtype == made.weights.dtype == np.float32
    assert kinds == {"cut", "mixed"}


def test_what_an_image_counts_goes_with_its_part() -> None:
    own, others = rows((10, 20, 70), (1, 3, 0.5)), rows((70, 10, 20), (0.5, 1, 3))
    for seed in range(10):
        made = mixed(own, others, np.random.default_rng(seed))
        even = mixed(OWN, OTHERS, np.random.default_rng(seed))
        # Each image is once the one and once the other, so the batch counts as much of each class as before.
        before = (own.targets * own.weights[:, None]).sum(0)
        np.testing.assert_allclose((made.targets * made.weights[:, None]).sum(0), before, rtol=1e-5)
        np.testing.assert_array_equal(made.pixels, even.pixels)


def test_cuts_have_every_part() -> None:
    parts = [mixed(OWN, OTHERS, np.random.default_rng(seed)).targets[0, 1] for seed in range(200)]
    assert min(parts) < 0.1
    assert max(parts) > 0.95
    assert 0.4 < float(np.mean(parts)) < 0.7


def test_nothing_that_is_given_is_changed_and_the_generator_decides() -> None:
    before = OWN.pixels.copy(), OTHERS.pixels.copy(), OWN.targets.copy(), OWN.weights.copy()
    one, same, other = (mixed(OWN, OTHERS, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.pixels, same.pixels)
    assert (one.pixels != other.pixels).any()
    after = OWN.pixels, OTHERS.pixels, OWN.targets, OWN.weights
    for left, right in zip(before, after, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("seed", range(8))
def test_images_of_one_pixel_can_be_mixed(seed: int) -> None:
    made = mixed(rows((10,), (1,), (1, 1)), rows((20,), (1,), (1, 1)), np.random.default_rng(seed))
    assert 10 <= made.pixels.min() <= 20
