"""How much of its machine this process may use: cores and memory. Standard library only.

A control group (cgroup, of Linux) may allow less than there is: the limits of a container are those
of its groups. Both versions are read. `root` is where /proc and /sys are.
"""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_ROOT = Path("/")


def usable_cores(root: Path = _ROOT) -> int:
    """Cores that this process may run on, or fewer if a quota allows less time: at least one.

    A quota is rounded down: threads that share less time than they are wait for each other.
    """
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    return max(int(min([cores, *_quotas(root)])), 1)


def free_memory(root: Path = _ROOT) -> int | None:
    """Bytes of available memory: the least of what the machine has and what its groups leave.

    None where the system does not say (not Linux).
    """
    kibibytes = _field(root / "proc/meminfo", "MemAvailable:")
    rooms = [*([] if kibibytes is None else [kibibytes << 10]), *_rooms(root)]
    return max(min(rooms), 0) if rooms else None


def _quotas(root: Path) -> Iterator[float]:
    """The cores that each group's quota of time is worth."""
    for version, folder in _groups(root, "cpu"):
        if version == 2:
            most, _, period = next(_lines(folder / "cpu.max"), "").strip().partition(" ")
        else:
            most = next(_lines(folder / "cpu.cfs_quota_us"), "")
            period = next(_lines(folder / "cpu.cfs_period_us"), "")
        if most.isdecimal() and period.isdecimal() and int(period):  # "max" and -1 are no limit
            yield int(most) / int(period)


def _rooms(root: Path) -> Iterator[int]:
    """What each group leaves: limit - usage + cached files."""
    for version, folder in _groups(root, "memory"):
        if version == 2:
            limit, used, cached = "memory.max", "memory.current", "inactive_file"
        else:
            limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
            cached = "total_inactive_file"
        most, now = _number(folder / limit), _number(folder / used)
        if most is not None and now is not None:
            yield most - now + (_field(folder / "memory.stat", cached) or 0)


def _groups(root: Path, controller: str) -> Iterator[tuple[int, Path]]:
    """The version and folder of every group that a controller holds this process in."""
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0":
            version, mount = 2, root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            version, mount = 1, root / "sys/fs/cgroup" / controller
        else:
            continue
        # A container may see itself as the root, and still be told its path outside.
        for group in [PurePosixPath(path), *PurePosixPath(path).parents]:
            yield version, mount / str(group).lstrip("/")


def _number(path: Path) -> int | None:
    text = next(_lines(path), "")
    return int(text) if text.isdecimal() else None  # "max" is no limit


def _field(path: Path, name: str) -> int | None:
    """The number after a name at the start of a line."""
    for line in _lines(path):
        words = line.split()
        if words[:1] == [name] and words[1:2] and words[1].isdecimal():
            return int(words[1])
    return None


def _lines(path: Path) -> Iterator[str]:
    try:
        yield from path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except (OSError, ValueError):  # not Linux, not mounted, or a name that no file can have
        return
