import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from rich.console import Console

from export import evaluate
from export.errors import DataError, GraphError
from export.progress import Steps
from service.errors import BundleError
from tests.conftest import colours, encode, make_graph, write_bundle

RED, GREEN, BLUE = (250, 9, 9), (9, 250, 9), (9, 9, 250)
Colour = tuple[int, int, int]


@pytest.fixture
def bundle(repository: Path) -> Path:
    return repository / "colours" / "1"


def fill(folder: Path, classes: Mapping[str, Sequence[Colour]]) -> Path:
    for label, images in classes.items():
        (folder / label).mkdir(parents=True)
        for index, colour in enumerate(images):
            (folder / label / f"{index}.png").write_bytes(encode(colour))
    return folder


def ask(bundle: Path, data: Path) -> evaluate.Evaluation:
    return evaluate.evaluate(bundle, data, Steps(4, Console(quiet=True)))


def test_a_folder_is_scored(bundle: Path, tmp_path: Path) -> None:
    # 37 images: more than are decoded ahead, and no whole number of batches.
    data = fill(tmp_path / "data", {"blue": [BLUE] * 20, "red": [RED] * 15 + [GREEN] * 2})
    found = ask(bundle, data)
    assert (found.images, found.split, found.scores.images) == (37, None, 37)
    assert found.scores.confusion == ((0, 0, 15), (0, 1, 2), (2, 2, 20))
    assert [each.label for each in found.scores.per_class] == ["red", "green", "blue"]
    assert found.scores.accuracy.value == pytest.approx(35 / 37)


@pytest.mark.parametrize(
    ("splits", "split", "images"),
    [(["train", "validation", "test"], "test", 3), (["train", "validation"], "validation", 2), (["train"], "train", 1)],
)
def test_the_images_held_out_are_asked_about(
    bundle: Path, tmp_path: Path, splits: Sequence[str], split: str, images: int
) -> None:
    rows = []
    for count, name in enumerate(splits, 1):
        fill(tmp_path / name, {"red": [RED] * count})
        rows += [f"{name}/red/{index}.png,red,{name}" for index in range(count)]
    (tmp_path / "data.csv").write_text("\n".join(["path,label,split", *rows]) + "\n")
    found = ask(bundle, tmp_path / "data.csv")
    assert (found.split, found.images) == (split, images)
    assert f"colours version 1 on {images} images of the split {split}" in evaluate.table(found)


def test_the_table_says_how_good_it_is(bundle: Path, tmp_path: Path) -> None:
    data = fill(tmp_path / "data", {"blue": [BLUE] * 4, "red": [RED, RED, GREEN]})
    text = evaluate.table(ask(bundle, data))
    lines = [line.split() for line in text.splitlines()]
    assert text.startswith("colours version 1 on 7 images\n")
    assert ["accuracy", "85.7%", "48.7%", "to", "97.4%"] in lines
    assert [" ".join(line[:2]) for line in lines[3:6]] == ["accuracy 85.7%", "balanced accuracy", "macro-F1 90.0%"]
    assert lines[-2] == ["red", "3", "66.7%", "20.8%", "to", "93.9%", "100.0%", "80.0%"]
    assert lines[-1][:3] == ["blue", "4", "100.0%"]


def test_only_the_worst_of_many_classes_are_shown_and_no_name_commands_the_terminal(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["embedding"], keepdims=0),
        helper.make_node("Concat", ["embedding"] * 8, ["logits"], axis=1),
    ]
    model = colours()
    labels = ("right", "a\x1b[2Jb", *(f"class {number}" for number in range(2, 24)))
    many = replace(
        model,
        labels=labels,
        graph=make_graph(model.geometry, nodes, 3, 24),
        answer=lambda pixels: (np.tile(pixels.mean(axis=(0, 1), dtype=np.float32), 8), pixels.mean(axis=(0, 1))),
    )
    bundle = write_bundle(tmp_path / "models", many)
    data = fill(tmp_path / "data", {label: [RED] for label in labels})
    text = evaluate.table(ask(bundle, data))
    assert "the 20 of the lowest F1 of 24 classes:\n" in text
    assert len(text.split("classes:\n")[1].splitlines()) == 1 + 20
    assert "right " not in text
    assert "a\\x1b[2Jb " in text


def test_a_label_that_the_bundle_does_not_know_is_named(bundle: Path, tmp_path: Path) -> None:
    data = fill(tmp_path / "data", {"red": [RED], "purple": [RED] * 2, "pink": [RED]})
    message = (
        "Expected labels of the bundle, which has 3: 'red', 'green', 'blue'. Received: 'pink', 'purple', with 3 im"
    )
    with pytest.raises(DataError, match=message):
        ask(bundle, data)


def test_a_label_of_two_classes_is_named(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "models", replace(colours(), labels=("crane", "blue", "crane")))
    assert ask(bundle, fill(tmp_path / "good", {"blue": [GREEN]})).scores.accuracy.value == 1
    with pytest.raises(DataError, match=r"Expected labels that name one class .* Received: 'crane', which name two."):
        ask(bundle, fill(tmp_path / "data", {"crane": [RED], "blue": [GREEN]}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"red/9.png: Expected a JPEG, PNG, WebP, GIF, BMP or TIFF file. Received: 0 bytes"),
        (encode(RED)[:40], r"red/9.png: Expected a whole PNG file. Received: 40 bytes, broken"),
        (None, r"red/9.png: No such file or directory."),
    ],
)
def test_an_image_that_cannot_be_read_is_named(
    bundle: Path, tmp_path: Path, content: bytes | None, message: str
) -> None:
    data = fill(tmp_path, {"red": [RED] * 60})
    if content is not None:
        (data / "red/9.png").write_bytes(content)
    else:
        (data / "red/9.png").unlink()
    rows = [f"red/{index}.png,red" for index in range(60)]
    (tmp_path / "data.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    before = threading.active_count()
    with pytest.raises(DataError, match=f"Expected an image that can be read. Received: .*{message}"):
        ask(bundle, tmp_path / "data.csv")
    assert threading.active_count() == before


def test_a_pipe_is_no_image(bundle: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "data.csv").write_text("path,label\npipe.png,red\n")
    with pytest.raises(DataError, match=r"pipe.png: Expected a file. Received: something else."):
        ask(bundle, tmp_path / "data.csv")


def test_an_answer_that_is_no_number_is_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "white"], ["embedding"]),
        helper.make_node("Div", ["embedding", "embedding"], ["logits"]),  # 0 / 0 where a channel is all black
    ]
    model = colours()
    graph = make_graph(model.geometry, nodes, 3, 3)
    answer = model.answer
    ones = replace(model, graph=graph, answer=lambda pixels: (np.ones(3, np.float32), answer(pixels)[1]))
    data = fill(tmp_path / "data", {"blue": [BLUE] * 2, "red": [RED, (250, 0, 9)]})
    with pytest.raises(GraphError, match=r"Expected logits that are numbers. Received: others for .*red/1.png."):
        ask(write_bundle(tmp_path / "models", ones), data)


def test_a_changed_bundle_is_refused_before_any_image_is_read(bundle: Path, tmp_path: Path) -> None:
    (bundle / "model.onnx").write_bytes(b"changed")
    with pytest.raises(BundleError, match=r"Expected model.onnx to have \d+ bytes. Received: 7."):
        ask(bundle, tmp_path / "nowhere")
