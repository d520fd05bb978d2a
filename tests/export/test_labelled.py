import hashlib
import math
import os
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from export import labelled
from export.errors import DataError
from export.labelled import LabelledImage, held_out, read
from service.bundle import labels_sha256


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def table(folder: Path, text: str | bytes) -> Path:
    path = folder / "images.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def write_parquet(path: Path, columns: Mapping[str, Sequence[object]]) -> Path:
    parquet.write_table(pyarrow.table(dict(columns)), path)
    return path


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    touch(tmp_path, "cat/b.jpg", "cat/a.PNG", "cat/deep/er/c.webp", "dog/d.jpeg")
    assert read(tmp_path) == (
        LabelledImage(tmp_path / "cat/a.PNG", "cat"),
        LabelledImage(tmp_path / "cat/b.jpg", "cat"),
        LabelledImage(tmp_path / "cat/deep/er/c.webp", "cat"),
        LabelledImage(tmp_path / "dog/d.jpeg", "dog"),
    )


def test_what_is_hidden_or_no_image_is_passed_over_and_what_a_person_means_as_one_is_not(tmp_path: Path) -> None:
    touch(
        tmp_path, "cat/a.jpg", "cat/.b.jpg", "cat/.ipynb_checkpoints/c.jpg", "cat/Thumbs.db", "cat/x.tiff", "cat/x.HEIC"
    )
    touch(tmp_path, ".DS_Store", ".git/d.jpg", "__MACOSX/cat/._a.jpg", "README.md", "dog/e.gif")
    assert [str(image.path.relative_to(tmp_path)) for image in read(tmp_path)] == [
        "cat/a.jpg", "cat/x.HEIC", "cat/x.tiff", "dog/e.gif",
    ]  # fmt: skip


def test_named_splits(tmp_path: Path) -> None:
    touch(tmp_path, "Train/cat/a.jpg", "val/cat/b.jpg", "valid/cat/c.jpg", "validation/cat/d.jpg", "test/cat/e.jpg")
    assert {(image.path.name, image.label, image.split) for image in read(tmp_path)} == {
        ("a.jpg", "cat", "train"),
        ("b.jpg", "cat", "validation"),
        ("c.jpg", "cat", "validation"),
        ("d.jpg", "cat", "validation"),
        ("e.jpg", "cat", "test"),
    }


@pytest.mark.parametrize("classes", [("train", "bus"), ("valid", "invalid"), ("test", "val")])
def test_classes_may_be_called_as_splits_are(tmp_path: Path, classes: tuple[str, ...]) -> None:
    touch(tmp_path, *(f"{name}/a.jpg" for name in classes))
    assert {(image.label, image.split) for image in read(tmp_path)} == {(name, None) for name in classes}


def test_splits_beside_a_class_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "train/cat/a.jpg", "test/cat/b.jpg", "unsure/c.jpg")
    with pytest.raises(DataError, match=r"either splits .* or classes. Received: both, split folders and unsure"):
        read(tmp_path)


def test_a_split_without_classes_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "train/cat/a.jpg", "test/b.jpg")
    with pytest.raises(DataError, match=r"Expected a folder for each class in .*/test, and every image in one"):
        read(tmp_path)


def test_links_are_followed_and_each_folder_is_read_once(tmp_path: Path) -> None:
    touch(tmp_path, "far/a.jpg", "further/b.jpg")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/cat").symlink_to(tmp_path / "far")
    (tmp_path / "far/more").symlink_to(tmp_path / "further")
    # Two loops: who followed them would be busy for ever.
    for name in ("loop", "other_loop"):
        (tmp_path / "far" / name).symlink_to(tmp_path / "far")
    assert [image.path for image in read(tmp_path / "data")] == [
        tmp_path / "data/cat/a.jpg",
        tmp_path / "data/cat/more/b.jpg",
    ]


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Expected a folder for each class in .* Received: a folder without folders"):
        read(tmp_path)


def test_a_class_without_images_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.jpg", "dog/notes.txt")
    with pytest.raises(DataError, match=r"Expected images of the class 'dog'. Received: none in .*dog"):
        read(tmp_path)


def test_images_beside_the_classes_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.jpg", "b.jpg", "c.png")
    with pytest.raises(DataError, match=r"Received: 2 images beside them, b.jpg first. Move each"):
        read(tmp_path)


