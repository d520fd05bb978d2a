"""The CPUs that may be used, under both versions of control groups."""

from pathlib import Path

import pytest

from service import cpu


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("6400000 100000", 8),
        ("", 8),
    ],
)
def test_version_2(tmp_path: Path, quota: str, expected: int) -> None:
    write(tmp_path / "sys/fs/cgroup/cpu.max", quota)
    assert cpu.usable(tmp_path) == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1", 8), ("300000", 3), ("1000", 1)])
def test_version_1(tmp_path: Path, quota: str, expected: int) -> None:
    write(tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_quota_us", quota)
    write(tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000")
    assert cpu.usable(tmp_path) == expected


def test_the_lowest_quota_on_the_way_to_the_own_group_counts(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/system.slice/vertebra.service")
    write(tmp_path / "sys/fs/cgroup/system.slice/cpu.max", "300000 100000")
    write(tmp_path / "sys/fs/cgroup/system.slice/vertebra.service/cpu.max", "max 100000")
    assert cpu.usable(tmp_path) == 3


def test_the_own_group_of_version_1_counts(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "4:memory:/x\n3:cpu,cpuacct:/docker/abc")
    write(tmp_path / "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us", "250000")
    write(tmp_path / "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us", "100000")
    assert cpu.usable(tmp_path) == 3


def test_without_control_groups(tmp_path: Path) -> None:
    assert cpu.usable(tmp_path) == 8
