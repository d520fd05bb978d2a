import base64
import io
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from export.labelled import Split
from export.run import Decision as Regime
from export.run import Head, Output, Run, Scaling, Stage
from export.score import Bin, score, wilson
from service.bundle import CropGeometry, Interpolation, labels_sha256
from tests.training import made
from tests.training.conftest import head_of
from training import backbones
from training.advice.evidence import Evidence
from training.convergence import Convergence
from training.heads import LinearHead
from training.report import PAIRS, HeldOut, Material, render
from training.result import (
    Baseline,
    Calibration,
    Data,
    Fault,
    Features,
    FrozenBackbone,
    HeadResult,
    Heat,
    Leak,
    Lookalike,
    Looked,
    Race,
    Repeat,
    Result,
    Selection,
    Trial,
    Way,
)
from training.served import Served

INLINE = {"b", "strong", "em", "code", "a"}
VOID = {"meta", "br", "img", "link", "input", "hr"}
HOSTILE = '"><script>alert(1)</script>{{ 7*7 }}'


SCALING = Scaling(mean=(0.5, 0.5, 0.5), deviation=(0.5, 0.5, 0.5))
STAGES = tuple(
    Stage(name=f"c{number}", stride=1 << number, channels=16 * number, module=f"blocks.{number - 1}")
    for number in range(1, 6)
)
# Lite0 by its card, in the shape of a network that takes no time.
BACKBONE = backbones.card("efficientnet_lite0").backbone.model_copy(
    update={"architecture": "test_efficientnet", "stages": STAGES, "probes": ()}
)


@cache
def model(classes: int) -> Served:
    torch.manual_seed(0)
    module = backbones.build(BACKBONE.architecture, 0)
    return Served(module, LinearHead(("embedding",), 256, classes), BACKBONE, SCALING).eval()


