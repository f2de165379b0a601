"""Stopping: what can be done in time is done, and the rest is told at once, or in the end."""

import asyncio
import time

import msgspec
import pytest

from app.engine.client import EngineClient
from app.engine.errors import EngineUnavailable
from app.engine.job import Request
from app.engine.ledger import Ledger
from app.engine.model_runner import ModelRunner
from app.engine.pending import Pending
from app.engine.watchdog import Upkeep
from app.engine.wire import Load
from tests.engine import LIMITS, asynchronous, begin, running, until, worker_of
from tests.fakes import INFO, LOAD, FakeRunner, ThreadWorker, params, pixel

pytestmark = pytest.mark.slow  # what takes longer than a drain


@asynchronous
async def test_what_cannot_be_done_before_the_server_stops_is_told_at_once() -> None:
    """By the table 4000 ticks of four rows take 16 s, and ten of them 0.04 s."""
    runner = FakeRunner()
    async with running(runner) as client:
        runner.gate.hold()
        long = [begin(client, params(100 * k, steps=1000, n=16)) for k in range(1, 4)]
        short = [begin(client, params(seed, steps=10)) for seed in range(8)]
        await until(lambda: worker_of(client).jobs + worker_of(client).unread == 11)
        draining = asyncio.create_task(client.drain(5))
        for task in long:
            with pytest.raises(EngineUnavailable) as told:
                await task
            assert str(told.value).startswith(
                "the server stops in 5 s; this request would take about 1"
            )
        assert not client.ready
        with pytest.raises(EngineUnavailable, match="the server is stopping"):
            await client.generate(Request(params(50)))
        assert not any(task.done() for task in short)
        runner.gate.open()
        answers = await asyncio.gather(*short)
        assert [answer.images for answer in answers] == [(pixel(seed),) for seed in range(8)]
        await draining
        assert client.stats.cancelled == 3, "they freed their slots"


@asynchronous
async def test_what_is_late_counts_as_gone_for_what_comes_after_it() -> None:
    """By the table a thousand ticks of one row take 2.5 s; half of the first are made."""
    ledger = Ledger(msgspec.structs.replace(LOAD, slots=1), LIMITS)
    ledger.models = {INFO.name: INFO}
    loop = asyncio.get_running_loop()
    first, second = (
        Pending(number, Request(params(number, steps=1000)), 1000, loop.create_future())
        for number in (1, 2)
    )
    ledger.add(second)
    ledger.add(first)
    first.riding, first.evaluations, first.began = (
        True,
        500,
        time.monotonic() - 100,
    )  # no pace for now

    def late(seconds: float) -> dict[int, float]:
        return {request.id: round(end, 3) for request, end in ledger.late(seconds)}

    assert late(5) == {}
    assert list(late(2.6)) == [2], "the other half comes before it"
    assert late(1.2) == {1: 1.25, 2: 2.5}
    ledger.stats.slowness = 3
    assert late(1.2) == {1: 3.75, 2: 7.5}
    first.began = time.monotonic() - 0.5
    assert late(1.2) == {2: 8.625}, "it is faster than one would think"


@asynchronous
async def test_what_is_left_when_the_time_is_over_fails_the_same_way() -> None:
    runner = FakeRunner()
    async with running(runner) as client:
        runner.gate.hold()
        tasks = [begin(client, params(seed)) for seed in range(8)]
        await until(lambda: runner.started)
        await client.drain(0.3)
        assert client.jobs == 0
        for task in tasks:
            with pytest.raises(EngineUnavailable, match="no time left"):
                await task


@asynchronous
async def test_draining_again_can_only_shorten_it() -> None:
    runner = FakeRunner()
    async with running(runner) as client:
        await asyncio.gather(client.drain(0), client.drain(0))  # with nothing to do
    async with running(runner) as client:
        runner.gate.hold()
        task = begin(client, params(1))
        await until(lambda: runner.started)
        first = asyncio.create_task(client.drain(600))
        await asyncio.sleep(0.1)
        assert not task.done()
        await client.drain(0)
        await client.drain(600)
        await first
        with pytest.raises(EngineUnavailable):
            await task


@asynchronous
async def test_a_worker_that_dies_meanwhile_is_replaced_where_that_is_in_time() -> None:
    for seconds, done in ((30, True), (0.3, False)):
        runners: list[FakeRunner] = []
        started: list[Load] = []

        def load(_: Load, runners: list[FakeRunner] = runners) -> list[ModelRunner]:
            time.sleep(1)
            runners.append(FakeRunner())
            if len(runners) == 1:
                runners[0].gate.hold()
            return [runners[-1]]

        def start(wanted: Load, load: object = load, started: list[Load] = started) -> ThreadWorker:
            started.append(wanted)
            return ThreadWorker(wanted, load)  # type: ignore[arg-type]

        client = EngineClient(LOAD, LIMITS, start, Upkeep(hang_seconds=0.8))
        await client.start()
        await until(lambda client=client: client.ready)
        task = begin(client, params(1))
        await until(lambda runners=runners: runners[0].started)
        draining = asyncio.create_task(client.drain(seconds))
        await asyncio.sleep(0)
        worker_of(client).thread.kill()
        if done:
            assert (await task).images == (pixel(1),)
        else:
            with pytest.raises(EngineUnavailable, match="this request would take about"):
                await task
        await draining
        assert len(started) == 1 + done
        runners[0].gate.open()
        await client.close()


@asynchronous
async def test_a_worker_that_hangs_does_not_keep_the_server_from_ending() -> None:
    runner = FakeRunner()
    client = EngineClient(
        msgspec.structs.replace(LOAD, slots=1),
        LIMITS,
        lambda load: ThreadWorker(load, lambda _: [runner]),
    )
    await client.start()
    await until(lambda: client.ready)
    runner.gate.hold()
    tasks = [begin(client, params(seed)) for seed in range(3)]
    await until(lambda: runner.started)
    began = time.monotonic()
    closing = asyncio.create_task(client.close())
    for task in tasks:
        with pytest.raises(EngineUnavailable):
            await task
    assert time.monotonic() - began < 1, "clients are told before the worker has ended"
    await closing
    assert time.monotonic() - began < 8, "2 s of grace; a gate held would be 10"
    runner.gate.open()
