"""How many CPUs this process may really use: the cgroup's quota and the affinity mask, not the machine's core count."""

import os
from pathlib import Path


def usable(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """The number of CPUs that this process may use, at least 1.

    Args:
        cgroup: Where the control groups are mounted, as this process sees its own.

    Returns:
        The CPUs of the affinity mask, or the quota of cgroup v2 (`cpu.max`) or v1 (`cpu.cfs_quota_us`) rounded up where
        that is less.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroup)
    return affinity if quota is None else max(1, min(affinity, quota))


def _quota(cgroup: Path) -> int | None:
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        quota, period = _read(cgroup / "cpu/cpu.cfs_quota_us"), _read(cgroup / "cpu/cpu.cfs_period_us")
    # "max" in version 2, -1 in version 1 and no file at all mean no quota.
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:
        return None
    return -(-int(quota) // int(period))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
