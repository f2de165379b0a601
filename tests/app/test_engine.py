"""The client and the worker's loop, over a runner without a network."""

import asyncio
import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import pytest

from app.engine.client import EngineClient
from app.engine.errors import (
    DeadlineExceeded,
    DeadlineTooShort,
    EngineBusy,
    EngineUnavailable,
    GenerationFailed,
)
from app.engine.job import Image, Request, SamplingParams
from app.engine.ledger import Limits
from app.engine.model_runner import ModelRunner
from app.engine.watchdog import Upkeep
from app.engine.wire import Load
from tests.engine import LIMITS, asynchronous, begin, running, until, worker_of
from tests.fakes import INFO, LOAD, FakeRunner, ThreadWorker, params, pixel


@asynchronous
async def test_everyone_gets_their_own_images() -> None:
    async with running(FakeRunner()) as client:
        wants = [params(seed, steps=1 + seed % 5, n=1 + seed % 3) for seed in range(30)]
        answers = await asyncio.gather(*(client.generate(Request(want)) for want in wants))
    for want, answer in zip(wants, answers, strict=True):
        assert answer.images == tuple(pixel(want.seed_of(k)) for k in range(want.n))


@asynchronous
async def test_requests_of_different_lengths_and_guidance_share_steps() -> None:
    runner = FakeRunner()
    runner.gate.hold()
    async with running(runner) as client:
        first = begin(client, params(1, steps=2))
        await until(lambda: runner.started)
        second = begin(client, params(2, steps=3, scale=3.0))
        await until(lambda: client.jobs == 2)
        runner.gate.open()
        await asyncio.gather(first, second)
    assert [sorted(batch) for batch in runner.batches] == [[1], [1, 2], [2], [2]]


@asynchronous
async def test_models_keep_to_themselves() -> None:
    other = dataclasses.replace(INFO, name="other")
    first, second = FakeRunner(), FakeRunner(other)
    async with running(first, second) as client:
        assert list(client.models) == ["fake", "other"]
        await asyncio.gather(
            client.generate(Request(params(1))), client.generate(Request(params(2, model="other")))
        )
    assert {seed for batch in first.batches for seed in batch} == {1}
    assert {seed for batch in second.batches for seed in batch} == {2}


@asynchronous
async def test_a_model_is_decoded_while_another_is_busy() -> None:
    class Slow(FakeRunner):
        def step(self, images: Sequence[Image], rows: int) -> None:
            time.sleep(0.002)
            super().step(images, rows)

    busy = Slow(dataclasses.replace(INFO, name="busy"))
    async with running(FakeRunner(), busy) as client:
        long = begin(client, params(1, steps=1000, model="busy"))
        await until(lambda: busy.started)
        assert (await client.generate(Request(params(2)))).images == (pixel(2),)
        assert not long.done()
        long.cancel()


@asynchronous
async def test_higher_priorities_start_first() -> None:
    runner = FakeRunner()
    async with running(runner, slots=1) as client:
        runner.gate.hold()
        tasks = [begin(client, params(0))]
        await until(lambda: runner.started)
        tasks += [begin(client, params(10 + p), priority=p) for p in (0, -5, 7)]
        await until(lambda: client.jobs == 4)
        runner.gate.open()
        await asyncio.gather(*tasks)
    assert runner.started == [0, 17, 10, 5]


@asynchronous
async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    runner = FakeRunner()
    async with running(runner, limits=Limits(jobs=3, work=0.225, seconds=60)) as client:
        runner.gate.hold()
        tasks = [begin(client, params(s)) for s in range(3)]
        await until(lambda: client.jobs == 3)
        with pytest.raises(EngineBusy, match=r"3 requests .* the limits are 3 and 0.2") as busy:
            await client.generate(Request(params(9)))
        assert 1 <= busy.value.retry_after <= 120
        runner.gate.open()
        await asyncio.gather(*tasks)
        assert (await client.generate(Request(params(9)))).images == (pixel(9),)


