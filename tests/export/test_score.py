from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics

from export.score import Estimate, Scores, score, softmax, wilson

LABELS = ("cat", "dog", "horse", "owl")


def draw(images: int, sharpness: float = 2.0, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits of four classes, and classes drawn with the probabilities that they have at sharpness 1."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (images, len(LABELS))).astype(np.float32)
    chances = softmax(logits).cumsum(axis=1)
    chances[:, -1] = 1
    expected = (chances > random.random((images, 1))).argmax(axis=1)
    return logits * np.float32(sharpness), expected


def decide(answered: Sequence[int], classes: int) -> NDArray[np.float32]:
    """Logits that say the one class almost surely."""
    return np.eye(classes, dtype=np.float32)[list(answered)] * 9


def scored(expected: Sequence[int], answered: Sequence[int], labels: Sequence[str] = LABELS) -> Scores:
    return score(decide(answered, len(labels)), np.array(expected), labels)


def test_the_figures_are_scikit_learn_s() -> None:
    logits, expected = draw(500)
    answered = logits.argmax(axis=1)
    found = score(logits, expected, LABELS)
    assert found.images == 500
    assert found.accuracy.value == pytest.approx(metrics.accuracy_score(expected, answered))
    assert found.balanced_accuracy.value == pytest.approx(metrics.balanced_accuracy_score(expected, answered))
    assert found.macro_f1.value == pytest.approx(metrics.f1_score(expected, answered, average="macro"))
    assert found.log_loss == pytest.approx(metrics.log_loss(expected, softmax(logits)), rel=1e-6)
    assert found.matrix().tolist() == metrics.confusion_matrix(expected, answered).tolist()
    assert all(images for *_, images in found.confusion)
    precision, recall, f1, images = metrics.precision_recall_fscore_support(expected, answered)
    for column, each in enumerate(found.per_class):
        assert each.precision is not None
        assert each.recall is not None
        assert each.f1 is not None
        assert (each.label, each.images) == (LABELS[column], images[column])
        assert (each.precision.value, each.recall.value, each.f1.value) == pytest.approx(
            (precision[column], recall[column], f1[column])
        )


# Brown, Cai and DasGupta (2001) and Newcombe (1998), Table I, method 3.
@pytest.mark.parametrize(
    ("right", "images", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_s_interval_is_the_published_one(right: int, images: int, low: float, high: float) -> None:
    found = wilson(right, images)
    assert (found.value, found.low, found.high) == pytest.approx((right / images, low, high), abs=5e-5)


def test_an_interval_holds_its_value_and_stays_within_0_and_1() -> None:
    for seed in range(20):
        found = score(*draw(7, seed=seed), LABELS)
        per_class = [each for row in found.per_class for each in (row.precision, row.recall, row.f1)]
        bins = [each.accuracy for each in found.reliability]
        overall = [found.accuracy, found.balanced_accuracy, found.macro_f1, found.calibration_error]
        for estimate in filter(None, [*overall, *bins, *per_class]):
            assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


def test_few_images_that_are_all_right_prove_little() -> None:
    found = scored([0, 1, 0, 1, 0, 1], [0, 1, 0, 1, 0, 1], LABELS[:2])
    for estimate in (found.accuracy, found.balanced_accuracy, found.macro_f1):
        assert estimate.value == estimate.high == 1
        assert estimate.low < 0.75


def test_few_sure_and_right_answers_prove_no_calibration() -> None:
    found = scored([0, 1] * 5, [0, 1] * 5, LABELS[:2]).calibration_error
    assert found.value < 0.001
    assert found.high == pytest.approx(0.2775, abs=1e-3)
    one = scored([0], [1], LABELS[:2]).calibration_error
    assert one.value > 0.999
    assert one.low < 0.21


def test_a_class_without_images_does_not_count() -> None:
    found = scored([0, 0, 1, 1], [0, 2, 1, 1])
    assert found.balanced_accuracy.value == pytest.approx((0.5 + 1) / 2)
    assert found.macro_f1.value == pytest.approx((2 / 3 + 1) / 2)
    horse, owl = found.per_class[2:]
    assert (horse.images, horse.recall, horse.f1) == (0, None, None)
    assert horse.precision is not None
    assert horse.precision.value == 0
    assert owl.precision is None


def test_one_image_is_enough() -> None:
    found = scored([2], [1])
    assert (found.images, found.accuracy.value, found.macro_f1.value) == (1, 0, 0)
    assert found.accuracy.high == pytest.approx(0.7935, abs=1e-4)


def test_softmax_and_log_loss_are_stable() -> None:
    logits = np.array([[1e30, -1e30], [-1e4, -1e4 - 2], [80000, 80000]], np.float32)
    assert softmax(logits)[1:].tolist() == [pytest.approx([0.880797, 0.119203]), [0.5, 0.5]]
    found = score(logits, np.array([0, 0, 1]), LABELS[:2])
    assert found.log_loss == pytest.approx((0 + 0.126928 + np.log(2)) / 3, rel=1e-5)


def test_reliability_is_taken_in_fifteen_equal_bins() -> None:
    # Probabilities 0.5 (bin 7) and 1 (the last, which is closed).
    logits = np.array([[0, 0], [0, 0], [0, 0], [200, 0]], np.float32)
    found = score(logits, np.array([0, 1, 1, 0]), LABELS[:2])
    half, sure = found.reliability
    assert (half.low, half.high, half.images, half.confidence) == (7 / 15, 8 / 15, 3, 0.5)
    assert half.accuracy.value == pytest.approx(1 / 3)
    assert (sure.low, sure.high, sure.images, sure.confidence, sure.accuracy.value) == (14 / 15, 1, 1, 1, 1)
    assert found.calibration_error.value == pytest.approx(3 / 4 * (0.5 - 1 / 3))


def test_the_intervals_are_the_same_every_time() -> None:
    assert score(*draw(100), LABELS) == score(*draw(100), LABELS)


def test_the_calibration_error_tells_sure_from_too_sure() -> None:
    calibrated = score(*draw(1000, sharpness=1), LABELS).calibration_error
    too_sure = score(*draw(1000, sharpness=4), LABELS).calibration_error
    assert calibrated.low < 0.005 < calibrated.value
    assert too_sure.low > 0.1


def covers(estimates: Sequence[Estimate], truth: float) -> float:
    return float(np.mean([each.low <= truth <= each.high for each in estimates]))


def test_the_intervals_cover_the_truth() -> None:
    # 15 of each of four classes, named rightly with 0.8, else by any of the others.
    chances = np.full((4, 4), 0.2 / 3) + np.eye(4) * (0.8 - 0.2 / 3)
    expected = np.repeat(np.arange(4), 15)
    random = np.random.default_rng(7)
    drawn = [(chances[expected].cumsum(axis=1) > random.random((60, 1))).argmax(axis=1) for _ in range(120)]
    found = [score(decide(answered, 4), expected, LABELS) for answered in drawn]
    # The standard error of a coverage of 0.95 is 0.02 here.
    assert covers([each.accuracy for each in found], 0.8) > 0.89
    assert covers([each.balanced_accuracy for each in found], 0.8) > 0.89
    assert covers([each.macro_f1 for each in found], 0.8) > 0.89
    assert covers([each.f1 for each in (row.per_class[0] for row in found) if each.f1 is not None], 0.8) > 0.89
    # And they say something.
    assert float(np.mean([each.macro_f1.high - each.macro_f1.low for each in found])) < 0.25


def test_the_calibration_error_s_interval_covers_none() -> None:
    found = [score(*draw(150, sharpness=1, seed=seed), LABELS).calibration_error for seed in range(60)]
    assert covers(found, 0.002) > 0.89


@pytest.mark.parametrize(
    ("logits", "expected", "message"),
    [
        ([[0, float("nan")]], [0], r"Expected finite logits. Received: nan in row 0."),
        ([[0, 1], [float("-inf"), 0]], [0, 1], r"Expected finite logits. Received: -inf in row 1."),
        ([[0, 1]], [2], r"Expected classes from 0 to 1. Received: 2."),
        ([[0, 1]], [-1], r"Expected classes from 0 to 1. Received: -1."),
        ([[0, 1, 2]], [0], r"Expected logits of at least one image as \[1, 2\].* Received: \[1, 3\]."),
        ([[0, 1]], [0, 1], r"as \[2, 2\].* Received: \[1, 2\]."),
    ],
)
def test_what_cannot_be_scored_is_named(logits: list[list[float]], expected: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score(np.array(logits, np.float32), np.array(expected), LABELS[:2])


def test_no_images_cannot_be_scored() -> None:
    with pytest.raises(ValueError, match=r"Expected logits of at least one image as \[0, 2\].* Received: \[0, 2\]."):
        score(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), LABELS[:2])
