"""Runs a program's command line and tells a person in one line what went wrong; does not know what the program does."""

import signal
import sys

from pydantic import ValidationError
from pydantic_settings import BaseSettings, CliApp, SettingsError

from export.errors import ExportError
from service.errors import VertebraError

FAILED = 2
INTERRUPTED = 130  # as a shell reports a program that Ctrl-C ended


def run(program: type[BaseSettings], expected: type[Exception] = ExportError, afterwards: str = "") -> int:
    """Fill the program's settings from flags and environment, run its `cli_cmd`, and answer with an exit status.

    Args:
        program: The settings; `cli_prog_name` of their configuration is the program's name.
        expected: The root of the errors that the program raises on purpose, beside export's and the service's.
        afterwards: What a person who interrupted it should know.

    Returns:
        0, 2 where what was asked for cannot be done, or 130 after Ctrl-C or SIGTERM. Wrong flags exit with 2 at once.
    """
    name = program.model_config.get("cli_prog_name")
    # Whoever ends the program, nothing half-written stays: SIGTERM unwinds as Ctrl-C does.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        CliApp.run(program)
    except ValidationError as error:
        return _failed(name, _wrong(error))
    except SettingsError as error:
        # Of a list, which it reads as JSON.
        received = printable(str(error.__cause__ or error))
        return _failed(name, f"Expected flags and variables that can be read. Received: {received}")
    except (expected, ExportError, VertebraError, OSError) as error:
        return _failed(name, str(error))
    except KeyboardInterrupt:
        sys.stderr.write(f"{name}: interrupted{f'; {afterwards}' if afterwards else ''}\n")
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _failed(name: str | None, why: str) -> int:
    said = "\n".join(printable(line) for line in why.split("\n"))
    sys.stderr.write(f"{name}: error: {said}\n")
    return FAILED


def _wrong(error: ValidationError) -> str:
    """What is wrong with the first flag that is."""
    errors = error.errors(include_url=False)
    # Behind its name stands, where a flag may be one of several kinds, which of them it was not.
    name = next(str(each) for each in reversed(errors[0]["loc"]) if str(each).isidentifier())
    flag = name.replace("_", "-")
    if errors[0]["type"] == "missing":
        return f"Expected --{flag}. Received: none. See --help"
    return f"--{flag}: {complaint(error, name)}"


def complaint(error: ValidationError, name: str) -> str:
    """What is said of the setting `name`, which is the first that is wrong, and what was received."""
    errors = error.errors(include_url=False)
    said = "; or: ".join(each["msg"] for each in errors if name in each["loc"])
    return f"{said}. Received: {printable(str(errors[0]['input']))}"


def printable(text: str) -> str:
    """A text of which a terminal obeys nothing: names of files and labels may hold anything."""
    return text if text.isprintable() else repr(text)[1:-1]
