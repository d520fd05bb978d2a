import sys
from pathlib import Path

import pytest

from export import program, run
from training.__main__ import main
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
        (["as-is", "nope", "--out", "run"], "Expected one of the backbones efficientnet_lite0. Received: nope."),
        (["as-is", "efficientnet_lite0"], "Expected --out. Received: none. See --help"),
        (["refresh", "nowhere"], "Expected a run: a folder with run.json. Received: nowhere, which does not exist."),
        ([], "Expected a command: fit, extract, describe, as-is or refresh. Received: none."),
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


def test_ctrl_c_leaves_nothing(
    registered: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(program, "save", interrupt)
    assert call(monkeypatch, "as-is", registered.backbone.name, "--out", tmp_path / "run") == 130
    assert capsys.readouterr().err.splitlines()[-1] == "vertebra-train: interrupted"
    assert list(tmp_path.iterdir()) == []
