import sys
from pathlib import Path

import pytest

from export import bundle
from export.__main__ import main
from export.score import Scores
from tests.conftest import encode


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


def test_a_terminal_obeys_no_name_in_an_error(call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("bundle", tmp_path / "\x1b]0;owned\x07", "--repository", tmp_path / "models", "--name", "x") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert r"\x1b]0;owned\x07" in said
    assert said.isprintable()


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


@pytest.mark.parametrize("arguments", [["run"], ["bundle", "run", "--colour"], ["evaluate", "bundle", "--colour"]])
def test_wrong_flags_exit_with_2(call: Call, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        call(*arguments)
    assert exit_.value.code == 2
    assert "vertebra-export: error: " in capsys.readouterr().err


def test_without_a_command_both_are_named(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert call() == 2
    assert capsys.readouterr().err == (
        "vertebra-export: error: Expected a command, bundle or evaluate. Received: none. See vertebra-export --help\n"
    )


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Four images of red and two of blue."""
    for label, colour, count in (("red", (250, 9, 9), 4), ("blue", (9, 9, 250), 2)):
        (tmp_path / "labelled" / label).mkdir(parents=True)
        for index in range(count):
            (tmp_path / "labelled" / label / f"{index}.png").write_bytes(encode(colour))
    return tmp_path / "labelled"


def test_evaluate_prints_how_good_a_bundle_is(
    call: Call, repository: Path, labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("evaluate", repository / "colours/1", "--data", labelled) == 0
    out, err = capsys.readouterr()
    assert out.startswith("colours version 1 on 6 images\n")
    assert "accuracy           100.0%  61.0% to 100.0%" in out
    assert [line.split()[0] for line in err.splitlines()] == ["1/4", "2/4", "3/4", "4/4"]


def test_evaluate_gives_a_program_all_figures_as_json(
    call: Call, repository: Path, labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("evaluate", repository / "colours/1", "--data", labelled, "--json") == 0
    scores = Scores.model_validate_json(capsys.readouterr().out)
    assert (scores.images, scores.accuracy.value) == (6, 1.0)


def test_a_label_that_a_bundle_does_not_know_is_one_line(
    call: Call, repository: Path, labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (labelled / "blue").rename(labelled / "mauve")
    assert call("evaluate", repository / "colours/1", "--data", labelled) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith("vertebra-export: error: Expected labels of the bundle, which has 3: 'red'")
    assert err.splitlines()[-1].endswith("Received: 'mauve', with 2 images.")


def test_ctrl_c_is_one_line(
    call: Call, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bundle, "make", interrupt)
    assert call("bundle", tiny_run, "--repository", tmp_path) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "vertebra-export: interrupted"
