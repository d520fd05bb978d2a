"""An MLP learns what no plane can divide, and by nothing but its seed."""

import pytest
import torch
from torch import Tensor

from training import fitting, mlp
from training.fitting import Examples, Kind
from training.mlp import Rows


def xor(images: int, seed: int) -> Rows:
    """A label that two features tell together and neither alone, beside six that tell nothing."""
    features = torch.randn(images, 8, generator=torch.Generator().manual_seed(seed))
    return Rows(features, ((features[:, 0] > 0) ^ (features[:, 1] > 0)).long(), 2)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(dim=1) == labels).double().mean())


def ones(rows: Rows) -> Tensor:
    return torch.ones(len(rows.labels), dtype=torch.float64)


def test_it_solves_what_a_linear_head_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "WEIGHT_DECAYS", (0.1,))
    monkeypatch.setattr(fitting, "_FOLDS", 2)
    rows, unseen = xor(600, 0), xor(2000, 1)
    widths = {"embedding": rows.features.shape[1]}
    learnt = Examples(
        lambda _: rows.features.clone(), widths, 1, rows.labels, ones(rows), [None] * 600, ("no", "yes"), 0
    )
    found = {}
    kinds: tuple[Kind, ...] = ("linear", "mlp")
    for kind in kinds:
        fitted = fitting.fit(kind, [("embedding",)], learnt)
        with torch.no_grad():
            found[kind] = accuracy(fitted.module({"embedding": unseen.features}), unseen.labels)
    assert found["linear"] < 0.6
    assert found["mlp"] > 0.85


def test_few_images_are_looked_at_often_enough() -> None:
    rows = xor(60, 0)
    assert accuracy(mlp.train(rows, ones(rows), 0.1, 0).logits(rows.features), rows.labels) > 0.95


def test_the_same_seed_gives_the_same_bits_whatever_was_drawn_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlp, "_LEAST_STEPS", 30)
    rows = xor(60, 0)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first = mlp.train(rows, ones(rows), 0.1, 3).logits(rows.features)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(8)
    assert torch.equal(mlp.train(rows, ones(rows), 0.1, 3).logits(rows.features), first)
    assert not torch.equal(mlp.train(rows, ones(rows), 0.1, 4).logits(rows.features), first)


def test_rows_of_weight_nothing_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlp, "_LEAST_STEPS", 30)
    rows = xor(60, 0)
    weights = ones(rows)
    weights[40:] = 0
    fewer = Rows(rows.features[:40], rows.labels[:40], 2)
    expected = mlp.train(fewer, weights[:40], 0.1, 0).logits(rows.features)
    rows.features[40:] = torch.nan
    found = mlp.train(rows, weights, 0.1, 0)
    torch.testing.assert_close(found.logits(fewer.features), expected[:40])


def test_weights_are_relative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlp, "_LEAST_STEPS", 30)
    rows = xor(60, 0)
    found, expected = (mlp.train(rows, scale * ones(rows), 0.1, 0).logits(rows.features) for scale in (1e6, 1.0))
    torch.testing.assert_close(found, expected)


def test_weight_decay_makes_weights_smaller_and_leaves_biases_free() -> None:
    rows = xor(200, 0)
    weak, strong = (mlp.train(rows, ones(rows), decay, 0) for decay in (0.0, 3.0))
    assert float(strong.first.weight.detach().norm()) < 0.8 * float(weak.first.weight.detach().norm())
