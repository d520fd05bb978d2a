from dataclasses import replace
from pathlib import Path

import pytest
import torch

from service.bundle import CropGeometry, sha256_of
from tests.training.conftest import absent, quiet
from training import backbones, regimes
from training.architectures import building
from training.backbones import Card
from training.errors import BackboneError

LITE0 = backbones.card("efficientnet_lite0")


def test_every_card_has_the_name_that_it_is_had_by() -> None:
    assert all(card.backbone.name == name for name, card in backbones.CARDS.items())


def test_an_unknown_backbone_is_refused() -> None:
    with pytest.raises(
        BackboneError, match=r"Expected one of the backbones alexnet, .*, vit_small, or timm:NAME. Received: resnet99\."
    ):
        backbones.card("resnet99")


def test_what_is_on_this_machine_is_told_and_what_is_not_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    found = backbones.available()
    assert list(found) == list(backbones.CARDS)
    assert found["efficientnet_lite0"] == LITE0.weights()
    assert "https://download.pytorch.org/models/resnet18-f37072fd.pth" in str(found["resnet18"])
    assert "Train it from scratch" in str(found["lenet5"])


@pytest.mark.parametrize(
    ("name", "crop", "geometry"), [("resnet18", 32, (37, 32)), ("vit_small", 64, (71, 64)), ("lenet5", 128, (128, 128))]
)
def test_another_crop_is_cut_out_of_as_much_more(name: str, crop: int, geometry: tuple[int, int]) -> None:
    card = backbones.card(name)
    resize, side = geometry
    assert backbones.sized(card, None, crop) == CropGeometry(resize, side, side, card.geometry.interpolation)


