"""What those are told who follow a request: order, previews, one end; over a fake runner."""

import asyncio
import dataclasses
import itertools
import json
import threading
from contextlib import aclosing
from typing import Any

import msgspec
import pytest

from app import generation
from app.engine.client import EngineClient
from app.engine.errors import DeadlineTooShort, GenerationFailed
from app.engine.job import Request, preview_points
from app.engine.results import Moved, Pixels, Preview, Queued, Result
from app.engine.wire import Load
from app.generation import Studio
from tests.engine import LIMITS, asynchronous, running, served, until, worker_of
from tests.fakes import INFO, LOAD, FakeRunner, ThreadWorker, params, pixel


async def told(studio: Studio, request: Request) -> list[Any]:
    async with aclosing(studio.generation(request).follow()) as updates:
        return [update async for news in updates for update in news]


@asynchronous
async def test_everyone_is_told_of_their_own_in_order_and_of_one_end() -> None:
    async with running(FakeRunner(), slots=8) as client:
        studio = Studio(client, marked=True)
        orders = [
            Request(params(100 * k, steps=20 + k, n=1 + k % 3), previews=k % 5) for k in range(20)
        ]
        answers = await asyncio.gather(*(told(studio, order) for order in orders))
    for order, updates in zip(orders, answers, strict=True):
        want = order.params
        assert isinstance(updates[0], Queued)
        assert [isinstance(update, Result) for update in updates].index(True) == len(updates) - 1
        assert updates[-1].images == tuple(pixel(want.seed_of(k)) for k in range(want.n))
        moved = [update.step for update in updates if isinstance(update, Moved)]
        assert moved == sorted(moved)
        assert all(step <= want.steps * want.n for step in moved)
        shown = [update for update in updates if isinstance(update, Preview)]
        expected = itertools.product(preview_points(want.steps, order.previews), range(want.n))
        assert sorted((update.step, update.image) for update in shown) == sorted(expected)
        for image in range(want.n):
            steps = [update.step for update in shown if update.image == image]
            assert steps == sorted(steps)
        for update in shown:  # the fake adds the step to the seed
            assert update.pixels == pixel(want.seed_of(update.image) + update.step)


@asynchronous
async def test_a_single_image_is_never_shown_after_a_later_step_was_told() -> None:
    async with running(FakeRunner()) as client:
        studio = Studio(client, marked=True)
        updates = await told(studio, Request(params(1, steps=1000), previews=16))
    steps = [update.step for update in updates if isinstance(update, Moved | Preview)]
    assert len(steps) >= 16
    assert steps == sorted(steps)


def test_previews_are_evenly_spaced_between_the_first_step_and_the_last() -> None:
    for steps, previews in itertools.product(range(1, 60), range(17)):
        shown = sorted(preview_points(steps, previews))
        assert len(shown) == previews or steps <= previews * 2
        assert all(0 < step < steps for step in shown)
        gaps = [b - a for a, b in itertools.pairwise([0, *shown, steps])]
        if len(shown) == previews:
            assert max(gaps) - min(gaps) <= 1 + (steps < 2 * (previews + 1))


@asynchronous
async def test_those_who_wait_are_told_their_place() -> None:
    runner = FakeRunner()
    async with running(runner, slots=1) as client:
        runner.gate.hold()
        studio = Studio(client, marked=True)
        first = asyncio.create_task(told(studio, Request(params(1))))
        await until(lambda: runner.started)
        others = [asyncio.create_task(told(studio, Request(params(k)))) for k in (2, 3)]
        await until(lambda: client.jobs == 3)
        urgent = asyncio.create_task(told(studio, Request(params(4), priority=5)))
        await until(lambda: client.jobs == 4)
        runner.gate.open()
        answers = await asyncio.gather(first, *others, urgent)
    assert [updates[0].position for updates in answers] == [0, 0, 1, 0]
    waits = [updates[0].wait for updates in answers]
    assert waits[0] == 0 < waits[1] < waits[2]


@asynchronous
async def test_closing_ends_the_request() -> None:
    runner = FakeRunner()
    async with running(runner) as client:
        runner.gate.hold()
        async with aclosing(
            Studio(client, marked=True).generation(Request(params(1))).follow()
        ) as updates:
            await anext(updates)
            await until(lambda: runner.started)
        assert client.jobs == 0
        await until(lambda: worker_of(client).unread)  # heard before the gate opens
        runner.gate.open()
        await until(lambda: client.stats.cancelled == 1)


@asynchronous
async def test_a_quiet_stream_gives_signs_of_life() -> None:
    runner = FakeRunner()
    async with running(runner) as client:
        runner.gate.hold()
        studio = Studio(client, marked=True, quiet=0.01)
        async with aclosing(studio.generation(Request(params(1))).follow()) as updates:
            assert isinstance((await anext(updates))[0], Queued)
            assert [await anext(updates) for _ in range(3)] == [()] * 3
            runner.gate.open()
            last = [update async for news in updates for update in news][-1]
    assert isinstance(last, Result)


