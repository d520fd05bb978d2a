"""The bottleneck cache gives what torch gives, computes it once, and survives kills, neighbours and full disks."""

import hashlib
import json
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from export import ahead, golden
from export.errors import DataError, Disagreement
from export.run import Scaling
from service import image
from service.bundle import CropGeometry
from service.engine import Arrays, Engine
from tests.training.test_store import largest_file
from training import backbones, features
from training.backbones import Card
from training.errors import BackboneError, CacheError
from training.features import Counts, Extractor
from training.taps import Taps
from training.views import MIRRORED, PLAIN, View, views

AUGMENTED = View("augmented-1", 1)


@dataclass(frozen=True)
class File:
    path: Path
    sha256: bytes


def written(path: Path, data: bytes) -> File:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return File(path, hashlib.sha256(data).digest())


def ignore(_: int) -> None:
    """Nobody looks at the progress."""


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the small backbone's graph, not to be changed."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def small_extractor(small: Card, graphs: Path) -> Extractor:
    return features.extractor(small, small.geometry, graphs)


@pytest.fixture
def files(small: Card, tmp_path: Path) -> list[File]:
    drawn = golden.generate(small.geometry).files
    return [written(tmp_path / "images" / name, data) for name, data in drawn.items()]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that any engine runs."""
    sizes: list[int] = []
    run = Engine.run

    def counted(self: Engine, pixels: NDArray[np.uint8]) -> Arrays:
        sizes.append(len(pixels))
        return run(self, pixels)

    monkeypatch.setattr(Engine, "run", counted)
    return sizes


def drafts(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.name.startswith(".")]


def test_features_are_what_live_torch_gives(
    small: Card, small_extractor: Extractor, files: list[File], cache: Path
) -> None:
    features.extract(files, views(2), small_extractor, cache, ignore)
    live = Taps(backbones.pretrained(small), small.backbone, small.scaling)
    served = [image.read(file.path.read_bytes(), small.geometry, image.ImageLimits()) for file in files]
    for view, pixels in ((PLAIN, served), (MIRRORED, [np.fliplr(each) for each in served])):
        found = features.rows(files, view, small_extractor, cache, list(small_extractor.taps))
        with torch.inference_mode():
            expected = live(torch.tensor(np.stack(pixels)))
        assert list(found) == list(expected) == ["c1", "c2", "c3", "c4", "c5", "b4", "embedding"]
        for tap, array in found.items():
            assert array.dtype == np.float32
            assert array.shape == (len(files), small_extractor.taps[tap])
            largest = float(expected[tap].abs().max())
            np.testing.assert_allclose(array, expected[tap].numpy(), rtol=1e-5, atol=1e-5 * largest)


def test_a_second_extraction_passes_no_image_through_the_engine(
    small_extractor: Extractor, files: list[File], cache: Path, runs: list[int]
) -> None:
    done: list[int] = []
    assert features.extract(files, views(2), small_extractor, cache, done.append) == Counts(0, 48)
    assert sum(runs) == sum(done) == 48
    first = features.rows(files, AUGMENTED, small_extractor, cache, list(small_extractor.taps))
    runs.clear()
    done.clear()
    assert features.extract(files, views(2), small_extractor, cache, done.append) == Counts(48, 0)
    assert runs == []
    assert sum(done) == 48
    again = features.rows(files, AUGMENTED, small_extractor, cache, list(small_extractor.taps))
    assert all((first[tap] == again[tap]).all() for tap in first)


def test_only_what_is_missing_is_computed_and_rows_come_in_the_order_asked_for(
    small_extractor: Extractor, files: list[File], cache: Path, runs: list[int]
) -> None:
    features.extract(files[:5], (PLAIN,), small_extractor, cache, ignore)
    runs.clear()
    assert features.extract(files, (PLAIN, MIRRORED), small_extractor, cache, ignore) == Counts(5, 27)
    assert sum(runs) == 27
    forth = features.rows(files, PLAIN, small_extractor, cache, ["embedding"])["embedding"]
    back = features.rows(files[::-1], PLAIN, small_extractor, cache, ["embedding"])["embedding"]
    np.testing.assert_array_equal(forth, back[::-1])


def test_files_of_the_same_bytes_are_computed_once(
    small_extractor: Extractor, files: list[File], cache: Path, runs: list[int]
) -> None:
    twin = written(files[0].path.with_name("twin.png"), files[0].path.read_bytes())
    assert features.extract([*files[:2], twin], (PLAIN,), small_extractor, cache, ignore) == Counts(1, 2)
    assert sum(runs) == 2
    embedding = features.rows([*files[:2], twin], PLAIN, small_extractor, cache, ["embedding"])["embedding"]
    np.testing.assert_array_equal(embedding[0], embedding[2])
    assert (embedding[0] != embedding[1]).any()


def test_a_moved_file_is_still_in_the_cache(small_extractor: Extractor, files: list[File], cache: Path) -> None:
    features.extract(files, (PLAIN,), small_extractor, cache, ignore)
    moved = [replace(file, path=Path("/nowhere") / file.path.name) for file in files]
    assert features.extract(moved, (PLAIN,), small_extractor, cache, ignore) == Counts(16, 0)


def test_nothing_is_computed_of_no_images(small_extractor: Extractor, cache: Path, runs: list[int]) -> None:
    assert features.extract([], (PLAIN,), small_extractor, cache, ignore) == Counts(0, 0)
    assert features.rows([], PLAIN, small_extractor, cache, ["embedding"])["embedding"].shape == (
        0,
        small_extractor.taps["embedding"],
    )
    assert runs == []


def test_any_other_fact_misses(small_extractor: Extractor, files: list[File], cache: Path) -> None:
    features.extract(files[:1], (PLAIN,), small_extractor, cache, ignore)
    assert set(small_extractor.facts) == {
        *("backbone", "weights_sha256", "architecture", "geometry", "scaling", "taps", "revision"),
        *("torch", "timm", "onnx", "onnxscript", "provider", "precision", "onnxruntime", "pillow"),
    }
    for name in small_extractor.facts:
        other = replace(small_extractor, facts={**small_extractor.facts, name: "another"})
        assert features.extract(files[:1], (PLAIN,), other, cache, ignore) == Counts(0, 1), name
    assert features.extract(files[:1], (MIRRORED,), small_extractor, cache, ignore) == Counts(0, 1)
    assert features.extract(files[:1], (PLAIN,), small_extractor, cache, ignore) == Counts(1, 0)


def test_other_bytes_of_the_same_picture_miss(small_extractor: Extractor, files: list[File], cache: Path) -> None:
    features.extract(files[:1], (PLAIN,), small_extractor, cache, ignore)
    other = written(files[0].path, files[0].path.read_bytes() + b"\0")
    assert features.extract([other], (PLAIN,), small_extractor, cache, ignore) == Counts(0, 1)


def test_the_facts_lie_beside_the_rows(small_extractor: Extractor, files: list[File], cache: Path) -> None:
    features.extract(files, (AUGMENTED,), small_extractor, cache, ignore)
    (folder,) = (cache / "features").iterdir()
    facts = json.loads((folder / "facts.json").read_text())
    assert facts == {**small_extractor.facts, "view": "augmented-1"}
    assert folder.name == hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def test_rows_that_were_never_computed_are_an_error(small_extractor: Extractor, files: list[File], cache: Path) -> None:
    features.extract(files[:3], (PLAIN,), small_extractor, cache, ignore)
    with pytest.raises(CacheError, match=r"Expected the features of all 16 images in .* some were taken away"):
        features.rows(files, PLAIN, small_extractor, cache, list(small_extractor.taps))


@pytest.fixture
def unbuildable(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Card) -> torch.nn.Module:
        raise BackboneError("built")

    monkeypatch.setattr(backbones, "pretrained", refuse)


@pytest.mark.usefixtures("small_extractor", "unbuildable")
class TestExtractor:
    """Where it builds the backbone, `built` is raised."""

    def test_the_backbone_is_not_even_built_a_second_time(
        self, small: Card, small_extractor: Extractor, graphs: Path
    ) -> None:
        again = features.extractor(small, small.geometry, graphs)
        assert again.facts == small_extractor.facts
        assert again.taps == small_extractor.taps

    @pytest.mark.parametrize(
        "change",
        [
            lambda card: replace(card, backbone=card.backbone.model_copy(update={"weights_sha256": "0" * 64})),
            lambda card: replace(card, backbone=card.backbone.model_copy(update={"architecture": "other"})),
            lambda card: replace(card, backbone=card.backbone.model_copy(update={"stages": card.backbone.stages[1:]})),
            lambda card: replace(card, scaling=Scaling(mean=(0.5, 0.5, 0.5), deviation=card.scaling.deviation)),
            lambda card: replace(card, geometry=replace(card.geometry, resize_shorter_px=80)),
            lambda card: replace(card, geometry=CropGeometry(72, 32, 64, card.geometry.interpolation)),
        ],
    )
    def test_another_backbone_or_geometry_misses(
        self, change: Callable[[Card], Card], small: Card, graphs: Path
    ) -> None:
        other = change(small)
        with pytest.raises(BackboneError, match="built"):
            features.extractor(other, other.geometry, graphs)

    @pytest.mark.parametrize("library", ["torch", "timm", "onnx", "onnxscript"])
    def test_another_version_misses(
        self, library: str, small: Card, graphs: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(f"training.features.{library}.__version__", "0.0")
        with pytest.raises(BackboneError, match="built"):
            features.extractor(small, small.geometry, graphs)

    def test_a_damaged_graph_misses(
        self, small: Card, graphs: Path, cache: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (graph,) = (graphs / "graphs").iterdir()
        data = bytearray(graph.read_bytes())
        data[len(data) // 2] ^= 1  # a weight: the engine would not notice
        written(cache / "graphs" / graph.name, bytes(data))
        with pytest.raises(BackboneError, match="built"):
            features.extractor(small, small.geometry, cache)
        assert f"Passing over the damaged {cache / 'graphs' / graph.name}" in caplog.text


def test_extraction_changes_no_parameter_and_no_buffer(
    small: Card, files: list[File], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = []
    pretrained = backbones.pretrained

    def kept(card: Card) -> torch.nn.Module:
        modules.append(pretrained(card))
        return modules[0]

    monkeypatch.setattr(backbones, "pretrained", kept)
    made = features.extractor(small, small.geometry, cache)
    features.extract(files, (PLAIN,), made, cache, ignore)
    before = pretrained(small).state_dict()
    after = modules[0].state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert drafts(cache) == []


def test_a_graph_that_disagrees_with_torch_is_not_kept(
    small: Card, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Engine.run
    monkeypatch.setattr(Engine, "run", lambda *given: {name: -each for name, each in run(*given).items()})
    with pytest.raises(Disagreement, match="Expected c1 at batch 1"):
        features.extractor(small, small.geometry, cache)
    assert not cache.exists()


def test_a_full_disk_while_caching_is_said_and_leaves_nothing_half_written(
    small_extractor: Extractor, files: list[File], cache: Path
) -> None:
    features.extract(files[:1], (PLAIN,), small_extractor, cache, ignore)
    with (
        largest_file(4000),
        pytest.raises(CacheError, match=r"Expected room for .* bytes more in the cache .*: File too large"),
    ):
        features.extract(files, (PLAIN,), small_extractor, cache, ignore)
    assert drafts(cache) == []
    assert features.extract(files, (PLAIN,), small_extractor, cache, ignore) == Counts(1, 15)


def interrupt_after(rows: int) -> Callable[[int], None]:
    left = [rows]

    def advance(done: int) -> None:
        left[0] -= done
        if left[0] < 0:
            raise KeyboardInterrupt

    return advance


@pytest.mark.parametrize("rows", [0, 4, 13, 30])
def test_after_ctrl_c_the_next_run_goes_on(
    rows: int, small_extractor: Extractor, files: list[File], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "_SHARD_ROWS", 4)
    with pytest.raises(KeyboardInterrupt):
        features.extract(files, views(1), small_extractor, cache, interrupt_after(rows))
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("decode")] == []
    assert drafts(cache) == []
    counts = features.extract(files, views(1), small_extractor, cache, ignore)
    assert rows - 8 <= counts.from_cache == 32 - counts.computed
    whole = features.rows(files, MIRRORED, small_extractor, cache, ["embedding"])["embedding"]
    fresh = cache.with_name("fresh")
    features.extract(files, views(1), small_extractor, fresh, ignore)
    np.testing.assert_array_equal(
        whole, features.rows(files, MIRRORED, small_extractor, fresh, ["embedding"])["embedding"]
    )


def test_rows_that_have_waited_for_long_are_written(
    small_extractor: Extractor, files: list[File], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = iter(range(0, 100_000, 20))
    monkeypatch.setattr("training.features.time.monotonic", lambda: next(now_s))
    with pytest.raises(KeyboardInterrupt):
        features.extract(files, (PLAIN,), small_extractor, cache, interrupt_after(8))
    monkeypatch.undo()
    assert features.extract(files, (PLAIN,), small_extractor, cache, ignore).from_cache >= 8


def remove(path: Path) -> None:
    path.unlink()


def change(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize(
    ("meanwhile", "message"),
    [
        (remove, r"Expected .*/03\.png, which was there when it was checked. Received: No such file"),
        (change, r"Expected .*/03\.png as it was when it was checked, with the SHA-256 .{64}. Received: .{64}\. Start"),
    ],
)
def test_a_file_that_is_gone_or_changed_is_named(
    meanwhile: Callable[[Path], None], message: str, small_extractor: Extractor, files: list[File], cache: Path
) -> None:
    meanwhile(files[3].path)
    with pytest.raises(DataError, match=message):
        features.extract(files, (PLAIN,), small_extractor, cache, ignore)


def test_a_file_that_is_no_image_is_named(small_extractor: Extractor, tmp_path: Path, cache: Path) -> None:
    broken = written(tmp_path / "broken.png", b"\x89PNG\r\n\x1a\nno")
    with pytest.raises(
        DataError, match=r"Expected .*/broken\.png to be an image that can be read. Received: Expected a"
    ):
        features.extract([broken], (PLAIN,), small_extractor, cache, ignore)


class AtOnce(ThreadPoolExecutor):
    """Does what it is given before it answers: nothing depends on how quick threads are."""

    def submit(self, work: Callable[..., Any], /, *given: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(work(*given, **named))
        return future


def test_decoding_runs_only_a_little_ahead_of_the_engine(
    small_extractor: Extractor, files: list[File], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    decoded_at_run: list[int] = []
    decode, run = image.decode_for, Engine.run

    def counted(data: bytes, geometry: CropGeometry, limits: image.ImageLimits) -> image.Picture:
        decoded.append(1)
        return decode(data, geometry, limits)

    def looking(self: Engine, pixels: NDArray[np.uint8]) -> Arrays:
        decoded_at_run.append(len(decoded))
        return run(self, pixels)

    monkeypatch.setattr(ahead, "ThreadPoolExecutor", AtOnce)
    monkeypatch.setattr(features, "_AHEAD", 5)
    monkeypatch.setattr(image, "decode_for", counted)
    monkeypatch.setattr(Engine, "run", looking)
    features.extract(files, (PLAIN,), small_extractor, cache, ignore)
    assert decoded_at_run == [4 + 5, 8 + 5, 16, 16]


def test_several_views_are_made_of_one_decode(
    small_extractor: Extractor, files: list[File], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    decode = image.decode_for

    def counted(data: bytes, geometry: CropGeometry, limits: image.ImageLimits) -> image.Picture:
        decoded.append(1)
        return decode(data, geometry, limits)

    monkeypatch.setattr(image, "decode_for", counted)
    assert features.extract(files, views(3), small_extractor, cache, ignore).computed == 64
    assert len(decoded) == len(files)


# It forks before it has an engine, and so imports torch once for all three.
PROCESSES = """
import json, os, pickle, signal, sys, traceback
from pathlib import Path
import numpy as np
from service.engine import Engine
from training import features
from training.views import views

