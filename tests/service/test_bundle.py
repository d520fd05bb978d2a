"""A bundle loads whole or not at all, and says what is wrong with it."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from service import bundle as bundles
from service.bundle import Bundle, CropGeometry, Interpolation
from service.errors import BundleError
from vertebra.v1 import bundle_pb2

Change = Callable[[bundle_pb2.Manifest], None]


def test_a_whole_bundle_loads(bundle: Bundle) -> None:
    assert (bundle.name, bundle.version) == ("colours", 1)
    assert bundle.labels == ("red", "green", "blue")
    assert bundle.geometry == CropGeometry(8, 8, 8, Interpolation.INTERPOLATION_BICUBIC)
    assert (bundle.logits.name, bundle.logits.shape) == ("logits", (3,))
    assert (bundle.embedding.name, bundle.embedding.embedding_space_id) == ("embedding", "c0" * 32)
    assert bundle.graph.is_file()
    assert re.fullmatch(r"[0-9a-f]{64}", bundle.manifest_sha256)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(
        BundleError, match=r"Expected a bundle, a folder with manifest.json. Received: .*, which has none"
    ):
        bundles.load(tmp_path)


@pytest.mark.parametrize("file", ["model.onnx", "golden/03.png", "golden/expected.npz"])
def test_a_changed_byte_is_found(bundle: Bundle, file: str) -> None:
    data = bytearray((bundle.path / file).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle.path / file).write_bytes(data)
    with pytest.raises(
        BundleError, match=rf"Expected {file} to have the SHA-256 [0-9a-f]{{64}}. Received: [0-9a-f]{{64}}"
    ):
        bundles.load(bundle.path)


def test_a_shorter_file_is_found(bundle: Bundle) -> None:
    size = bundle.graph.stat().st_size
    bundle.graph.write_bytes(bundle.graph.read_bytes()[:-1])
    with pytest.raises(BundleError, match=rf"Expected model.onnx to have {size} bytes. Received: {size - 1}\."):
        bundles.load(bundle.path)


def test_a_missing_file_is_found(bundle: Bundle) -> None:
    (bundle.path / "golden" / "07.png").unlink()
    with pytest.raises(BundleError, match=r"Expected the file golden/07.png in .* Received: No such file"):
        bundles.load(bundle.path)


@pytest.mark.parametrize("file", ["manifest.json", "golden/00.png"])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(bundle: Bundle, file: str) -> None:
    (bundle.path / file).unlink()
    os.mkfifo(bundle.path / file)
    with pytest.raises(BundleError, match=r"Received: .*(which has none|something else of that name)"):
        bundles.load(bundle.path)


def test_an_unknown_key_is_refused(bundle: Bundle) -> None:
    file = bundle.path / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["lables"] = manifest.pop("labels")
    file.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"Expected .*manifest.json to be a Manifest .* no field named \"lables\""):
        bundles.load(bundle.path)


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff", "null"])
def test_a_manifest_that_is_no_json_object_is_refused(bundle: Bundle, text: str) -> None:
    (bundle.path / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(BundleError, match=r"Expected .*manifest"):
        bundles.load(bundle.path)


def clear_crop(manifest: bundle_pb2.Manifest) -> None:
    manifest.geometry.ClearField("crop")


def set_crop(**values: int) -> Change:
    def change(manifest: bundle_pb2.Manifest) -> None:
        for name, value in values.items():
            setattr(manifest.geometry.crop, name, value)

    return change


def set_field(name: str, value: int | str) -> Change:
    return lambda manifest: setattr(manifest, name, value)


def drop_label(manifest: bundle_pb2.Manifest) -> None:
    del manifest.labels[-1]


def empty_label(manifest: bundle_pb2.Manifest) -> None:
    manifest.labels[1] = ""


def swap_labels(manifest: bundle_pb2.Manifest) -> None:
    manifest.labels[0], manifest.labels[1] = manifest.labels[1], manifest.labels[0]


def drop_embedding(manifest: bundle_pb2.Manifest) -> None:
    del manifest.outputs[1]


def drop_graphs(manifest: bundle_pb2.Manifest) -> None:
    del manifest.graphs[:]


def unlist_graph(manifest: bundle_pb2.Manifest) -> None:
    kept = [file for file in manifest.files if file.path != "model.onnx"]
    del manifest.files[:]
    manifest.files.extend(kept)


def escape(manifest: bundle_pb2.Manifest) -> None:
    manifest.files.add(path="../../../etc/passwd", size_bytes=1)


def set_bound(lowest: float, mean: float) -> Change:
    def change(manifest: bundle_pb2.Manifest) -> None:
        manifest.golden.bounds[0].lowest_cosine, manifest.golden.bounds[0].mean_cosine = lowest, mean

    return change


def repeat_bound(manifest: bundle_pb2.Manifest) -> None:
    manifest.golden.bounds.add().CopyFrom(manifest.golden.bounds[0])


def forget_space(manifest: bundle_pb2.Manifest) -> None:
    manifest.outputs[1].embedding_space_id = ""


def same_name(manifest: bundle_pb2.Manifest) -> None:
    manifest.outputs[1].name = "logits"


def few_golden(manifest: bundle_pb2.Manifest) -> None:
    del manifest.golden.images[3:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_field("format", 2), r"Expected a manifest of format 1. Received: format 2\."),
        (set_field("model", "../etc"), r"Expected a model name that matches .* Received: '../etc'"),
        (set_field("version", 0), r"Expected a version of at least 1. Received: 0"),
        (drop_label, r"Expected 3 labels, one for each column of the logits. Received: 2\."),
        (empty_label, r"Expected a name for every label. Received: an empty one at index 1\."),
        (swap_labels, r"Expected labels with the SHA-256 '[0-9a-f]{64}'. Received: [0-9a-f]{64}\."),
        (drop_embedding, r"Expected exactly one output of the kind OUTPUT_KIND_EMBEDDING, a vector. Received: \[\]"),
        (drop_graphs, r"Expected at least one graph. Received: none"),
        (unlist_graph, r"Expected the manifest to list every file .* Received: no entry for \['model.onnx'\]"),
        (escape, r"Expected a path inside the bundle. Received: '../../../etc/passwd'"),
        (set_bound(0.0, 0.99), r"Expected golden bounds in \(0, 1\]. Received: 0.0 and 0.99"),
        (set_bound(0.9, float("nan")), r"Expected golden bounds in \(0, 1\]. Received: 0.9 and nan"),
        (set_bound(0.9, 7.0), r"Expected golden bounds in \(0, 1\]. Received: 0.9 and 7.0"),
        (repeat_bound, r"Expected one golden bound a precision. Received: several for \['PRECISION_FP32'\]"),
        (forget_space, r"Expected an embedding space id of 64 hexadecimal digits. Received: ''"),
        (same_name, r"Expected outputs of different names. Received: 'logits' twice"),
        (few_golden, r"Expected at least 16 golden images. Received: 3\."),
        (clear_crop, r"Expected a geometry of the kind crop. Received: None"),
        (set_crop(interpolation=0), r"Expected interpolation bilinear or bicubic. Received: 0"),
        (set_crop(crop_width_px=0), r"Expected a crop of at least 1x1. Received: 8x0"),
        (set_crop(crop_height_px=9), r"Expected a crop within .* 8 pixels. Received: 9x8"),
    ],
)
def test_a_contradictory_manifest_is_refused(changed: Callable[[Change], Path], change: Change, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        bundles.load(changed(change))
