"""Memory that was freed is there for the next step."""

import platform
import subprocess
import sys

import pytest
import torch

from training.tuning import memory

# Blocks that are larger than any that the allocator keeps by itself, as activations are.
LARGE = """
import resource
import torch
from training.tuning import memory

{before}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
"""


def faults(before: str = "") -> int:
    """How often a process of its own that takes 64 MiB ten times has to have memory made ready for it."""
    answer = subprocess.run([sys.executable, "-c", LARGE.format(before=before)], check=True, capture_output=True)
    return int(answer.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not that of glibc")
def test_what_is_freed_is_kept() -> None:
    assert faults("assert memory.keep(torch.device('cpu'))") < faults() / 10


def test_elsewhere_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not memory.keep(torch.device("cpu"))


def test_on_a_gpu_nothing_is_done() -> None:
    assert not memory.keep(torch.device("cuda"))
