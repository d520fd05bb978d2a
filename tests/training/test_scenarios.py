"""One setting, `regime`, chooses between the two ways that tutorials begin with, from end to end."""

from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file

from export import run
from tests.training.conftest import quiet
from tests.training.test_fit import draw, draw_classes
from training import backbones, features, fit
from training.advice.candidates import Regime
from training.advice.decide import Decision
from training.backbones import Card
from training.dataset import Plan
from training.fit import Order, Trained
from training.question import Question

# Nothing is measured that could come out otherwise.
CHANGES = {"epochs": 1, "precision": "fp32", "channels_last": False}


@pytest.fixture(scope="module")
def folder(small: Card, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two classes, and a cache with the small backbone's graph."""
    made = tmp_path_factory.mktemp("scenarios")
    draw_classes(made / "data", ["blue", "red"], 8)
    features.extractor(small, small.geometry, made / "cache")
    return made


def made(regime: Regime | Literal["auto"], folder: Path, out: Path, data: Path | None = None) -> Trained:
    question = Question(data or folder / "data", Plan(), "small", folder / "cache", regime=regime)
    return fit.fit(Order(question, "linear", 0, out, CHANGES), quiet(9))


def moved(trained: Trained, out: Path, card: Card) -> set[str]:
    """The tensors of the backbone that are not the pretrained ones, by their names in the backbone."""
    backbone, _ = backbones.parted(backbones.pretrained(card))
    written = load_file(out / run.WEIGHTS)
    names = {name: f"backbone.module.{name}" for name in backbone.state_dict()}
    assert set(written) == {*names.values(), "head.linear.weight", "head.linear.bias"}
    assert set(trained.run.trained) <= set(written)
    return {name for name, each in backbone.state_dict().items() if not torch.equal(each, written[names[name]])}


def test_a_fixed_extractor_keeps_every_number(registered: Card, folder: Path, tmp_path: Path) -> None:
    found = made("small-similar", folder, tmp_path / "frozen")
    assert moved(found, tmp_path / "frozen", registered) == set()
    assert found.result.way.tuning is None


def test_fine_tuning_moves_every_parameter_and_no_statistic(registered: Card, folder: Path, tmp_path: Path) -> None:
    found = made("large-different", folder, tmp_path / "tuned")
    backbone, _ = backbones.parted(backbones.pretrained(registered))
    assert moved(found, tmp_path / "tuned", registered) == {name for name, _ in backbone.named_parameters()}
    assert found.result.way.tuning is not None
    assert (tmp_path / "tuned" / "curves.jsonl").exists()


@pytest.mark.usefixtures("registered")
def test_a_random_start_says_that_nothing_was_pretrained(folder: Path, tmp_path: Path) -> None:
    found = made("scratch", folder, tmp_path / "scratch")
    assert found.run.backbone.source.startswith("pretrained: none")
    assert found.run.backbone.weights_sha256 is None
    assert found.result.features is None
    described = run.read(tmp_path / "scratch")
    assert described.regime.name == "scratch"


@pytest.mark.usefixtures("registered")
def test_left_alone_it_races_what_the_evidence_names_and_writes_down_why(folder: Path, tmp_path: Path) -> None:
    for number, label in enumerate(("greyish", "reddish")):
        for index in range(8):
            draw(tmp_path / "data" / label / f"{index}.png", (120 + 12 * number, 120, 120), 1000 * number + index)
    found = made("auto", folder, tmp_path / "auto", tmp_path / "data")
    decision = Decision.model_validate_json((tmp_path / "auto" / "decision.json").read_text())
    way = found.result.way
    assert (way.advised, way.reasons) == (decision.regime, decision.reasons)
    assert way.overridden == ("backbone small", "epochs 1", "precision fp32", "channels-last False")
    assert way.race is not None
    assert [heat.trains for heat in way.race.heats] == [plan.words() for plan in decision.plans]
    assert way.regime == decision.plans[way.race.chosen].regime
    assert way.race.reason in found.result.summary()
    # Of 16 images 4 are held out for the test, and take no part in it.
    assert way.race.images + way.race.validation == 12
