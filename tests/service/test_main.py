"""The program: settings from flags, environment and a file; what it says when it cannot start; how it stops."""

import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic_settings import CliApp

from service.__main__ import main
from service.config import Config
from tests.conftest import Service, encode, sleeper, write_bundle
from vertebra.client import Client, RpcError


def test_a_flag_beats_a_variable_beats_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "vertebra.toml"
    file.write_text('repository = "models"\nmax_batch = 2\nthreads = 2\nqueue_limit = 100\n')
    monkeypatch.setenv("VERTEBRA_CONFIG_FILE", str(file))
    monkeypatch.setenv("VERTEBRA_THREADS", "3")
    monkeypatch.setenv("VERTEBRA_QUEUE_LIMIT", "200")
    config = CliApp.run(Config, cli_args=["--queue-limit", "300"])
    assert (config.max_batch, config.threads, config.queue_limit) == (2, 3, 300)
    assert config.repository == Path("models")


def test_what_kubernetes_puts_into_the_environment_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERTEBRA_PORT", "tcp://10.0.0.1:8001")
    monkeypatch.setenv("VERTEBRA_SERVICE_HOST", "10.0.0.1")
    assert CliApp.run(Config, cli_args=["--repository", "models"]).address == "127.0.0.1:8001"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "Expected --repository. Received: none. See vertebra-serve --help"),
        (["--repository", "x", "--max-batch", "0"], "max_batch: Input should be greater than or equal to 1"),
        (["--repository", "x", "--max-images", "999"], "settings: Expected max_images to be at most queue_limit, 128"),
        (
            ["--repository", "/nowhere"],
            "Expected a model repository, a folder of <model>/<version>/. Received: /nowhere",
        ),
    ],
)
def test_what_cannot_be_served_is_one_line_and_exit_code_2(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*flags, "--metrics-address", "127.0.0.1:0", "--address", "127.0.0.1:0"] if flags else []) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"vertebra-serve: error: {message}")
    assert error.count("\n") == 1


def test_an_unknown_key_in_the_file_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "vertebra.toml").write_text('repository = "models"\nmax_bath = 2\n')
    monkeypatch.setenv("VERTEBRA_CONFIG_FILE", str(tmp_path / "vertebra.toml"))
    assert main([]) == 2
    assert "max_bath: Extra inputs are not permitted" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VERTEBRA_CONFIG_FILE", "/nowhere.toml")
    assert main([]) == 2
    assert "Expected VERTEBRA_CONFIG_FILE to name a TOML file. Received: '/nowhere.toml'" in capsys.readouterr().err


@pytest.mark.parametrize("setting", ["address", "metrics-address"])
def test_an_occupied_port_is_one_line_and_exit_code_2(repository: Path, setting: str) -> None:
    addresses = {"address": "127.0.0.1:0", "metrics-address": "127.0.0.1:0"}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        addresses[setting] = f"127.0.0.1:{taken.getsockname()[1]}"
        flags = [word for name, value in addresses.items() for word in (f"--{name}", value)]
        command = [sys.executable, "-m", "service", "--repository", str(repository), *flags]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    name = setting.replace("-", "_")
    assert done.returncode == 2
    expected = f"vertebra-serve: error: Expected {name} to be free. Received: {addresses[setting]}, which is in use."
    assert done.stderr.strip().splitlines()[-1] == expected
    assert "Traceback" not in done.stderr


def test_ipv6_addresses_are_listened_on_and_logged_as_they_are_dialled(
    repository: Path, start_service: Callable[..., Service]
) -> None:
    service = start_service(repository, "--address", "[::1]:0", "--metrics-address", "[::1]:0")
    line = service.wait_for("listening")
    assert line["address"].startswith("[::1]:")
    assert line["metrics_address"].startswith("[::1]:")
    service.wait_for("serving")
    with Client(line["address"]) as client:
        assert client.classify([encode((255, 0, 0))], top_k=1).answers()[0].labels[0].name == "red"


@pytest.mark.parametrize(
    "address", ["localhost", "::1:0", "127.0.0.1:\u00b2", "127.0.0.1:70000", ":8001", "unix:/tmp/x"]
)
def test_a_malformed_address_is_one_line_and_exit_code_2(
    repository: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--repository", str(repository), "--metrics-address", address]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == f"vertebra-serve: error: Expected an address as host:port or [host]:port. Received: {address!r}."


def test_sigterm_ends_it_with_exit_code_0(repository: Path, start_service: Callable[..., Service]) -> None:
    service = start_service(repository)
    service.wait_for("serving")
    assert service.stop() == 0
    service.wait_for("stopped")


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A repository with a model that takes many seconds for an image, and a small fraction of one to load."""
    root = tmp_path / "slow"
    write_bundle(root, sleeper())
    return root


def ask_in_vain(service: Service) -> threading.Thread:
    """Ask about an image that keeps the engine busy, in a thread, and return once the engine has it."""

    def ask() -> None:
        with Client(service.address) as client, pytest.raises(RpcError):
            client.classify([encode((255, 255, 255))])

    caller = threading.Thread(target=ask)
    caller.start()
    deadline_s = time.monotonic() + 30
    while True:
        with urllib.request.urlopen(service.metrics_url, timeout=10) as page:
            if 'vertebra_batch_size_count{model="sleeper"} 1.0' in page.read().decode():
                return caller
        assert time.monotonic() < deadline_s


def test_the_grace_bounds_the_end_whatever_the_engine_does(slow: Path, start_service: Callable[..., Service]) -> None:
    service = start_service(slow, "--grace-s", "0.5")
    service.wait_for("serving")
    caller = ask_in_vain(service)
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(timeout=6) == 0
    caller.join(timeout=30)
    assert not caller.is_alive()
    service.wait_for("leaving work that could not be stopped")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_whoever_asks_twice_does_not_wait(
    slow: Path, start_service: Callable[..., Service], number: signal.Signals
) -> None:
    service = start_service(slow)
    service.wait_for("serving")
    caller = ask_in_vain(service)
    service.process.send_signal(number)
    service.wait_for("draining")
    service.process.send_signal(number)
    assert service.process.wait(timeout=6) == -number
    caller.join(timeout=30)
    assert not caller.is_alive()


def test_text_logs_read_as_lines(repository: Path, start_service: Callable[..., Service]) -> None:
    service = start_service(repository, "--log-format", "text")
    deadline = 20
    lines = [service.lines.get(timeout=deadline) for _ in range(4)]
    assert "no GPU is used provider=CPUExecutionProvider reason=no " in str(lines[0])
    assert "listening address=127.0.0.1:" in str(lines[1])
    assert "model ready model=colours version=1 provider=CPUExecutionProvider" in str(lines[2])
