"""Heads are chosen without a look at what is held out, and are as sure as they are right."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from training import fitting, logistic, mlp
from training.errors import HeadError
from training.fitting import Examples, Kind, temperature
from training.tuning import imbalance

NAMES = ("ant", "bee", "cat")


def blobs(images: int, classes: int, columns: int = 12, apart: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Classes around centres of their own; the less they are apart, the more they overlap."""
    centres = torch.randn(classes, columns, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(images) % classes
    noise = torch.randn(images, columns, generator=torch.Generator().manual_seed(seed))
    return apart * centres[labels] + noise, labels


def examples(features: Tensor | dict[str, Tensor], labels: Tensor, **said: object) -> Examples:
    """What a head learns from: features `[views * N, D]`, by tap where there are several."""
    taps = features if isinstance(features, dict) else {"embedding": features}
    made = Examples(
        matrix=lambda wanted: torch.cat([taps[tap] for tap in wanted], dim=1),
        widths={tap: each.shape[1] for tap, each in taps.items()},
        views=1,
        labels=labels,
        weights=torch.ones(len(labels), dtype=torch.float64),
        groups=[None] * len(labels),
        classes=NAMES[: int(labels.max()) + 1],
        seed=0,
    )
    return replace(made, **said)  # type: ignore[arg-type] # fields of Examples by name


def fit(learnt: Examples, kind: Kind = "linear") -> fitting.Fitted:
    return fitting.fit(kind, [("embedding",)], learnt)


def logits(fitted: fitting.Fitted, features: Tensor) -> Tensor:
    with torch.no_grad():
        answers: Tensor = fitted.module({"embedding": features})
    return answers


def accuracy(fitted: fitting.Fitted, features: Tensor, labels: Tensor) -> float:
    return float((logits(fitted, features).argmax(dim=1) == labels).double().mean())


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """For every fold that is solved: the weights `[views * N]` that it learnt by, and the images it was asked about."""
    seen: list[tuple[Tensor, Tensor]] = []
    solve, answer = logistic.Problem.solve, logistic.Problem.logits
    learnt: list[Tensor] = []

    def solving(self: logistic.Problem, l2: float, weights: Tensor, *rest: object) -> logistic.Solution:
        learnt.append(weights)
        return solve(self, l2, weights, *rest)  # type: ignore[arg-type] # passed through

    def answering(self: logistic.Problem, solution: logistic.Solution, rows: Tensor) -> Tensor:
        seen.append((learnt[-1], rows))
        return answer(self, solution, rows)

    monkeypatch.setattr(logistic.Problem, "solve", solving)
    monkeypatch.setattr(logistic.Problem, "logits", answering)
    return seen


def test_every_image_is_asked_about_once_by_a_fold_that_did_not_learn_from_it(
    asked: list[tuple[Tensor, Tensor]],
) -> None:
    features, labels = blobs(30, 3)
    fitted = fit(examples(features, labels))
    assert fitted.result.folds == 5
    assert len(asked) == 5 * len(fitted.result.trials)
    for start in range(0, len(asked), 5):
        assert torch.cat([rows for _, rows in asked[start : start + 5]]).sort().values.tolist() == list(range(30))
    for weights, rows in asked:
        assert int((weights == 0).sum()) == 6
        assert float(weights[rows].sum()) == 0
        assert labels[rows].bincount().tolist() == [2, 2, 2]


def test_all_views_of_an_image_stay_in_its_fold_and_only_the_plain_one_is_asked_about(
    asked: list[tuple[Tensor, Tensor]],
) -> None:
    features, labels = blobs(30, 3)
    fit(examples(torch.cat([features, features + 0.1, features - 0.1]), labels, views=3))
    for weights, rows in asked:
        assert int(rows.max()) < 30
        for view in weights.reshape(3, 30):
            assert view.nonzero()[:, 0].tolist() == sorted(set(range(30)) - set(rows.tolist()))


def test_a_group_is_never_divided(asked: list[tuple[Tensor, Tensor]]) -> None:
    features, labels = blobs(60, 3)
    groups = [f"scene {index // 6}" if index < 54 else None for index in range(60)]
    fitted = fit(examples(features, labels, groups=groups))
    assert fitted.result.folds == 5
    for weights, _ in asked:
        learnt = {groups[index] for index in weights.nonzero()[:, 0].tolist()} - {None}
        held_out = {groups[index] for index in (weights == 0).nonzero()[:, 0].tolist()} - {None}
        assert learnt.isdisjoint(held_out)
        assert held_out


def test_there_are_as_many_folds_as_the_scarcest_class_has_groups() -> None:
    features, labels = blobs(30, 3)
    groups = ["a" if index < 15 else "b" if index < 24 else None for index in range(30)]
    assert fit(examples(features, labels, groups=groups)).result.folds == 4


@pytest.mark.parametrize("groups", [["one"] * 30, [NAMES[index % 3] for index in range(30)]])
def test_a_class_of_one_group_is_refused(groups: Sequence[str]) -> None:
    features, labels = blobs(30, 3)
    message = r"at least 2 training images that are not of one group\. Received: 1 of 'ant'\. Add images, or remove"
    with pytest.raises(HeadError, match=message):
        fit(examples(features, labels, groups=groups))


def test_a_class_of_one_image_is_refused() -> None:
    features, labels = blobs(30, 2)
    with pytest.raises(
        HeadError, match=r"Expected of every class at least 2 training images .* Received: 1 of 'cat'\."
    ):
        fit(examples(features, torch.cat([labels[:-1], torch.tensor([2])])))


def test_another_seed_draws_other_folds_and_the_same_one_gives_the_same_bits() -> None:
    features, labels = blobs(60, 3, apart=0.5)
    first, again, other = (fit(examples(features, labels, seed=seed)) for seed in (0, 0, 1))
    assert first.result == again.result
    assert torch.equal(logits(first, features), logits(again, features))
    assert other.result.trials != first.result.trials


def test_nothing_is_learnt_from_what_is_held_out() -> None:
    """Labels that are noise are guessed, however well the rows that were learnt from are known by heart."""
    features = torch.randn(200, 300, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 2, (200,), generator=torch.Generator().manual_seed(1))
    fitted = fit(examples(features, labels))
    best = max(trial.accuracy for trial in fitted.result.trials)
    assert accuracy(fitted, features, labels) > 0.9
    assert best < 0.62  # 3.4 deviations of a coin above one half
    assert fitted.result.calibration is not None
    assert fitted.result.calibration.temperature > 1.5


def test_the_strength_of_l2_is_what_cross_validation_finds_best() -> None:
    features, labels = blobs(90, 3, columns=60, apart=0.35)
    result = fit(examples(features, labels)).result
    (chosen,) = [trial for trial in result.trials if trial.chosen]
    assert chosen.accuracy == max(trial.accuracy for trial in result.trials)
    assert [trial.l2 for trial in result.trials] == list(fitting.L2_PATH[: len(result.trials)])
    # The same folds, learnt from by scikit-learn on features of the same scale.
    scaled = ((features - features.mean(0)) / features.std(0, correction=0)).double().numpy()
    folds = fitting._folds(examples(features, labels)).numpy()
    right = []
    for fold in range(5):
        learnt = folds != fold
        model = LogisticRegression(C=1 / (chosen.l2 or 0) / learnt.sum(), tol=1e-8, max_iter=5000)
        model.fit(scaled[learnt], labels.numpy()[learnt])
        right.append((model.predict(scaled[~learnt]) == labels.numpy()[~learnt]).mean())
    assert chosen.accuracy == pytest.approx(np.mean(right), abs=0.012)  # one image of ninety
    assert chosen.deviation == pytest.approx(np.std(right, ddof=1), abs=0.03)


def test_a_path_goes_on_while_all_answers_are_the_most_frequent_class_but_surer() -> None:
    labels = (torch.arange(400) % 20 == 0).long()
    features = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    features[:, 0] += 3.5 * labels
    result = fit(examples(features, labels)).result
    plateau = [trial for trial in result.trials if trial.accuracy == 0.95]
    assert len(plateau) >= 2
    assert max(trial.accuracy for trial in result.trials) > 0.97
    assert not any(trial.chosen for trial in plateau)


def test_where_unequal_classes_are_treated_all_count_alike_in_the_choice_and_in_the_head() -> None:
    features, labels = blobs(1000, 2, apart=0.25)
    is_kept = (labels == 0) | (torch.arange(len(labels)) < 50)  # 500 and 25
    features, labels = features[is_kept], labels[is_kept]
    treated = imbalance.treat("logit adjustment", labels.bincount().tolist())
    fitted, plain = (fit(examples(features, labels, treated=each)) for each in (treated, None))
    # The strongest penalty leaves hardly more than the prior.
    assert plain.result.trials[0].accuracy == pytest.approx(500 / 525, abs=0.01)
    assert fitted.result.trials[0].accuracy < 0.85
    assert fitted.result.trials[0].l2 == plain.result.trials[0].l2
    others, theirs = blobs(1000, 2, apart=0.25, seed=1)
    rare = theirs == 1
    assert accuracy(fitted, others[rare], theirs[rare]) > accuracy(plain, others[rare], theirs[rare]) + 0.2
    assert accuracy(fitted, others, theirs) > accuracy(plain, others, theirs) + 0.05


def test_the_taps_are_chosen_and_of_equals_the_cheapest() -> None:
    features, labels = blobs(60, 2, apart=1.0)
    noise = torch.randn(60, 4, generator=torch.Generator().manual_seed(5))
    learnt = examples({"embedding": noise, "c3": features}, labels)
    fitted = fitting.fit("linear", [("embedding",), ("embedding", "c3")], learnt)
    assert fitted.head.taps == fitted.result.taps == ("embedding", "c3")
    assert {trial.taps for trial in fitted.result.trials} == {("embedding",), ("embedding", "c3")}
    same = examples({"embedding": 9 * features, "c3": noise}, labels)
    assert fitting.fit("linear", [("embedding",), ("embedding", "c3")], same).head.taps == ("embedding",)


def test_the_head_is_scikit_learns_on_all_images_with_the_chosen_strength() -> None:
    features, labels = blobs(120, 3, apart=0.6)
    features = 3 * features + 5
    fitted = fit(examples(features, labels))
    (chosen,) = [trial for trial in fitted.result.trials if trial.chosen]
    scaled = ((features - features.mean(0)) / features.std(0, correction=0)).double().numpy()
    model = LogisticRegression(C=1 / (chosen.l2 or 0) / 120, tol=1e-10, max_iter=5000).fit(scaled, labels.numpy())
    assert fitted.result.calibration is not None
    expected = torch.from_numpy(model.decision_function(scaled)) / fitted.result.calibration.temperature
    found = logits(fitted, features).double()
    found -= found.mean(dim=1, keepdim=True)
    expected -= expected.mean(dim=1, keepdim=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3 * float(expected.abs().max()))
    assert fitted.result.parameters == 3 * 12 + 3


def test_an_image_of_weight_two_counts_as_two() -> None:
    """Its copies are views here, as a data set has no file twice: one fold, and the same rows in all else."""
    features, labels = blobs(40, 2, apart=0.5)
    weights = torch.ones(40, dtype=torch.float64)
    doubled = fit(examples(torch.cat([features, features]), labels, views=2))
    once = fit(examples(features, labels, weights=2 * weights))
    torch.testing.assert_close(logits(once, features), logits(doubled, features), rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", ["linear", "mlp", "cosine"])
def test_weights_decide_where_labels_contradict_each_other(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlp, "_LEAST_STEPS", 60)
    features, labels = blobs(40, 2, apart=2.0)
    weights = torch.ones(80, dtype=torch.float64)
    weights[:40] = 20
    said = examples(torch.cat([features, features]), torch.cat([labels, 1 - labels]), weights=weights)
    assert accuracy(fit(said, kind), features, labels) == 1.0
    said = replace(said, weights=weights.flip(0))
    assert accuracy(fit(said, kind), features, 1 - labels) == 1.0


def calibrated(true_temperature: float, images: int = 20_000) -> tuple[Tensor, Tensor]:
    """Logits, and labels drawn from their softmax at another temperature."""
    random = torch.Generator().manual_seed(0)
    drawn = 3 * torch.randn(images, 4, generator=random)
    probabilities = torch.softmax(drawn / true_temperature, dim=1)
    return drawn, torch.multinomial(probabilities, 1, generator=random)[:, 0]


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 2.5])
def test_the_temperature_is_the_one_that_labels_were_drawn_at(true_temperature: float) -> None:
    drawn, labels = calibrated(true_temperature)
    found = temperature(drawn, labels, torch.ones(len(labels), dtype=torch.float64))
    assert found.temperature == pytest.approx(true_temperature, rel=0.03)
    if true_temperature != 1:
        assert found.log_loss_after < found.log_loss_before - 0.01
    best = torch.nn.functional.cross_entropy(drawn.double() / true_temperature, labels)
    assert found.log_loss_after == pytest.approx(float(best), abs=1e-3)


