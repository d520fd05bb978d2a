"""Features of a person's images come out in the order of the data, with everything that they follow from."""

import hashlib
import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pyarrow import parquet

from export import golden
from export.errors import DataError, TargetError
from service import image
from service.bundle import CropGeometry, sha256_of
from tests.training.conftest import quiet
from tests.training.test_store import largest_file
from training import backbones, extract
from training.backbones import Card
from training.errors import BackboneError
from training.extract import Manifest, Order
from training.taps import Taps


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all: converting a backbone takes seconds."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def order(registered: Card, tmp_path: Path, cache: Path) -> Order:
    """Sixteen images of two classes; two files of the same bytes among them."""
    files = list(golden.generate(registered.geometry).files.values())
    for number, data in enumerate([*files[:15], files[0]]):
        path = tmp_path / "data" / ("bee", "ant")[number % 2] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return Order(
        data=tmp_path / "data",
        backbone="small",
        resize_px=None,
        crop_px=None,
        all_taps=False,
        out=tmp_path / "out" / "features.npz",
        cache=cache,
        on_bad="error",
    )


def run(order: Order) -> Manifest:
    return extract.extract(order, quiet(4))


def left_beside(order: Order) -> list[str]:
    return sorted(path.name for path in order.out.parent.glob("*"))


def live(card: Card, paths: list[Path], geometry: CropGeometry) -> dict[str, NDArray[np.float32]]:
    pixels = np.stack([image.read(path.read_bytes(), geometry, image.ImageLimits()) for path in paths])
    with torch.inference_mode():
        answers = Taps(backbones.pretrained(card), card.backbone, card.scaling)(torch.tensor(pixels))
    return {name: answer.numpy() for name, answer in answers.items()}


