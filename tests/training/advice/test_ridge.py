"""Answers in closed form are those of another implementation."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from tests.training.advice.drawn import telling
from training.advice import ridge
from training.advice.ridge import PENALTIES, Rows


@pytest.mark.parametrize("columns", [6, 80])  # fewer and more than images
def test_answers_are_those_of_scikit_learn(columns: int) -> None:
    labels = torch.arange(60) % 3
    features, weights = telling(labels, columns, 0.5), torch.linspace(0.5, 2, 60, dtype=torch.float64)
    learnt, asked = torch.arange(0, 40), torch.arange(40, 60)
    found = ridge.answers(Rows(features, labels, weights, 3), learnt, asked)
    part = weights[learnt] / weights[learnt].sum()
    for penalty, answers in zip(PENALTIES, found, strict=True):
        model = Ridge(penalty, solver="cholesky")
        model.fit(features[learnt].double().numpy(), np.eye(3)[labels[learnt].numpy()], part.numpy())
        expected = model.predict(features[asked].double().numpy()).argmax(axis=1)
        assert answers.tolist() == expected.tolist()


def test_features_that_say_nothing_give_the_commonest_class() -> None:
    labels = torch.tensor([0, 1, 1, 1, 2, 2])
    rows = Rows(torch.zeros(6, 4), labels, torch.ones(6, dtype=torch.float64), 3)
    assert (ridge.answers(rows, torch.arange(6), torch.arange(6)) == 1).all()


def test_a_class_that_was_not_learnt_is_never_answered() -> None:
    labels = torch.arange(30) % 3
    rows = Rows(telling(labels, 5, 3.0), labels, torch.ones(30, dtype=torch.float64), 3)
    found = ridge.answers(rows, torch.nonzero(labels < 2)[:, 0], torch.arange(30))
    assert set(found.reshape(-1).tolist()) <= {0, 1}
