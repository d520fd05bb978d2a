"""What a page shows of a model comes from its run and the images, and stays small."""

import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from export import run
from export.run import Run
from service.bundle import CropGeometry, Interpolation
from tests.samples import photograph
from training import regimes
from training.backbones import Card
from training.insight import gallery
from training.insight.gallery import Asked
from training.pictures import Thumbnail


@pytest.fixture
def described(small_run: Path) -> Run:
    return run.read(small_run)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    found = [tmp_path / f"{number}.png" for number in range(5)]
    for path in found:
        photograph((200, 150)).save(path)
    return found


def opened(thumbnail: Thumbnail) -> Image.Image:
    assert thumbnail.uri is not None
    picture = Image.open(io.BytesIO(base64.b64decode(thumbnail.uri.partition(",")[2])))
    assert picture.size == (thumbnail.width, thumbnail.height)
    return picture


def test_right_answers_have_one_ground_and_wrong_ones_two(small: Card, described: Run, paths: list[Path]) -> None:
    made = gallery.hang(regimes.original(small), described, [Asked(paths[0], 1, 1), Asked(paths[1], 2, 4)])
    right, wrong = made.explained
    assert [right.right, wrong.right] == [True, False]
    assert [each.label for each in right.grounds] == ["bee"]
    assert [each.label for each in wrong.grounds] == ["eel", "cat"]
    assert wrong.expected == "cat"
    assert {each.stage for each in (*right.grounds, *wrong.grounds)} == {"c5"}
    assert opened(right.grounds[0].picture).size == (64, 64)


def test_the_first_images_have_their_stages(small: Card, described: Run, paths: list[Path]) -> None:
    made = gallery.hang(regimes.original(small), described, [Asked(path, 0, 0) for path in paths])
    assert [scene.path for scene in made.scenes] == paths[: gallery.SCENES]
    assert len(made.explained) == 5
    for scene in made.scenes:
        assert [stage.name for stage in scene.stages] == ["c1", "c2", "c3", "c4", "c5"]
        for stage in scene.stages:
            assert len(stage.channels) == gallery.CHANNELS
            sizes = {opened(each).size for each in (stage.mean, *(tile for _, tile in stage.channels))}
            assert sizes == {(64 // stage.stride, 64 // stage.stride)}


def test_what_is_gone_is_passed_over(small: Card, described: Run, paths: list[Path]) -> None:
    paths[0].unlink()
    paths[1].write_bytes(b"broken")
    made = gallery.hang(regimes.original(small), described, [Asked(path, 0, 0) for path in paths[:3]])
    assert [each.path for each in made.explained] == paths[2:3]


def test_of_large_pixels_no_large_pictures_are_made(small: Card, described: Run, paths: list[Path]) -> None:
    large = described.model_copy(update={"geometry": CropGeometry(512, 512, 512, Interpolation.INTERPOLATION_BILINEAR)})
    (scene,) = gallery.hang(regimes.original(small), large, [Asked(paths[0], 0, 0)]).scenes
    assert scene.stages[0].cells == "256 \N{MULTIPLICATION SIGN} 256"
    assert opened(scene.stages[0].mean).size == (128, 128)
    assert opened(scene.stages[1].mean).size == (128, 128)
    assert opened(scene.picture).size == (200, 200)


def test_filters_say_whether_they_were_trained(small: Card, described: Run) -> None:
    model = regimes.original(small)
    assert not gallery.hang(model, described, []).filters.trained
    free = described.model_copy(update={"trained": ("backbone.module.conv_stem.weight",)})
    shown = gallery.hang(model, free, []).filters
    assert shown.trained
    assert (shown.layer, shown.count) == ("conv_stem", model.backbone.module.conv_stem.out_channels)
    assert opened(shown.sheet).mode == "RGB"
