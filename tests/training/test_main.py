import sys
from pathlib import Path

import pytest

from export import program, run
from tests.conftest import encode
from tests.training.advice.drawn import BACKBONE, given
from training.__main__ import main
from training.advice import advise
from training.advice.decide import decide
from training.advice.gather import weigh
from training.backbones import Card


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["vertebra-train", *map(str, arguments)])
    return main()


@pytest.mark.usefixtures("registered")
def test_as_is_writes_a_run_and_names_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs/insects"
    assert call(monkeypatch, "as-is", "small", "--out", out) == 0
    printed, err = capsys.readouterr()
    assert printed == (
        f"Wrote {out}: small, 5 labels, as-is. Export it with: vertebra-export bundle {out} --repository models\n"
    )
    assert [line.split()[0] for line in err.splitlines()] == ["1/4", "2/4", "3/4", "4/4"]
    assert run.read(out).backbone.name == "small"


def test_describe_prints_what_is_in_a_run(
    small_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "describe", small_run) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"run       {small_run}, made 20")
    assert err == ""


def write_images(folder: Path) -> Path:
    for index, colour in enumerate([(250, 9, 9), (200, 9, 9), (9, 9, 250)]):
        path = folder / ("red", "red", "blue")[index] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(colour))
    return folder


@pytest.mark.usefixtures("registered")
def test_extract_writes_features_and_says_of_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--data", write_images(tmp_path / "data"), "--backbone", "small", "--cache", tmp_path / "cache"]
    assert call(monkeypatch, "extract", *given, "--out", tmp_path / "x.npz") == 0
    out, err = capsys.readouterr()
    assert out == f"Wrote {tmp_path / 'x.npz'}: 3 rows, embedding [256].\n"
    assert [line.split()[0] for line in err.splitlines()] == ["1/5", "2/5", "3/5", "4/5", "5/5"]


def test_a_switch_needs_no_value(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--data", tmp_path / "nowhere", "--backbone", "efficientnet_lite0", "--out", tmp_path / "x.npz"]
    assert call(monkeypatch, "extract", *given, "--all-taps") == 2
    assert "Expected a folder, a .csv or a .parquet file." in capsys.readouterr().err


def test_refresh_rebuilds_the_program(
    small_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (small_run / run.PROGRAM).unlink()
    assert call(monkeypatch, "refresh", small_run) == 0
    assert capsys.readouterr().out == f"Rebuilt {small_run / 'model.pt2'}.\n"
    run.read_program(small_run, run.read(small_run))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["as-is", "nope", "--out", "run"], "Expected one of the backbones alexnet, convnext_tiny, "),
        (["as-is", "efficientnet_lite0"], "Expected --out. Received: none. See --help"),
        (["fit", "--data", "x"], "Expected --out. Received: none. See --help"),
        (["describe", "nowhere"], "Expected a run: a folder with run.json. Received: nowhere, which does not exist."),
        (
            ["extract", "--data", "x", "--backbone", "efficientnet_lite0", "--out", "x.txt"],
            "Expected a file that ends in .npz or .parquet. Received: x.txt.",
        ),
        (["refresh", "nowhere"], "Expected a run: a folder with run.json. Received: nowhere, which does not exist."),
        (
            [],
            "Expected a command: fit, advise, probe, pretrain, compare, extract, describe, visualize, as-is or ",
        ),
    ],
)
def test_an_expected_error_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VERTEBRA_OUT", raising=False)
    assert call(monkeypatch, *arguments) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"vertebra-train: error: {message}")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ([], ["c1", "c2", "c3", "c4", "c5", "embedding"]),
        (["--layers", "all"], ["c1", "c2", "c3", "c4", "c5", "embedding"]),
        (["--layers", "embedding,c4"], ["c4", "embedding"]),
        (["--layers", "c1", "--layers", "c2"], ["c1", "c2"]),
    ],
)
def test_a_probe_tells_of_all_layers_or_of_those_that_are_named(
    asked: list[str], told: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    decision = decide(weigh(given(60, 3, {"c4": 1.0}), None, None, lambda _: None), BACKBONE)
    monkeypatch.setattr(advise, "of", lambda *_: decision)
    assert call(monkeypatch, "probe", "--data", "nowhere", *asked) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["tap", *told]
    assert call(monkeypatch, "probe", "--data", "nowhere", "--layers", "c9") == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "vertebra-train: error: Expected for --layers all or some of c1, c2, c3, c4, c5, embedding. Received: c9."
    )


def test_ctrl_c_leaves_nothing(
    registered: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(program, "save", interrupt)
    assert call(monkeypatch, "as-is", registered.backbone.name, "--out", tmp_path / "run") == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("vertebra-train: interrupted; what is in the cache")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        (
            "--rate",
            "fast",
            "--rate: Input should be 'recipe/10', 'recipe' or 'range test'; or: Input should be a valid number, unable "
            "to parse string as a number. Received: fast",
        ),
        ("--epochs", "0", "--epochs: Input should be greater than or equal to 1. Received: 0"),
        ("--batch-size", "-1", "--batch-size: Input should be greater than or equal to 1. Received: -1"),
        ("--test-fraction", "1.5", "--test-fraction: Input should be less than 1. Received: 1.5"),
    ],
)
def test_a_wrong_value_is_told_with_its_flag_before_anything_is_read(
    flag: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "fit", "--data", "nowhere", "--out", "nowhere", flag, value) == 2
    assert capsys.readouterr().err == f"vertebra-train: error: {message}\n"
