import sys
from pathlib import Path

import pytest

from export import bundle
from export.__main__ import main


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> "Call":
    monkeypatch.delenv("VERTEBRA_REPOSITORY", raising=False)
    return Call(monkeypatch)


class Call:
    """Calls the program as a shell would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def __call__(self, *arguments: object) -> int:
        self._monkeypatch.setattr(sys, "argv", ["vertebra-export", *map(str, arguments)])
        return main()


def test_it_writes_a_bundle_and_says_how_near_it_came(
    call: Call, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("bundle", tiny_run, "--repository", tmp_path / "models") == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].split("  ")[0] == "output"
    assert [line.split()[:2] for line in lines[1:7]] == [
        [output, batch] for batch in "138" for output in ("logits", "embedding")
    ]
    assert lines[1].endswith("100.0%")
    path = tmp_path / "models/tiny/1"
    assert lines[-1] == f"Wrote {path}. Serve it with: vertebra-serve --repository {tmp_path / 'models'}"
    assert (path / "manifest.json").exists()
    assert [line.split("  ")[1:3] for line in err.splitlines()][-1][0] == "6/6"


def test_the_environment_fills_what_the_flags_leave(
    call: Call, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VERTEBRA_REPOSITORY", str(tmp_path / "models"))
    assert call("bundle", tiny_run, "--name", "other") == 0
    assert (tmp_path / "models/other/1/manifest.json").exists()


def test_an_expected_error_is_one_line(call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("bundle", tmp_path, "--repository", tmp_path / "models", "--name", "x") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith("vertebra-export: error: Expected a run: a folder with run.json.")
    assert "Traceback" not in err


def test_a_missing_flag_is_named(call: Call, tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("bundle", tiny_run) == 2
    assert capsys.readouterr().err == "vertebra-export: error: Expected --repository. Received: none. See --help\n"


@pytest.mark.parametrize("arguments", [[], ["run", "--colour"]])
def test_wrong_flags_exit_with_2(call: Call, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        call(*arguments)
    assert exit_.value.code == 2
    assert "vertebra-export: error: " in capsys.readouterr().err


def test_ctrl_c_is_one_line(
    call: Call, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bundle, "make", interrupt)
    assert call("bundle", tiny_run, "--repository", tmp_path) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "vertebra-export: interrupted"
