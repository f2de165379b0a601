"""The server itself on the device: its start, and images per second of 1, 16 and 64 clients."""

import contextlib
import json
import os
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psutil

from benchmarks.device.findings import Findings, Row, Setting
from benchmarks.device.names import LOAD
from benchmarks.parts import send
from benchmarks.results import Figures, solo_times
from benchmarks.servers import SERVERS, Running, running
from benchmarks.workload import STEPS, Request

_NEEDS = 25.0  # seconds for a server's start and two crowds
_WARMUP = 1.0  # seconds


def measure(findings: Findings, setting: Setting) -> None:
    clients = (1, 4) if setting.small else (1, 16, 64, 256)
    variants: dict[str, tuple[dict[str, str], tuple[int, ...]]] = {"as it is": ({}, clients)}
    if not setting.small:
        variants |= {
            "tf32": ({"dtype": "tf32"}, (16, 64)),
            "float16": ({"dtype": "float16"}, (64,)),
        }
    for name, (settings, crowds) in variants.items():
        given = findings, setting, name, settings, crowds
        findings.attempt(LOAD, {"server": name}, _NEEDS, under_load, *given)


@contextmanager
def server(setting: Setting, **settings: str) -> Iterator[tuple[Running, Row]]:
    """Our server on the device, ready; and how long its start took."""
    told = {"device": setting.device, **settings}
    before = dict(os.environ)
    os.environ.update({f"DARKROOM_{name.upper()}": value for name, value in told.items()})
    try:
        with running(SERVERS["ours"]) as ours:
            live = ours.wait(ours.server.live)
            ready = ours.wait(ours.server.ready)
            image = ours.draw(Request(7, 5, 1.0, seed=0))
            times = {"live": live, "ready": ready, "first image": image}
            yield ours, {f"s until {name}": round(value, 2) for name, value in times.items()}
    finally:
        os.environ.clear()
        os.environ.update(before)


def under_load(
    findings: Findings,
    setting: Setting,
    name: str,
    settings: dict[str, str],
    crowds: tuple[int, ...],
) -> Iterator[Row]:
    """Closed loops, one after the other, on one server."""
    with server(setting, **settings) as (ours, start):
        execution = get(ours, "/models")["models"][0]["execution"]
        kinds = {key: execution[key] for key in ("backend", "device", "dtype", "exact", "rows")}
        findings.add("Start", {"server": name} | start | kinds)
        solo = solo_times(send(ours.url, "solo", rounds=1, steps=STEPS))
        for clients in crowds:
            yield closed(ours, setting, clients, solo)


def closed(ours: Running, setting: Setting, clients: int, solo: dict[str, float]) -> Row:
    """Each client sends its next request when it has its answer."""
    server_before, worker_before = processor_seconds(ours)
    first, began = get(ours, "/engine"), time.perf_counter()
    with utilization(setting) as busy:
        run = send(
            ours.url,
            "closed",
            stream=clients,
            clients=clients,
            seconds=2.0 if setting.small else 4.0,
            warmup=_WARMUP,
        )
    elapsed, last = time.perf_counter() - began, get(ours, "/engine")
    server_after, worker_after = processor_seconds(ours)
    figures = Figures.of(run, solo, 0.0, by_arrival=False)
    images, ticks = max(len(run.answers), 1), max(last["ticks"] - first["ticks"], 1)
    return {
        "clients": clients,
        "images/s": round(figures.images_per_second, 1),
        "rows/s": round(figures.rows_per_second),
        "p50 ms": milliseconds(figures.p50),
        "p95 ms": milliseconds(figures.p95),
        "errors": figures.failed,
        "rows per tick": round((last["rows"] - first["rows"]) / ticks, 1),
        "slowness": round(last["slowness"], 3),
        "server's CPU ms per image": round((server_after - server_before) / images * 1000, 3),
        "worker's cores": round((worker_after - worker_before) / elapsed, 2),
        "load generator's CPU ms per image": round(figures.load_cpu * 1000, 3),
        "GPU busy, by its driver": f"{statistics.median(busy):.0f}%" if busy else None,
    }


def milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)


def get(ours: Running, path: str) -> Any:
    """What the server says of itself."""
    return httpx.get(f"{ours.url}{path}", timeout=20).raise_for_status().json()


def processor_seconds(ours: Running) -> tuple[float, float]:
    """Of the server, and of its worker."""
    parent = psutil.Process(ours.process.pid)
    children = parent.children(recursive=True)
    return sum(parent.cpu_times()[:2]), sum(sum(child.cpu_times()[:2]) for child in children)


@contextmanager
def utilization(setting: Setting) -> Iterator[list[float]]:
    """Percent of the time in which the GPU ran anything, several times per second."""
    samples: list[float] = []
    if not setting.cuda:
        yield samples
        return
    query = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=250"]
    with subprocess.Popen(["nvidia-smi", *query], stdout=subprocess.PIPE, text=True) as smi:
        try:
            yield samples
        finally:
            smi.terminate()
            told, _ = smi.communicate()
    with contextlib.suppress(ValueError):  # a line that was cut off, or a GPU that does not say
        samples += [float(json.loads(line)) for line in told.split()]