class Page(HTMLParser):
    """A parsed page: its elements, its words, and whether every element that opens also closes in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []
        self.words = " ".join(self.words.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag not in INLINE:
            self.words += " "

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.words += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


class Training:
    """What a training leaves, made up: two classes and eight images of which two are answered wrongly, unless told."""

    def __init__(
        self,
        folder: Path,
        expected: Sequence[int] = (0, 0, 0, 0, 1, 1, 1, 1),
        answered: Sequence[int] = (0, 0, 0, 1, 1, 1, 1, 0),
        labels: tuple[str, ...] = ("cat", "dog"),
        split: Split = "test",
    ) -> None:
        self.labels = labels
        self.split: Split = split
        paths = [folder / f"{index}.png" for index in range(len(expected))]
        random = np.random.default_rng(0)
        # The later an image, the surer its answer.
        sure = np.linspace(1, 3, len(expected), dtype=np.float32)[:, None]
        logits = np.eye(len(labels), dtype=np.float32)[list(answered)] * sure
        embedding = random.normal(size=(len(expected), 6)).astype(np.float32)
        self.held_out = HeldOut(tuple(paths), np.array(expected), logits, embedding)
        for path in paths[:8]:
            Image.fromarray(random.integers(0, 256, (300, 150, 3), np.uint8)).save(path)

    def data(
        self,
        leaks: tuple[Leak, ...] = (),
        left_out: tuple[Fault, ...] = (),
        repeats: tuple[Repeat, ...] | None = (),
    ) -> Data:
        counts = np.bincount(self.held_out.expected, minlength=len(self.labels))
        return Data(
            source="photos",
            sha256="a" * 64,
            labels=self.labels,
            labels_sha256=labels_sha256(self.labels),
            images={"train": tuple((counts * 3 + 1).tolist()), self.split: tuple(counts.tolist())},
            left_out=left_out,
            leaks=leaks,
            repeats=repeats,
        )

    def result(self) -> Result:
        return Result(
            data=self.data(),
            way=Way(
                regime="small-similar",
                trains="the head on the embedding",
                images=sum((np.bincount(self.held_out.expected, minlength=len(self.labels)) * 3 + 1).tolist()),
                epochs=None,
                advised=None,
                reasons=(),
                overridden=("regime small-similar",),
                race=None,
                imbalance=None,
                tuning=None,
            ),
            backbone=FrozenBackbone(parameters=10, buffers=5, sha256_before="b" * 64, sha256_after="b" * 64),
            features=Features(
                taps={"embedding": 6}, views=("plain",), provider="CPUExecutionProvider", from_cache=3, computed=5
            ),
            head=HeadResult(
                kind="linear",
                taps=("embedding",),
                parameters=14,
                images=sum((np.bincount(self.held_out.expected, minlength=len(self.labels)) * 3 + 1).tolist()),
                folds=5,
                trials=(
                    Trial(taps=("embedding",), l2=0.1, accuracy=0.8, deviation=0.02, log_loss=0.51, chosen=False),
                    Trial(taps=("embedding",), l2=0.01, accuracy=0.9, deviation=0.01, log_loss=0.41, chosen=True),
                ),
                convergence=Convergence(iterations=77, gradient=1e-6, tolerance=1e-5, converged=True),
                calibration=Calibration(temperature=1.25, log_loss_before=0.5, log_loss_after=0.4),
            ),
            scores={self.split: score(self.held_out.logits, self.held_out.expected, self.labels)},
            baselines=(Baseline(name="kNN", description="5 neighbours", accuracy={self.split: wilson(5, 8)}),),
            seconds={"check images": 1.5, "extract features": 2.25},
        )

    def run(self) -> Run:
        return Run(
            # A page that is made twice is the same, whichever minute it is by then.
            created_time=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
            regime=Regime(name="small-similar", reason="few images, like those of the pretraining"),
            backbone=BACKBONE,
            geometry=CropGeometry(80, 64, 48, Interpolation.INTERPOLATION_BICUBIC),
            scaling=SCALING,
            head=Head(kind="linear", taps=("embedding",)),
            trained=("head.weight",),
            labels=self.labels,
            labels_sha256=labels_sha256(self.labels),
            outputs=(Output(name="logits", kind="logits", shape=(len(self.labels),)),),
            metrics={},
            data_sha256="a" * 64,
            weights_sha256="c" * 64,
        )

    def html(
        self, result: Result | None = None, *, evidence: Evidence | None = None, curves: str = "", **run: object
    ) -> str:
        material = Material(model(len(self.labels)), evidence, curves)
        return render(result or self.result(), self.run().model_copy(update=run), self.held_out, material)

    def page(self, result: Result | None = None) -> Page:
        return Page(self.html(result))

    def tuned(self, **way: object) -> Result:
        """What is measured where a race was held and its winner fine-tuned."""
        result = self.result()
        heats = (
            Heat(
                plan=0, regime="small-similar", trains="the head", round=1, images=20, epochs=0, accuracy=0.7, seconds=1
            ),
            Heat(
                plan=1, regime="large-similar", trains="c4 on", round=1, images=10, epochs=1, accuracy=0.75, seconds=9
            ),
            Heat(
                plan=1, regime="large-similar", trains="c4 on", round=2, images=20, epochs=2, accuracy=0.8, seconds=30
            ),
        )
        update = {
            "regime": "large-similar",
            "trains": "the head and the backbone from c4 on",
            "advised": "small-similar",
            "reasons": ("26 training images; under 2,000 are few",),
            "overridden": (),
            "race": Race(images=20, validation=6, heats=heats, chosen=1, reason="c4 on answered most right"),
            "imbalance": "nothing is to be done",
            "tuning": made.record(),
            **way,
        }
        return result.model_copy(update={"way": result.way.model_copy(update=update)})


@pytest.fixture
def training(tmp_path: Path) -> Training:
    return Training(tmp_path)


def test_the_verdict_says_how_good_it_is_and_against_what(training: Training) -> None:
    text = training.page().words
    verdict = (
        "Of 8 images that were held out, the classifier names 75.0 % rightly (between 40.9 and 92.9 %, with 95 % "
        "confidence). It learnt 2 classes from 26 images. Always answering “cat” would be right for 50.0 %. "
        "kNN (5 neighbours): 62.5 %."
    )
    assert verdict in text
    assert "Always answering “cat” lies within the confidence interval." in text


def test_the_page_needs_nothing_but_itself(training: Training) -> None:
    page = training.page()
    assert {"script", "link", "iframe", "object"}.isdisjoint(tag for tag, _ in page.elements)
    places = [each.get(name, "") for _, each in page.elements for name in ("src", "href", "data", "srcset")]
    assert {place.split(":")[0] for place in places if place} == {"data"}
    (policy,) = (each["content"] for each in page.all("meta") if each.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert "url(" not in training.html()


def test_every_picture_says_in_words_what_it_shows(training: Training) -> None:
    page = training.page()
    assert all(each.get("alt") for each in page.all("img"))
    assert all(each.get("aria-hidden") or each.get("aria-label") for each in page.all("svg"))


def test_it_tells_head_data_and_origin(training: Training) -> None:
    text = training.page().words
    for part in (
        "The solver converged in 77 steps: the largest entry of the gradient is 1.0e-06 (at most 1.0e-05).",
        "embedding 0.01 90.0 % ± 1.0 0.4100 chosen",
        "divided by 1.250, the temperature",
        "from 0.5000 to 0.4000",
        "All of the backbone: 10 parameters and 5 buffers. Together they have the digest bbbbbbbbbbbb before and "
        "bbbbbbbbbbbb after.",
        "efficientnet_lite0 (test_efficientnet)",
        "Apache-2.0",
        "shorter side to 80, bicubic, then the centre, 48 \N{MULTIPLICATION SIGN} 64",
        "3 from the cache, 5 computed",
        "extract features 2.2",
        "together 3.8",
        "No held-out image was found among the images that were learnt from or chosen by",
        "No file was left out.",
        "c" * 64,
    ):
        assert part in text


def test_leaks_are_told_in_plain_words(training: Training) -> None:
    leaks = (
        Leak(split="test", path="test/1.png", of="train", twin="train/4.png", kind="duplicate"),
        Leak(split="test", path="test/2.png", of="validation", twin="validation/9.png", kind="near-duplicate"),
        Leak(split="test", path="test/3.png", of="train", twin="train/9.png", kind="near-duplicate"),
    )
    text = training.page(training.result().model_copy(update={"data": training.data(leaks)})).words
    warning = (
        "3 held-out images are among the images that were learnt from or chosen by too: 1 as exact copies, 2 nearly."
    )
    assert f"The figures are better than they should be. {warning}" in text
    assert "test test/2.png validation validation/9.png near-duplicate" in text
    assert "better than they should be" not in training.page().words


def test_images_that_the_backbone_can_hardly_tell_apart_are_shown_side_by_side(training: Training) -> None:
    path, gone = str(training.held_out.paths[0]), "train/gone.png"
    near = Lookalike(split="test", path=path, of="train", other=gone, distance=0.2)
    page = training.page(training.result().model_copy(update={"lookalikes": (near,) * (PAIRS + 1)}))
    assert "25 other held-out images look to the backbone nearly like one that was learnt from" in page.words
    assert f"test: {path} train: {gone}" in page.words
    assert "No picture: No such file or directory" in page.words
    assert "The first 24; metrics.json has all." in page.words
    assert "look to the backbone" not in training.page().words
    # It is for a person to judge.
    assert "better than they should be." not in training.page().words


def test_training_images_that_are_nearly_one_are_listed_and_two_labels_are_told(training: Training) -> None:
    repeats = (
        Repeat(path="a/1.png", label="a", twin="b/2.png", twin_label="b"),
        Repeat(path="a/3.png", label="a", twin="a/4.png", twin_label="a"),
    )
    result = training.result().model_copy(update={"data": training.data(repeats=repeats)})
    text = training.page(result).words
    assert "2 pairs of training images that are nearly one image, 1 of them with two labels" in text
    assert "a/1.png a b/2.png b a/3.png a a/4.png a" in text
    why = "one is wrong, or a detail matters. report.html lists them"
    assert f"1 pair of training images is nearly one image, with two labels: {why}" in result.summary()
    assert "No two training images, but for those that are of one group, are nearly one." in training.page().words
    many = training.result().model_copy(update={"data": training.data(repeats=None)})
    assert "Training images were not held against one another, because there are too many" in training.page(many).words
    assert not any("two labels" in each for each in many.summary())


def test_what_was_left_out_is_listed_and_any_name_can_be_written(training: Training) -> None:
    faults = (Fault(path="a\udcff.png", reason="Expected a whole PNG file."), Fault(path="b.png", reason="Empty."))
    html = training.html(training.result().model_copy(update={"data": training.data(left_out=faults)}))
    html.encode()
    text = Page(html).words
    assert "2 files were left out, with reasons under Data." in text
    assert "a\\udcff.png Expected a whole PNG file. b.png Empty." in text


def test_what_went_wrong_is_told(training: Training) -> None:
    result = training.result()
    stopped = Convergence(iterations=500, gradient=0.1, tolerance=1e-5, converged=False)
    head = head_of(result).model_copy(update={"convergence": stopped})
    backbone = result.backbone.model_copy(update={"sha256_after": "f" * 64})
    text = training.page(result.model_copy(update={"head": head, "backbone": backbone})).words
    assert "The solver stopped before it was done: after 500 steps the gradient was 1.0e-01" in text
    assert "The backbone changed." in text
    text = training.page().words
    assert "stopped before" not in text
    assert "backbone changed" not in text


def test_a_head_without_solver_and_penalty_has_none_in_its_page(training: Training) -> None:
    result = training.result()
    trial = Trial(taps=("embedding",), l2=None, accuracy=0.7, deviation=0.02, log_loss=0.51, chosen=True)
    head = head_of(result).model_copy(update={"convergence": None, "trials": (trial,), "kind": "mlp"})
    text = training.page(result.model_copy(update={"head": head})).words
    assert "An MLP head of 14 numbers on embedding." in text
    assert "embedding \N{EN DASH} 70.0 % ± 2.0 0.5100 chosen" in text
    assert "The solver" not in text


def test_a_head_without_candidates_has_no_table_of_them(training: Training) -> None:
    result = training.result()
    head = head_of(result).model_copy(update={"trials": ()})
    assert "Candidates" in training.page().words
    assert "Candidates" not in training.page(result.model_copy(update={"head": head})).words


def test_hostile_names_are_only_text(tmp_path: Path) -> None:
    folder = tmp_path / "<b>"
    folder.mkdir()
    training = Training(folder, labels=(HOSTILE, "<i>dog</i>"))
    page = training.page()
    assert "script" not in {tag for tag, _ in page.elements}
    assert "b" in {tag for tag, _ in page.elements}  # our own
    assert "i" not in {tag for tag, _ in page.elements}
    assert HOSTILE in page.words
    assert not [each for _, attributes in page.elements for each in attributes if each.startswith("on")]


def test_few_classes_have_a_matrix(training: Training) -> None:
    page = training.page()
    cells = [" ".join(each["title"].split()) for each in page.all("td") if "answered" in each.get("title", "")]
    assert cells == [
        "3 images (75.0 %) of cat answered cat",
        "1 image (25.0 %) of cat answered dog",
        "1 image (25.0 %) of dog answered cat",
        "3 images (75.0 %) of dog answered dog",
    ]


def test_many_classes_have_their_most_confused_pairs(tmp_path: Path) -> None:
    labels = tuple(f"class {number}" for number in range(1000))
    expected = [number for number in range(1000) for _ in range(2)]
    answered = [*expected]
    answered[14] = answered[15] = 3  # both of class 7
    answered[20] = 4
    training = Training(tmp_path, expected, answered, labels)
    html = training.html()
    text = Page(html).words
    assert "class 7 class 3 2 100.0 %" in text
    assert "class 10 class 4" not in text
    assert "The other 980 classes" in text
    assert "all others" in text
    assert "1,000 of 2,000 images of the test split" in text
    assert len(html) < 1_000_000


def test_the_worst_mistakes_come_first(training: Training) -> None:
    page = training.page()
    mistakes = [each for each in page.all("img") if "answered" in each["alt"]]
    assert [each["alt"] for each in mistakes] == ["7.png: dog, answered cat", "3.png: cat, answered dog"]
    first = mistakes[0]["src"].removeprefix("data:image/jpeg;base64,")
    with Image.open(io.BytesIO(base64.b64decode(first))) as picture:
        assert picture.size == (100, 200)
    # With its folder: in those of two classes files may have one name.
    assert re.search(r"answered cat 95\.3 % is dog 4\.7 % \S+/7\.png", page.words)


def test_at_most_24_mistakes_are_shown(tmp_path: Path) -> None:
    training = Training(tmp_path, [0] * 40, [1] * 40)
    assert training.html().count('class="frame"') == 24


def test_a_file_that_is_gone_or_broken_is_shown_as_such(training: Training) -> None:
    training.held_out.paths[7].unlink()
    training.held_out.paths[3].write_bytes(b"broken")
    page = training.page()
    assert [each["alt"] for each in page.all("img") if "7.png" in each["alt"] or "3.png" in each["alt"]] == []
    assert "No picture: No such file or directory" in page.words
    assert "No picture: Expected a JPEG, PNG, WebP, GIF, BMP or TIFF file." in page.words


def test_no_mistakes_are_said_so(tmp_path: Path) -> None:
    text = Training(tmp_path, [0, 1] * 4, [0, 1] * 4).page().words
    assert "There were none: all 8 images of the test split are named rightly." in text
    assert "not clearly better" not in text


def test_one_image_makes_a_page(tmp_path: Path) -> None:
    text = Training(tmp_path, [1], [0]).page().words
    assert "Of 1 image that was held out, the classifier names 0.0 % rightly" in text
    assert "There are too few different images for a map." in text


@pytest.mark.parametrize("images", [5, 8, 40])
def test_the_map_has_a_mark_for_each_image(tmp_path: Path, images: int) -> None:
    training = Training(tmp_path, [0, 1] * (images // 2) + [0] * (images % 2), [0] * images)
    html = training.html()
    assert (
        html.count("<title>") == 1 + html.count("</circle>") + sum(each.images > 0 for each in bins(training)) + images
    )
    assert "cat, answered cat</title>" in html
    assert html == training.html()


def bins(training: Training) -> Sequence[Bin]:
    return training.result().scores["test"].reliability


@pytest.mark.parametrize("embedding", [np.ones((8, 6)), np.ones((8, 1)), np.zeros((8, 6))])
def test_images_that_are_all_one_have_no_map(training: Training, embedding: NDArray[np.float64]) -> None:
    held_out = training.held_out
    training.held_out = HeldOut(held_out.paths, held_out.expected, held_out.logits, embedding.astype(np.float32))
    assert "There are too few different images for a map." in training.page().words


@pytest.mark.parametrize("embedding", [np.eye(8)[:, :1], np.arange(8.0)[:, None], np.eye(8)])
def test_hardly_different_images_have_one(training: Training, embedding: NDArray[np.float64]) -> None:
    held_out = training.held_out
    training.held_out = HeldOut(held_out.paths, held_out.expected, held_out.logits, embedding.astype(np.float32))
    assert "8 of 8 images of the test split." in training.page().words
    assert "nan" not in re.sub('base64,[^"]*', "", training.html())


def test_without_a_test_split_the_page_is_of_validation(tmp_path: Path) -> None:
    text = Training(tmp_path, split="validation").page().words
    assert "validation, 8 images" in text
    assert "Pictures are of the validation split." in text


def test_a_class_without_images_has_no_figures(tmp_path: Path) -> None:
    text = Training(tmp_path, labels=("cat", "dog", "owl")).page().words
    assert "owl 0 \N{EN DASH} \N{EN DASH} \N{EN DASH}" in text


def test_the_way_is_told_from_the_evidence_to_the_last_epoch(training: Training) -> None:
    text = Page(training.html(training.tuned(), evidence=made.evidence(), curves=made.curves())).words
    for part in (
        "what a fine-tuned efficientnet_lite0 learnt",
        "large-similar (many images, like those of the pretraining): trained the head and the backbone from c4 on. "
        "The evidence named small-similar (few images, like those of the pretraining).",
        "26 training images; under 2,000 are few.",
        "c1 24 numbers, stride 2 50.0 % c5 24 numbers, stride 32 75.0 % embedding 24 numbers 80.0 %",
        "Always naming the commonest class has 58.0 %",
        "C4 on answered most right. Tried on 20 training images and compared on 6 others",
        "small-similar: the head 70.0 % 20 images, features, 1.0 s \N{EN DASH}",
        "large-similar: c4 on 75.0 % 10 images, 1 epoch, 9.0 s 80.0 % 20 images, 2 epochs, 30.0 s chosen",
        "Trained from c4 on, in 40 steps of 26 images, with SGD. The learning rate is 0.001: found by the test below.",
        "Batch norms kept the statistics they came with. Nothing is to be done.",
        "before \N{EN DASH} 70.0 % 0.3000 \N{EN DASH} 1 0.6000 72.0 % 0.2800 12.5 2 0.5000 78.0 % 0.2200 12.5 "
        "head refitted \N{EN DASH} 81.0 % 0.1900",
        "When the training was over the head was fitted anew, to the 1,448 numbers that the backbone, as it has "
        "become, gives of each of the 26 training images: its embedding and all stages. A third of its "
        "answer is that of the head that was trained. The solver converged in 31 "
        "steps: the largest entry of the gradient is 8.0e-04 (at most 1.0e-03).",
        "bf16 channels last 60.0 0.50000 too far off",
        "The gradient was cut in most steps.",
        "Of the backbone, 10 parameters and 5 buffers.",
        "The head that it began with",
    ):
        assert part in text, part


def test_its_curves_are_drawn_and_said_in_words(training: Training) -> None:
    page = Page(training.html(training.tuned(), evidence=made.evidence(), curves=made.curves()))
    said = [each["aria-label"] for each in page.all("svg") if each.get("role") == "img"]
    for words in (
        "Training loss over 40 steps: smoothed, it went from 0.988 to 0.61",
        "Learning rate over 40 steps: at most 0.00097",
        "Validation accuracy: before the first step: 70.0%; after epoch 1: 72.0%; after epoch 2: 78.0%.",
        "Smoothed loss at learning rates from 1.0e-05 to 1.0e-01; 1.0e-03 was taken.",
        "Accuracy of a linear layer on the embedding: 10 images: 50.0%; 100 images: 70.0%; 200 images: 80.0%.",
    ):
        assert [each for each in said if each.startswith(words)], words
    assert len(page.all("polyline")) == 7


def test_what_was_kept_is_marked(training: Training) -> None:
    kept = re.compile(r'<tr class="chosen"><td>(before|1|2|head refitted)</td>')
    assert kept.findall(training.html(training.tuned())) == ["2", "head refitted"]
    assert kept.findall(training.html(training.tuned(tuning=made.record(best=None)))) == ["before", "head refitted"]
    without = training.html(training.tuned(tuning=made.record(validated=False)))
    assert kept.findall(without) == ["2"]
    assert "validation accuracy" not in without
    assert "the head was fitted anew" in without


@pytest.mark.parametrize("refit", [None, False])
def test_a_head_that_was_left_as_it_was_is_not_called_anew(training: Training, refit: bool | None) -> None:
    record = made.record()
    assert record.refit is not None
    left = None if refit is None else record.refit.model_copy(update={"kept": refit})
    text = training.html(training.tuned(tuning=record.model_copy(update={"refit": left})))
    assert "the head was fitted anew" not in text
    assert ("<td>head refitted</td>" in text) == (left is not None)


def test_a_refitted_head_that_is_not_solved_is_warned_of(training: Training) -> None:
    record = made.record()
    assert record.refit is not None
    ended = record.refit.convergence.model_copy(update={"converged": False, "gradient": 0.5, "iterations": 1000})
    for kept in (True, False):
        refit = record.refit.model_copy(update={"convergence": ended, "kept": kept})
        result = training.tuned(tuning=record.model_copy(update={"refit": refit}))
        warned = "after 1,000 steps the gradient was 5.0e-01, and should be below 1.0e-03"
        assert (warned in Page(training.html(result)).words) == kept
        assert ("the solver did not converge: do not trust these figures" in result.summary()) == kept


def test_very_many_images_of_which_a_part_was_looked_at_are_not_called_all(training: Training) -> None:
    record = made.record()
    assert record.refit is not None
    part = record.model_copy(update={"refit": record.refit.model_copy(update={"images": 20})})
    assert "gives of each of 20 training images" in Page(training.html(training.tuned(tuning=part))).words


def test_a_random_start_has_no_pretraining_to_tell_of(training: Training) -> None:
    tuned = training.tuned(regime="scratch", race=None, advised=None, reasons=(), overridden=("regime scratch",))
    nothing = FrozenBackbone(parameters=0, buffers=0, sha256_before="b" * 64, sha256_after="b" * 64)
    result = tuned.model_copy(update={"features": None, "head": None, "baselines": (), "backbone": nothing})
    backbone = BACKBONE.model_copy(update={"weights_sha256": None, "source": "random start of seed 0"})
    text = Page(training.html(result, curves=made.curves(), backbone=backbone)).words
    for part in (
        "what a random efficientnet_lite0 learnt",
        "scratch (no pretraining): trained",
        "It was asked for, so no evidence was gathered",
        "Nothing: every number of the backbone was trained.",
        "random start of seed 0",
        "Pretrained weights none",
    ):
        assert part in text, part
    for part in (
        "It was pretrained on",
        "Licence of its weights",
        "as they were pretrained",
        "Features",
        "The head that",
    ):
        assert part not in text, part


def test_statistics_alone_may_stay_frozen(training: Training) -> None:
    kept = FrozenBackbone(parameters=0, buffers=5, sha256_before="b" * 64, sha256_after="b" * 64)
    text = training.page(training.tuned().model_copy(update={"backbone": kept})).words
    assert "Of the backbone, 0 parameters and 5 buffers, the statistics of batch norms." in text


def test_fewer_images_than_there_are_is_said(training: Training) -> None:
    text = training.page(training.tuned(images=12)).words
    assert "It learnt 2 classes from 12 images." in text
    assert "The time limit had room for 12 of the 26 training images." in text
    assert "time limit" not in training.page().words


def test_what_answers_rest_on_is_shown_for_right_and_wrong_ones(training: Training) -> None:
    page = training.page()
    rests = [each["alt"] for each in page.all("img") if each["alt"].startswith("What speaks")]
    assert rests == [
        "What speaks for dog in 6.png",
        "What speaks for cat in 2.png",
        "What speaks for cat in 7.png",
        "What speaks for dog in 7.png",
        "What speaks for dog in 3.png",
        "What speaks for cat in 3.png",
    ]
    sizes = {(each["width"], each["height"]) for each in page.all("img") if each["alt"].startswith("What speaks")}
    assert sizes == {("48", "64")}
    assert "c5, 2 \N{MULTIPLICATION SIGN} 2 cells" in page.words


def test_filters_and_stages_are_shown(training: Training) -> None:
    page = training.page()
    by_words = {each["alt"]: each for each in page.all("img")}
    assert "The filters of the first layer" in by_words
    assert "They are as they were pretrained." in page.words
    for stage in STAGES[:4]:
        tile = by_words[f"{stage.name} of 6.png, the mean over its channels"]
        assert (int(tile["width"]), int(tile["height"])) == (48 // stage.stride, 64 // stage.stride)
    assert len([words for words in by_words if words.endswith("the mean over its channels")]) == 15
    learnt = Page(training.html(trained=("backbone.module.conv_stem.weight",)))
    assert "They were trained here." in learnt.words


def test_pictures_that_are_gone_are_left_out(training: Training) -> None:
    for path in training.held_out.paths:
        path.unlink()
    text = training.page().words
    assert "What its answers rest on" not in text
    assert "stage by stage" not in text
    assert "The filters of its first layer" in text


PROBE = """<script>addEventListener("load", () => {
  const sizes = [...document.querySelectorAll("img, svg, table, .dot, .frame")].map(each => {
    const box = each.getBoundingClientRect(); return [each.tagName, box.width, box.height]});
  const images = [...document.images].map(each => each.complete && each.naturalWidth);
  console.log("PROBE" + JSON.stringify({sizes, images, overflow: document.documentElement.scrollWidth - innerWidth}));
})</script>"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="Chromium is not installed")
@pytest.mark.parametrize("width", [390, 1200])
def test_chromium_shows_it_without_a_complaint(training: Training, tmp_path: Path, width: int) -> None:
    # The page allows no script, so the one that looks at it is let in by its copy.
    html = training.html(training.tuned(), evidence=made.evidence(), curves=made.curves())
    html = html.replace("default-src 'none'", "default-src 'none'; script-src 'unsafe-inline'")
    (tmp_path / "report.html").write_text(html.replace("</body>", PROBE + "</body>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    flags += ["--enable-logging=stderr", f"--window-size={width},900", f"--user-data-dir={tmp_path / 'profile'}"]
    command = ["chromium", *flags, "--dump-dom", (tmp_path / "report.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    # Whatever the page's own policy forbids, an outside request first of all, is a line of the console.
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    (line,) = console
    found = json.loads(re.sub(r'^.*PROBE(.*)", source: .*$', r"\1", line).replace('\\"', '"'))
    assert len(found["images"]) > 60
    assert min(found["images"]) > 0
    assert {tag for tag, *_ in found["sizes"]} >= {"IMG", "svg", "TABLE", "SPAN", "DIV"}
    assert [each for each in found["sizes"] if each[0] != "TABLE" and min(each[1:]) < 5] == []
    assert found["overflow"] <= 0


def test_a_backbone_that_nobody_named_is_told_with_those_that_it_was_chosen_from(training: Training) -> None:
    looked = (
        Looked(backbone="<b>small</b>", accuracy=0.912, refused=None),
        Looked(backbone="large", accuracy=0.915, refused=None),
        Looked(backbone="picky", accuracy=None, refused="Expected a crop of 512 pixels. Received: 64."),
    )
    selection = Selection(images=100, looked=looked, chosen="<b>small</b>", reason="it is as good and smaller")
    result = training.result()
    told = result.model_copy(update={"way": result.way.model_copy(update={"selection": selection})})
    page = training.page(told)
    assert "It is as good and smaller. 100 training images were looked at" in page.words
    assert "<b>small</b> 91.2 % chosen large 91.5 % picky" in page.words
    assert "Expected a crop of 512 pixels. Received: 64." in page.words
    assert "<b>small</b>" not in training.html(told)