graph, geometry, taps, facts, files, cache = pickle.loads(Path(sys.argv[1]).read_bytes())

def start(files, kill_after):
    if pid := os.fork():
        return pid
    left = [kill_after]
    def advance(rows):
        left[0] -= rows
        if left[0] <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
    try:
        extractor = features.Extractor(Engine(graph, 1), geometry, taps, facts)
        counts = features.extract(files, views(1), extractor, cache, advance)
        os._exit(0 if counts.from_cache >= 512 else 3)
    except BaseException:
        traceback.print_exc()
        os._exit(4)

def end(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

killed = end(start(files, 540))
kept = sum(len(np.load(shard)) for shard in cache.rglob("*.npy"))
both = [start(files, 10_000), start(files[::-1], 10_000)]
print(json.dumps([killed, kept, *(end(pid) for pid in both)]))
"""


@pytest.fixture
def many(tmp_path: Path) -> list[File]:
    colours = [Image.new("RGB", (9, 9), (number % 256, number // 256, 77)) for number in range(300)]
    for number, picture in enumerate(colours):
        picture.save(tmp_path / f"{number:03}.png")
    return [written(path, path.read_bytes()) for path in sorted(tmp_path.glob("*.png"))]


def test_a_kill_loses_one_shard_and_two_runs_at_once_both_end_right(
    small_extractor: Extractor, many: list[File], graphs: Path, cache: Path, tmp_path: Path
) -> None:
    (graph,) = (graphs / "graphs").iterdir()
    work = (graph, small_extractor.geometry, dict(small_extractor.taps), dict(small_extractor.facts), many, cache)
    (tmp_path / "work").write_bytes(pickle.dumps(work))
    command = [sys.executable, "-c", PROCESSES, str(tmp_path / "work")]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, check=True)
    assert json.loads(ended.stdout) == [-signal.SIGKILL, 512, 0, 0]
    assert drafts(cache) == []
    assert features.extract(many, views(1), small_extractor, cache, ignore) == Counts(600, 0)
    embedding = features.rows(many, PLAIN, small_extractor, cache, ["embedding"])["embedding"]
    alone = cache.with_name("alone")
    features.extract(many[::30], (PLAIN,), small_extractor, alone, ignore)
    np.testing.assert_array_equal(
        embedding[::30], features.rows(many[::30], PLAIN, small_extractor, alone, ["embedding"])["embedding"]
    )
