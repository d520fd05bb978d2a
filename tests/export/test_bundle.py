import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export import bundle, graph, package, program, run, space
from export.errors import ExportError, ProgramError, TargetError
from export.progress import Steps
from service import bundle as bundles
from service import proof
from service.bundle import Precision
from service.engine import Engine
from tests.export.conftest import GEOMETRY, LABELS, Tiny, Traced, write_run
from tests.export.test_golden import write_images


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path) -> None:
    """Conversion takes a second and gives the same graph every time."""
    monkeypatch.setattr(graph, "convert", lambda *arguments: shutil.copy(tiny_bundle / "model.onnx", arguments[-1]))


def test_the_bundle_loads_and_proves_itself(tiny_bundle: Path) -> None:
    loaded = bundles.load(tiny_bundle)
    assert (loaded.name, loaded.version, loaded.labels, loaded.geometry) == ("tiny", 1, LABELS, GEOMETRY)
    for near in proof.prove(loaded, Engine(loaded.graph, threads=1)):
        assert near.lowest_cosine > 0.9999


def test_the_manifest_says_where_everything_came_from(tiny_bundle: Path, tiny: Traced) -> None:
    manifest = bundles.load(tiny_bundle).manifest
    assert manifest.weights_sha256 == tiny.run.weights_sha256
    assert manifest.backbone.name == "tiny"
    assert manifest.golden.source == "generated"
    assert {"torch", "onnx", "onnxscript", "onnxruntime", "vertebra"} == set(manifest.producers)
    logits, embedding = manifest.outputs
    assert (logits.name, list(logits.shape), logits.tap, logits.embedding_space_id) == ("logits", [3], "", "")
    assert (embedding.name, embedding.tap, embedding.pooling) == ("embedding", "pooled", "avg")
    assert embedding.embedding_space_id == space.embedding_space_id(tiny.run, tiny.model, tiny.run.output("embedding"))
    assert {(each.output, each.batch_size) for each in manifest.verifications} == {
        (output, batch_size) for output in ("logits", "embedding") for batch_size in (1, 3, 8)
    }


def test_a_bound_is_given_for_every_precision(tiny_bundle: Path) -> None:
    bounds = bundles.load(tiny_bundle).manifest.golden.bounds
    assert {Precision.Name(each.precision): (each.lowest_cosine, each.mean_cosine) for each in bounds} == {
        "PRECISION_FP32": (0.9999, 0.9999),
        "PRECISION_FP16": (0.995, 0.999),
        "PRECISION_BF16": (0.995, 0.999),
        "PRECISION_INT8": (0.97, 0.99),
    }


def test_every_file_is_listed_and_no_other_is_there(tiny_bundle: Path) -> None:
    listed = {file.path for file in bundles.load(tiny_bundle).manifest.files}
    there = {path.relative_to(tiny_bundle).as_posix() for path in tiny_bundle.rglob("*") if path.is_file()}
    assert there == listed | {"manifest.json"}
    assert len(listed) == 18


def test_expected_answers_are_torch_s(tiny_bundle: Path) -> None:
    loaded = bundles.load(tiny_bundle)
    answers = program.answers(program.trace(Tiny(), GEOMETRY), proof.pixels(loaded))
    with np.load(tiny_bundle / loaded.manifest.golden.expected_file) as expected:
        assert set(expected) == {"logits", "embedding"}
        for name in expected:
            np.testing.assert_allclose(expected[name], answers[name], atol=1e-6)


@pytest.mark.usefixtures("converted")
def test_given_golden_images_are_taken(order: bundle.Order, steps: Steps, tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 17, ".webp")
    made = bundle.make(replace(order, golden=tmp_path / "photos"), steps)
    found = bundles.load(made.path).manifest.golden
    assert found.source == "photos"
    assert len(found.images) == 17
    assert (made.path / found.images[3]).read_bytes() == (tmp_path / "photos/003.webp").read_bytes()


@pytest.mark.usefixtures("converted")
def test_versions_count_up_from_the_highest(order: bundle.Order, steps: Steps) -> None:
    (order.repository / "tiny/7").mkdir(parents=True)
    (order.repository / "tiny/notes").mkdir()
    made = bundle.make(order, steps)
    assert made.path == order.repository / "tiny/8"
    assert bundles.load(made.path).version == 8


@pytest.mark.parametrize("name", ["Tiny", "-tiny", "a b", "", "a" * 65, "../tiny"])
def test_a_name_that_is_none_is_refused(order: bundle.Order, steps: Steps, name: str) -> None:
    with pytest.raises(TargetError, match=r"Expected a model name of 1 to 64 characters .* Give one with --name"):
        bundle.make(replace(order, model=name), steps)
    assert not order.repository.exists()


def test_a_run_of_another_torch_is_refused(order: bundle.Order, steps: Steps, tmp_path: Path) -> None:
    old = Path(shutil.copytree(order.run, tmp_path / "old"))
    (old / run.PROGRAM).unlink()
    with pytest.raises(ProgramError, match=f"Rebuild it with: vertebra-train refresh {old}"):
        bundle.make(replace(order, run=old), steps)


@pytest.mark.usefixtures("converted")
@pytest.mark.parametrize("error", [ExportError, KeyboardInterrupt])
@pytest.mark.parametrize(
    "step",
    [
        "export.run.read_program",
        "export.golden.generate",
        "export.graph.convert",
        "export.verify.verify",
        "export.package.write",
        "service.bundle.load",
        "service.proof.prove",
        "pathlib.Path.rename",
    ],
)
def test_a_failure_at_any_step_leaves_nothing(
    step: str, error: type[BaseException], order: bundle.Order, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error("here")

    monkeypatch.setattr(step, fail)
    with pytest.raises(error, match="here"):
        bundle.make(order, steps)
    assert {path.name for path in order.repository.rglob("*")} <= {"tiny"}


def test_a_graph_that_disagrees_is_not_packaged(
    order: bundle.Order, steps: Steps, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = write_run(tmp_path / "other", Tiny(seed=1))
    convert = graph.convert
    model = run.read_program(other, run.read(other))
    monkeypatch.setattr(graph, "convert", lambda _, *rest: convert(model, *rest))
    with pytest.raises(ExportError, match="Expected logits at batch 1 to have a cosine"):
        bundle.make(order, steps)


@pytest.mark.usefixtures("converted")
def test_a_bundle_made_meanwhile_is_not_replaced(
    order: bundle.Order, steps: Steps, monkeypatch: pytest.MonkeyPatch, files: Callable[[Path], set[str]]
) -> None:
    write = package.write

    def write_late(*arguments: object) -> None:
        write(*arguments)  # type: ignore[arg-type]
        (order.repository / "tiny/1").mkdir(parents=True)

    monkeypatch.setattr(package, "write", write_late)
    with pytest.raises(TargetError, match="Expected a folder that does not exist yet"):
        bundle.make(order, steps)
    assert files(order.repository) == {"tiny", "tiny/1"}
