import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from export import labelled
from export.errors import DataError
from export.labelled import LabelledImage
from service import image
from service.bundle import labels_sha256
from training import dataset
from training.dataset import Dataset, Plan
from training.result import Data

SKIP = Plan(on_bad="skip")


def draw(path: Path, seed: int) -> Path:
    """A picture that no other seed gives, and that a JPEG changes little."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(cells).resize((48, 40), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Ten pictures each of two classes."""
    for seed in range(20):
        draw(tmp_path / "data" / ("ant" if seed % 2 else "bee") / f"{seed:02}.png", seed)
    return tmp_path / "data"


@pytest.fixture
def named(tmp_path: Path) -> Path:
    """Twelve pictures to learn from and four to test on."""
    for seed in range(16):
        split = "train" if seed < 12 else "test"
        draw(tmp_path / "named" / split / ("ant" if seed % 2 else "bee") / f"{seed:02}.png", seed)
    return tmp_path / "named"


def prepare(source: Path, plan: Plan = SKIP) -> Dataset:
    return dataset.prepare(labelled.read(source), source, plan, source.parent / "cache", lambda _: None)


def check(source: Path, advance: Callable[[int], None] = lambda _: None) -> tuple[list[str], dict[str, str]]:
    checked, faults = dataset.check(labelled.read(source), source.parent / "cache", advance)
    return [each.path.name for each in checked], {Path(fault.path).name: fault.reason for fault in faults}


def test_of_every_file_it_is_told_that_it_was_checked_and_that_it_was_compared(data: Path, named: Path) -> None:
    for source in (data, named):
        told: list[int] = []
        images = labelled.read(source)
        dataset.prepare(images, source, SKIP, source.parent / "cache", told.append)
        assert sum(told) == 2 * len(images)


def test_labels_are_sorted_and_splits_drawn(data: Path) -> None:
    made = prepare(data, Plan())
    assert made.data.labels == ("ant", "bee")
    assert made.data.labels_sha256 == labels_sha256(["ant", "bee"])
    assert made.data.images == {"train": (8, 8), "test": (2, 2)}
    assert made.data.source == str(data)
    assert not made.data.left_out
    assert not made.data.leaks
    assert {sample.label: sample.path.parent.name for sample in made.splits["train"]} == {0: "ant", 1: "bee"}
    assert not {sample.sha256 for sample in made.splits["train"]} & {sample.sha256 for sample in made.splits["test"]}


def test_neither_the_order_of_the_files_nor_their_place_changes_anything(data: Path, tmp_path: Path) -> None:
    first = prepare(data)
    data.rename(tmp_path / "moved")
    images = labelled.read(tmp_path / "moved")[::-1]
    second = dataset.prepare(images, tmp_path / "moved", SKIP, tmp_path / "other", lambda _: None)
    assert second.data.sha256 == first.data.sha256
    assert {split: [each.sha256 for each in of] for split, of in second.splits.items()} == {
        split: [each.sha256 for each in of] for split, of in first.splits.items()
    }


def test_the_digest_names_files_labels_splits_and_weights(data: Path) -> None:
    first = prepare(data).data.sha256
    images = labelled.read(data)

    def of(changed: LabelledImage) -> str:
        return dataset.prepare([changed, *images[1:]], data, SKIP, data.parent / "cache", lambda _: None).data.sha256

    assert of(images[0]) == first
    assert len({first, of(replace(images[0], weight=0.5)), of(replace(images[0], label="bee"))}) == 3
    assert prepare(data, replace(SKIP, seed=1)).data.sha256 != first
    draw(images[0].path, 100)
    assert prepare(data).data.sha256 != first


def test_named_splits_are_used_as_they_are(named: Path) -> None:
    made = prepare(named, Plan())
    assert made.data.images == {"train": (6, 6), "test": (2, 2)}
    assert {sample.path.parent.parent.name for sample in made.splits["test"]} == {"test"}
    (named / "test").rename(named / "val")
    assert list(prepare(named, Plan()).splits) == ["train", "validation"]


