"""torchvision's data sets are opened from files as torchvision keeps them, or fetched; here from this machine."""

import gzip
import hashlib
import inspect
import pickle
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image
from torchvision import datasets

from export.errors import DataError
from tests.training.named.made import LABELS, bring_fashion, decoded, encoded, fashion, pictures
from training.named import vision
from training.named.collection import Collection


def opened(name: str, root: Path) -> Collection:
    return vision.collection(name, root, root / "nowhere", download=False)


def read(found: Collection) -> dict[str, list[tuple[bytes, str | None]]]:
    return {split: list(part) for split, part in found.parts.items()}


def test_pixels_become_png_and_classes_have_their_names(tmp_path: Path) -> None:
    bring_fashion(tmp_path)
    found = opened("FashionMNIST", tmp_path / "downloads/torchvision")
    assert found.library == f"torchvision {torchvision.__version__}"
    assert [len(part) for part in found.parts.values()] == [6, 2]
    entries = read(found)
    assert list(entries) == ["train", "test"]
    assert [label for _, label in entries["test"]] == ["Ankle boot", "T-shirt/top"]
    for split, seed in (("train", 0), ("test", 1)):
        for (data, _), expected in zip(entries[split], pictures(len(entries[split]), seed), strict=True):
            (tmp_path / "image.png").write_bytes(data)
            np.testing.assert_array_equal(decoded(tmp_path / "image.png"), expected)


def test_cifar10_is_read_as_torchvision_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Its pickles, small; torchvision compares digests, which are those of the real ones.
    folder = tmp_path / datasets.CIFAR10.base_folder
    folder.mkdir()

    def keep(name: str, content: dict[str, object]) -> str:
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    def batch(name: str, labels: list[int]) -> list[str]:
        pixels = np.stack([pictures(3, label, 32) for label in labels]).reshape(len(labels), -1)
        return [name, keep(name, {"data": pixels, "labels": labels})]

    meta = {**datasets.CIFAR10.meta, "md5": keep("batches.meta", {"label_names": ["airplane", "cat"]})}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [batch("data_batch_1", [0, 1]), batch("data_batch_2", [1])])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [batch("test_batch", [0])])
    entries = read(opened("CIFAR10", tmp_path))
    assert {split: [label for _, label in each] for split, each in entries.items()} == {
        "train": ["airplane", "cat", "cat"],
        "test": ["airplane"],
    }
    (tmp_path / "image.png").write_bytes(entries["train"][1][0])
    np.testing.assert_array_equal(decoded(tmp_path / "image.png"), pictures(3, 1, 32).transpose(1, 2, 0))


def test_files_of_images_are_taken_as_they_are(tmp_path: Path) -> None:
    jpeg = encoded(pictures(1, 0)[0], "JPEG")
    for name in ("Forest", "River"):
        (tmp_path / "eurosat/2750" / name).mkdir(parents=True)
        (tmp_path / "eurosat/2750" / name / "1.jpg").write_bytes(jpeg)
    assert read(opened("EuroSAT", tmp_path)) == {"all": [(jpeg, "Forest"), (jpeg, "River")]}


def test_what_torchvision_calls_categories_are_classes(tmp_path: Path) -> None:
    for number, name in ((1, "001.ak47"), (2, "002.american-flag")):
        folder = tmp_path / "caltech256/256_ObjectCategories" / name
        folder.mkdir(parents=True)
        (folder / f"{number:03}_0001.jpg").write_bytes(encoded(pictures(1, 0)[0], "JPEG"))
    assert [label for _, label in read(opened("Caltech256", tmp_path))["all"]] == ["001.ak47", "002.american-flag"]


