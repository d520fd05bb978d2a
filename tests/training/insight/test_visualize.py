"""A person sees what a model sees: a picture of every stage, of the filters, of what an answer rests on."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

from export import program, run
from export.errors import DataError, RunError, TargetError
from service import image
from service.bundle import sha256_of
from tests.samples import photograph
from tests.training.conftest import quiet
from tests.training.test_main import call
from training import backbones
from training.architectures.labels import no_labels
from training.backbones import Card
from training.errors import BackboneError
from training.insight import visualize
from training.insight.visualize import Drawn, Order

SIDE, GAP = 64, 4


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    photograph((90, 70)).save(folder / "b.png")
    photograph((70, 130)).save(folder / "a.jpg")
    (folder / "notes.txt").write_text("no image")
    return folder


def drawn(model: object, images: Path, out: Path) -> tuple[Drawn, ...]:
    return visualize.visualize(Order(str(model), images, out), quiet(visualize.STEPS))


def opened(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def tiles(sheet: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    rows, columns = (-(-side // (SIDE + GAP)) for side in sheet.shape[:2])
    places = [(row * (SIDE + GAP), column * (SIDE + GAP)) for row in range(rows) for column in range(columns)]
    return [sheet[y : y + SIDE, x : x + SIDE] for y, x in places]


def test_a_picture_of_every_stage_has_the_cells_of_its_stride(
    small_run: Path, small: Card, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    drawn(small_run, images, out)
    names = {each.relative_to(out).as_posix() for each in out.rglob("*.png")}
    stages = [stage.name for stage in small.backbone.stages]
    each = ["image.png", "grad-cam.png", *(f"{name}.png" for name in stages)]
    assert names == {"filters.png", *(f"{folder}/{name}" for folder in ("01-a", "02-b") for name in each)}
    for stage in small.backbone.stages:
        shown = tiles(opened(out / "02-b" / f"{stage.name}.png"))
        assert len(shown) == 16
        for tile in shown:
            cells = tile[:: stage.stride, :: stage.stride]
            assert cells.shape == (SIDE // stage.stride, SIDE // stage.stride, 3)
            np.testing.assert_array_equal(tile, cells.repeat(stage.stride, axis=0).repeat(stage.stride, axis=1))
        assert len(np.unique(shown[0].reshape(-1, 3), axis=0)) > 1


def test_it_shows_and_answers_what_the_service_would(small_run: Path, images: Path, tmp_path: Path) -> None:
    found = drawn(small_run, images, tmp_path / "out")
    described = run.read(small_run)
    assert [each.path.name for each in found] == ["a.jpg", "b.png"]
    for number, each in enumerate(found, start=1):
        pixels = image.read(each.path.read_bytes(), described.geometry, image.ImageLimits())
        own = tmp_path / "out" / f"{number:02}-{each.path.stem}"
        np.testing.assert_array_equal(opened(own / "image.png"), pixels)
        assert opened(own / "grad-cam.png").shape == pixels.shape
        logits = torch.tensor(program.answers(run.read_program(small_run, described), pixels[None])["logits"][0])
        assert each.answer is not None
        assert each.answer.label == described.labels[int(logits.argmax())]
        assert each.answer.probability == pytest.approx(float(logits.softmax(0).max()), abs=1e-5)


@pytest.mark.usefixtures("registered")
def test_the_command_takes_a_backbone_and_prints_the_answers(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "c\x1b[31m.png").write_bytes((images / "b.png").read_bytes())
    out = tmp_path / "out"
    assert call(monkeypatch, "visualize", "small", "--images", images, "--out", out) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == ["a.jpg", "b.png", "c\\x1b[31m.png"]
    assert all(line.endswith("seen on c5") for line in lines[:3])
    assert lines[3:] == [f"Wrote {out}."]
    assert (out / "filters.png").exists()


def test_a_backbone_without_classes_has_maps_and_no_answer(
    small: Card, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "bare.safetensors"
    save_file(backbones.build("test_efficientnet", 0).state_dict(), file)
    backbone = small.backbone.model_copy(update={"name": "bare", "weights_sha256": sha256_of(file)})
    card = replace(small, backbone=backbone, labels=no_labels, weights=lambda: file)
    monkeypatch.setattr(backbones, "CARDS", {"bare": card})
    found = drawn("bare", images, tmp_path / "out")
    assert [each.words() for each in found] == ["a.jpg", "b.png"]
    assert not list((tmp_path / "out").rglob("grad-cam.png"))
    assert (tmp_path / "out" / "01-a" / "c5.png").exists()


@pytest.mark.usefixtures("registered")
def test_a_backbone_is_drawn_with_weights_of_ones_own(images: Path, own_file: Path, tmp_path: Path) -> None:
    drawn("small", images, tmp_path / "published")
    visualize.visualize(Order("small", images, tmp_path / "own", own_file), quiet(visualize.STEPS))
    published, own = (opened(tmp_path / each / visualize.FILTERS) for each in ("published", "own"))
    assert published.shape == own.shape
    assert not np.array_equal(published, own)


def test_of_many_images_some_of_every_class_are_drawn(small_run: Path, images: Path, tmp_path: Path) -> None:
    for label in ("zebra", "zoo"):
        (images / label).mkdir()
        for number in range(14):
            photograph((70, 70)).save(images / label / f"{'x' * 200}{number:02}.png")
    found = drawn(small_run, images, tmp_path / "out")
    assert len(found) == visualize.MOST == 16
    assert Counter(each.path.parent.name for each in found) == {"images": 2, "zebra": 7, "zoo": 7}
    assert len([each for each in (tmp_path / "out").iterdir() if each.is_dir()]) == 16


def test_of_a_table_the_held_out_images_are_drawn(small_run: Path, images: Path, tmp_path: Path) -> None:
    (table := images / "images.csv").write_text("path,label,split\na.jpg,x,train\nb.png,x,test\n")
    assert [each.path.name for each in drawn(small_run, table, tmp_path / "out")] == ["b.png"]


def test_what_cannot_be_drawn_is_refused_and_leaves_nothing(small_run: Path, images: Path, tmp_path: Path) -> None:
    out, empty = tmp_path / "deep" / "out", tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match=r"^Expected JPEG, .* files in .*empty. Received: none.$"):
        drawn(small_run, empty, out)
    with pytest.raises(
        DataError, match=r"^Expected a folder that can be read. Received: .*gone: No such file or directory.$"
    ):
        drawn(small_run, tmp_path / "gone", out)
    (images / "a.jpg").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"^Expected an image that can be read. Received: .*a.jpg: Expected a JPEG"):
        drawn(small_run, images, out)
    with pytest.raises(BackboneError, match=r"^Expected one of the backbones .*, or timm:NAME. Received: resnet19.$"):
        drawn("resnet19", images, out)
    with pytest.raises(RunError, match=r"Received: runs/gone, which does not exist.$"):
        drawn("runs/gone", images, out)
    with pytest.raises(
        BackboneError,
        match=r"^Expected the name of a backbone for the weights mine.pth. Received: the run .*small, which has its",
    ):
        visualize.visualize(Order(str(small_run), images, out, Path("mine.pth")), quiet(visualize.STEPS))
    assert not out.parent.exists()
    with pytest.raises(TargetError, match=f"Received: {images}, which does.$"):
        drawn(small_run, images, images)
