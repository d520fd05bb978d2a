"""Keeps the memory that a training on a CPU frees for its next step; knows nothing of the training.

The allocator of glibc takes every block above 32 MiB from the system and gives it back when it is freed, so that the
system clears the pages of every large activation anew in every step (`python -m tests.benchmarks.allocator`).
"""

import ctypes
import platform

import torch

# https://man7.org/linux/man-pages/man3/mallopt.3.html
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


def keep(device: torch.device) -> bool:
    """Have this process keep what it frees, for good: how much it has is then the most that it ever needed.

    Args:
        device: What the training runs on.

    Returns:
        Whether it does; False on a GPU, and where the allocator is not that of glibc.
    """
    if device.type != "cpu" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_MMAP_MAX, 0) and libc.mallopt(_TRIM_THRESHOLD, _NEVER))
