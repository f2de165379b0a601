"""Send what is nearly right to a server, and look at how it does meanwhile."""

import asyncio
import random
import re
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from tests.fuzz.traffic import request

_CLIENTS = 12
_MOST_SECONDS = 5.0  # for one connection, before it is left
_PROBE_SECONDS = 0.05
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


@dataclass
class Findings:
    """What came of it: answers by status, seconds of the slowest probe, resident bytes by pid."""

    seed: int
    connections: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[bytes] = field(default_factory=list)  # what was sent before a 5xx
    slowest: float = 0.0
    before: dict[int, int] = field(default_factory=dict)
    most: dict[int, int] = field(default_factory=dict)


async def fuzz(url: str, pids: list[int], seconds: float, seed: int) -> Findings:
    """Fuzz the server at `url` for a while; `pids` are the processes whose memory is watched."""
    where, findings = urlsplit(url), Findings(seed)
    findings.before = {pid: resident(pid) for pid in pids}
    end = time.monotonic() + seconds
    port = where.port or 80
    async with asyncio.TaskGroup() as group:
        group.create_task(_probe(port, findings, pids, end))
        for client in range(_CLIENTS):
            chance = random.Random(f"{seed}/{client}")
            group.create_task(_send(port, findings, chance, end))
    return findings


async def _send(port: int, findings: Findings, chance: random.Random, end: float) -> None:
    while time.monotonic() < end:
        sent = b"".join(request(chance) for _ in range(chance.choice([1, 1, 1, 2, 20])))
        if chance.random() < 0.2:
            sent = sent[: chance.randrange(len(sent) + 1)]
        patience = chance.choice([0.0, 0.05, 0.5, _MOST_SECONDS])
        heard = await _exchange(port, sent, patience, pieces=chance.random() < 0.2)
        findings.connections += 1
        for status in map(int, _STATUS.findall(heard)):
            findings.statuses[status] += 1
            if status >= 500:
                findings.faults.append(sent)


async def _exchange(port: int, sent: bytes, patience: float, *, pieces: bool) -> bytes:
    """What is answered within so many seconds; then the client leaves."""
    heard = b""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(patience + 0.01):
            for first in range(0, len(sent), 700 if pieces else len(sent) or 1):
                writer.write(sent[first : first + 700] if pieces else sent)
                await writer.drain()
                await asyncio.sleep(0)
            while part := await reader.read(1 << 16):
                heard += part
    writer.transport.abort()
    return heard


async def _probe(port: int, findings: Findings, pids: list[int], end: float) -> None:
    ask = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    while time.monotonic() < end:
        began = time.monotonic()
        heard = await _exchange(port, ask, 60, pieces=False)
        assert heard.startswith(b"HTTP/1.1 200 "), heard
        findings.slowest = max(findings.slowest, time.monotonic() - began)
        for pid in pids:
            findings.most[pid] = max(findings.most.get(pid, 0), resident(pid))
        await asyncio.sleep(_PROBE_SECONDS)


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(status.partition("VmRSS:")[2].split()[0]) << 10