@asynchronous
async def test_what_is_refused_raises_at_once_and_what_fails_at_its_end() -> None:
    async with running(FakeRunner(poison=[7])) as client:
        studio = Studio(client, marked=True)
        with pytest.raises(DeadlineTooShort):
            await anext(studio.generation(Request(params(1, steps=1000), timeout=0.01)).follow())
        async with aclosing(studio.generation(Request(params(7))).follow()) as updates:
            assert isinstance((await anext(updates))[0], Queued)
            with pytest.raises(GenerationFailed):
                await anext(updates)


@pytest.mark.parametrize(("n", "ticks"), [(1, 60), (3, 60), (3, 130)])
@asynchronous
async def test_after_a_worker_died_nothing_is_told_twice_and_nothing_left_out(
    n: int, ticks: int
) -> None:
    """With two slots for three images, which are at different steps then."""
    runners = [FakeRunner(), FakeRunner()]
    lives = iter(runners)

    def start(load: Load) -> ThreadWorker:
        return ThreadWorker(load, lambda _: [next(lives)])

    client = EngineClient(msgspec.structs.replace(LOAD, slots=2), LIMITS, start)
    await client.start()
    await until(lambda: client.ready)
    runners[0].gate.let(ticks)
    order = Request(params(1, steps=100, n=n), previews=9)
    following = asyncio.create_task(told(Studio(client, marked=True), order))
    await until(lambda: len(runners[0].batches) == ticks)
    await asyncio.sleep(0.3)  # longer than the worker takes between reports
    worker_of(client).thread.kill()
    runners[0].gate.open()
    updates = await following
    await client.close()
    assert client.fleet.restarts == 1
    shown = [update for update in updates if isinstance(update, Preview)]
    for image in range(n):
        steps = [update.step for update in shown if update.image == image]
        assert steps == sorted(preview_points(100, 9))
    moved = [update.step for update in updates if isinstance(update, Moved)]
    assert moved == sorted(set(moved))
    assert isinstance(updates[-1], Result)


def test_a_stream_that_fails_on_the_way_ends_with_one_error() -> None:
    runner = FakeRunner(poison=[7])
    with served(runner) as (client, _):
        answer = client.post(
            "/generate", json={"class": "a", "seed": 7}, headers={"accept": "text/event-stream"}
        )
    assert answer.status_code == 200
    blocks = [block.split("\n") for block in answer.text.strip().split("\n\n")]
    assert blocks[0][0] == "event: queued"
    assert [lines[0] for lines in blocks].count("event: error") == 1
    problem = json.loads(blocks[-1][1].removeprefix("data: "))
    assert (problem["status"], problem["error"]) == (500, "RuntimeError")


@asynchronous
async def test_a_short_one_does_not_wait_behind_long_ones_nor_behind_another_model() -> None:
    runner, other = FakeRunner(), FakeRunner(dataclasses.replace(INFO, name="other"))
    async with running(runner, other, slots=1) as client:
        runner.gate.hold()
        other.gate.hold()
        studio = Studio(client, marked=True)
        wanted = [
            params(1),
            params(2, steps=101),
            params(3, steps=101),
            params(4),
            params(5),
            params(6, model="other"),
        ]
        tasks = []
        for number, want in enumerate(wanted, start=1):
            tasks.append(asyncio.create_task(told(studio, Request(want))))
            await until(lambda number=number: client.jobs == number)
            if number == 1:
                await until(lambda: runner.started)
        runner.gate.open()
        other.gate.open()
        answers = await asyncio.gather(*tasks)
    assert [updates[0].position for updates in answers] == [0, 0, 1, 0, 1, 0]
    for updates in answers:
        places = [update.position for update in updates if isinstance(update, Queued)]
        assert places == sorted(set(places), reverse=True), "a place is told when it changes"


@asynchronous
async def test_large_pictures_are_encoded_beside_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And small ones where they are: a thread would take longer to begin."""
    threads: list[int] = []

    def encode(*_: object) -> bytes:
        threads.append(threading.get_ident())
        return b"file"

    monkeypatch.setattr(generation, "encode", encode)
    async with running(FakeRunner()) as client:
        drawn = Studio(client, marked=True).generation(Request(params(n=2)))
        for size in (8, 512):
            images = (Pixels(size, size, 3, bytes(3 * size * size)),) * 2
            assert await drawn.files(Result(images, 0.0, 0.0, 0.0)) == [b"file"] * 2
    own = threading.get_ident()
    assert [thread == own for thread in threads] == [True, True, False, False]
