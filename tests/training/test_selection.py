"""The backbone that is used is the one asked for, or the smallest of those here that luck cannot tell from the best."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from export.errors import Disagreement
from service.bundle import sha256_of
from tests.training.conftest import quiet
from tests.training.test_fit import COLOURS, draw_classes, table
from training import backbones, features, opening, selection
from training.backbones import Card
from training.dataset import Plan
from training.errors import BackboneError
from training.pretraining.pretrain import Order, pretrain
from training.question import AUTO, Question

Cards = dict[str, Card]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("selection")
    draw_classes(made / "data", list(COLOURS), 8)
    return made


@pytest.fixture
def question(folder: Path) -> Question:
    return Question(folder / "data", Plan(), AUTO, folder / "cache")


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def register(*cards: Card) -> None:
        monkeypatch.setattr(backbones, "CARDS", {each.backbone.name: each for each in cards})

    return register


def called(card: Card, name: str) -> Card:
    return replace(card, backbone=card.backbone.model_copy(update={"name": name}))


def blind(card: Card, folder: Path) -> Card:
    """The same backbone, to which all images are alike; its file is the smaller one."""
    path = folder / "blind.pth"
    tensors = {name: torch.zeros_like(each) for name, each in torch.load(card.weights()).items()}
    torch.save(tensors, path)
    backbone = card.backbone.model_copy(update={"name": "blind", "weights_sha256": sha256_of(path)})
    return replace(card, backbone=backbone, weights=lambda: path)


def absent(card: Card) -> Card:
    def weights() -> Path:
        raise BackboneError("Expected absent.pth. Received: nothing there. Fetch it with --download")

    return replace(called(card, "absent"), weights=weights)


def test_the_one_that_tells_the_classes_apart_is_taken(
    question: Question, small: Card, tmp_path: Path, registered: Callable[..., None]
) -> None:
    registered(blind(small, tmp_path), small, absent(small))
    opened = opening.opened(question, quiet(3))
    found = opened.selection
    assert found is not None
    assert (opened.card.backbone.name, found.chosen) == ("small", "small")
    assert found.images == len(opened.data.splits["train"])
    # What is not on this machine is no choice.
    accuracies = {each.backbone: each.accuracy for each in found.looked}
    assert set(accuracies) == {"blind", "small"}
    assert accuracies["small"] is not None
    assert accuracies["blind"] is not None
    assert accuracies["small"] > 0.8
    assert accuracies["blind"] < 0.5
    assert found.reason.endswith("and on no other backbone that is here more")


def test_it_is_chosen_once_for_the_same_images(
    question: Question, small: Card, tmp_path: Path, registered: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    registered(blind(small, tmp_path), small)
    first = opening.opened(replace(question, cache=tmp_path / "cache"), quiet(3)).selection
    monkeypatch.setattr(features, "extractor", None)  # whoever looks again fails
    assert opening.opened(replace(question, cache=tmp_path / "cache"), quiet(3)).selection == first


def test_where_groups_are_said_it_is_chosen_anew(
    question: Question, small: Card, tmp_path: Path, registered: Callable[..., None]
) -> None:
    """They divide the folds, though images, labels and splits are the same."""
    registered(blind(small, tmp_path), small)
    paths = sorted(question.source.glob("*/*.png"))
    rows = [(path, path.parent.name, "test" if path.stem == "00" else "train") for path in paths]
    said = table(tmp_path / "said.csv", rows, "path,label,split")
    grouped = [(*row, f"{row[1]} {row[2]} {int(row[0].stem) % 3}") for row in rows]
    groups = table(tmp_path / "groups.csv", grouped, "path,label,split,group")
    for source in (said, groups):
        opening.opened(replace(question, source=source, cache=tmp_path / "cache"), quiet(3))
    assert len(list((tmp_path / "cache/selections").glob("*.json"))) == 2


def test_after_its_part_of_the_time_no_other_is_begun_with(
    question: Question, small: Card, tmp_path: Path, registered: Callable[..., None]
) -> None:
    registered(blind(small, tmp_path), small)
    found = opening.opened(replace(question, limit_s=0.0), quiet(3)).selection
    assert found is not None
    assert [(each.backbone, each.refused) for each in found.looked] == [
        ("blind", None),
        ("small", "there was no time for it"),
    ]
    assert found.chosen == "blind"


def test_one_that_cannot_be_run_is_no_choice_and_said(
    question: Question, small: Card, tmp_path: Path, registered: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    registered(broken := blind(small, tmp_path), small)
    extractor = features.extractor

    def picky(card: Card, *others: Any) -> Any:
        if card.backbone.name == broken.backbone.name:
            raise Disagreement("Expected the same answers. Received: others.")
        return extractor(card, *others)

    monkeypatch.setattr(features, "extractor", picky)
    found = opening.opened(replace(question, cache=tmp_path / "cache"), quiet(3)).selection
    assert found is not None
    assert found.chosen == "small"
    assert [each.refused for each in found.looked] == [None, "Expected the same answers. Received: others."]


def test_where_none_that_is_here_can_be_used_it_says_why(
    question: Question, small: Card, registered: Callable[..., None]
) -> None:
    registered(small, called(small, "other"))
    asked = replace(question, regime="as-is")
    why = "it was not published with all of these classes"
    with pytest.raises(BackboneError, match=rf"can be used\. Received: small: {why}; other: {why}$"):
        opening.opened(asked, quiet(3))


def test_of_equals_the_smaller_is_taken(
    question: Question, small: Card, tmp_path: Path, registered: Callable[..., None]
) -> None:
    path = tmp_path / "larger.pth"
    torch.save({name: each.double() for name, each in torch.load(small.weights()).items()}, path)
    update = {"name": "larger", "weights_sha256": sha256_of(path)}
    larger = replace(small, backbone=small.backbone.model_copy(update=update), weights=lambda: path)
    registered(larger, small)
    found = opening.opened(question, quiet(3)).selection
    assert found is not None
    assert [each.backbone for each in found.looked] == ["small", "larger"]
    assert found.looked[0].accuracy == found.looked[1].accuracy
    assert found.chosen == "small"


def test_what_cannot_see_such_a_crop_is_no_choice_and_said(
    question: Question, small: Card, registered: Callable[..., None]
) -> None:
    registered(replace(called(small, "large"), sizes=replace(small.seen(), smallest_px=512)), small)
    opened = opening.opened(replace(question, crop_px=64, resize_px=72), quiet(3))
    found = opened.selection
    assert found is not None
    assert (found.chosen, found.images) == ("small", 0)
    assert [each.backbone for each in found.looked] == ["large"]
    assert found.looked[0].refused is not None
    assert found.looked[0].refused.startswith("Expected a crop of 512 to ")
    assert found.reason == "small is the only backbone on this machine that can be used"


def test_where_none_is_here_the_usual_one_says_how_to_get_it(
    question: Question, small: Card, registered: Callable[..., None]
) -> None:
    registered(called(absent(small), selection.USUAL))
    with pytest.raises(BackboneError, match=r"^Expected absent\.pth\. Received: nothing there\. Fetch it"):
        opening.opened(question, quiet(3))


def test_where_it_may_be_fetched_it_is(question: Question, small: Card, registered: Callable[..., None]) -> None:
    registered(replace(called(absent(small), selection.USUAL), download=small.weights))
    found = opening.opened(replace(question, download=True), quiet(3)).selection
    assert found is not None
    assert found.reason == f"{selection.USUAL} is what to begin with where no weights are on the machine"


def test_what_was_asked_for_is_not_chosen(question: Question, small: Card, registered: Callable[..., None]) -> None:
    registered(small, called(small, "other"))
    opened = opening.opened(replace(question, backbone="other"), quiet(3))
    assert (opened.card.backbone.name, opened.selection) == ("other", None)


def test_a_random_start_takes_the_usual_one(question: Question, small: Card, registered: Callable[..., None]) -> None:
    registered(small, called(absent(small), selection.USUAL))
    opened = opening.opened(replace(question, regime="scratch"), quiet(3))
    assert (opened.card.backbone.name, opened.selection) == (selection.USUAL, None)


def test_a_file_of_weights_must_be_said_to_be_of_a_backbone(
    question: Question, small: Card, registered: Callable[..., None]
) -> None:
    registered(small)
    with pytest.raises(BackboneError, match=r"^Expected --backbone, .* holds weights of\. Received: auto"):
        opening.opened(replace(question, weights=small.weights()), quiet(3))


def test_a_pretraining_says_it_by_itself(
    question: Question, small: Card, tmp_path: Path, registered: Callable[..., None]
) -> None:
    registered(called(small, "another"), small)
    (tmp_path / "unlabelled").mkdir()
    for number in range(4):
        Image.new("RGB", (64, 64), (60 * number, 0, 0)).save(tmp_path / "unlabelled" / f"{number}.png")
    pretrain(
        Order(
            source=tmp_path / "unlabelled",
            on_bad="error",
            backbone="small",
            method="autoencoder",
            start="random",
            weights=None,
            download=False,
            resize_px=64,
            crop_px=64,
            epochs=1,
            batch_size=4,
            rate=None,
            turns=False,
            seed=0,
            cache=tmp_path / "cache",
            out=tmp_path / "pre",
        ),
        quiet(5),
    )
    opened = opening.opened(replace(question, weights=tmp_path / "pre" / "backbone.safetensors"), quiet(3))
    assert opened.card.backbone.name == "small"
    assert opened.card.backbone.source.startswith("self-pretrained by autoencoder")