@asynchronous
async def test_a_client_has_so_much_work_in_seconds_of_the_device() -> None:
    """A second is 1333 UNet evaluations in ticks of eight, before anything else is learned."""
    runner = FakeRunner()
    runner.gate.hold()
    async with running(runner, limits=Limits(jobs=3, work=0.225, seconds=60)) as client:
        long = begin(client, params(1, steps=100, n=2))
        await until(lambda: client.jobs == 1)
        with pytest.raises(EngineBusy, match=r"1 requests of this client \(0.15 s"):
            await client.generate(Request(params(2, steps=101)))
        runner.gate.open()
        await long


@asynchronous
async def test_a_deadline_that_cannot_be_met_is_refused_at_once() -> None:
    """A tick of one row takes 2.5 ms, says the table, and one of eight takes 6."""
    runner = FakeRunner()
    async with running(runner) as client:
        with pytest.raises(
            DeadlineTooShort, match=r"timeout: 1 s is too short; the request takes about 2\.5 s"
        ):
            await client.generate(Request(params(1, steps=1000), timeout=1))
        runner.gate.hold()
        tasks = [begin(client, params(s, steps=1000)) for s in range(8)]
        await until(lambda: client.jobs == 8)
        with pytest.raises(EngineBusy, match="its timeout is 3 s") as busy:
            await client.generate(Request(params(9, steps=1000), timeout=3))
        assert 1 <= busy.value.retry_after <= 120
        urgent = begin(client, params(9, steps=1000), timeout=3, priority=1)
        short = begin(client, params(9, steps=10), timeout=1)  # gets in beside long ones
        await until(lambda: client.jobs == 10)
        tasks += [urgent, short]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@asynchronous
async def test_equal_requests_are_computed_once() -> None:
    runner = FakeRunner()
    async with running(runner) as client:
        runner.gate.hold()
        twins = [begin(client, params(5, n=2)) for _ in range(3)]
        other = begin(client, params(5, n=2, steps=4))
        await until(lambda: runner.started and client.jobs == 2)
        twins[0].cancel()  # the others still wait
        runner.gate.open()
        answers = await asyncio.gather(*twins[1:], other)
        assert client.stats.shared == 2
    assert [answer.images for answer in answers] == [(pixel(5), pixel(6))] * 3
    assert sorted(runner.started) == [5, 5, 6, 6]


STAGES = ["queued", "starting", "running", "decoding"]
ENDS = ["cancel", "deadline", "shutdown"]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_request_can_end_at_any_stage(stage: str, end: str) -> None:
    """Cancelled, too late or shut down, while queued, starting, running, decoding."""
    asyncio.run(asyncio.wait_for(_end_at(stage, end), 60))


async def _end_at(stage: str, end: str) -> None:
    runner = FakeRunner()
    async with running(runner, slots=1) as client:
        before = None
        (runner.shutter if stage == "decoding" else runner.gate).hold()
        if stage == "queued":
            before = begin(client, params(1))
            await until(lambda: runner.started)
        timeout = 0.3 if end == "deadline" else 60
        task = begin(client, params(2, steps=3 if stage == "decoding" else 50), timeout=timeout)
        if stage == "queued":
            await until(lambda: client.jobs == 2)
        elif stage == "running":
            runner.gate.let(2)
            await until(lambda: len(runner.batches) == 2)
        elif stage == "decoding":
            await until(lambda: len(runner.batches) == 3)
        else:
            await until(lambda: runner.started)
        if end == "cancel":
            task.cancel()
        closing = asyncio.create_task(client.close()) if end == "shutdown" else None
        submits = 1 if stage == "queued" else 0  # not taken up either
        if stage != "decoding":  # nothing holds the loop then
            await until(lambda: worker_of(client).unread > submits)  # heard before the gate opens
        if closing:
            runner.gate.open()
            runner.shutter.open()
            await closing
        expected = {
            "cancel": asyncio.CancelledError,
            "deadline": DeadlineExceeded,
            "shutdown": EngineUnavailable,
        }[end]
        with pytest.raises(expected):
            await task
        assert 2 not in [request.params.seed for request in client._ledger.requests.values()]
        if end == "shutdown":
            return
        if stage == "decoding":
            await until(lambda: client.stats.cancelled)  # it is not waited for
        rides = sum(2 in batch for batch in runner.batches)
        runner.gate.open()
        runner.shutter.open()
        if before:
            await before
        assert (await client.generate(Request(params(3)))).images == (pixel(3),), (
            "the next one has the slot"
        )
        assert sum(2 in batch for batch in runner.batches) <= rides + 1, "it rode on"
        await until(lambda: client.stats.cancelled == 1)
        assert client.stats.cancel_ticks <= 1
        await until(lambda: client.stats.running == 0)