@pytest.mark.parametrize(
    ("name", "resize", "crop", "message"),
    [
        ("alexnet", None, 32, r"Expected a crop of 64 to 1024 pixels, a multiple of 32, for alexnet. Received: 32."),
        ("resnet18", None, 2048, r"Expected a crop of 32 to 1024 pixels, a multiple of 32"),
        ("dinov2_small", None, 225, r"Expected a crop of 28 to 1024 pixels, a multiple of 14"),
        ("resnet18", 64, 128, r"Expected a resize of 128 \(the crop\) to 2048 pixels. Received: 64."),
    ],
)
def test_a_size_that_it_cannot_see_is_refused(name: str, resize: int | None, crop: int, message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        backbones.sized(backbones.card(name), resize, crop)


def test_pretrained_tensors_arrive_one_to_one(small: Card) -> None:
    module = backbones.pretrained(small)
    assert not module.training
    file = torch.load(small.weights(), weights_only=True)
    for theirs, ours in zip(file.values(), module.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_weights_with_another_digest_are_refused(changed_weights: Card) -> None:
    with pytest.raises(BackboneError, match=r"changed.pth to have the SHA-256 [0-9a-f]{64}. Received: [0-9a-f]{64}"):
        backbones.pretrained(changed_weights)


def test_weights_of_another_head_are_refused(small: Card) -> None:
    other = replace(small, labels=lambda: ("ant", "bee"))
    message = r"Expected the tensor classifier.weight \[2, 256\]. Received: _\d+.weight \[5, 256\]"
    with pytest.raises(BackboneError, match=message):
        backbones.pretrained(other)


@pytest.fixture
def unnamed(small: Card) -> Card:
    """A card whose maker told of its file no more than the first digits."""
    digest = sha256_of(small.weights())
    backbone = small.backbone.model_copy(update={"weights_sha256": None})
    return replace(small, backbone=backbone, sha256_prefix=digest[:8])


def test_a_card_names_the_very_file_once_it_is_ready(unnamed: Card) -> None:
    with pytest.raises(BackboneError, match=r"Expected weights that are at hand. Received: the card of small alone"):
        unnamed.digest()
    ready = backbones.ready(unnamed)
    assert ready.digest() == sha256_of(unnamed.weights())


def test_a_file_that_does_not_begin_as_it_must_is_refused(unnamed: Card) -> None:
    other = replace(unnamed, sha256_prefix="00000000")
    for use in (backbones.ready, backbones.pretrained):
        with pytest.raises(BackboneError, match=r"the SHA-256 that begins with 00000000. Received: [0-9a-f]{64}"):
            use(other)


def test_weights_are_fetched_only_where_that_is_allowed(unnamed: Card) -> None:
    fetched: list[Path] = []

    def fetch() -> Path:
        fetched.append(unnamed.weights())
        return unnamed.weights()

    remote = replace(unnamed, weights=absent, download=fetch)
    with pytest.raises(BackboneError, match="no such file"):
        backbones.ready(remote)
    assert not fetched
    ready = backbones.ready(remote, download=True)
    assert fetched == [unnamed.weights()]
    backbones.pretrained(ready)
    assert fetched == [unnamed.weights()]
    with pytest.raises(BackboneError, match="no such file"):
        backbones.ready(replace(unnamed, weights=absent), download=True)


def test_a_file_of_ones_own_is_taken_and_the_card_says_so(small: Card, own_file: Path) -> None:
    ready = backbones.ready(small, own_file)
    assert ready.backbone.source == "the file mine.pth, given by who made the run, for small"
    assert ready.backbone.licence == "as the author of the file says"
    assert ready.digest() == sha256_of(own_file) != small.digest()
    assert ready.labels() == small.labels()
    module, report = backbones.loaded(ready)
    assert report.unwrapped == ("state_dict",)
    expected = torch.load(own_file, weights_only=True)["state_dict"]
    assert all(torch.equal(each, expected[name]) for name, each in module.state_dict().items())


def test_a_file_of_other_classes_can_be_trained_and_not_be_served_as_it_is(small: Card, tmp_path: Path) -> None:
    path = tmp_path / "two.pth"
    torch.save(building.untrained("test_efficientnet", 2, seed=7).state_dict(), path)
    ready = backbones.ready(small, path)
    assert ready.labels() == ()
    _, report = backbones.loaded(ready)
    assert report.unexpected == ("classifier.weight", "classifier.bias")
    with pytest.raises(BackboneError, match=r"Expected a backbone with classes of its own. Received: small, without"):
        regimes.original(ready)


def test_scratch_says_that_nothing_was_pretrained(small: Card) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    card, module = backbones.scratch(small, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert card.backbone.source == "pretrained: none; random start of seed 3"
    assert card.backbone.weights_sha256 is None
    assert '"weights_sha256":null' in card.backbone.model_dump_json()
    again, other = (backbones.scratch(small, seed)[1].state_dict() for seed in (3, 4))
    assert all(torch.equal(each, again[name]) for name, each in module.state_dict().items())
    assert not torch.equal(other["conv_stem.weight"], again["conv_stem.weight"])
    with pytest.raises(BackboneError, match=r"Expected pretrained weights. Received: small from scratch, without"):
        backbones.pretrained(card)


def test_weights_that_are_nowhere_are_never_random(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(BackboneError, match=r"resnet18-f37072fd.pth. Received: no such file"):
        regimes.as_is("resnet18", tmp_path / "run", quiet(3))
    assert not (tmp_path / "run").exists()


def test_a_published_file_of_torch_hub_becomes_a_run_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub" / "checkpoints" / "mobilenet_v3_small-047dcff4.pth"
    path.parent.mkdir(parents=True)
    torch.save(building.untrained("torchvision:mobilenet_v3_small", 1000, seed=0).state_dict(), path)
    with pytest.raises(BackboneError, match=r"SHA-256 that begins with 047dcff4"):
        backbones.ready(backbones.card("mobilenetv3_small"))
    card = replace(backbones.card("mobilenetv3_small"), sha256_prefix=sha256_of(path)[:8])
    monkeypatch.setattr(backbones, "CARDS", {"mobilenetv3_small": card})
    made = regimes.as_is("mobilenetv3_small", tmp_path / "run", quiet(3))
    assert made.backbone.weights_sha256 == sha256_of(path)
    assert len(made.labels) == 1000
    assert made.backbone.architecture == "torchvision:mobilenet_v3_small"