def test_classes_with_several_names_have_all_of_them(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for wnid in ("n01440764", "n02102040"):
            (tmp_path / "imagenette2" / split / wnid).mkdir(parents=True)
            (tmp_path / "imagenette2" / split / wnid / "a.jpeg").write_bytes(b"as it is")
    entries = read(opened("Imagenette", tmp_path))
    assert list(entries) == ["train", "val"]
    assert [label for _, label in entries["val"]] == [
        "tench, Tinca tinca",
        "English springer, English springer spaniel",
    ]


def test_classes_without_names_are_called_by_their_numbers(tmp_path: Path) -> None:
    lines = [" ".join(["0.5"] * 256 + ["1" if column == digit else "0" for column in range(10)]) for digit in (7, 2)]
    (tmp_path / "semeion.data").write_text("".join(f"{line} \n" for line in lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            datasets.SEMEION, "md5_checksum", hashlib.md5((tmp_path / "semeion.data").read_bytes()).hexdigest()
        )
        assert [label for _, label in read(opened("SEMEION", tmp_path))["all"]] == ["7", "2"]


@pytest.mark.parametrize("target", [None, -1])
def test_targets_that_say_nothing_are_no_classes(target: int | None) -> None:
    part = vision._Part("STL10", [(b"image", target)], ["bird"])
    assert list(part) == [(b"image", None)]


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "F"])
def test_what_png_cannot_hold_becomes_rgb(mode: str, tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(vision._encoded(Image.new(mode, (3, 3))))
    assert decoded(tmp_path / "image.png").shape == (3, 3, 3)


# Not one label for each image, or of something that is no image, or not to be had without a word more.
OTHERS = {
    "CelebA", "Cityscapes", "EMNIST", "FER2013", "HMDB51", "ImageNet", "Kinetics", "Kitti", "LFWPairs", "LFWPeople",
    "MovingMNIST", "PhotoTour", "QMNIST", "UCF101", "WIDERFace",
}  # fmt: skip


def test_every_data_set_for_classification_is_known() -> None:
    kinds = {name: getattr(datasets, name) for name in datasets.__all__ if inspect.isclass(getattr(datasets, name))}
    told = {name: set(inspect.signature(kind).parameters) for name, kind in kinds.items()}
    without = {name for name, asked in told.items() if asked & {"train", "split"} and asked.isdisjoint({"transforms"})}
    pictured = {name for name in without if not kinds[name].__module__.endswith(("_optical_flow", "_stereo_matching"))}
    assert pictured - OTHERS <= set(vision.SETS)
    for name, calls in vision.SETS.items():
        assert {"root", "download", *(word for call in calls.values() for word in call)} <= told[name]


@pytest.mark.parametrize("name", ["CelebA", "FakeData", "ImageFolder", "cifar10", "", "../x"])
def test_others_are_refused_with_those_that_there_are(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"Expected one of torchvision's data sets Caltech101, .*Received: {name}\."):
        opened(name, tmp_path)


def test_what_is_not_there_is_told_with_what_to_do(tmp_path: Path) -> None:
    expected = (
        r"Expected torchvision's MNIST in .*Received: RuntimeError: Dataset not found.* --download, or lay its files"
    )
    with pytest.raises(DataError, match=expected):
        opened("MNIST", tmp_path)


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    bring_fashion(tmp_path)
    root = tmp_path / "downloads/torchvision"
    (root / "FashionMNIST/raw/train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01")
    with pytest.raises(DataError, match=r"Expected torchvision's FashionMNIST in .*\. Received: \w+: "):
        opened("FashionMNIST", root)


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "eurosat/2750/Forest").mkdir(parents=True)
    (tmp_path / "eurosat/2750/Forest/1.jpg").write_bytes(b"x")
    found = opened("EuroSAT", tmp_path)
    (tmp_path / "eurosat/2750/Forest/1.jpg").unlink()
    with pytest.raises(
        DataError, match=r"Expected torchvision to read image 0 of EuroSAT\. Received: FileNotFoundError"
    ):
        read(found)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder from which torchvision fetches FashionMNIST."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=folder)) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        resources = []
        for name, data in fashion(LABELS).items():
            packed = gzip.compress(data)
            (folder / f"{name}.gz").write_bytes(packed)
            resources.append((f"{name}.gz", hashlib.md5(packed).hexdigest()))
        monkeypatch.setattr(datasets.FashionMNIST, "resources", resources)
        yield folder
        server.shutdown()
        serving.join()


@pytest.mark.usefixtures("mirror")
def test_what_is_not_there_is_fetched_where_that_is_allowed(tmp_path: Path) -> None:
    brought, fetched = tmp_path / "brought", tmp_path / "fetched"
    found = vision.collection("FashionMNIST", brought, fetched, download=True)
    assert [len(part) for part in found.parts.values()] == [6, 2]
    assert fetched.is_dir()
    assert not brought.exists()


def test_what_is_there_is_not_fetched(mirror: Path, tmp_path: Path) -> None:
    for file in mirror.iterdir():
        file.unlink()
    bring_fashion(tmp_path)
    vision.collection("FashionMNIST", tmp_path / "downloads/torchvision", tmp_path / "fetched", download=True)
    assert not (tmp_path / "fetched").exists()


def test_a_download_that_fails_is_told(mirror: Path, tmp_path: Path) -> None:
    (mirror / "train-images-idx3-ubyte.gz").write_bytes(b"something else")
    with pytest.raises(
        DataError, match=r"Expected torchvision to fetch FashionMNIST\. Received: RuntimeError: Error down"
    ):
        vision.collection("FashionMNIST", tmp_path, tmp_path / "fetched", download=True)
