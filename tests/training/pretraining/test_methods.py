"""What each method makes of views, and that every part of the backbone learns by it."""

import pytest
import torch

from training import backbones
from training.backbones import Card
from training.errors import TuningError
from training.pretraining import methods
from training.pretraining.methods import VIEWS, Autoencoder, Method
from training.taps import TappedBackbone

METHODS: list[Method] = ["autoencoder", "denoising", "vicreg"]


def built(card: Card, method: Method, side_px: tuple[int, int] = (32, 32)) -> torch.nn.Module:
    torch.manual_seed(0)
    backbone = backbones.scratch(card, 0)[1]
    tapped = TappedBackbone(backbone, card.backbone, card.scaling)
    return methods.build(method, tapped, card.backbone.stages[-1].name, side_px)


def views(method: Method, images: int = 4, side_px: tuple[int, int] = (32, 32)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (VIEWS[method], images, *side_px, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("method", METHODS)
def test_every_parameter_learns(small: Card, method: Method) -> None:
    module = built(small, method).train()
    loss, embedding = module(views(method))
    assert loss.shape == ()
    assert embedding.shape == (4, 256)
    torch.autograd.backward(loss)
    assert [name for name, each in module.named_parameters() if each.grad is None] == []


@pytest.mark.parametrize("name", ["lenet5", "alexnet", "resnet18"])
@pytest.mark.parametrize("method", ["denoising", "vicreg"])
def test_backbones_of_every_kind_learn_whole(name: str, method: Method) -> None:
    card = backbones.card(name)
    side = max(card.seen().smallest_px, 64 if name != "lenet5" else 32)
    module = built(card, method, (side, side)).train()
    loss, _ = module(views(method, 2, (side, side)))
    torch.autograd.backward(loss)
    assert [place for place, each in module.named_parameters() if each.grad is None] == []


def test_a_picture_need_not_be_square_nor_a_power_of_two(small: Card) -> None:
    module = built(small, "autoencoder", (96, 64))
    loss, _ = module(views("autoencoder", 2, (96, 64)))
    assert torch.isfinite(loss)


def test_noise_and_holes_are_for_denoising_alone(small: Card) -> None:
    shown = views("denoising")
    plain, spoilt = (built(small, method).eval() for method in ("autoencoder", "denoising"))
    with torch.no_grad():
        assert torch.equal(plain(shown)[1], plain(shown)[1])
        first, second = spoilt(shown)[1], spoilt(shown)[1]
    assert not torch.equal(first, second)


def test_a_picture_that_is_found_again_is_no_loss(small: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is the squared difference to the picture as it was before it was spoilt."""
    module = built(small, "denoising").eval()
    shown = views("denoising")
    assert isinstance(module, Autoencoder)
    found = module.backbone.scaled(shown[0]) + 0.5
    monkeypatch.setattr(module.decoder, "forward", lambda _: found)
    assert module(shown)[0].item() == pytest.approx(0.25, rel=1e-4)


def test_views_that_all_look_alike_are_a_loss_to_vicreg(small: Card) -> None:
    """To embed everything alike makes two views equal, and is dearer than to tell images apart."""
    module = built(small, "vicreg").eval()
    same = torch.full((2, 4, 32, 32, 3), 100, dtype=torch.uint8)
    with torch.no_grad():
        collapsed = module(same)[0].item()
        shown = views("vicreg")
        apart = module(torch.stack([shown[0], shown[0]]))[0].item()
    assert collapsed > apart
    assert collapsed == pytest.approx(25 * 0.99, rel=0.01)


def test_without_lightly_one_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    methods.check("denoising")
    with pytest.raises(TuningError, match=r"Expected lightly, to pretrain by vicreg.*'vertebra\[pretrain\]'"):
        methods.check("vicreg")
