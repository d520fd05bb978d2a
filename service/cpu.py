"""How many CPUs this process may really use: the cgroup's quota and the affinity mask, not the machine's core count."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def usable(root: Path = Path("/")) -> int:
    """The number of CPUs that this process may use, at least 1.

    Args:
        root: Where /proc and /sys are.

    Returns:
        The CPUs of the affinity mask, or the lowest quota of the process's control groups (`cpu.max` of version 2,
        `cpu.cfs_quota_us` of version 1) rounded up, where that is less.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in _folders(root) if (quota := _quota(folder)) is not None]
    return max(1, min([affinity, *quotas]))


def _folders(root: Path) -> Iterator[Path]:
    # A container sees its own group at the top; a service of systemd sees the whole tree, and its own place in it.
    top = root / "sys/fs/cgroup"
    yield from (top, top / "cpu")
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        place = PurePosixPath(path.lstrip("/"))
        if number == "0" or "cpu" in controllers.split(","):
            mount = top if number == "0" else top / "cpu"
            yield from (mount / each for each in (place, *place.parents))


def _quota(folder: Path) -> int | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    # "max" in version 2, -1 in version 1 and no file at all mean no quota.
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:
        return None
    return -(-int(quota) // int(period))


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
