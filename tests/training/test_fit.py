"""From drawn images to a run, a bundle and a second fit; and everything that people do wrong on the way there."""

import csv
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

from export import bundle, evaluate, labelled, program, run
from export.progress import Advance, Steps
from service import bundle as bundles
from service import image
from service.engine import Arrays, Engine
from tests.training.conftest import features_of, head_of, quiet
from tests.training.test_store import largest_file
from tests.training.test_twins import photograph
from training import backbones, dataset, features, fit, mlp, portion, report, store
from training.__main__ import main
from training.advice.decide import DECISION
from training.architectures import building
from training.backbones import Card
from training.dataset import Plan
from training.errors import BackboneError
from training.fit import Order, Trained
from training.fitting import Kind
from training.question import Question
from training.result import IMAGES as TABLE
from training.result import REPORT, Result

ROOT = Path(__file__).parents[2]
COLOURS = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 60, 40)}
IMAGES = 14  # of each class
FILES = {"images.csv", "metrics.json", "model.pt2", "report.html", "run.json", "weights.safetensors"}
# As few as there are stages of a fit, and where Ctrl-C may come in each: before, within and after it.
STEPS = [
    "check the images",
    "load the backbone",
    "extract features",
    "train the head",
    "test the head",
    "compare with simple ways",
    "trace the model",
    "write the run",
]


def draw(path: Path, colour: Sequence[int], seed: int) -> Path:
    """Write a picture of nearly one colour under noise; every seed gives another one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    noise = random.normal(0, 60, (48, 60, 3)) + random.normal(0, 25, 3)
    Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(path)
    return path


def draw_classes(folder: Path, labels: Sequence[str], images: int) -> Path:
    for number, label in enumerate(labels):
        for index in range(images):
            draw(folder / label / f"{index:02}.png", COLOURS[label], 1000 * number + index)
    return folder


def table(path: Path, rows: Sequence[Sequence[object]], header: str = "path,label") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header.split(","), *rows])
    return path


@dataclass(frozen=True)
class Fit:
    """A fit that was made once for many tests, which change nothing of it."""

    order: Order
    trained: Trained

    @property
    def out(self) -> Path:
        return self.order.out


@pytest.fixture(scope="module")
def graphs(small: Card, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the small backbone's graph alone: converting it takes seconds."""
    cache = tmp_path_factory.mktemp("graphs")
    features.extractor(small, small.geometry, cache)
    return cache


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_classes(tmp_path_factory.mktemp("images"), list(COLOURS), IMAGES)


@pytest.fixture(scope="module")
def made(small: Card, graphs: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Fit:
    folder = tmp_path_factory.mktemp("fit")
    shutil.copytree(graphs, folder / "cache")
    question = Question(images, Plan(), "small", folder / "cache", regime="small-similar")
    order = Order(question, "linear", 1, folder / "runs" / "colours")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbones, "CARDS", {"small": small})
        return Fit(order, fit.fit(order, quiet(7)))


