"""An engine over runners without a network, in the test's own process."""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import msgspec
from fastapi.testclient import TestClient

from app.engine.client import EngineClient
from app.engine.job import Request, SamplingParams
from app.engine.ledger import Limits
from app.engine.model_runner import ModelRunner
from app.engine.pending import Watch
from app.engine.wire import Load
from app.main import create_app
from app.settings import Settings
from tests.fakes import LOAD, FakeRunner, ThreadWorker

LIMITS = Limits(jobs=100, work=10**6, seconds=60)


@asynccontextmanager
async def running(
    *runners: FakeRunner, limits: Limits = LIMITS, slots: int = 4
) -> AsyncIterator[EngineClient]:
    by_name: dict[str, ModelRunner] = {runner.info.name: runner for runner in runners}
    load = msgspec.structs.replace(LOAD, slots=slots, models=dict.fromkeys(by_name, ""))
    client = EngineClient(load, limits, lambda load: ThreadWorker(load, chosen(by_name)))
    await client.start()
    await until(lambda: client.ready)
    try:
        yield client
    finally:
        for runner in runners:
            runner.gate.open()
            runner.shutter.open()
        await client.close()
        assert client.jobs == 0


@contextmanager
def served(
    runner: FakeRunner, *, limits: Limits = LIMITS, client: str = "testclient", **settings: object
) -> Iterator[tuple[TestClient, EngineClient]]:
    """The whole application over a runner, ready, to a client at that address."""
    load = msgspec.structs.replace(LOAD, models={runner.info.name: ""})
    engine = EngineClient(load, limits, lambda load: ThreadWorker(load, lambda _: [runner]))
    app = create_app(Settings(**settings), engine)
    with TestClient(app, base_url="http://localhost", client=(client, 1)) as http:
        while not engine.ready:
            http.get("/livez")
        try:
            yield http, engine
        finally:
            runner.gate.open()


async def until(happens: Callable[[], Any]) -> None:
    for _ in range(10_000):
        if happens():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it did not happen in ten seconds")


def asynchronous(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on a loop of its own, for at most a minute."""

    @functools.wraps(test)
    def run(**arguments: object) -> None:
        asyncio.run(asyncio.wait_for(test(**arguments), 60))

    return run


def chosen(runners: Mapping[str, ModelRunner]) -> Callable[[Load], list[ModelRunner]]:
    """A loader of the runner of the model that a worker is for."""
    return lambda load: [runners[name] for name in load.models]


def worker_of(client: EngineClient, model: str = "fake") -> ThreadWorker:
    worker = client.fleet.workers[model]
    assert isinstance(worker, ThreadWorker)
    return worker


def begin(
    client: EngineClient, want: SamplingParams, watch: Watch | None = None, **how: Any
) -> "asyncio.Task[Any]":
    return asyncio.create_task(client.generate(Request(want, **how), watch))
