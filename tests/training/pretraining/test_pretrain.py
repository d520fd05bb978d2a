"""From pictures without labels to weights that a fit begins with, and that say where they come from."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from export import run
from export.errors import TargetError
from tests.training.conftest import quiet
from tests.training.pretraining.scene import IMAGES, order, pictures
from tests.training.test_fit import COLOURS, draw_classes
from tests.training.test_main import call
from training import backbones
from training.backbones import Card
from training.errors import BackboneError
from training.pretraining import loop, record
from training.pretraining.methods import Method
from training.pretraining.pretrain import STEPS, pretrain
from training.pretraining.record import Epoch, Pretraining

FILES = {"backbone.safetensors", "curves.jsonl", "images.txt", "pretraining.json", "tensorboard"}
pytestmark = pytest.mark.usefixtures("registered")


def made(tmp_path: Path, **changed: object) -> Pretraining:
    source = tmp_path / "in" if (tmp_path / "in").exists() else pictures(tmp_path / "in")
    return pretrain(order(source, tmp_path, **changed), quiet(STEPS))


@pytest.mark.parametrize("method", ["autoencoder", "denoising", "vicreg"])
def test_weights_are_written_with_all_that_they_follow_from(small: Card, tmp_path: Path, method: Method) -> None:
    found = made(tmp_path, method=method)
    out = tmp_path / "runs/pre"
    assert {each.name for each in out.iterdir()} == FILES
    assert record.of(out / record.WEIGHTS) == found
    assert (found.method, found.images, found.parent, len(found.history)) == (method, IMAGES, None, 2)
    assert len(record.seen(out)) == IMAGES
    assert not list((tmp_path / "cache/trainings").iterdir())
    card = backbones.ready(small, record.weights(out))
    tensors = backbones.pretrained(card).state_dict()
    start = backbones.scratch(small, 0)[1].state_dict()
    changed = {name for name, each in start.items() if not torch.equal(each, tensors[name])}
    assert changed == set(start)


def test_the_loss_of_an_autoencoder_falls(tmp_path: Path) -> None:
    found = made(tmp_path, method="autoencoder", epochs=12, rate=0.01)
    assert found.history[-1].loss < 0.7 * found.history[0].loss
    assert found.summary()[0].startswith("autoencoder on 12 images: loss ")


def test_the_card_says_what_the_weights_are(small: Card, tmp_path: Path) -> None:
    found = made(tmp_path, batch_size=8)
    card = backbones.ready(small, tmp_path / "runs/pre" / record.WEIGHTS)
    said = card.backbone
    assert said.weights_sha256 == found.weights_sha256
    assert said.source.startswith("self-pretrained by denoising on 12 images without labels")
    assert said.source.endswith("from random numbers of seed 0")
    assert said.recipe.optimizer == "AdamW"
    assert said.recipe.learning_rate_per_256 == pytest.approx(1e-3 * 256 / 128)
    assert card.labels() == ()


def test_published_weights_may_be_gone_on_from(small: Card, tmp_path: Path) -> None:
    found = made(tmp_path, start="pretrained")
    assert found.parent is not None
    assert found.parent.weights_sha256 == small.backbone.weights_sha256
    assert found.rate == pytest.approx(1e-4 * 6 / 128)
    again = made(
        tmp_path,
        start="pretrained",
        weights=tmp_path / "runs/pre" / record.WEIGHTS,
        out=tmp_path / "runs/more",
    )
    assert again.parent is not None
    assert again.parent.weights_sha256 == found.weights_sha256


def test_the_same_order_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    shas = [
        made(tmp_path, out=tmp_path / f"runs/{number}", seed=seed).weights_sha256
        for number, seed in enumerate((0, 0, 1))
    ]
    assert shas[0] == shas[1] != shas[2]


def test_a_killed_one_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = made(tmp_path, out=tmp_path / "runs/whole")
    end = loop._end_epoch
    ended: list[int] = []

    def interrupt(*given: object) -> dict[str, float]:
        if ended:
            raise KeyboardInterrupt
        ended.append(1)
        return end(*given)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(loop, "_end_epoch", interrupt)
        with pytest.raises(KeyboardInterrupt):
            made(tmp_path)
    assert not (tmp_path / "runs/pre").exists()
    (kept,) = (tmp_path / "cache/trainings").iterdir()
    assert list(kept.glob("checkpoint-*"))
    assert made(tmp_path).weights_sha256 == whole.weights_sha256


def test_an_existing_folder_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    (tmp_path / "runs/pre").mkdir(parents=True)
    with pytest.raises(TargetError, match="Expected a folder that does not exist yet"):
        made(tmp_path)
    assert not (tmp_path / "cache").exists()


def test_embeddings_that_are_all_alike_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_spread", lambda _: 0.001)
    assert "The embeddings of different images are as good as one" in made(tmp_path).summary()[1]


def test_a_loss_that_does_not_fall_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    risen = tuple(Epoch(loss=loss, spread=0.5, seconds=1.0) for loss in (1.0, 2.0))
    monkeypatch.setattr(loop, "_history", lambda _: risen)
    assert made(tmp_path).notes == ("The loss did not fall: 1 in the first epoch, 2 in the last.",)


def test_of_another_backbone_it_is_refused(tmp_path: Path) -> None:
    made(tmp_path)
    with pytest.raises(BackboneError, match=r"Expected a pretraining of resnet18. Received: .*, one of small."):
        backbones.ready(backbones.card("resnet18"), tmp_path / "runs/pre" / record.WEIGHTS)


def test_changed_weights_or_facts_are_refused(small: Card, tmp_path: Path) -> None:
    made(tmp_path)
    file, facts = tmp_path / "runs/pre" / record.WEIGHTS, tmp_path / "runs/pre" / record.PRETRAINING
    said = json.loads(facts.read_text())
    facts.write_text(json.dumps({**said, "weights_sha256": "0" * 64}))
    with pytest.raises(BackboneError, match=r"Expected .* to have the SHA-256 0{64}. Received:"):
        backbones.ready(small, file)
    facts.write_text(json.dumps({**said, "images": "many"}))
    with pytest.raises(
        BackboneError, match=r"pretraining.json as vertebra-train pretrain wrote it. Received: images: "
    ):
        backbones.ready(small, file)
    facts.unlink()
    assert backbones.ready(small, file).backbone.source.startswith("the file backbone.safetensors, given by")
    with pytest.raises(BackboneError, match=r"Expected the folder of a pretraining, .* vertebra-train pretrain"):
        record.weights(facts.parent)


def test_a_list_of_images_that_is_none_is_refused(tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / "runs/pre" / record.IMAGES).write_text("not hexadecimal\n")
    with pytest.raises(BackboneError, match=r"images.txt as vertebra-train pretrain wrote it"):
        record.seen(tmp_path / "runs/pre")


def test_a_fit_begins_with_them_and_its_run_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the commands: learn without labels, then from labels."""
    data, pre, out = draw_classes(tmp_path / "data", list(COLOURS), 8), tmp_path / "pre", tmp_path / "run"
    common = ["--data", data, "--backbone", "small", "--cache", tmp_path / "cache", "--crop-px", 32, "--resize-px", 32]
    given = ["--method", "denoising", "--epochs", 1, "--batch-size", 8, "--out", pre]
    assert call(monkeypatch, "pretrain", *common, *given) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("denoising on 24 images: loss ")
    assert f"Wrote {pre}. Go on with: vertebra-train fit --init {pre} --backbone small" in printed
    begun = ["--init", pre, "--regime", "small-similar", "--out", out]
    assert call(monkeypatch, "fit", *common, *begun) == 0
    # Without a split of its own all of it was learnt from, the fifth that fit holds out as well.
    told = "The pretraining has seen 6 held-out images, without labels"
    assert told in capsys.readouterr().out
    assert told in (out / "report.html").read_text()
    card = run.read(out).backbone
    assert card.source.startswith("self-pretrained by denoising on 24 images")
    assert (
        card.weights_sha256
        == record.Pretraining.model_validate_json((pre / record.PRETRAINING).read_bytes()).weights_sha256
    )
    backbone = {
        name: each for name, each in load_file(out / run.WEIGHTS).items() if name.startswith("backbone.module.")
    }
    begun_with = load_file(pre / record.WEIGHTS)
    assert {name.removeprefix("backbone.module.") for name in backbone} == set(begun_with)
    assert all(torch.equal(each, begun_with[name.removeprefix("backbone.module.")]) for name, each in backbone.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "--init", "nowhere"], "Expected the folder of a pretraining, which has a pretraining.json."),
        (["fit", "--init", "x", "--weights", "y"], "Expected one start. Received: --init and --weights."),
        (["fit", "--init", "x", "--regime", "scratch"], "Expected one start. Received: --init and --regime scratch."),
        (["pretrain", "--weights", "y"], "Expected one start. Received: --weights, and a random one."),
        (["pretrain", "--batch-size", "1"], "--batch-size: Input should be greater than or equal to 2. Received: 1"),
        (["compare", "--init", "nowhere"], "Expected the folder of a pretraining, which has a pretraining.json."),
        (
            ["compare", "--fractions", "0.1", "--fractions", "1.5"],
            "Expected parts of the images, above 0 and at most 1.",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command, *given = arguments
    given += ["--data", str(tmp_path), "--backbone", "small", "--out", str(tmp_path / "out")]
    assert call(monkeypatch, command, *given) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"vertebra-train: error: {message}")