@asynchronous
async def test_a_client_that_leaves_frees_its_slots_by_the_next_tick() -> None:
    runner = FakeRunner()
    async with running(runner) as client:
        runner.gate.hold()
        tasks = [begin(client, params(10 * k, steps=1000, n=2)) for k in range(9)]
        await until(lambda: worker_of(client).jobs + worker_of(client).unread == 9)
        for k, task in enumerate(tasks[:-1]):
            made = len(runner.batches)
            runner.gate.let(5)
            await until(lambda made=made: len(runner.batches) == made + 5)
            task.cancel()
            await until(lambda: worker_of(client).unread)
            runner.gate.let(2)
            await until(lambda made=made: len(runner.batches) == made + 7)
            riding = {10 * k, 10 * k + 1} & set(runner.batches[-1])
            assert not riding, "the tick that had begun is the last it rides"
        runner.gate.open()
        await asyncio.wait(tasks)
        await until(lambda: client.stats.cancelled == 8)
        assert client.stats.cancel_ticks <= 1
        await until(lambda: client.stats.running == 0)


@asynchronous
async def test_an_image_that_is_not_finite_fails_alone() -> None:
    async with running(FakeRunner(blank=[7])) as client:
        wants = [params(1), params(6, n=2), params(2)]
        tasks = [begin(client, want) for want in wants]
        _, bad, _ = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(bad, GenerationFailed)
        assert str(bad) == "an image is not finite"
        assert (tasks[0].result().images, tasks[2].result().images) == ((pixel(1),), (pixel(2),))
        assert (await client.generate(Request(params(3)))).images == (pixel(3),)


@asynchronous
async def test_a_row_that_makes_a_step_raise_fails_alone() -> None:
    runner = FakeRunner(poison=[7])
    async with running(runner) as client:
        runner.gate.hold()
        tasks = [begin(client, params(s, steps=5)) for s in (1, 2, 7, 3)]
        await until(lambda: client.jobs == 4)
        runner.gate.open()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(answers.pop(2), GenerationFailed)
        assert [a.images for a in answers] == [(pixel(1),), (pixel(2),), (pixel(3),)]
        assert (await client.generate(Request(params(4)))).images == (pixel(4),)


@asynchronous
async def test_an_image_that_cannot_begin_fails_its_request_alone() -> None:
    runner = FakeRunner(unable=[8])
    async with running(runner) as client:
        tasks = [begin(client, params(s, steps=5)) for s in (1, 2, 8, 3)]
        several = begin(client, params(7, n=3))  # the second of its images is seed 8
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert str(answers.pop(2)) == "out of memory"
        assert [a.images for a in answers] == [(pixel(1),), (pixel(2),), (pixel(3),)]
        with pytest.raises(GenerationFailed, match="out of memory"):
            await several
        assert (await client.generate(Request(params(4)))).images == (pixel(4),)
        assert runner.expected == [1, 2, 8, 3, 7, 4]


@asynchronous
async def test_memory_that_runs_out_is_not_noticed() -> None:
    runner = FakeRunner(memory=3)
    async with running(runner, slots=8) as client:
        wants = [params(s, steps=20, scale=2.0 if s % 2 else 1.0) for s in range(8)]
        answers = await asyncio.gather(*(client.generate(Request(want)) for want in wants))
        assert [answer.images for answer in answers] == [(pixel(s),) for s in range(8)]
        runner.memory = 1
        with pytest.raises(GenerationFailed, match="out of memory"):
            await client.generate(Request(params(1, scale=2.0)))
        assert (await client.generate(Request(params(2)))).images == (pixel(2),)


@asynchronous
async def test_closing_ends_what_is_left() -> None:
    runner = FakeRunner()
    async with running(runner) as client:
        runner.gate.hold()
        task = begin(client, params(1, steps=1000))
        await until(lambda: runner.started)
        closing = asyncio.create_task(client.close())
        await asyncio.sleep(0.01)
        runner.gate.open()
        await closing
        with pytest.raises(EngineUnavailable, match="the engine stopped"):
            await task
        assert not client.ready
        with pytest.raises(EngineUnavailable):
            await client.generate(Request(params(1)))


