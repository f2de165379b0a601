"""What a machine and its control groups leave a process, by files like theirs."""

import os
from pathlib import Path

import pytest

from models.machine import free_memory, usable_cores

MIB = 1 << 20


def system(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    """A /proc and a /sys: 800 MiB of the machine are free."""
    held = {"proc/meminfo": f"MemTotal: {1 << 20} kB\nMemAvailable:  {800 << 10} kB\n"}
    held |= {"proc/self/cgroup": cgroup}
    for name, text in {**held, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def group(folder: str, version: int, limit: int | str, used: int, cached: int) -> dict[str, str]:
    names = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }[version]
    limit = limit * MIB if isinstance(limit, int) else limit
    return {
        f"{folder}/{names[0]}": f"{limit}\n",
        f"{folder}/{names[1]}": f"{used * MIB}\n",
        f"{folder}/memory.stat": f"anon 5\n{names[2]} {cached * MIB}\n",
    }


V1, V2 = "sys/fs/cgroup/memory", "sys/fs/cgroup"
UNLIMITED = "9223372036854771712"
SYSTEMS: dict[str, tuple[str, dict[str, str], int]] = {
    "no groups": ("", {}, 800),
    "version 2, its own root": ("0::/\n", group(V2, 2, 500, 300, 100), 300),
    "version 2, a parent's": (
        "0::/a/b\n",
        group(f"{V2}/a/b", 2, "max", 10, 0) | group(f"{V2}/a", 2, 400, 100, 0),
        300,
    ),
    "version 2, the least": (
        "0::/a/b\n",
        group(f"{V2}/a/b", 2, 200, 150, 0) | group(f"{V2}/a", 2, 400, 100, 0),
        50,
    ),
    "version 2, none": ("0::/a\n", group(f"{V2}/a", 2, "max", 700, 0), 800),
    "version 1": ("5:cpu:/x\n4:memory:/a\n0::/\n", group(f"{V1}/a", 1, 300, 200, 50), 150),
    "version 1, mounted as the root": ("4:memory:/docker/c0\n", group(V1, 1, 300, 200, 0), 100),
    "version 1, none": ("4:memory:/\n", group(V1, 1, UNLIMITED, 200, 0), 800),
    "more used than there is": ("0::/\n", group(V2, 2, 100, 120, 0), 0),
    "more than the machine": ("0::/\n", group(V2, 2, 5000, 0, 0), 800),
}


@pytest.mark.parametrize("kind", SYSTEMS)
def test_free_memory_is_the_least_of_machine_and_groups(kind: str, tmp_path: Path) -> None:
    cgroup, files, expected = SYSTEMS[kind]
    assert free_memory(system(tmp_path, cgroup, files)) == expected * MIB


def test_a_system_that_does_not_say(tmp_path: Path) -> None:
    assert free_memory(tmp_path) is None
    assert usable_cores(tmp_path) == len(os.sched_getaffinity(0))


def quota(folder: str, version: int, most: int | str, period: int = 100_000) -> dict[str, str]:
    if version == 2:
        return {f"{folder}/cpu.max": f"{most} {period}\n"}
    return {f"{folder}/cpu.cfs_quota_us": f"{most}\n", f"{folder}/cpu.cfs_period_us": f"{period}\n"}


CPU1 = "sys/fs/cgroup/cpu"
QUOTAS: dict[str, tuple[str, dict[str, str], int]] = {
    "no groups": ("", {}, 8),
    "version 2": ("0::/\n", quota(V2, 2, 200_000), 2),
    "version 2, none": ("0::/a\n", quota(f"{V2}/a", 2, "max"), 8),
    "version 2, a parent's": (
        "0::/a/b\n",
        quota(f"{V2}/a/b", 2, "max") | quota(f"{V2}/a", 2, 300_000),
        3,
    ),
    "version 2, the least": (
        "0::/a/b\n",
        quota(f"{V2}/a/b", 2, 100_000) | quota(f"{V2}/a", 2, 400_000),
        1,
    ),
    "version 2, another period": ("0::/\n", quota(V2, 2, 40_000, 10_000), 4),
    "version 2, half a core": ("0::/\n", quota(V2, 2, 50_000), 1),
    "version 2, not whole": ("0::/\n", quota(V2, 2, 250_000), 2),
    "version 2, more than there are": ("0::/\n", quota(V2, 2, 6_400_000), 8),
    "version 1": ("4:memory:/x\n3:cpu,cpuacct:/a\n0::/\n", quota(f"{CPU1}/a", 1, 100_000), 1),
    "version 1, none": ("3:cpu:/\n", quota(CPU1, 1, -1), 8),
    "version 1, mounted as the root": ("3:cpuacct,cpu:/docker/c0\n", quota(CPU1, 1, 200_000), 2),
    "of another controller": ("3:cpuset:/\n", quota(CPU1, 1, 100_000), 8),
    "not to be read": ("0::/\n", {f"{V2}/cpu.max": "\n"}, 8),
}


@pytest.mark.parametrize("kind", QUOTAS)
def test_a_quota_counts_as_cores(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cgroup, files, expected = QUOTAS[kind]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert usable_cores(system(tmp_path, cgroup, files)) == expected


@pytest.mark.parametrize(
    ("cgroup", "files"),
    [
        (b"\n0::/\n", {}),
        (b"garbage\n0:\n", {}),
        (b"0::/\xff\xfe\n", {}),
        (b"0::/a\0b\n", {}),
        (b"0::/\n", {"cpu.max": b"\xff\n", "memory.max": b"\xff\n"}),
        (b"0::/\n", {"memory.max": b"5\n", "memory.current": b"five\n"}),
    ],
)
def test_what_is_not_as_the_kernel_writes_it_is_no_limit(
    tmp_path: Path, cgroup: bytes, files: dict[str, bytes]
) -> None:
    root = system(tmp_path, "", {f"{V2}/keep": ""})
    (root / "proc/self/cgroup").write_bytes(cgroup)
    for name, content in files.items():
        (root / V2 / name).write_bytes(content)
    assert free_memory(root) == 800 * MIB
    assert usable_cores(root) == usable_cores(tmp_path / "nowhere")


def test_odd_lines_hide_no_limit_beside_them(tmp_path: Path) -> None:
    files = group(V2, 2, 500, 100, 0) | {f"{V2}/cpu.max": "100000 100000 \n"}
    root = system(tmp_path, "", files)
    (root / "proc/self/cgroup").write_bytes(b"garbage\n\n0::/\xff\n")
    (root / V2 / "memory.stat").write_text("inactive_file\n")
    (root / "proc/meminfo").write_text("MemAvailable:\n")
    assert usable_cores(root) == 1
    assert free_memory(root) == 400 * MIB