def test_weights_come_along(data: Path) -> None:
    images = [replace(each, weight=0.25) if each.label == "bee" else each for each in labelled.read(data)]
    made = dataset.prepare(images, data, SKIP, data.parent / "cache", lambda _: None)
    assert {(each.label, each.weight) for split in made.splits.values() for each in split} == {(0, 1.0), (1, 0.25)}


def test_every_file_that_cannot_be_used_is_found_with_its_reason(data: Path) -> None:
    whole = (data / "ant/01.png").read_bytes()
    (data / "ant/01.png").write_bytes(whole[: len(whole) // 2])
    (data / "ant/03.png").write_bytes(b"")
    (data / "ant/05.png").write_bytes(b"Dear diary, ...")
    (data / "ant/07.png").unlink()
    (data / "ant/07.png").symlink_to(data / "gone.png")
    (data / "ant/09.png").unlink()
    os.mkfifo(data / "ant/09.png")
    (data / "ant/11.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(image.ImageLimits().max_bytes))
    (data / "ant/13.png").rename(data / "ant" / os.fsdecode(b"\xff.png"))
    advanced: list[int] = []
    usable, faults = check(data, advanced.append)
    assert sum(advanced) == 20
    assert usable == ["15.png", "17.png", "19.png", *(f"{seed:02}.png" for seed in range(0, 20, 2))]
    assert sorted(faults) == ["01.png", "03.png", "05.png", "07.png", "09.png", "11.png", "\\xff.png"]
    assert "Expected a whole PNG file" in faults["01.png"]
    assert faults["03.png"] == "Expected an image. Received: an empty file."
    assert "Expected a JPEG, PNG, WebP, GIF, BMP or TIFF file" in faults["05.png"]
    assert faults["07.png"] == "No such file or directory."
    assert faults["09.png"] == "Expected a file. Received: a folder, a pipe or a device."
    assert "Expected at most 16777216 bytes. Received: 16777224" in faults["11.png"]
    assert faults["\\xff.png"] == "Expected a name in UTF-8. Received: these bytes."


def test_bad_files_stop_it_with_the_first_five_and_what_to_do(data: Path) -> None:
    for seed in range(0, 12, 2):
        (data / f"bee/{seed:02}.png").write_bytes(b"")
    with pytest.raises(
        DataError,
        match=r"(?s)Received: 6 of 20 that cannot:\n  .*bee/00.png: .* an empty file.\n.*bee/08.png: [^\n]*\n"
        r"  and 1 more\nRepair or remove them, or leave them out with --on-bad skip",
    ):
        prepare(data, Plan())


def test_bad_files_are_left_out_and_listed_when_asked(data: Path) -> None:
    (data / "ant/01.png").write_bytes(b"")
    made = prepare(data)
    assert [(fault.path, fault.reason) for fault in made.data.left_out] == [
        (str(data / "ant/01.png"), "Expected an image. Received: an empty file.")
    ]
    assert sum(map(len, made.splits.values())) == 19


@pytest.mark.parametrize("plan", [Plan(), SKIP])
def test_all_files_broken_is_an_error_either_way(data: Path, plan: Plan) -> None:
    for each in labelled.read(data):
        each.path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"(?s)Received: 20 of 20 that cannot:.*None is left. Repair them"):
        prepare(data, plan)


def test_a_class_of_which_too_little_is_left_is_named_and_what_was_left_out_counted(data: Path) -> None:
    for seed in range(1, 17, 2):
        (data / f"ant/{seed:02}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"Received: ant \(2\).*\(8 files were left out.\)"):
        prepare(data)


def test_what_labels_alone_rule_out_is_refused_before_a_file_is_read(tmp_path: Path) -> None:
    missing = [LabelledImage(tmp_path / f"{index}.png", "ant") for index in range(5)]
    with pytest.raises(DataError, match=r"Expected at least 2 classes"):
        dataset.prepare(missing, tmp_path, SKIP, tmp_path / "cache", lambda _: pytest.fail("read a file"))


def test_a_table_that_names_missing_files(tmp_path: Path) -> None:
    table = tmp_path / "images.csv"
    table.write_text("path,label\n" + "".join(f"{label}{index}.png,{label}\n" for label in "ab" for index in range(3)))
    with pytest.raises(DataError, match=r"(?s)6 of 6 that cannot:\n  .*a0.png: No such file or directory"):
        prepare(table, Plan())


def test_of_copies_in_one_split_the_first_is_kept(data: Path) -> None:
    for name in ("zz.png", "aa.png"):
        (data / "ant" / name).write_bytes((data / "ant/05.png").read_bytes())
    made = prepare(data)
    kept = data / "ant/05.png"
    assert [(Path(each.path).name, each.reason) for each in made.data.left_out] == [
        ("aa.png", f"a copy of {kept}"),
        ("zz.png", f"a copy of {kept}"),
    ]
    turned = dataset.prepare(labelled.read(data)[::-1], data, SKIP, data.parent / "cache", lambda _: None)
    assert turned.data.left_out == made.data.left_out
    with pytest.raises(DataError, match=r"aa.png: a copy of .*05.png"):
        prepare(data, Plan())


def test_copies_with_two_labels_are_all_left_out(data: Path) -> None:
    (data / "bee/01.png").write_bytes((data / "ant/01.png").read_bytes())
    assert {(Path(each.path).parent.name, each.reason) for each in prepare(data).data.left_out} == {
        ("ant", f"labelled 'ant', and its copy {data / 'bee/01.png'} 'bee'"),
        ("bee", f"labelled 'bee', and its copy {data / 'ant/01.png'} 'ant'"),
    }


def test_a_file_that_is_listed_twice_is_said_to_be(data: Path) -> None:
    images = labelled.read(data)
    made = dataset.prepare([*images, images[0]], data, SKIP, data.parent / "cache", lambda _: None)
    assert [(each.path, each.reason) for each in made.data.left_out] == [(str(images[0].path), "listed twice")]


def test_held_out_images_that_training_has_too_are_counted(named: Path) -> None:
    (named / "test/ant/copy.png").write_bytes((named / "train/ant/01.png").read_bytes())
    with Image.open(named / "train/bee/04.png") as picture:
        picture.save(named / "test/bee/like.jpg", quality=60)
    leaks = sorted(prepare(named).data.leaks, key=lambda leak: leak.path)
    assert [(leak.split, Path(leak.path).name, Path(leak.twin).name, leak.kind) for leak in leaks] == [
        ("test", "copy.png", "01.png", "duplicate"),
        ("test", "like.jpg", "04.png", "near-duplicate"),
    ]


def test_training_images_that_are_nearly_one_are_told_those_with_two_labels_first(
    named: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(source: str, target: str) -> None:
        with Image.open(named / "train" / source) as picture:
            picture.save(named / "train" / target, quality=60)

    again("bee/04.png", "bee/like.jpg")
    again("ant/01.png", "bee/other.jpg")
    data = prepare(named).data
    assert data.repeats is not None
    found = [{(Path(each.path).name, each.label), (Path(each.twin).name, each.twin_label)} for each in data.repeats]
    assert found == [{("01.png", "ant"), ("other.jpg", "bee")}, {("04.png", "bee"), ("like.jpg", "bee")}]
    assert data.contradictions() == 1
    monkeypatch.setattr(dataset, "_MOST_COMPARED", 5)
    data = prepare(named).data
    assert (data.repeats, data.contradictions()) == (None, 0)


def test_two_labels_are_found_behind_a_nearer_copy_of_the_same_label(named: Path) -> None:
    """Four times one picture, two of each label: each is nearest to one of its own."""
    with Image.open(named / "train/ant/01.png") as picture:
        for copy, quality in (("ant/like.jpg", 90), ("bee/one.jpg", 60), ("bee/two.jpg", 55)):
            picture.save(named / "train" / copy, quality=quality)
    data = prepare(named).data
    assert data.contradictions() >= 2
    assert data.repeats is not None
    assert {Path(path).name for each in data.repeats for path in (each.path, each.twin)} == {
        *("01.png", "like.jpg", "one.jpg", "two.jpg")
    }


def test_training_images_of_one_group_may_be_nearly_one(data: Path) -> None:
    with Image.open(data / "ant/01.png") as picture:
        picture.save(data / "ant/like.jpg", quality=60)
    images = [replace(each, split="train" if each.path.stem != "13" else "test") for each in labelled.read(data)]
    assert made_of(images, data).repeats
    grouped = [
        replace(each, group=each.path.stem if each.path.stem not in {"01", "like"} else "one") for each in images
    ]
    assert made_of(grouped, data).repeats == ()


def made_of(images: Sequence[LabelledImage], data: Path) -> Data:
    return dataset.prepare(images, data, SKIP, data.parent / "cache", lambda _: None).data


def test_of_images_that_are_not_learnt_from_no_leak_is_told(named: Path) -> None:
    """There was no time for them: what is held out is news to the model then, whatever looks like it."""
    (named / "test/ant/seen.png").write_bytes((named / "train/ant/01.png").read_bytes())
    with Image.open(named / "train/bee/04.png") as picture:
        picture.save(named / "test/bee/like.jpg", quality=60)
    with Image.open(named / "train/bee/06.png") as picture:
        picture.save(named / "train/bee/twice.jpg", quality=60)
    whole = prepare(named)
    assert {Path(leak.twin).name for leak in whole.data.leaks} == {"01.png", "04.png"}
    assert [(Path(each.path).name, Path(each.twin).name) for each in whole.data.repeats or ()] in (
        [("06.png", "twice.jpg")],
        [("twice.jpg", "06.png")],
    )
    fewer = [each for each in whole.splits["train"] if each.path.name not in {"04.png", "06.png"}]
    part = whole.learning_from(fewer)
    assert part.splits == {**whole.splits, "train": tuple(fewer)}
    assert sorted(each.path.name for each in part.left) == ["04.png", "06.png"]
    assert {Path(leak.twin).name for leak in part.data.leaks} == {"01.png"}
    assert part.data.repeats == ()
    assert (part.data.images, part.data.sha256) == (whole.data.images, whole.data.sha256)


def test_test_images_that_are_chosen_by_are_counted_once(named: Path) -> None:
    (named / "validation/ant").mkdir(parents=True)
    for copy in ("validation/ant/seen.png", "test/ant/both.png"):
        (named / copy).write_bytes((named / "train/ant/01.png").read_bytes())
    (named / "validation/ant/asked.png").write_bytes((named / "test/ant/13.png").read_bytes())
    leaks = sorted(prepare(named).data.leaks, key=lambda leak: leak.path)
    assert [(leak.split, Path(leak.path).name, leak.of, Path(leak.twin).name) for leak in leaks] == [
        ("test", "13.png", "validation", "asked.png"),
        ("test", "both.png", "train", "01.png"),
        ("validation", "seen.png", "train", "01.png"),
    ]


def test_a_small_validation_split_makes_no_twins(tmp_path: Path) -> None:
    """Kinds of pictures that are alike: with three others of a kind, the nearest is no nearer than usual."""
    kinds = [np.random.default_rng(kind).integers(64, 192, (8, 8, 3)) for kind in range(4)]
    for seed in range(160):
        split = "train" if seed < 100 else "validation" if seed < 120 else "test"
        path = tmp_path / "kinds" / split / str(seed % 4) / f"{seed:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cells = kinds[seed % 4] + np.random.default_rng([seed, 1]).normal(0, 20, (8, 8, 3))
        Image.fromarray(cells.clip(0, 255).astype(np.uint8)).resize((48, 40), Image.Resampling.BICUBIC).save(path)
    assert prepare(tmp_path / "kinds").data.leaks == ()


def test_a_second_time_nothing_is_decoded(named: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Image.open(named / "train/bee/04.png") as picture:
        picture.save(named / "test/bee/like.jpg", quality=60)
    first = prepare(named)
    monkeypatch.setattr(image, "decode", lambda *_: pytest.fail("decoded"))
    assert prepare(named) == first


def test_a_cache_that_lost_its_rows_is_filled_again(named: Path) -> None:
    first = prepare(named)
    for path in (named.parent / "cache/images").rglob("*.npy"):
        path.unlink()
    assert prepare(named) == first


def test_what_was_decoded_before_an_interruption_is_kept_and_threads_end(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def interrupt(_: int) -> None:
        seen.append(1)
        if len(seen) == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(data, interrupt)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("check")]
    counted = Mock(wraps=image.decode)
    monkeypatch.setattr(image, "decode", counted)
    check(data)
    assert counted.call_count == 13