def test_a_temperature_counts_images_by_their_weights() -> None:
    sure, unsure = calibrated(1.0), calibrated(3.0)
    drawn, labels = torch.cat([sure[0], unsure[0]]), torch.cat([sure[1], unsure[1]])
    weights = torch.ones(len(labels), dtype=torch.float64)
    weights[: len(sure[1])] = 1e-6
    assert temperature(drawn, labels, weights).temperature == pytest.approx(3.0, rel=0.03)


@pytest.mark.parametrize(("images", "surest"), [(6, 0.99), (60, 0.9995)])
def test_a_few_right_answers_are_no_reason_to_be_sure_without_end(images: int, surest: float) -> None:
    labels = torch.arange(images) % 2
    drawn = torch.nn.functional.one_hot(labels).float()
    found = temperature(drawn, labels, torch.ones(images, dtype=torch.float64))
    probability = float(torch.softmax(drawn / found.temperature, dim=1).max())
    assert 1 - 1 / images < probability < surest


def test_probabilities_of_unseen_images_are_as_sure_as_they_are_right() -> None:
    features, labels = blobs(150, 3, columns=100, apart=0.25)
    fitted = fit(examples(features, labels))
    unseen, theirs = blobs(3000, 3, columns=100, apart=0.25, seed=1)
    sure = float(torch.softmax(logits(fitted, unseen), dim=1).amax(dim=1).mean())
    assert sure == pytest.approx(accuracy(fitted, unseen, theirs), abs=0.05)


