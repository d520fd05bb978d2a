"""`vertebra-serve`: settings in, log lines and an exit code out; everything else is server.py's."""

import asyncio
import logging
import sys
import threading
import warnings

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import CliApp, SettingsError
from pythonjsonlogger.json import JsonFormatter

from service import memory
from service.config import Config
from service.errors import VertebraError
from service.server import leave, serve


def main(arguments: list[str] | None = None) -> int:
    """Run the service until it is told to stop.

    Args:
        arguments: The command line without the program's name; the process's own where None.

    Returns:
        0 after a graceful stop, 2 where the service could not start.
    """
    try:
        config = CliApp.run(Config, cli_args=sys.argv[1:] if arguments is None else arguments)
    except ValidationError as error:
        return _refuse("; ".join(_line(each) for each in error.errors()))
    except (SettingsError, ValueError) as error:
        return _refuse(str(error))
    _configure_logging(config)
    memory.share()
    try:
        asyncio.run(serve(config))
    except VertebraError as error:
        return _refuse(str(error))
    if any(thread is not threading.main_thread() and not thread.daemon for thread in threading.enumerate()):
        leave()
    return 0


def _line(error: ErrorDetails) -> str:
    setting = ".".join(map(str, error["loc"])) or "settings"
    if error["type"] == "missing":
        return f"Expected --{setting.replace('_', '-')}. Received: none. See vertebra-serve --help"
    return f"{setting}: {error['msg'].removeprefix('Value error, ')}"


def _refuse(message: str) -> int:
    print(f"vertebra-serve: error: {message}", file=sys.stderr)
    return 2


def _configure_logging(config: Config) -> None:
    handler = logging.StreamHandler()
    if config.log_format == "json":
        fields = ["levelname", "name", "message"]
        handler.setFormatter(JsonFormatter(fields, timestamp="time", rename_fields={"levelname": "level"}))
    else:
        handler.setFormatter(_TextFormatter("%(asctime)s %(levelname)-7s %(message)s"))
    logging.basicConfig(level=config.log_level, handlers=[handler])
    logging.captureWarnings(True)
    # What Pillow remarks on is a caller's file: its words are unbounded, and so would be the log and its registry.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.ERROR)


class _TextFormatter(logging.Formatter):
    """A line a person reads: the message, then what came with it as key=value."""

    _KNOWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}

    def format(self, record: logging.LogRecord) -> str:
        extra = {key: value for key, value in vars(record).items() if key not in self._KNOWN}
        return " ".join([super().format(record), *(f"{key}={value}" for key, value in extra.items())])


if __name__ == "__main__":
    sys.exit(main())
