"""A checkpoint is whole or not there, and of this training or refused."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.training.test_store import largest_file
from training.errors import CheckpointError
from training.tuning.checkpoint import Checkpoints, Facts, Position
from training.tuning.record import Settings

FACTS: Facts = {"the data": "abc", "epochs": 2, "rate": 0.1}
TENSORS = {"learnt/a": torch.arange(6.0).reshape(2, 3), "learnt/b": torch.tensor(3)}


def position(step: int = 7) -> Position:
    settings = Settings(
        precision="fp32",
        channels_last=False,
        compile=False,
        paces=(),
        rate=0.1,
        rate_rule="recipe",
        range_test=None,
        notes=(),
    )
    return Position(settings=settings, start=None, step=step, smooth_loss=1 / 3, seconds=0.1)


def same(found: dict[str, Tensor]) -> bool:
    return set(found) == set(TENSORS) and all(torch.equal(found[name], each) for name, each in TENSORS.items())


def test_what_is_written_comes_back_to_the_bit(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path / "a/b", FACTS)
    assert kept.newest() is None
    with kept.held():
        kept.write(position(), TENSORS)
    found = kept.newest()
    assert found is not None
    assert found[0] == position()
    assert same(found[1])


def test_where_a_training_began_is_the_lowest_of_its_first_losses_and_from_there_on_they_are_smoothed() -> None:
    at = position(0)
    found = []
    for loss in (40.0, 2.0, 3.0, *[5.0] * 7, 0.1, 12.0):
        found.append(at.hear(loss))
        at.end_step(loss, 1.0)
    assert found[:10] == [(40.0, 40.0), *[(2.0, 2.0)] * 9]
    assert [first for first, _ in found[10:]] == [2.0, 2.0]
    assert [smooth for _, smooth in found[10:]] == pytest.approx([1.81, 2.829])


def test_only_the_newest_is_kept(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, FACTS)
    for step in range(3):
        kept.write(position(step), TENSORS)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000002"]
    found = kept.newest()
    assert found is not None
    assert found[0].step == 2


def test_another_training_is_refused_with_what_differs(tmp_path: Path) -> None:
    Checkpoints(tmp_path, FACTS).write(position(), TENSORS)
    with pytest.raises(
        CheckpointError,
        match=r"Expected a checkpoint of this training in .*\. Received: one of another: the data is abc, not xyz, "
        r"size is None, not 3, epochs is 2, not None\. Give this training a folder of its own",
    ):
        Checkpoints(tmp_path, {"the data": "xyz", "rate": 0.1, "size": 3}).newest()


def test_many_differences_are_counted(tmp_path: Path) -> None:
    Checkpoints(tmp_path, dict.fromkeys("abcdef", 1)).write(position(), TENSORS)
    with pytest.raises(CheckpointError, match="a is 1, not 2, b is 1, not 2, c is 1, not 2, d is 1, not 2, and 2 more"):
        Checkpoints(tmp_path, dict.fromkeys("abcdef", 2)).newest()


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("training.json", b"{", "to be of a checkpoint of format 1. Received: .*JSON"),
        ("training.json", b'{"format": 2}', "to be of a checkpoint of format 1. Received: format: Input should be 1"),
        ("training.json", None, "to be of a checkpoint of format 1. Received: .*No such file"),
        ("tensors.safetensors", b"none", "to have the SHA-256 [0-9a-f]+. Received: "),
        ("tensors.safetensors", None, "Received: .*No such file"),
    ],
)
def test_a_damaged_one_is_named(tmp_path: Path, name: str, damage: bytes | None, said: str) -> None:
    kept = Checkpoints(tmp_path, FACTS)
    kept.write(position(), TENSORS)
    path = tmp_path / "checkpoint-00000000" / name
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    with pytest.raises(CheckpointError, match=rf"Expected .*{name} ?.*{said}"):
        kept.newest()


def test_a_full_disk_leaves_the_old_one_whole(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, FACTS)
    kept.write(position(), TENSORS)
    with (
        largest_file(50_000),
        pytest.raises(
            CheckpointError,
            match=r"Expected a folder for checkpoints with room in it. Received: .*: File too large. What was kept "
            "before is whole: make room and start again",
        ),
    ):
        kept.write(position(8), {"learnt/large": torch.zeros(100_000)})
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000000"]
    found = kept.newest()
    assert found is not None
    assert same(found[1])


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(CheckpointError, match=r"Expected a folder for checkpoints with room in it. .*: Not a dir"),
        Checkpoints(tmp_path / "file" / "below", FACTS).held(),
    ):
        pass


def test_ctrl_c_while_one_is_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Checkpoints(tmp_path, FACTS)
    kept.write(position(), TENSORS)

    def interrupted(*_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        kept.write(position(8), TENSORS)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000000"]


def test_what_a_killed_process_left_half_done_is_cleared_away(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, FACTS)
    kept.write(position(), TENSORS)
    half = tmp_path / ".checkpoint-00000001-0123"
    half.mkdir()
    (half / "tensors.safetensors").write_bytes(b"half")
    with kept.held():
        assert not half.exists()
        assert kept.newest() is not None


def test_two_trainings_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        Checkpoints(tmp_path, FACTS).held(),
        pytest.raises(CheckpointError, match="Expected a folder that no other training writes its checkpoints to"),
        Checkpoints(tmp_path, FACTS).held(),
    ):
        pass
    with Checkpoints(tmp_path, FACTS).held():
        pass


def test_numbers_in_words_are_read_as_they_were(tmp_path: Path) -> None:
    """The decimal fractions of JSON are the very same floats."""
    Checkpoints(tmp_path, FACTS).write(position(), TENSORS)
    written = json.loads((tmp_path / "checkpoint-00000000/training.json").read_text())
    assert written["position"]["smooth_loss"] == 1 / 3