def test_a_cosine_head_learns_from_few_images() -> None:
    features, labels = blobs(15, 3, columns=64, apart=0.6)
    fitted = fit(examples(features, labels), "cosine")
    unseen, theirs = blobs(600, 3, columns=64, apart=0.6, seed=1)
    assert accuracy(fitted, unseen, theirs) > 0.95
    assert (fitted.head.kind, fitted.result.convergence) == ("cosine", None)
    assert [(trial.l2, trial.chosen) for trial in fitted.result.trials] == [(None, True)]
    mean = torch.nn.functional.normalize(torch.nn.functional.normalize(features, dim=1)[labels == 1].sum(dim=0), dim=0)
    torch.testing.assert_close(fitted.module.state_dict()["prototypes"][1], mean)


@pytest.mark.parametrize("kind", ["linear", "mlp", "cosine"])
@pytest.mark.parametrize("classes", [2, 3])
def test_two_images_a_class_work(kind: Kind, classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlp, "_LEAST_STEPS", 60)
    features, labels = blobs(2 * classes, classes, columns=40, apart=3.0)
    fitted = fit(examples(features, labels), kind)
    unseen, theirs = blobs(100, classes, columns=40, apart=3.0, seed=1)
    assert fitted.result.folds == 2
    assert accuracy(fitted, unseen, theirs) > 0.95


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_the_scale_of_features_does_not_matter(kind: Kind) -> None:
    features, labels = blobs(40, 2, apart=0.5)
    small, large = (fit(examples(scale * features, labels), kind) for scale in (1e-3, 1e3))
    torch.testing.assert_close(logits(small, 1e-3 * features), logits(large, 1e3 * features), rtol=0, atol=2e-3)


def test_a_solver_that_did_not_converge_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = blobs(60, 3, apart=0.5)
    converged = fit(examples(features, labels)).result.convergence
    assert converged is not None
    assert converged.converged
    assert converged.gradient <= converged.tolerance == logistic.TOLERANCE
    monkeypatch.setattr(logistic, "_MAX_ITERATIONS", 1)
    stopped = fit(examples(features, labels)).result.convergence
    assert stopped is not None
    assert (stopped.converged, stopped.iterations) == (False, 1)
    assert stopped.gradient > stopped.tolerance


def test_what_is_learnt_from_is_not_changed() -> None:
    features, labels = blobs(30, 3)
    before = features.clone()
    matrix: Callable[[tuple[str, ...]], Tensor] = lambda _: features.clone()  # noqa: E731 - as fit.py's matrix
    fit(examples(features, labels, matrix=matrix))
    assert torch.equal(features, before)