@pytest.fixture
def cache(graphs: Path, tmp_path: Path) -> Path:
    shutil.copytree(graphs, tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def order(registered: Card, cache: Path, tmp_path: Path) -> Order:
    """Two classes of eight images each, nothing of them in the cache yet."""
    data = draw_classes(tmp_path / "data", ["blue", "red"], 8)
    question = Question(data, Plan(), registered.backbone.name, cache, regime="small-similar")
    return Order(question, "linear", 0, tmp_path / "runs" / "two")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that any engine runs."""
    sizes: list[int] = []
    run_engine = Engine.run

    def counted(self: Engine, pixels: NDArray[np.uint8]) -> Arrays:
        sizes.append(len(pixels))
        return run_engine(self, pixels)

    monkeypatch.setattr(Engine, "run", counted)
    return sizes


def asking(order: Order, **changed: Any) -> Order:
    """The same of other images, or of another crop of them."""
    return replace(order, question=replace(order.question, **changed))


def hidden(folder: Path) -> list[Path]:
    """Everything that somebody began to write and did not end."""
    return list(folder.rglob(".*"))


def test_the_folder_holds_a_whole_run(made: Fit) -> None:
    assert {path.name for path in made.out.iterdir()} == FILES
    assert hidden(made.out.parent) == hidden(made.order.question.cache) == []
    assert run.read(made.out) == made.trained.run
    assert Result.model_validate_json((made.out / "metrics.json").read_bytes()) == made.trained.result
    page = (made.out / "report.html").read_text()
    assert page.startswith("<!")
    assert all(label in page for label in COLOURS)


def test_the_images_of_a_run_are_the_same_data_again_and_name_what_was_held_out(made: Fit, tmp_path: Path) -> None:
    images = labelled.read(made.out / "images.csv")
    again = dataset.prepare(
        images, made.order.question.source, made.order.question.plan, tmp_path / "cache", lambda _: None
    )
    assert again.data == made.trained.result.data
    written = bundle.make(bundle.Order(made.out, tmp_path / "models", "colours", None), quiet(5)).path
    asked = evaluate.evaluate(written, made.out / "images.csv", quiet(4))
    assert (asked.split, asked.images) == ("test", 9)
    assert asked.scores.accuracy == made.trained.result.scores["test"].accuracy


def test_an_easy_problem_is_solved(made: Fit) -> None:
    result = made.trained.result
    assert result.data.images == {"train": (11, 11, 11), "test": (3, 3, 3)}
    assert result.scores["test"].accuracy.value == 1.0
    convergence = head_of(result).convergence
    assert convergence is not None
    assert convergence.converged
    assert made.trained.run.metrics == {"test_accuracy": 1.0}
    assert list(result.seconds) == STEPS[:-1]
    assert [each.name for each in result.baselines] == ["kNN", "SGD head"]


def test_only_head_tensors_differ_from_the_pretrained_file(made: Fit, small: Card) -> None:
    backbone, _ = backbones.parted(backbones.pretrained(small))
    pretrained = {f"backbone.module.{name}": tensor for name, tensor in backbone.state_dict().items()}
    written = run.read_weights(made.out)
    assert set(written) - set(pretrained) == {"head.linear.weight", "head.linear.bias"}
    assert set(made.trained.run.trained) == set(written) - set(pretrained)
    for name, tensor in pretrained.items():
        assert tensor.dtype == written[name].dtype
        assert tensor.numpy().tobytes() == written[name].numpy().tobytes()
    frozen = made.trained.result.backbone
    assert frozen.sha256_before == frozen.sha256_after
    assert frozen.parameters == sum(each.numel() for each in backbone.parameters())
    assert frozen.buffers == sum(each.numel() for each in backbone.buffers())


def test_the_label_map_is_in_the_run_the_metrics_and_the_bundle(made: Fit, tmp_path: Path) -> None:
    labels = ("blue", "green", "red")
    sha256 = bundles.labels_sha256(labels)
    for name in ("run.json", "metrics.json"):
        said = json.loads((made.out / name).read_text())
        said = said.get("data", said)
        assert (tuple(said["labels"]), said["labels_sha256"]) == (labels, sha256)
    written = bundle.make(bundle.Order(made.out, tmp_path / "models", "colours", None), quiet(5)).path
    assert bundles.load(written).labels == labels
    manifest = json.loads((written / "manifest.json").read_text())
    assert (tuple(manifest["labels"]), manifest["labels_sha256"]) == (labels, sha256)


def test_a_bundle_of_it_has_the_accuracy_that_was_measured(registered: Card, made: Fit, tmp_path: Path) -> None:
    # Green is drawn as red here for the most part, so that the accuracy is neither 0 nor 1.
    rows: list[tuple[object, ...]] = []
    for index in range(30):
        label = ("red", "green")[index % 2]
        drawn = COLOURS["red"] if index % 6 else COLOURS["green"]
        split = "test" if index >= 18 else "train"
        rows.append((draw(tmp_path / f"{index:02}.png", drawn, index), label, split))
    source = table(tmp_path / "data.csv", rows, "path,label,split")
    order = replace(asking(made.order, source=source), out=tmp_path / "run", head="cosine")
    trained = fit.fit(order, quiet(7))
    measured = trained.result.scores["test"]
    assert trained.run.backbone == registered.backbone
    assert 0 < measured.accuracy.value < 1
    written = bundle.make(bundle.Order(order.out, tmp_path / "models", "poor", None), quiet(5)).path
    asked = evaluate.evaluate(written, order.question.source, quiet(4))
    assert (asked.split, asked.images) == ("test", 12)
    assert asked.scores.accuracy == measured.accuracy
    assert asked.scores.confusion == measured.confusion
    assert asked.scores.log_loss == pytest.approx(measured.log_loss, abs=1e-4)


@pytest.mark.usefixtures("registered")
def test_the_head_on_cached_features_is_the_head_on_live_pixels(made: Fit) -> None:
    held_out = made.trained.held_out["test"]
    described = run.read(made.out)
    pixels = np.stack(
        [image.read(path.read_bytes(), described.geometry, image.ImageLimits()) for path in held_out.paths]
    )
    live = program.answers(run.read_program(made.out, described), pixels)
    for name, cached in (("logits", held_out.logits), ("embedding", held_out.embedding)):
        np.testing.assert_allclose(live[name], cached, rtol=1e-5, atol=1e-5 * float(np.abs(cached).max()))


@pytest.mark.usefixtures("registered")
def test_a_second_fit_passes_no_image_through_the_backbone(made: Fit, tmp_path: Path, runs: list[int]) -> None:
    assert features_of(made.trained.result).from_cache == 0
    assert features_of(made.trained.result).computed == 2 * 33 + 9
    again = fit.fit(replace(made.order, out=tmp_path / "again"), quiet(7))
    assert runs == []
    assert (features_of(again.result).from_cache, features_of(again.result).computed) == (2 * 33 + 9, 0)
    # And because nothing in it is left to chance, it gives the same bits.
    assert again.run.weights_sha256 == made.trained.run.weights_sha256
    assert again.result.head == made.trained.result.head


def test_another_view_geometry_or_file_misses_the_cache(made: Fit, registered: Card, tmp_path: Path) -> None:
    assert registered.backbone.name == "small"
    computed = {
        "views": replace(made.order, views=2),
        "geometry": asking(made.order, resize_px=64),
        "file": asking(made.order, source=Path(shutil.copytree(made.order.question.source, tmp_path / "images"))),
    }
    draw(computed["file"].question.source / "red" / "00.png", COLOURS["red"], 77)
    found = {name: fit.fit(replace(order, out=tmp_path / name), quiet(7)) for name, order in computed.items()}
    counts = {name: features_of(each.result).computed for name, each in found.items()}
    assert counts["views"] == 33
    assert counts["geometry"] == 2 * 33 + 9
    # Another file draws another split, and an image that is learnt from has one view more.
    assert 1 <= counts["file"] <= 2 + 9


def test_other_weights_miss_the_cache(
    made: Fit, small: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: list[int]
) -> None:
    weights = torch.load(small.weights(), weights_only=True)
    first = next(iter(weights))
    weights[first] = weights[first] * 1.01
    torch.save(weights, tmp_path / "other.pth")
    other = replace(
        small,
        backbone=small.backbone.model_copy(update={"weights_sha256": bundles.sha256_of(tmp_path / "other.pth")}),
        weights=lambda: tmp_path / "other.pth",
    )
    monkeypatch.setattr(backbones, "CARDS", {"small": other})
    trained = fit.fit(replace(made.order, out=tmp_path / "run"), quiet(7))
    assert features_of(trained.result).from_cache == 0
    assert sum(runs) >= 2 * 33 + 9


def test_more_views_are_of_training_images_alone(order: Order) -> None:
    trained = fit.fit(replace(order, views=2), quiet(7))
    assert features_of(trained.result).views == ("plain", "mirrored", "augmented-1")
    assert {split: sum(each) for split, each in trained.result.data.images.items()} == {"train": 12, "test": 4}
    views = {}
    for facts in (order.question.cache / "features").glob("*/facts.json"):
        rows = [np.load(shard)["key"].tolist() for shard in facts.parent.glob("*.npy")]
        views[json.loads(facts.read_text())["view"]] = {key for each in rows for key in each}
    held_out = {bytes.fromhex(bundles.sha256_of(path)) for path in trained.held_out["test"].paths}
    assert len(views["plain"]) == 16
    assert views["mirrored"] == views["augmented-1"] == views["plain"] - held_out


def test_the_file_of_the_backbone_and_the_images_are_left_as_they_are(made: Fit, small: Card, images: Path) -> None:
    assert bundles.sha256_of(small.weights()) == small.backbone.weights_sha256
    assert {path.relative_to(images).as_posix() for path in images.rglob("*.png")} == {
        f"{label}/{index:02}.png" for label in COLOURS for index in range(IMAGES)
    }
    assert made.order.question.source == images


@pytest.mark.parametrize("head", ["mlp", "cosine"])
def test_other_heads_are_trained_on_request(head: Kind, order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlp, "_LEAST_STEPS", 40)  # enough for an easy problem
    trained = fit.fit(replace(order, head=head), quiet(7))
    assert (trained.run.head.kind, head_of(trained.result).kind) == (head, head)
    assert trained.result.scores["test"].accuracy.value == 1.0
    assert all(name.startswith("head.") for name in trained.run.trained)
    assert head_of(trained.result).convergence is None


def test_any_other_model_of_timm_is_trained_on(order: Order, tmp_path: Path) -> None:
    name = "timm:test_efficientnet"
    weights = tmp_path / "weights.pth"
    torch.save(building.untrained(backbones.card(name).backbone.architecture, 1000, seed=0).state_dict(), weights)
    trained = fit.fit(asking(order, backbone=name, weights=weights), quiet(7))
    assert trained.run.backbone.name == name
    assert trained.result.scores["test"].accuracy.value == 1.0


def test_two_images_a_class_are_enough(order: Order) -> None:
    rows = [
        (f"{label}/{index:02}.png", label, ("train", "test")[index // 2])
        for label in ("blue", "red")
        for index in range(4)
    ]
    source = table(order.question.source / "t.csv", rows, "path,label,split")
    trained = fit.fit(asking(order, source=source), quiet(7))
    assert trained.result.data.images == {"train": (2, 2), "test": (2, 2)}
    assert head_of(trained.result).folds == 2
    assert trained.result.scores["test"].accuracy.value == 1.0


def test_a_cropped_copy_of_a_training_image_is_shown_to_a_person(order: Order, tmp_path: Path) -> None:
    """It is in the result and on the page, and not among the leaks: the sketches cannot see it."""
    rows = []
    for number in range(110):
        photograph(number, 64).save(path := tmp_path / f"{number}.png")
        rows.append((path, number % 2, "train"))
    for number in (200, 201):
        photograph(number, 64).save(path := tmp_path / f"{number}.png")
        rows.append((path, number % 2, "test"))
    photograph(17, 64).crop((4, 4, 64, 64)).save(path := tmp_path / "copy.png")
    listed = table(tmp_path / "listed.csv", [*rows, (path, 1, "test")], "path,label,split")
    result = fit.fit(asking(order, source=listed), quiet(7)).result
    assert result.data.leaks == ()
    assert result.lookalikes is not None
    assert [(Path(each.path).name, Path(each.other).name) for each in result.lookalikes] == [("copy.png", "17.png")]
    assert "1 other held-out image looks to the backbone nearly like one" in (order.out / REPORT).read_text()


def test_a_part_is_learnt_from_where_there_is_no_time_for_all(
    order: Order, tmp_path: Path, runs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = draw_classes(tmp_path / "many", ["blue", "red"], 60)
    monkeypatch.setattr(portion, "_affordable", lambda *_: 20)
    asked = asking(order, source=data, regime="auto", limit_s=3600.0)
    result = fit.fit(asked, quiet(8)).result
    held_out = sum(result.data.images["test"])
    assert 18 <= result.way.images <= 22
    assert sum(runs) == result.way.images + held_out
    decision = json.loads((order.out / DECISION).read_text())
    assert decision["evidence"]["size"]["images"] == result.way.images
    # All of them are counted and named: with more time the same table gives more.
    assert sum(result.data.images["train"]) + held_out == 120
    assert sorted(each.path for each in labelled.read(order.out / TABLE)) == sorted(data.rglob("*.png"))
    words = f"{result.way.images} of the {120 - held_out} training images. A longer one may do better."
    assert words in (order.out / REPORT).read_text()


def test_a_table_may_name_groups_weights_and_a_validation_split(order: Order) -> None:
    rows = [
        (f"{label}/{index:02}.png", label, f"{label}-{index // 2}", 1 + index, "val" if index >= 6 else "train")
        for label in ("blue", "red")
        for index in range(8)
    ]
    source = table(order.question.source / "data.csv", rows, "path,label,group,weight,split")
    trained = fit.fit(asking(order, source=source), quiet(7))
    assert list(trained.result.scores) == ["validation"]
    assert trained.result.data.images == {"train": (6, 6), "validation": (2, 2)}
    assert head_of(trained.result).folds == 3  # as many as a class has groups
    assert trained.run.metrics == {"validation_accuracy": 1.0}
    assert "validation: accuracy 100.0%" in trained.result.summary()[1]


def test_a_head_on_unequal_classes_counts_them_alike_and_says_so(
    order: Order, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [("blue/00.png", "blue", "train"), ("blue/01.png", "blue", "train"), ("blue/02.png", "blue", "test")]
    rows += [(f"red/{index:02}.png", "red", "test" if index == 7 else "train") for index in range(8)]
    unequal = asking(order, source=table(order.question.source / "t.csv", rows, "path,label,split"))

    def made(name: str, **changed: Any) -> tuple[Trained, str]:
        trained = fit.fit(replace(unequal, out=tmp_path / name, **changed), Steps(7, Console(stderr=True, width=300)))
        return trained, capsys.readouterr().err

    def bias(name: str) -> torch.Tensor:
        return load_file(tmp_path / name / run.WEIGHTS)["head.linear.bias"]

    treated, told = made("treated")
    plain, untold = made("plain", changes={"imbalance": "none"})
    # By the square root of how common each is.
    torch.testing.assert_close(bias("treated"), bias("plain") - torch.log(torch.tensor([2 / 9, 7 / 9])) / 2)
    said = "the most common class has 3.5 times as many images as the rarest: rare classes count more"
    assert treated.result.way.imbalance is not None
    assert treated.result.way.imbalance.startswith(said)
    assert f"Unequal classes: {said}" in told
    assert said[0].upper() + said[1:] in (tmp_path / "treated" / "report.html").read_text()
    assert (plain.result.way.imbalance, "imbalance none" in plain.result.way.overridden) == (None, True)
    assert "Unequal" not in untold
    assert "Not used" not in untold
    cosine, told = made("cosine", head="cosine", changes={"imbalance": "logit adjustment"})
    assert cosine.result.way.imbalance is None
    assert "Not used, because nothing is to be fine-tuned: imbalance." in told
    assert "imbalance logit adjustment" not in cosine.result.way.overridden


@pytest.mark.parametrize(("weight", "treated"), [(3.5, None), (20, "5.71 times as many weighted images as the rarest")])
def test_how_common_a_class_is_goes_by_the_weights_of_its_images(
    order: Order, weight: float, treated: str | None
) -> None:
    rows = [(f"blue/{index:02}.png", "blue", weight, "test" if index == 2 else "train") for index in range(3)]
    rows += [(f"red/{index:02}.png", "red", 1, "test" if index == 7 else "train") for index in range(8)]
    source = table(order.question.source / "t.csv", rows, "path,label,weight,split")
    found = fit.fit(asking(order, source=source), quiet(7)).result.way.imbalance
    assert (treated in found) if treated and found else found is treated


def test_features_that_are_no_numbers_are_named(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    run_engine = Engine.run

    def broken(self: Engine, pixels: NDArray[np.uint8]) -> Arrays:
        answers = {name: each.copy() for name, each in run_engine(self, pixels).items()}
        answers["embedding"][0, 3] = np.nan
        return answers

    monkeypatch.setattr(Engine, "run", broken)
    message = r"Expected features that are numbers. Received: others in the tap embedding, view plain, of .*\.png\."
    with pytest.raises(BackboneError, match=message):
        fit.fit(order, quiet(7))
    assert not order.out.exists()


def test_a_full_disk_while_the_run_is_written_leaves_no_run(made: Fit, registered: Card, tmp_path: Path) -> None:
    assert registered.backbone.name == "small"
    with largest_file(20_000), pytest.raises(OSError, match="File too large"):
        fit.fit(replace(made.order, out=tmp_path / "runs" / "x"), quiet(7))
    assert list((tmp_path / "runs").iterdir()) == []


class Program:
    """Calls `vertebra-train fit` as a shell would."""

    def __init__(self, order: Order, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.order = order
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *flags: object, data: Path | None = None, out: Path | None = None) -> tuple[int, str, str]:
        """Answer with the exit status and what it wrote to stdout and stderr."""
        order = self.order
        given = [
            "--data",
            data or order.question.source,
            "--backbone",
            "small",
            "--cache",
            order.question.cache,
            "--regime",
            "small-similar",
            "--out",
            out or order.out,
        ]
        self._monkeypatch.setattr(sys, "argv", ["vertebra-train", "fit", *map(str, (*given, *flags))])
        status = main()
        return status, *self._capsys.readouterr()

    def refuses(self, message: str, *flags: object, data: Path | None = None, lines: int = 1) -> None:
        """Expect exit status 2, the message on the last lines, and no trace of a run."""
        status, out, err = self(*flags, data=data)
        assert status == 2
        assert out == ""
        assert "Traceback" not in err
        last = "\n".join(err.splitlines()[-lines:])
        assert re.fullmatch(f"vertebra-train: error: {message}", last), last
        assert not self.order.out.parent.exists()
        assert hidden(self.order.question.cache) == []


@pytest.fixture
def vertebra(order: Order, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    return Program(order, monkeypatch, capsys)


def test_fit_prints_how_good_it_is_and_the_next_command(vertebra: Program, order: Order) -> None:
    status, out, err = vertebra()
    assert status == 0
    regime, first, last = out.splitlines()
    assert regime == "small-similar: trained the head on the embedding"
    assert first.startswith("test: accuracy 100.0% (")
    assert "4 images; for comparison: kNN 50.0%" in first
    assert last == (
        f"Wrote {order.out}, look at {order.out}/report.html. Export it with: "
        f"vertebra-export bundle {order.out} --repository models"
    )
    assert [line.split()[0] for line in err.splitlines()] == [f"{number}/9" for number in range(1, 10)]


def test_any_setting_of_a_plan_can_be_named_and_the_run_says_so(vertebra: Program, order: Order) -> None:
    flags = ["--regime", "large-similar", "--epochs", 1, "--rate", 0.01]
    status, _, err = vertebra(*flags, "--plan", "label_smoothing=0.1", "--plan", "patience=3")
    assert status == 0
    assert "Not used, because there is no validation split: patience." in err
    way = Result.model_validate_json((order.out / "metrics.json").read_bytes()).way
    assert way.tuning is not None
    assert (way.tuning.plan.label_smoothing, way.tuning.plan.patience) == (0.1, 3)
    assert "label-smoothing 0.1" in way.overridden
    assert "patience 3" not in way.overridden


def test_an_empty_folder_is_refused(vertebra: Program, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    vertebra.refuses(
        r"Expected a folder for each class in .*/empty\. Received: a folder without folders\.", data=tmp_path / "empty"
    )


def test_a_folder_that_is_not_there_is_refused(vertebra: Program) -> None:
    vertebra.refuses(
        r"Expected a folder, a \.csv or a \.parquet file\. Received: nowhere, which does not exist\.",
        data=Path("nowhere"),
    )


def test_one_class_is_refused(vertebra: Program, order: Order) -> None:
    shutil.rmtree(order.question.source / "blue")
    vertebra.refuses(
        r"Expected at least 2 classes to learn from\. Received: 1, red\. Add images of what is not in it\."
    )


def test_one_image_in_a_class_is_refused(vertebra: Program, order: Order) -> None:
    draw(order.question.source / "green" / "0.png", COLOURS["green"], 9)
    vertebra.refuses(
        r"Expected at least 3 images of every class, which leaves 2 to learn from when one is held out\. Received: "
        r"green \(1\)\. Add images, or remove the class\."
    )


def test_a_label_in_test_that_train_never_saw_is_refused(vertebra: Program, order: Order) -> None:
    for split, labels in (("train", ["blue", "red"]), ("test", ["blue", "green", "red"])):
        draw_classes(order.question.source / "split" / split, labels, 2 if split == "train" else 1)
    vertebra.refuses(
        r"Expected labels in the split test that training has too\. Received: green\. Correct the label, or add "
        r"training images of it\.",
        data=order.question.source / "split",
    )


def test_a_table_that_names_missing_files_is_refused(vertebra: Program, order: Order) -> None:
    rows = [(f"{label}/{index:02}.png", label) for label in ("blue", "red") for index in range(10)]
    vertebra.refuses(
        r"Expected files that can all be used\. Received: 4 of 20 that cannot:\n"
        r"  .*/blue/08\.png: No such file or directory\.\n  .*/blue/09\.png: No such.*\n  .*red/08.*\n  .*red/09.*\n"
        r"Repair or remove them, or leave them out with --on-bad skip\.",
        data=table(order.question.source / "data.csv", rows),
        lines=6,
    )


def test_a_class_that_is_not_named_in_utf8_is_refused(vertebra: Program, order: Order) -> None:
    (order.question.source / "red").rename(order.question.source / os.fsdecode(b"r\xf6t"))
    vertebra.refuses(r"Expected the name of a class in UTF-8\. Received: b'r\\xf6t' in .*/data\. Rename the folder\.")


def test_a_file_that_is_not_named_in_utf8_is_refused_or_left_out(vertebra: Program, order: Order) -> None:
    draw(order.question.source / "red" / "more.png", COLOURS["red"], 10).rename(
        order.question.source / "red" / os.fsdecode(b"\xf6.png")
    )
    vertebra.refuses(
        r"Expected files that can all be used\. Received: 1 of 17 that cannot:\n"
        r"  .*/red/\\xf6\.png: Expected a name in UTF-8\. Received: these bytes\.\nRepair or .*--on-bad skip\.",
        lines=3,
    )
    status, out, _ = vertebra("--on-bad", "skip")
    assert status == 0
    assert "1 file was left out; metrics.json names them" in out
    result = Result.model_validate_json((order.out / "metrics.json").read_bytes())
    assert [fault.path for fault in result.data.left_out] == [f"{order.question.source}/red/\\xf6.png"]


@pytest.mark.parametrize("on_bad", ["error", "skip"])
def test_all_files_broken_is_refused(vertebra: Program, order: Order, on_bad: str) -> None:
    for path in order.question.source.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:50])
    vertebra.refuses(
        r"Expected files that can be used\. Received: 16 of 16 that cannot:(\n  .*png: Expected a whole PNG.*){5}\n"
        r"  and 11 more\nNone is left\. Repair them\.",
        "--on-bad",
        on_bad,
        lines=8,
    )


def test_a_full_disk_while_caching_is_refused_and_the_next_run_goes_on(vertebra: Program) -> None:
    with largest_file(20_000):
        vertebra.refuses(
            r"Expected room for \d+ bytes more in the cache .*/features/[0-9a-f]{64}\. Received: File too large, \d+ "
            r"bytes free\. Make room or choose another folder for the cache; what is in it already will not be made "
            r"again"
        )
    status, _, _ = vertebra()
    assert status == 0


def test_a_run_that_exists_is_left_alone(vertebra: Program, order: Order) -> None:
    order.out.mkdir(parents=True)
    (order.out / "mine").touch()
    status, out, err = vertebra()
    assert (status, out) == (2, "")
    assert err.splitlines()[-1] == (
        f"vertebra-train: error: Expected a folder that does not exist yet. Received: {order.out}, which does."
    )
    assert [path.name for path in order.out.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--crop-px", 100], r"Expected a crop of 32 to 1024 pixels, a multiple of 32, for small\. Received: 100\."),
        (["--crop-px", 0], r"--crop-px: Input should be greater than or equal to 1\. Received: 0"),
        (["--crop-px", 96, "--resize-px", 64], r"Expected a resize of 96 \(the crop\) to 2048 pixels\. Received: 64\."),
        (["--views", -1], r"--views: Input should be greater than or equal to 0\. Received: -1"),
        (["--test-fraction", 1], r"--test-fraction: Input should be less than 1\. Received: 1"),
        (["--plan", "label_smoothing=2"], r"--plan label_smoothing: Input should be less than 1\. Received: 2"),
        (["--plan", "average=mean"], r"--plan average: Input should be 'none', 'ema' or 'tail'\. Received: mean"),
        (["--plan", "patience"], r"Expected for --plan NAME=VALUE\. Received: patience\."),
        (["--plan", "compile=\x9b1m"], r"--plan compile: Input should be a valid boolean.* Received: \\x9b1m"),
        (
            ["--plan", "compile=\x1b[1m"],
            r"Expected flags and variables that can be read\. Received: Invalid control .*",
        ),
        (
            ["--plan", "precision=bf16", "--deterministic"],
            r"Expected --deterministic or --plan precision\. Received: both\.",
        ),
        (["--plan", "epochs=2"], r"Expected for --plan one of weight_decay, .*, compile\. Received: epochs\."),
        (["--backbone", "nope"], r"Expected one of the backbones .*, small, .* Received: nope\."),
    ],
)
def test_settings_that_cannot_be_are_refused_before_any_work(
    vertebra: Program, flags: Sequence[object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelled, "read", lambda _: pytest.fail("worked"))
    vertebra.refuses(message, *flags)


class Interrupted:
    """Steps of which one is hit by Ctrl-C."""

    def __init__(self, steps: Steps, name: str, moment: str) -> None:
        self._steps = steps
        self._name = name
        self._moment = moment
        self.seconds = steps.seconds

    @contextmanager
    def step(self, name: str, total: int | None = None) -> Iterator[Advance]:
        hit = name == self._name
        with self._steps.step(name, total) as advance:
            if hit and self._moment == "before":
                signal.raise_signal(signal.SIGINT)
            yield self._hit if hit and self._moment == "within" else advance
            if hit and self._moment == "after":
                signal.raise_signal(signal.SIGINT)

    @staticmethod
    def _hit(_: int) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("name", "moment"),
    [
        *((name, "before") for name in STEPS),
        ("check the images", "within"),
        ("extract features", "within"),
        ("write the run", "after"),
    ],
)
def test_ctrl_c_at_any_step_leaves_nothing_half_written(
    name: str, moment: str, made: Fit, order: Order, registered: Card, tmp_path: Path
) -> None:
    assert registered.backbone.name == "small"
    # What the step itself does is done anew here, all else comes from the cache of a fit that ended.
    is_cached = name in STEPS[3:]
    order = replace(made.order, out=tmp_path / "runs" / "x") if is_cached else order
    steps: Steps = Interrupted(quiet(7), name, moment)  # type: ignore[assignment] # only step() is called
    with pytest.raises(KeyboardInterrupt):
        fit.fit(order, steps)
    assert hidden(order.question.cache) == []
    written = list(order.out.parent.rglob("*")) if order.out.parent.exists() else []
    # The last step ends when the run is whole.
    assert {path.name for path in written} == ({"x", *FILES} if (name, moment) == ("write the run", "after") else set())


INTERRUPT: list[tuple[object, str]] = [
    (store, "write"),
    (backbones, "pretrained"),
    (program, "trace"),
    (program, "save"),
    (report, "render"),
]


@pytest.mark.parametrize(("module", "name"), INTERRUPT, ids=[name for _, name in INTERRUPT])
def test_after_ctrl_c_the_next_run_goes_on(
    module: object, name: str, vertebra: Program, order: Order, monkeypatch: pytest.MonkeyPatch, runs: list[int]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, name, lambda *_, **__: signal.raise_signal(signal.SIGINT))
        status, out, err = vertebra()
    assert (status, out) == (130, "")
    assert err.splitlines()[-1] == "vertebra-train: interrupted; what is in the cache need not be computed again"
    assert hidden(order.question.cache) == []
    assert not order.out.parent.exists() or list(order.out.parent.iterdir()) == []
    assert vertebra()[0] == 0
    assert {path.name for path in order.out.iterdir()} == FILES
    assert sum(runs) == 16


# It forks before it has an engine, and so imports torch once for all.
PROCESSES = """
import os, pickle, signal, sys
from dataclasses import replace
from pathlib import Path
from training import backbones, features, fit, store
from training.__main__ import main
from training.backbones import Card

backbone, geometry, scaling, labels, weights, data, cache, out = pickle.loads(Path(sys.argv[1]).read_bytes())
backbones.CARDS = {"small": Card(backbone, geometry, scaling, lambda: labels, lambda: weights)}

def start(name, prepare=lambda: None):
    if pid := os.fork():
        return pid
    prepare()
    given = ["--data", data, "--backbone", "small", "--cache", cache, "--regime", "small-similar"]
    sys.argv = ["vertebra-train", "fit", *given, "--out", out + name]
    status = 70
    try:
        status = main()
    finally:
        sys.stdout.flush()
        os._exit(status)

def end(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def interrupted():
    # The signal comes from outside, while threads decode and the engine runs: from a process that was there before
    # them, because what is forked from among threads may hang.
    extract, parent, (asked, tell) = features._fill, os.getpid(), os.pipe()
    if not os.fork():
        os.close(tell)
        if os.read(asked, 1):
            os.kill(parent, signal.SIGINT)
        os._exit(0)
    def fill(*arguments):
        os.write(tell, b"!")
        extract(*arguments)
        signal.pause()
    features._fill = fill

first = end(start("interrupted", interrupted))
both = [start("a"), start("b")]
print("ended", first, *map(end, both))
"""


@pytest.mark.timeout(300)  # three processes that import torch and trace, on cores that others may be using
def test_two_fits_on_one_cache_at_once_and_a_signal_from_outside(order: Order, small: Card, tmp_path: Path) -> None:
    card = (small.backbone, small.geometry, small.scaling, small.labels(), small.weights())
    work = (*card, str(order.question.source), str(order.question.cache), f"{order.out.parent}/")
    (tmp_path / "work").write_bytes(pickle.dumps(work))
    command = [sys.executable, "-c", PROCESSES, str(tmp_path / "work")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.stdout.splitlines()[-1] == "ended 130 0 0", ended.stderr
    assert ended.stderr.count("vertebra-train: interrupted") == 1
    assert sorted(path.name for path in order.out.parent.iterdir()) == ["a", "b"]
    a, b = (run.read(order.out.with_name(name)) for name in "ab")
    assert a.weights_sha256 == b.weights_sha256
    assert hidden(order.question.cache) == []
    again = fit.fit(order, quiet(7))
    assert (features_of(again.result).from_cache, features_of(again.result).computed) == (16, 0)
    assert again.run.weights_sha256 == a.weights_sha256
