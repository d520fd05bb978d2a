"""A person is told what is in a run: what was trained and what is frozen, counted, and how good it is."""

import json
from pathlib import Path

import pytest

from export import run
from export.errors import RunError
from export.score import wilson
from tests.training.conftest import head_of
from tests.training.test_refresh import HEADS, write_trained
from tests.training.test_report import Training
from training import backbones
from training.backbones import Card
from training.description import describe
from training.parts import parts
from training.result import FROZEN_HEAD, METRICS, Baseline, Fault, Leak, Lookalike, Result


@pytest.fixture
def trained(small: Card, tmp_path: Path) -> Path:
    """A linear head on a stage, a probe and the embedding, with the measurements of another training."""
    path = write_trained(tmp_path / "run", small, HEADS[0])
    result = measured(path, tmp_path)
    change(path, data_sha256=result.data.sha256)
    (path / METRICS).write_text(result.model_dump_json())
    return path


def measured(path: Path, tmp_path: Path) -> Result:
    """Measurements that name the labels of the run in `path`."""
    result = Training(tmp_path).result()
    named = {"labels_sha256": json.loads((path / run.RUN).read_text())["labels_sha256"]}
    return result.model_copy(update={"data": result.data.model_copy(update=named)})


def counted(text: str) -> dict[tuple[str, str], int]:
    """How many numbers each part has, and whether they were trained, as the description says it."""
    rows = [line.split()[-3:] for line in text.splitlines() if line.endswith(("  trained", "  frozen"))]
    return {(part, how): int(size.replace(",", "")) for part, size, how in rows}


def change(path: Path, **values: object) -> None:
    described = json.loads((path / run.RUN).read_text())
    (path / run.RUN).write_text(json.dumps(described | values))


def test_it_counts_what_was_trained_and_what_is_frozen(trained: Path, small: Card) -> None:
    found = counted(describe(trained))
    backbone, _ = backbones.parted(backbones.pretrained(small))
    assert {part for part, how in found if how == "trained"} == {"head"}
    assert found["head", "trained"] == 2 * (32 + 64 + 256) + 2
    frozen = {part: size for (part, how), size in found.items() if how == "frozen"}
    assert sum(frozen.values()) == sum(tensor.numel() for tensor in backbone.state_dict().values())
    assert list(frozen) == [*(stage.name for stage in small.backbone.stages), "top"]
    state = backbone.state_dict()
    assert frozen["top"] == sum(state[name].numel() for name in parts(backbone, small.backbone)["top"])


def test_nothing_of_a_run_as_it_is_was_trained(small_run: Path, small: Card) -> None:
    found = counted(describe(small_run))
    assert {how for _, how in found} == {"frozen"}
    whole = backbones.pretrained(small).state_dict().values()
    assert sum(found.values()) == sum(tensor.numel() for tensor in whole)


def test_it_says_what_the_run_is_and_how_good(trained: Path) -> None:
    lines = describe(trained).splitlines()
    assert lines[0].startswith(f"run       {trained}, made 20")
    for line in (
        "regime    small-similar, a test",
        "backbone  small, Apache-2.0",
        "pixels    shorter side to 72, crop of 64",
        "head      linear on c3, b4, embedding",
        "labels    2: bee, cat",
        "data      photos: 26 train, 8 test; 0 left out, 0 leaks",
        "measured  small-similar: trained the head on the embedding",
        "          test: accuracy 75.0% (40.9% to 92.9%), balanced 75.0% (49.5% to 93.2%), macro-F1",
    ):
        assert any(each.startswith(line[:60]) for each in lines), line


def test_it_says_where_the_time_was_too_short_for_all_images(trained: Path, tmp_path: Path) -> None:
    result = measured(trained, tmp_path)
    assert "it learnt from" not in describe(trained)
    fewer = result.model_copy(update={"way": result.way.model_copy(update={"images": 3})})
    (trained / METRICS).write_text(fewer.model_dump_json())
    assert "it learnt from 3 of 26 images, for which --time-limit-min had room" in describe(trained)


def test_it_says_where_the_memory_was_too_small_for_all_images(trained: Path, tmp_path: Path) -> None:
    result = measured(trained, tmp_path)
    said = "its head was fitted to 5 of these images: what is made of more has no room in memory"
    assert said not in describe(trained)
    fewer = result.model_copy(update={"head": head_of(result).model_copy(update={"images": 5})})
    (trained / METRICS).write_text(fewer.model_dump_json())
    assert said in describe(trained)