@asynchronous
async def test_a_model_that_does_not_load_is_reported() -> None:
    def load(_: Load) -> list[Any]:
        raise ValueError("unet/config.json: no such thing")

    told = asyncio.Event()
    client = EngineClient(LOAD, LIMITS, lambda wanted: ThreadWorker(wanted, load))
    client.fleet.refused = told.set
    await client.start()
    await told.wait()
    assert client.fleet.fault == "unet/config.json: no such thing"
    with pytest.raises(EngineUnavailable, match="no such thing"):
        await client.generate(Request(params(1)))
    await client.close()


def wide(seed: int, side: int, **more: Any) -> SamplingParams:
    return dataclasses.replace(params(seed, **more), width=side, height=side)


@asynchronous
async def test_sizes_have_lanes_of_their_own() -> None:
    """Each made when first asked for, and the requests that wait for it are drawn."""
    runner = FakeRunner()
    async with running(runner) as client:
        wants = [wide(seed, 1 + seed % 3, steps=1 + seed % 5) for seed in range(30)]
        answers = await asyncio.gather(*(client.generate(Request(want)) for want in wants))
        lanes = [("fake", side, side) for side in (1, 2, 3)]
        await until(lambda: sorted(client.stats.lanes) == lanes)
        await until(lambda: all(lane.ticks for lane in client.stats.lanes.values()))
        await until(lambda: client.stats.running == 0)
    assert [answer.images for answer in answers] == [(pixel(seed),) for seed in range(30)]
    assert sorted(runner.sizes) == [(2, 2), (3, 3)]
    assert {seed % 3 for batch in runner.batches for seed in batch} == {0}
    assert {seed % 3 for batch in runner.sizes[3, 3].batches for seed in batch} == {2}


@asynchronous
async def test_a_size_without_memory_fails_its_requests_and_disturbs_no_other() -> None:
    runner = FakeRunner()
    runner.largest = 4
    async with running(runner) as client:
        tasks = [begin(client, wide(side, side)) for side in (1, 2, 3, 1)]
        _, _, bad, _ = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(bad, GenerationFailed)
        told = "no images of 3x3 can be made: fake: out of memory even for the smallest tick"
        assert str(bad) == told
        assert [tasks[k].result().images for k in (0, 1, 3)] == [(pixel(k),) for k in (1, 2, 1)]
        assert (await client.generate(Request(wide(5, 2)))).images == (pixel(5),)
        assert client.fleet.restarts == 0


@asynchronous
async def test_a_worker_that_makes_a_lane_is_not_taken_for_hung() -> None:
    class Slow(FakeRunner):
        def at(self, width: int, height: int) -> FakeRunner:
            time.sleep(1.0)  # twice as long as it may be silent
            return super().at(width, height)

    runners: list[ModelRunner] = [Slow()]
    upkeep = Upkeep(hang_seconds=0.6)
    client = EngineClient(LOAD, LIMITS, lambda load: ThreadWorker(load, lambda _: runners), upkeep)
    await client.start()
    await until(lambda: client.ready)
    assert (await client.generate(Request(wide(1, 2)))).images == (pixel(1),)
    assert client.fleet.restarts == 0
    await client.close()


@asynchronous
async def test_the_server_knows_what_ticks_cost_as_the_worker_learns_it() -> None:
    """A device that is ten times as fast as it was when it was measured."""

    class Fast(FakeRunner):
        def step(self, images: Sequence[Image], rows: int) -> None:
            self.begun = time.perf_counter()
            time.sleep(0.0003)
            super().step(images, rows)

    async with running(Fast()) as client:
        before = client.costs(INFO.lane)
        assert before == INFO.costs
        for _ in range(20):  # where other processes take turns, a sleep may be long for a while
            await client.generate(Request(params(1, steps=300)))
            if client.costs(INFO.lane) != before:
                break
        await until(lambda: client.costs(INFO.lane) != before)
        learned = client.costs(INFO.lane)
        assert [bucket.rows for bucket in learned.buckets] == [1, 2, 4, 8]
        assert 0.0003 <= learned.buckets[0].seconds < before.buckets[0].seconds
        assert client.models["fake"].costs == before, "what was measured stays what it was"
