import io
import re

import pytest
from rich.console import Console

from export.progress import Steps


def test_a_log_file_gets_a_line_for_each_finished_step() -> None:
    file = io.StringIO()
    steps = Steps(12, Console(file=file, width=200))
    with steps.step("read the run"):
        assert file.getvalue() == ""
    with steps.step("convert to ONNX [x]"):
        pass
    first, second = file.getvalue().splitlines()
    assert re.fullmatch(r"  1/12  read the run +0\.0 s", first)
    assert re.fullmatch(r"  2/12  convert to ONNX \[x\] +0\.0 s", second)
    assert len(first) == len(second)


def test_a_terminal_sees_the_step_while_it_runs() -> None:
    file = io.StringIO()
    with Steps(1, Console(file=file, force_terminal=True, width=80)).step("wait"):
        pass
    assert file.getvalue().count("1/1  wait") >= 2
    assert "0:00:00" in file.getvalue()


def test_a_failed_step_leaves_no_line() -> None:
    file = io.StringIO()
    with pytest.raises(ValueError, match="here"), Steps(1, Console(file=file)).step("fail"):
        raise ValueError("here")
    assert file.getvalue() == ""