def test_it_warns_of_what_speaks_against_the_figures(trained: Path, tmp_path: Path) -> None:
    result = measured(trained, tmp_path)
    leak = Leak(split="test", path="a.png", of="train", twin="b.png", kind="duplicate")
    chosen = Leak(split="test", path="d.png", of="validation", twin="e.png", kind="duplicate")
    fault = Fault(path="c.png", reason="empty")
    convergence = head_of(result).convergence
    assert convergence is not None
    stopped = convergence.model_copy(update={"converged": False})
    worse = result.model_copy(
        update={
            "data": result.data.model_copy(update={"leaks": (leak, chosen), "left_out": (fault, fault)}),
            "head": head_of(result).model_copy(update={"convergence": stopped}),
            "lookalikes": (Lookalike(split="test", path="f.png", of="train", other="g.png", distance=0.1),),
        }
    )
    (trained / METRICS).write_text(worse.model_dump_json())
    text = describe(trained)
    assert "photos: 26 train, 8 test; 2 left out, 2 leaks" in text
    assert "1 held-out image is in the training split too, or nearly, so these figures are too good." in text
    assert "1 test image is in the validation split too, or nearly, so these figures are too good." in text
    assert "1 other held-out image looks to the backbone nearly like one that was learnt from or chosen by" in text
    assert "2 files were left out; metrics.json names them" in text
    assert "the solver did not converge: do not trust these figures" in text


def test_it_says_where_a_fine_tuning_was_no_use(trained: Path, tmp_path: Path) -> None:
    result = measured(trained, tmp_path)
    began = Baseline(name=FROZEN_HEAD, description="fine-tuning began with it", accuracy={"test": wilson(7, 8)})
    for before, said in ((wilson(7, 8), True), (result.scores["test"].accuracy, False)):
        baseline = began.model_copy(update={"accuracy": {"test": before}})
        (trained / METRICS).write_text(result.model_copy(update={"baselines": (baseline,)}).model_dump_json())
        words = "has more of the test images right: 87.5% instead of 75.0%. --regime small-similar fits a head alone"
        assert (words in describe(trained)) == said


def test_it_says_so_by_what_the_training_aimed_at(trained: Path, tmp_path: Path) -> None:
    """Where unequal classes are treated plain accuracy is given away for something."""
    result = measured(trained, tmp_path)
    treated = result.model_copy(update={"way": result.way.model_copy(update={"imbalance": "logits are adjusted"})})
    now = treated.scores["test"].balanced_accuracy
    for balanced, said in ((wilson(7, 8), True), (now, False)):
        began = Baseline(
            name=FROZEN_HEAD,
            description="fine-tuning began with it",
            accuracy={"test": wilson(8, 8)},
            balanced={"test": balanced},
        )
        (trained / METRICS).write_text(treated.model_copy(update={"baselines": (began,)}).model_dump_json())
        words = "has more of the test images right, all classes counting alike: 87.5% instead of 75.0%."
        assert (words in describe(trained)) == said
        assert ("--regime small-similar fits a head alone" in describe(trained)) == said


def test_measurements_of_other_data_are_refused(trained: Path) -> None:
    change(trained, data_sha256="0" * 64)
    with pytest.raises(RunError, match=r"metrics.json to be of the data that .*run.json names. Received: of other"):
        describe(trained)


def test_a_figure_outside_its_interval_is_refused(trained: Path) -> None:
    said = json.loads((trained / METRICS).read_text())
    said["scores"]["test"]["accuracy"]["value"] = 0.999
    (trained / METRICS).write_text(json.dumps(said))
    with pytest.raises(RunError, match=r"scores.test.accuracy: .*within its interval 0.4\d* to 0.9\d*. Got 0.999"):
        describe(trained)


def test_many_labels_are_cut_short(small_run: Path) -> None:
    assert "labels    5: ant, bee, cat, dog, eel\n" in describe(small_run)


@pytest.mark.parametrize(
    ("extra", "wrong"),
    [
        (["backbone.module.conv_stem.weight"], "backbone.module.conv_stem.weight"),
        (["head.linear.other"], "head.linear.other"),
    ],
)
def test_a_run_that_names_a_frozen_tensor_as_trained_is_refused(trained: Path, extra: list[str], wrong: str) -> None:
    change(trained, trained=["head.linear.weight", "head.linear.bias", *extra])
    message = (
        r"Expected .*run\.json to name head\.linear\.bias, head\.linear\.weight as trained, which is what "
        rf"small-similar trains\. Received: 3 tensors, {wrong} wrongly\."
    )
    with pytest.raises(RunError, match=message):
        describe(trained)


def test_a_frozen_run_of_which_everything_was_trained_is_refused(trained: Path) -> None:
    names = list(run.read_weights(trained))
    change(trained, trained=names)
    with pytest.raises(RunError, match=rf"Received: {len(names)} tensors, backbone\.module\.\S+ wrongly\."):
        describe(trained)


def test_a_run_as_it_is_of_which_something_was_trained_is_refused(small_run: Path) -> None:
    change(small_run, trained=["head.linear.weight"])
    with pytest.raises(RunError, match=r"to name nothing as trained, which is what as-is trains\. Received: 1 tensors"):
        describe(small_run)


def test_measurements_that_were_changed_are_refused(trained: Path) -> None:
    (trained / METRICS).write_text('{"accuracy": 1.0}')
    with pytest.raises(RunError, match=r"Expected .*metrics\.json as vertebra-train wrote it\. Received: "):
        describe(trained)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="Expected a run"):
        describe(tmp_path)
