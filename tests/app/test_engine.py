"""The worker's loop and the client's side of it, over a runner without a network."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from app.engine.client import EngineClient, Pace
from app.engine.job import EngineBusy, EngineUnavailable, GenerationFailed, LoadFailed
from app.engine.worker import WorkerConfig
from tests.fakes import INFO, FakeRunner, params

CONFIG = WorkerConfig({}, "cpu", "float32", slots=4)


@asynccontextmanager
async def running(*runners: FakeRunner, max_images: int = 100) -> AsyncIterator[EngineClient]:
    client = EngineClient(CONFIG, max_images, load=lambda _: list(runners))
    client.attach()
    client.load()
    try:
        yield client
    finally:
        for runner in runners:
            runner.gate.set()
        await client.close()


def asynchronous(test: Callable[[], object]) -> Callable[[], None]:
    """Run an async test on a loop of its own, for at most a minute."""

    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), 60))  # type: ignore[arg-type]

    run.__name__ = test.__name__
    return run


@asynchronous
async def test_everyone_gets_their_own_images() -> None:
    async with running(FakeRunner()) as client:
        wants = [params(seed, steps=1 + seed % 5, n=1 + seed % 3) for seed in range(30)]
        answers = await asyncio.gather(*(client.generate(want) for want in wants))
    for want, images in zip(wants, answers, strict=True):
        assert [image.data[0] for image in images] == [want.seed_of(k) for k in range(want.n)]
    assert client.images == 0


@asynchronous
async def test_requests_of_different_lengths_share_steps() -> None:
    runner = FakeRunner()
    runner.gate.clear()
    async with running(runner) as client:
        tasks = [asyncio.create_task(client.generate(params(s, steps=s))) for s in (2, 3, 4)]
        while client.images < 3:
            await asyncio.sleep(0)
        runner.gate.set()
        await asyncio.gather(*tasks)
    # The first step may have begun before all were there.
    assert any(len(batch) == 3 for batch in runner.batches[:2])


@asynchronous
async def test_models_keep_to_themselves() -> None:
    other = dataclasses.replace(INFO, name="other")
    first, second = FakeRunner(), FakeRunner(other)
    async with running(first, second) as client:
        assert list(client.models) == ["fake", "other"]
        await asyncio.gather(client.generate(params(1)), client.generate(params(2, model="other")))
    assert {seed for batch in first.batches for seed in batch} == {1}
    assert {seed for batch in second.batches for seed in batch} == {2}


@asynchronous
async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    runner = FakeRunner()
    async with running(runner, max_images=3) as client:
        await client.generate(params(0))
        runner.gate.clear()
        tasks = [asyncio.create_task(client.generate(params(s))) for s in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(
            EngineBusy, match="3 images are waiting or running; the limit is 3"
        ) as e:
            await client.generate(params(9))
        assert e.value.retry_after >= 1
        runner.gate.set()
        await asyncio.gather(*tasks)
        await client.generate(params(9))


def test_the_wait_is_the_work_left_by_the_pace_so_far() -> None:
    now = 0.0
    pace = Pace(lambda: now)
    assert pace.seconds(10**6) == 1, "nothing is known yet"
    for _ in range(40):
        pace.resume()
        now += 2.0
        for _ in range(64):  # 64 images of 50 steps end in one tick: 1600 steps a second
            pace.made(50)
        assert pace.seconds(16_000) == pytest.approx(10, abs=1)
        now += 3600  # a rest is no slowness
    assert pace.seconds(10**9) == 120
    for _ in range(100):  # something slows it down to 160
        pace.resume()
        now += 2.0
        pace.made(320)
    assert pace.seconds(1_600) == pytest.approx(10, abs=1), "the pace is of late"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@asynchronous
async def test_a_worker_that_dies_takes_nobody_else_in() -> None:
    class Broken(FakeRunner):
        def drop(self, slots: object) -> None:
            raise KeyError("a bug in the handling of a failure")

    client = EngineClient(CONFIG, 10, load=lambda _: [Broken(poison=7)])
    client.attach()
    client.load()
    with pytest.raises(EngineUnavailable, match="the engine stopped"):
        await client.generate(params(7))
    assert not client.ready
    with pytest.raises(EngineUnavailable, match="not running"):
        await client.generate(params(1))
    await client.close()


@asynchronous
async def test_a_cancelled_caller_frees_its_slots() -> None:
    runner = FakeRunner()
    async with running(runner) as client:
        runner.gate.clear()
        long = asyncio.create_task(client.generate(params(1, steps=1000, n=4)))
        while not runner.held:
            await asyncio.sleep(0.001)
        long.cancel()
        with pytest.raises(asyncio.CancelledError):
            await long
        assert client.images == 0
        runner.gate.set()
        await client.generate(params(2))
        assert len(runner.batches) < 50, "nobody rode to the end of a cancelled request"
        assert not runner.held


@asynchronous
async def test_an_image_that_is_not_finite_fails_alone() -> None:
    async with running(FakeRunner(blank=7)) as client:
        good, bad = await asyncio.gather(
            client.generate(params(1)), client.generate(params(7)), return_exceptions=True
        )
    assert isinstance(bad, GenerationFailed)
    assert str(bad) == "an image is not finite"
    assert not isinstance(good, BaseException)


@asynchronous
async def test_a_step_that_raises_fails_its_batch_and_not_the_next() -> None:
    runner = FakeRunner(poison=7)
    async with running(runner) as client:
        with pytest.raises(GenerationFailed, match="RuntimeError in the sampler"):
            await client.generate(params(7, n=2))
        assert not runner.held
        assert [image.data for image in await client.generate(params(3))] == [b"\3"]


@asynchronous
async def test_closing_ends_what_is_left() -> None:
    runner = FakeRunner()
    client = EngineClient(CONFIG, 10, load=lambda _: [runner])
    client.attach()
    client.load()
    assert client.ready
    runner.gate.clear()
    task = asyncio.create_task(client.generate(params(1, steps=1000)))
    await asyncio.sleep(0.01)
    closing = asyncio.create_task(client.close())
    await asyncio.sleep(0.01)
    runner.gate.set()
    await closing
    with pytest.raises(EngineUnavailable, match="the engine stopped"):
        await task
    assert not client.ready
    with pytest.raises(EngineUnavailable):
        await client.generate(params(1))


def test_a_model_that_does_not_load_is_reported() -> None:
    def load(_: WorkerConfig) -> list[FakeRunner]:
        raise ValueError("unet/config.json: no such thing")

    client = EngineClient(CONFIG, 10, load=load)  # type: ignore[arg-type]
    with pytest.raises(LoadFailed, match=r"unet/config\.json: no such thing"):
        client.load()
    assert not client.ready