def test_what_is_nowhere_or_another_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Received: .*nowhere, which does not exist"):
        read(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"Expected a folder, a .csv or a .parquet file. Received: .*images.zip"):
        read(touch(tmp_path, "images.zip") / "images.zip")


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The tests may run as root, who may read everything.
    touch(tmp_path, "cat/a.jpg", "cat/closed/b.jpg")
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"Expected a folder that can be read. Received: .*closed: Permission denied"):
        read(tmp_path)


def test_a_class_whose_name_is_not_utf8_is_shown_by_its_bytes(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.jpg", os.fsdecode(b"caf\xe9/a.jpg"))
    with pytest.raises(DataError, match=r"Expected the name of a class in UTF-8. Received: b'caf\\xe9'"):
        read(tmp_path)


def test_an_image_whose_name_is_not_utf8_comes_through(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.jpg", os.fsdecode(b"cat/caf\xe9.jpg"))
    assert [os.fsencode(image.path.name) for image in read(tmp_path)] == [b"a.jpg", b"caf\xe9.jpg"]


def test_a_source_whose_name_is_not_utf8_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, os.fsdecode(b"\xff/cat/a.jpg"))
    with pytest.raises(DataError, match=r"Expected a path in UTF-8. Received: b'.*\\xff'"):
        read(tmp_path / os.fsdecode(b"\xff"))


def test_two_ways_to_write_one_name_are_one_class(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{unicodedata.normalize(form, 'café')}/{form}.jpg" for form in ("NFC", "NFD")))
    assert {image.label for image in read(tmp_path)} == {unicodedata.normalize("NFC", "café")}
    assert len(read(tmp_path)) == 2


def test_a_table_in_its_order_with_all_columns(tmp_path: Path) -> None:
    text = (
        "\ufeffnote,path, label ,group,weight,split\r\n"
        '"a, b",z.jpg, cat ,p1,0.5,train\r\n'
        "\r\n"
        "\u2013,/abs/a.jpg,dog,,2,VAL\r\n"
    )
    assert read(table(tmp_path, text)) == (
        LabelledImage(tmp_path / "z.jpg", "cat", "train", "p1", 0.5),
        LabelledImage(Path("/abs/a.jpg"), "dog", "validation", None, 2.0),
    )


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    images = (
        LabelledImage(tmp_path / 'a, "b"\n.jpg', "a, b", "train", "p 1", 0.1),
        LabelledImage(tmp_path / "c.jpg", "\u00fc", "test"),
        LabelledImage(tmp_path / "d.jpg", "d"),
    )
    assert read(table(tmp_path, labelled.table(images))) == images


def test_what_is_held_out_is_the_test_or_the_validation_or_all(tmp_path: Path) -> None:
    train, validation, test, unnamed = (
        LabelledImage(tmp_path / f"{split}.jpg", "a", split) for split in ("train", "validation", "test", None)
    )
    assert held_out([train, validation, test]) == [test]
    assert held_out([train, validation]) == [validation]
    assert held_out([unnamed]) == [unnamed]


def test_a_table_with_a_path_and_a_label_is_enough(tmp_path: Path) -> None:
    assert read(table(tmp_path, "path,label\nsub/a.jpg,cat\n")) == (LabelledImage(tmp_path / "sub/a.jpg", "cat"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"names the columns in .*images.csv. Received: an empty first line"),
        ("file,label\na.jpg,cat\n", r"Expected a column 'path' in .*images.csv. Received: file, label\.$"),
        ("path,class\na.jpg,cat\n", r"Expected a column 'label' in"),
        ("path;label\na.jpg;cat\n", r"Expected a column 'path' .* Received: path;label. Separate columns by commas"),
        ("path,label,label\na.jpg,a,b\n", r"Expected one column 'label' in .* Received: 2"),
        ("path,label\n", r"Expected a row for each image. Received: .*images.csv, which has none"),
        ("path,label\na.jpg,cat\nb.jpg, \n", r"Expected a label in .*images.csv, line 3, column 'label'"),
        ("path,label\n,cat\n", r"Expected a path in .*images.csv, line 2, column 'path'. Received: ''"),
        ("path,label\n\0.jpg,cat\n", r"Expected a path in .* Received: '\\x00.jpg'"),
        ("path,label\na.jpg\n", r"Expected 2 cells in .*images.csv, line 2. Received: 1"),
        ("path,label\na,b.jpg,cat\n", r"Received: 3. A cell with a comma in it stands in double quotes"),
        ('path,label\n"a.jpg,cat\n', r"Expected a CSV file. Received: .*images.csv, line 2: unexpected end of data"),
        ("path,label,split\na.jpg,cat,dev\n", r"train, val, .* line 2, column 'split'. Received: 'dev'"),
        (b"path,label\na.jpg,cat\nb.jpg,caf\xe9\n", r"Expected UTF-8 in .* Received: the byte 0xe9 in line 3"),
    ],
)
def test_a_table_that_is_broken_is_refused_with_the_place(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(table(tmp_path, text))


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf", "heavy", "", "1e308", "1e-300"])
def test_a_weight_that_is_none_is_refused(tmp_path: Path, weight: str) -> None:
    message = rf"number from 1e-06 to 1e\+06 in .*line 2, column 'weight'. Received: '{weight}'"
    with pytest.raises(DataError, match=message):
        read(table(tmp_path, f"path,label,weight\na.jpg,cat,{weight}\n"))


def test_a_parquet_file_like_a_table(tmp_path: Path) -> None:
    columns: dict[str, Sequence[object]] = {
        "path": ["a.jpg", "b.jpg"],
        "label": [0, 1],
        "group": ["p", None],
        "weight": [0.25, 1.0],
        "split": ["train", None],
        "bytes": [b"passed", b"over"],
    }
    assert read(write_parquet(tmp_path / "images.parquet", columns)) == (
        LabelledImage(tmp_path / "a.jpg", "0", "train", "p", 0.25),
        LabelledImage(tmp_path / "b.jpg", "1", None, None, 1.0),
    )


def test_a_parquet_file_that_is_broken_is_refused_with_the_place(tmp_path: Path) -> None:
    path = tmp_path / "images.parquet"
    with pytest.raises(DataError, match=r"Expected a label in .*images.parquet, row 2, column 'label'"):
        read(write_parquet(path, {"path": ["a.jpg", "b.jpg"], "label": ["cat", None]}))
    with pytest.raises(DataError, match=r"column 'weight'. Received: 'nan'"):
        read(write_parquet(path, {"path": ["a.jpg"], "label": ["cat"], "weight": [math.nan]}))
    with pytest.raises(DataError, match=r"Expected a column 'label' in .*images.parquet. Received: path"):
        read(write_parquet(path, {"path": ["a.jpg"]}))
    path.write_bytes(b"no table")
    with pytest.raises(DataError, match=r"Expected a Parquet file. Received: .*images.parquet"):
        read(path)


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = touch(tmp_path, "images.parquet") / "images.parquet"
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"Install it with: pip install 'vertebra\[parquet\]'"):
        read(path)


def test_the_digest_of_a_label_map_is_of_its_json() -> None:
    assert labels_sha256(["cat", "été"]) == hashlib.sha256('["cat","été"]'.encode()).hexdigest()
    assert labels_sha256(["cat", "dog"]) != labels_sha256(["dog", "cat"])
    assert labels_sha256(["a,b"]) != labels_sha256(["a", "b"])


def test_a_link_to_a_folder_above_brings_nothing_in(tmp_path: Path) -> None:
    for name in ("ant/1.jpg", "bee/2.jpg"):
        (tmp_path / "data" / name).parent.mkdir(parents=True)
        (tmp_path / "data" / name).write_bytes(b"")
    (tmp_path / "data/ant/loop").symlink_to("..")
    assert [(image.path.name, image.label) for image in read(tmp_path / "data")] == [("1.jpg", "ant"), ("2.jpg", "bee")]


def test_fractions_are_no_labels(tmp_path: Path) -> None:
    table = pyarrow.table({"path": ["a.jpg", "b.jpg"], "label": [1.0, 2.0]})
    parquet.write_table(table, tmp_path / "images.parquet")
    with pytest.raises(DataError, match=r"Expected text or whole numbers in .*, column 'label'. Received: fractions"):
        read(tmp_path / "images.parquet")
