"""A head that was folded, written and built again answers as the one that was trained."""

import pytest
import torch
from torch import Tensor, nn

from export.run import Head
from training import heads
from training.errors import HeadError
from training.heads import Scaler

WIDTHS = {"c4": 3, "c5": 5, "embedding": 8}
TAPS = ("c5", "embedding")
HEADS = (
    Head(kind="linear", taps=TAPS),
    Head(kind="mlp", taps=TAPS, hidden=7),
    Head(kind="cosine", taps=TAPS),
)


@pytest.fixture
def pooled() -> dict[str, Tensor]:
    """Features as a backbone gives them: over four orders of magnitude, none much further from 0 than it varies."""
    random = torch.Generator().manual_seed(0)
    return {
        tap: (torch.randn(40, width, generator=random) + torch.linspace(-1, 5, width))
        * 10 ** torch.linspace(-3, 1, width)
        for tap, width in WIDTHS.items()
    }


def filled(module: nn.Module) -> nn.Module:
    """Give every tensor numbers of its own."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape, generator=random))
    return module


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.kind)
def test_a_head_that_is_built_from_its_tensors_is_the_same(head: Head, pooled: dict[str, Tensor]) -> None:
    trained = filled(heads.build(head, WIDTHS, 4))
    again = heads.build(Head.model_validate_json(head.model_dump_json()), WIDTHS, 4)
    again.load_state_dict(trained.state_dict())
    with torch.no_grad():
        assert trained(pooled).shape == (40, 4)
        assert torch.equal(again(pooled), trained(pooled))


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (HEADS[0], {"linear.weight": (4, 13), "linear.bias": (4,)}),
        (
            HEADS[1],
            {"first.weight": (7, 13), "first.bias": (7,), "second.weight": (4, 7), "second.bias": (4,)},
        ),
        (HEADS[2], {"prototypes": (4, 13), "scale": ()}),
    ],
    ids=["linear", "mlp", "cosine"],
)
def test_its_tensors_have_these_names_for_ever(head: Head, expected: dict[str, tuple[int, ...]]) -> None:
    found = heads.build(head, WIDTHS, 4).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == expected


def test_taps_are_read_in_the_order_of_the_head(pooled: dict[str, Tensor]) -> None:
    joined = heads.joined(pooled, ("embedding", "c4"))
    assert torch.equal(joined, torch.cat([pooled["embedding"], pooled["c4"]], dim=1))


def test_a_head_on_a_tap_that_there_is_not_is_refused() -> None:
    message = r"Expected a head on the taps c4, c5, embedding\. Received: one on b3\."
    with pytest.raises(HeadError, match=message):
        heads.build(Head(kind="linear", taps=("c4", "b3")), WIDTHS, 4)


def test_a_folded_scaler_gives_the_logits_of_standardised_features(pooled: dict[str, Tensor]) -> None:
    features = heads.joined(pooled, tuple(WIDTHS))
    scaler = Scaler.of(features, list(WIDTHS.values()))
    layer = nn.Linear(features.shape[1], 4)
    filled(layer)
    with torch.no_grad():
        expected = layer(scaler.standardise_(features.clone()))
        scaler.fold_into(layer)
        folded = layer(features)
    torch.testing.assert_close(folded, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_standardised_features_have_mean_0_and_deviation_1() -> None:
    features = 3 + torch.randn(40, 16, generator=torch.Generator().manual_seed(0)) * 10 ** torch.linspace(-0.4, 0.4, 16)
    standardised = Scaler.of(features, list(WIDTHS.values())).standardise_(features)
    assert standardised is features  # there may be gigabytes of them
    torch.testing.assert_close(standardised.mean(dim=0), torch.zeros(16), rtol=0, atol=1e-4)
    torch.testing.assert_close(standardised.std(dim=0, correction=0), torch.ones(16), rtol=0, atol=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.3, -7e4, 1e-9])
def test_a_feature_that_never_changes_is_not_blown_up(value: float) -> None:
    scaler = Scaler.of(torch.full((10_000, 1), value), [1])
    assert scaler.deviation.tolist() == [1.0]
    assert abs(float(scaler.standardise_(torch.full((1, 1), value)))) <= 1e-5 * max(1.0, abs(value))


def test_a_feature_that_is_nearly_silent_is_not_blown_up_but_beside_others_of_its_tap() -> None:
    random = torch.Generator().manual_seed(0)
    varies = torch.tensor([2.0, 1.0, 3.0, 1e-4, 0.0, 1e-4, 1e-4])
    features = 5.0 + varies * torch.randn(20_000, 7, generator=random)
    scaler = Scaler.of(features, [5, 2])
    # The median of those that vary at all; a tap that is quiet throughout is as loud as any.
    least = heads.LEAST * float(scaler.deviation[1])
    torch.testing.assert_close(
        scaler.deviation, torch.tensor([2.0, 1.0, 3.0, least, 1.0, 1e-4, 1e-4]), rtol=0.05, atol=0
    )


def test_a_cosine_head_answers_with_cosines_times_its_scale(pooled: dict[str, Tensor]) -> None:
    head = heads.CosineHead(("embedding",), 8, 2)
    with torch.no_grad():
        head.prototypes.copy_(heads.unit(pooled["embedding"][:2]))
        head.scale.fill_(3.0)
        logits = head(pooled)
        longer = head({"embedding": 100 * pooled["embedding"]})
    assert float(logits[0, 0]) == pytest.approx(3.0, abs=1e-5)
    assert float(logits.abs().max()) <= 3.0 + 1e-5
    torch.testing.assert_close(longer, logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.kind)
def test_a_batch_of_none_and_a_vector_of_zeros_are_no_trouble(head: Head) -> None:
    module = filled(heads.build(head, WIDTHS, 4))
    with torch.no_grad():
        assert module({tap: torch.zeros(0, width) for tap, width in WIDTHS.items()}).shape == (0, 4)
        assert bool(module({tap: torch.zeros(1, width) for tap, width in WIDTHS.items()}).isfinite().all())


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.kind)
def test_an_offset_is_taken_off_every_logit_but_those_of_cosines(head: Head, pooled: dict[str, Tensor]) -> None:
    module = filled(heads.build(head, WIDTHS, 3))
    before = module(pooled)
    heads.take_off(module, (1.0, -2.0, 0.5))
    off = torch.tensor([0.0, 0.0, 0.0] if head.kind == "cosine" else [1.0, -2.0, 0.5])
    torch.testing.assert_close(module(pooled), before - off)