def close(vectors: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(vectors, expected, rtol=1e-5, atol=1e-5 * float(np.abs(expected).max()))


def test_rows_are_the_backbones_in_the_order_of_the_manifest(order: Order, registered: Card) -> None:
    manifest = run(replace(order, all_taps=True))
    paths = sorted((order.data / "ant").iterdir()) + sorted((order.data / "bee").iterdir())
    assert manifest.paths == tuple(map(str, paths))
    assert manifest.labels == ("ant",) * 8 + ("bee",) * 8
    with np.load(order.out) as arrays:
        assert arrays["path"].tolist() == list(manifest.paths)
        assert arrays["label"].tolist() == list(manifest.labels)
        assert arrays["split"].tolist() == [""] * 16
        assert len(set(arrays["sha256"].tolist())) == 15
        expected = live(registered, paths, registered.geometry)
        assert list(manifest.taps) == ["c1", "c2", "c3", "c4", "c5", "b4", "embedding"]
        assert set(arrays.files) == {"path", "label", "split", "sha256", *expected}
        for tap, vectors in expected.items():
            assert arrays[tap].dtype == np.float32
            assert arrays[tap].shape == (16, manifest.taps[tap])
            close(arrays[tap], vectors)


def test_the_embedding_alone_is_written_unless_all_taps_are_wanted(order: Order) -> None:
    assert run(order).taps == {"embedding": 256}
    with np.load(order.out) as arrays:
        assert set(arrays.files) == {"path", "label", "split", "sha256", "embedding"}


def test_another_size_gives_the_features_of_that_size(order: Order, registered: Card) -> None:
    manifest = run(replace(order, resize_px=100, crop_px=96))
    assert manifest.geometry == replace(registered.geometry, resize_shorter_px=100, crop_height_px=96, crop_width_px=96)
    expected = live(registered, list(map(Path, manifest.paths)), manifest.geometry)["embedding"]
    with np.load(order.out) as arrays:
        close(arrays["embedding"], expected)
    with pytest.raises(BackboneError, match=r"Expected a crop of 32 to 1024 pixels, a multiple of 32.* Received: 100"):
        run(replace(order, crop_px=100, out=order.out.with_name("wrong.npz")))


def test_the_manifest_says_what_the_numbers_follow_from(order: Order, registered: Card) -> None:
    manifest = run(order)
    written = order.out.with_name("features.manifest.json").read_text()
    assert Manifest.model_validate_json(written) == manifest
    said: dict[str, Any] = json.loads(written)
    assert said["features"] == "features.npz"
    assert said["rows"] == 16
    assert said["taps"] == {"embedding": 256}
    assert said["backbone"]["weights_sha256"] == registered.backbone.weights_sha256
    assert said["backbone"]["licence"] == "Apache-2.0"
    assert said["geometry"]["crop"]["crop_height_px"] == 64
    assert said["scaling"]["mean"] == [0.4, 0.5, 0.6]
    assert said["facts"]["provider"] == "CPUExecutionProvider"
    assert {"torch", "onnxruntime", "pillow"} < said["facts"].keys()
    assert said["data"] == str(order.data)
    assert left_beside(order) == ["features.manifest.json", "features.npz"]


def test_the_digest_of_the_data_names_images_and_labels_and_not_their_place(order: Order, tmp_path: Path) -> None:
    first = run(order)
    moved = order.data.rename(tmp_path / "moved")
    assert run(replace(order, data=moved, out=tmp_path / "b.npz")).data_sha256 == first.data_sha256
    (moved / "ant/01.png").rename(moved / "bee/01.png")
    assert run(replace(order, data=moved, out=tmp_path / "c.npz")).data_sha256 != first.data_sha256


def test_splits_come_along(order: Order) -> None:
    rows = [("ant/01.png", "ant", "train"), ("bee/00.png", "bee", "test")]
    table = order.data / "table.csv"
    table.write_text("path,label,split\n" + "".join(",".join(row) + "\n" for row in rows))
    manifest = run(replace(order, data=table))
    with np.load(order.out) as arrays:
        assert arrays["split"].tolist() == ["train", "test"]
        lines = zip(arrays["sha256"].tolist(), ["ant", "bee"], ["train", "test"], [1.0, 1.0], strict=True)
    named = "\n".join(sorted(json.dumps(line) for line in lines))
    assert manifest.data_sha256 == hashlib.sha256(named.encode()).hexdigest()


def test_parquet_holds_the_same(order: Order) -> None:
    order = replace(order, all_taps=True)
    run(order)
    run(replace(order, out=order.out.with_name("other.parquet")))
    table = parquet.read_table(order.out.with_name("other.parquet"))
    with np.load(order.out) as arrays:
        assert table.column_names == arrays.files
        for name in ("path", "label", "split", "sha256"):
            assert table[name].to_pylist() == arrays[name].tolist()
        for tap in ("c1", "embedding"):
            assert str(table.schema.field(tap).type.value_type) == "float"
            np.testing.assert_array_equal(np.array(table[tap].to_pylist(), np.float32), arrays[tap])


def test_a_broken_file_stops_it_or_is_left_out(order: Order) -> None:
    (order.data / "ant/03.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1 of 16 that cannot:\n  .*/ant/03\.png: [\s\S]*--on-bad skip"):
        run(order)
    assert not order.out.parent.exists()
    manifest = run(replace(order, on_bad="skip"))
    assert manifest.rows == 15
    assert not any(path.endswith("ant/03.png") for path in manifest.paths)
    assert [fault.path for fault in manifest.left_out] == [str(order.data / "ant/03.png")]


@pytest.mark.parametrize("existing", ["features.npz", "features.manifest.json"])
def test_nothing_is_overwritten(order: Order, existing: str) -> None:
    order.out.parent.mkdir()
    (order.out.parent / existing).write_text("mine")
    with pytest.raises(TargetError, match=rf"Expected a file that does not exist yet. Received: .*/{existing}, which"):
        run(order)
    assert (order.out.parent / existing).read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("features.csv", r"Expected a file that ends in \.npz or \.parquet. Received: .*/features\.csv\."),
        ("features", r"Expected a file that ends in \.npz or \.parquet. Received: .*/features\."),
        ("\udcff.npz", r"Expected a file name in UTF-8 without control characters. Received: '\\udcff\.npz'\."),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_any_work(order: Order, name: str, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        run(replace(order, data=Path("nowhere"), out=order.out.with_name(name)))


def test_parquet_without_pyarrow_is_refused_before_any_work(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(TargetError, match=r"Expected pyarrow, to write .*pip install 'vertebra\[parquet\]'"):
        run(replace(order, data=Path("nowhere"), out=order.out.with_suffix(".parquet")))


def test_an_unknown_backbone_is_named(order: Order) -> None:
    with pytest.raises(BackboneError, match=r"Expected one of the backbones .* Received: nope\."):
        run(replace(order, backbone="nope"))


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["Manifest", "_columns", "_refuse_existing"])
def test_ctrl_c_leaves_nothing(order: Order, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse: Callable[[Path], None] = extract._refuse_existing

    def later(out: Path) -> None:
        refuse(out)
        if out.parent.exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(extract, where, later if where == "_refuse_existing" else interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(order)
    assert left_beside(order) == []


def test_a_full_disk_leaves_nothing_half_written(order: Order) -> None:
    run(order)  # now the cache has everything, and only the file of features is left to write
    with largest_file(5000), pytest.raises(OSError, match="File too large"):
        run(replace(order, out=order.out.with_name("more.npz")))
    assert left_beside(order) == ["features.manifest.json", "features.npz"]


def test_the_backbone_is_not_changed(order: Order, registered: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    pretrained = backbones.pretrained

    def kept(card: Card) -> torch.nn.Module:
        made.append(pretrained(card))
        return made[0]

    monkeypatch.setattr(backbones, "pretrained", kept)
    run(replace(order, cache=order.out.with_name("fresh")))
    before, after = pretrained(registered).state_dict(), made[0].state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_features_are_those_of_a_file_of_ones_own(order: Order, own_file: Path) -> None:
    published = run(order)
    own = run(replace(order, out=order.out.with_name("own.npz"), weights=own_file))
    assert own.backbone.weights_sha256 == sha256_of(own_file) != published.backbone.weights_sha256
    first, second = (np.load(order.out.with_name(name))["embedding"] for name in (order.out.name, "own.npz"))
    assert first.shape == second.shape
    assert not np.allclose(first, second)
