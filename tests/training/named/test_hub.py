"""Hugging Face's data sets are opened from a folder or from the library's cache; nothing is asked of the network."""

import importlib
from pathlib import Path
from typing import Any

import datasets
import pytest
from huggingface_hub import constants

from export.errors import DataError
from tests.training.named.made import encoded, pictures
from training.named import hub
from training.named.collection import Collection

IMAGES = [encoded(each, file_format) for each, file_format in zip(pictures(3, 0), ("JPEG", "PNG", "JPEG"), strict=True)]
FEATURES = datasets.Features(
    {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a/b", "c"]), "words": datasets.Value("string")}
)


@pytest.fixture(autouse=True)
def _without_bars() -> None:
    datasets.disable_progress_bars()


def rows(labels: list[int | None], features: datasets.Features = FEATURES) -> datasets.Dataset:
    images = [{"bytes": data, "path": None} for data in IMAGES[: len(labels)]]
    return datasets.Dataset.from_dict({"image": images, "label": labels, "words": ["w"] * len(labels)}, features)


def read(found: Collection) -> dict[str, list[tuple[bytes, str | None]]]:
    return {split: list(part) for split, part in found.parts.items()}


def saved(folder: Path, data: Any) -> str:
    data.save_to_disk(folder)
    return str(folder)


def test_a_saved_folder_gives_its_splits_and_the_bytes_that_it_holds(tmp_path: Path) -> None:
    name = saved(tmp_path / "saved", datasets.DatasetDict({"train": rows([1, 0]), "validation": rows([0])}))
    found = hub.collection(name, download=False)
    assert found.library == f"datasets {datasets.__version__}"
    assert [len(part) for part in found.parts.values()] == [2, 1]
    assert read(found) == {"train": [(IMAGES[0], "c"), (IMAGES[1], "a/b")], "validation": [(IMAGES[0], "a/b")]}


def test_one_split_alone_is_a_data_set_too(tmp_path: Path) -> None:
    assert read(hub.collection(saved(tmp_path / "saved", rows([1])), download=False)) == {"all": [(IMAGES[0], "c")]}


def test_images_that_lie_in_files_are_read_from_there(tmp_path: Path) -> None:
    (tmp_path / "0.jpg").write_bytes(IMAGES[0])
    data = datasets.Dataset.from_dict({"image": [str(tmp_path / "0.jpg")], "label": [0], "words": ["w"]}, FEATURES)
    part = hub._part(datasets, "flowers", data)
    assert list(part) == [(IMAGES[0], "a/b")]
    (tmp_path / "0.jpg").unlink()
    with pytest.raises(DataError, match=r"Expected the images of flowers to be read\. Received: FileNotFoundError"):
        list(part)


def test_no_class_and_no_image_are_told_apart_from_what_there_is(tmp_path: Path) -> None:
    images = [{"bytes": IMAGES[0], "path": None}, {"bytes": IMAGES[0], "path": None}, None]
    data = datasets.Dataset.from_dict({"image": images, "label": [None, -1, 1], "words": ["w"] * 3}, FEATURES)
    found = hub.collection(saved(tmp_path / "saved", data), download=False)
    assert read(found)["all"] == [(IMAGES[0], None), (IMAGES[0], None), (b"", "c")]


def with_more(**more: Any) -> datasets.Dataset:
    features = datasets.Features({**{name: kind for name, kind in FEATURES.items() if name not in more}, **more})
    columns: dict[str, list[Any]] = {name: [None] for name in features}
    return datasets.Dataset.from_dict(columns, features)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"label": datasets.Value("int64")}, r"one column of classes \(ClassLabel\) in .*label \(Value\)"),
        ({"image": datasets.Value("string")}, r"one column of images \(Image\) in .*image \(Value\)"),
        (
            {"label": datasets.ClassLabel(2), "fine": datasets.ClassLabel(2)},
            None,  # the one that is called label
        ),
        (
            {"label": datasets.Value("int64"), "fine": datasets.ClassLabel(2), "coarse": datasets.ClassLabel(2)},
            r"one column of classes .*fine \(ClassLabel\), coarse \(ClassLabel\)",
        ),
    ],
)
def test_which_columns_are_meant_is_not_guessed(more: dict[str, Any], message: str | None) -> None:
    if message is None:
        assert hub._part(datasets, "flowers", with_more(**more)).label == "label"
    else:
        with pytest.raises(DataError, match=f"Expected {message}"):
            hub._part(datasets, "flowers", with_more(**more))


