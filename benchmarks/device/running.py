"""Runs parts one after the other, each in a process of its own, within a budget of seconds."""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import psutil

from benchmarks.device.findings import Tables

LEAST = 20.0  # seconds; no part is begun with fewer, and each that follows is left as many
_GRACE = 3.0  # seconds between when a part should end, and when it has to
_POLL = 0.25


@dataclass(frozen=True)
class Part:
    """A command of Python that is given a file for its tables, and its seconds."""

    says: str
    command: tuple[str, ...]
    seconds: float  # that it wants at most


@dataclass(frozen=True)
class Ended:
    """What a part found until it ended, and how it ended."""

    says: str
    how: str
    seconds: float
    tables: Tables


def run_parts(
    parts: Mapping[str, Part], budget: float, keep: Callable[[dict[str, Ended]], object]
) -> dict[str, Ended]:
    """Run all parts, as far as `budget` seconds go; `keep` is called after each with all so far.

    If there are more seconds than the parts want, each may take proportionally longer.
    """
    until, results = time.monotonic() + budget, dict[str, Ended]()
    stretch = max(budget / sum(part.seconds for part in parts.values()), 1.0)
    waiting = list(parts.items())
    while waiting:
        name, part = waiting.pop(0)
        left = until - time.monotonic()
        seconds = allowance(left, part.seconds * stretch, [other.seconds for _, other in waiting])
        if seconds:
            click.echo(f"{name}: at most {seconds:.0f} s")
            results[name] = run_part(part, seconds)
            click.echo(f"{name}: {results[name].how}")
        else:
            results[name] = Ended(part.says, f"not begun: {left:.0f} s were left", 0.0, {})
        keep(results)
    return results


def allowance(left: float, wanted: float, later: Sequence[float], least: float = LEAST) -> float:
    """The seconds that a part gets of those left: none if they are fewer than `least`.

    Every later part is left `least`, or what it wants if that is less.
    """
    if left < min(least, wanted):
        return 0.0
    kept = sum(min(seconds, least) for seconds in later)
    return min(wanted, max(left - kept, min(left, least)))


def run_part(part: Part, seconds: float) -> Ended:
    """Run a part for at most `seconds`; what it had found by then is kept, however it ended."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tables.json"
        arguments = (*part.command, str(file), str(max(seconds - _GRACE, seconds / 2)))
        how = _run(arguments, began + seconds)
        tables = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return Ended(part.says, how, round(time.monotonic() - began, 1), tables)


def _run(arguments: Sequence[str], until: float) -> str:
    """Run Python until it ends, or until then; how it ended, in words. No child is left."""
    process = subprocess.Popen([sys.executable, *arguments])
    family = {psutil.Process(process.pid)}
    try:
        while (status := process.poll()) is None and time.monotonic() < until:
            family |= _children(process.pid)  # a server has a session of its own, and may be left
            time.sleep(_POLL)
    finally:
        family |= _children(process.pid)
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait()
        psutil.wait_procs(family, _GRACE)
    if status is None:
        return "out of time"
    if status < 0:
        return f"ended by signal {-status}"
    return f"failed with status {status}" if status else "done"


def _children(pid: int) -> set[psutil.Process]:
    try:
        return set(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return set()
