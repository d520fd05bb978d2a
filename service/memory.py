"""Keeps the C library from holding on to memory; does not know who uses it."""

import ctypes

# glibc's number for the most arenas (malloc.h).
_M_ARENA_MAX = -8


def share() -> None:
    """Have all threads share one arena of the C library, where it is a library that has arenas.

    Each thread would get its own, and keep what the largest run or picture in it ever took: 270 to 390 MB for
    EfficientNet-Lite0 under the load of 16 callers, and 240 to 260 MB with one. Two would take 220 MB, but any arena
    after the first lies in pieces of 64 MB, of which glibc gives the last back whenever it is empty: in one start of
    two that was at the end of every run, and cost 3 ms of page faults in each.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Hand the C library's free memory to the operating system, where the C library can.

    ONNX Runtime frees two copies of the weights after a model has loaded. glibc keeps them for the next allocation of
    that size, which never comes: 46 MB of 212 for EfficientNet-Lite0.
    """
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