@pytest.mark.parametrize("name", ["", "a/b/c", "a b", "hf://x", "-x", "https://example.org/x"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(DataError, match=r"Expected a data set on Hugging Face's hub, as owner/name or .*Received: '"):
        hub.check(name)


@pytest.mark.parametrize("name", ["beans", "AI-Lab-Makerere/beans", "owner/name:configuration", "a.b_c-d/e"])
def test_names_are_taken(name: str) -> None:
    hub.check(name)


def test_a_folder_that_nothing_was_saved_to_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=rf"Expected a folder that save_to_disk wrote\. Received: {folder}, which"):
            hub.collection(str(folder), download=False)


def test_a_folder_whose_data_is_gone_is_told(tmp_path: Path) -> None:
    name = saved(tmp_path / "saved", rows([1]))
    for path in Path(name).glob("*.arrow"):
        path.unlink()
    with pytest.raises(DataError, match=r"Expected a folder that save_to_disk wrote in .*\. Received: \w+: "):
        hub.collection(name, download=False)


def test_without_a_download_nothing_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    expected = r"Expected nobody/nothing in Hugging Face's cache\. Received: ConnectionError: .*--download\."
    with pytest.raises(DataError, match=expected):
        hub.collection("nobody/nothing", download=False)


def test_a_way_of_reading_files_is_no_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train/cat").mkdir(parents=True)
    (tmp_path / "train/cat/0.jpg").write_bytes(IMAGES[0])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"Received: imagefolder, a way of reading files\."):
        hub.collection("imagefolder", download=True)


class _Asked:
    """Stands for the library's own loading, which would ask the hub."""

    def __init__(self, *found: object) -> None:
        self.found = found
        self.calls: list[tuple[object, ...]] = []
        self.state: dict[str, bool] = {}

    def __call__(self, *given: object) -> object:
        self.calls.append(given)
        self.state = state()
        if not self.found:
            raise ValueError("gone")
        return self.found[0]


def state() -> dict[str, bool]:
    return {
        "offline": constants.HF_HUB_OFFLINE,
        "datasets offline": datasets.config.HF_HUB_OFFLINE,
        "silent": constants.HF_HUB_DISABLE_TELEMETRY,
        "counted": datasets.config.HF_UPDATE_DOWNLOAD_COUNTS,
    }


@pytest.mark.parametrize("download", [False, True])
def test_the_hub_is_asked_for_the_data_set_and_for_nothing_else(
    download: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    asked = _Asked(datasets.DatasetDict({"train": rows([1])}))
    monkeypatch.setattr(datasets, "load_dataset", asked)
    before = state()
    assert read(hub.collection("owner/name:small", download)) == {"train": [(IMAGES[0], "c")]}
    assert asked.calls == [("hf://datasets/owner/name", "small")]
    assert asked.state == {"offline": not download, "datasets offline": not download, "silent": True, "counted": False}
    assert state() == before


def test_who_works_offline_stays_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = _Asked()
    monkeypatch.setattr(datasets, "load_dataset", asked)
    with pytest.raises(
        DataError, match=r"Expected to fetch beans from Hugging Face's hub\. Received: ValueError: gone$"
    ):
        hub.collection("beans", download=True)
    assert asked.state["offline"]
    assert asked.state["datasets offline"]


def test_without_the_library_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    expected = r"Expected the package datasets, .*Received: No module named 'datasets'\. .*'vertebra\[huggingface\]'"
    with pytest.raises(DataError, match=expected):
        hub.collection("beans", download=False)
