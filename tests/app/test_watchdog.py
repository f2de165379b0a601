"""Workers that hang, do not load, or are not understood; over runners that can be held."""

import asyncio
import contextlib
import dataclasses
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

import msgspec
import pytest
from fastapi.testclient import TestClient

from app.engine import supervisor
from app.engine.client import EngineClient
from app.engine.errors import DeadlineExceeded, EngineUnavailable, GenerationFailed
from app.engine.job import Asker, Request
from app.engine.model_runner import ModelRunner
from app.engine.results import Moved
from app.engine.watchdog import Upkeep, Watchdog
from app.engine.wire import Load, Submit, pack
from app.engine.worker import Worker
from app.main import create_app
from app.settings import Settings
from models.conditioning import Condition, Prompt
from tests.engine import LIMITS, asynchronous, begin, until, worker_of
from tests.fakes import INFO, LOAD, FakeRunner, ThreadWorker, params, pixel

pytestmark = pytest.mark.slow  # workers that die and hang

HANG = Upkeep(hang_seconds=0.4)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next worker is started without the pause, which is tested by itself."""
    monkeypatch.setattr(supervisor, "_pause", lambda failures: 0.0)


PAUSE = supervisor._pause


def test_workers_that_do_not_load_are_started_ever_later() -> None:
    assert [PAUSE(failures) for failures in range(5)] == [0, 1, 3, 7, 15]
    assert PAUSE(10) == PAUSE(10**6) == 30


@asynccontextmanager
async def lives(
    *runners: FakeRunner, upkeep: Upkeep = HANG, slots: int = 4
) -> AsyncIterator[EngineClient]:
    """An engine whose first worker has the first runner, and so on."""
    each = iter(runners)
    load = msgspec.structs.replace(LOAD, slots=slots)
    client = EngineClient(
        load, LIMITS, lambda load: ThreadWorker(load, lambda _: [next(each)]), upkeep
    )
    await client.start()
    await until(lambda: client.ready)
    try:
        yield client
    finally:
        for runner in runners:
            runner.gate.open()
        await client.close()
        assert client.jobs == 0


def looks(dog: Watchdog, count: int, *, busy: bool = True, heard: int = 0) -> int | None:
    """After how many looks of a second each it is taken for hung, if at all."""
    for number in range(1, count + 1):
        if dog.look(1.0, heard=heard, owes=busy):
            return number
    return None


def test_a_worker_with_work_may_be_silent_so_long_and_no_longer() -> None:
    dog = Watchdog(Upkeep(hang_seconds=30))
    dog.tick = 0.01
    assert looks(dog, 1000, busy=False) is None
    assert looks(dog, 30) is None
    assert not dog.look(1.0, heard=1, owes=True), "a word, and it has all the time again"
    assert looks(dog, 30, heard=1) is None
    assert looks(dog, 1, heard=1) == 1
    assert "been silent for 30 s" in dog.verdict


def test_a_slow_worker_has_twenty_ticks() -> None:
    dog = Watchdog(Upkeep(hang_seconds=30))
    dog.tick = 4.0
    assert looks(dog, 1000) == 81


def test_a_worker_that_loads_gives_signs_of_life_and_has_a_deadline() -> None:
    frozen = Watchdog(Upkeep(hang_seconds=5, load_seconds=60))
    assert looks(frozen, 100, busy=False) == 6
    endless = Watchdog(Upkeep(hang_seconds=5, load_seconds=60))
    assert not any(endless.look(1.0, heard=beat, owes=False) for beat in range(60))
    assert endless.look(1.0, heard=60, owes=False)
    assert endless.verdict == "did not load within 60 s"


def test_fetching_a_model_has_no_deadline_and_does_not_count_as_loading() -> None:
    dog = Watchdog(Upkeep(hang_seconds=5, load_seconds=60))
    dog.waiting = True
    assert not any(dog.look(1.0, heard=beat, owes=False) for beat in range(1000))
    dog.waiting = False
    assert not any(dog.look(1.0, heard=1000 + beat, owes=False) for beat in range(60))
    assert dog.look(1.0, heard=1060, owes=False)


@asynchronous
async def test_a_worker_that_hangs_is_replaced_and_nobody_notices() -> None:
    runners = [FakeRunner(), FakeRunner()]
    async with lives(*runners) as client:
        runners[0].gate.let(7)
        wants = [params(10 * k, steps=1 + k % 9, n=1 + k % 3) for k in range(40)]
        tasks = [begin(client, want) for want in wants]
        await until(lambda: len(runners[0].batches) == 7)
        assert client.ready
        await until(lambda: not client.ready)
        answers = await asyncio.gather(*tasks)
        assert client.ready
        assert client.fleet.restarts == 1
    for want, answer in zip(wants, answers, strict=True):
        assert answer.images == tuple(pixel(want.seed_of(k)) for k in range(want.n))


@asynchronous
async def test_a_hang_is_noticed_though_every_client_leaves_before_it_is() -> None:
    runners = [FakeRunner(), FakeRunner()]
    async with lives(*runners) as client:
        runners[0].gate.hold()
        while not client.fleet.restarts:
            with contextlib.suppress(DeadlineExceeded):
                await client.generate(Request(params(1), timeout=0.05))
            await asyncio.sleep(0.02)  # nothing is waited for
        assert (await client.generate(Request(params(2)))).images == (pixel(2),)


@asynchronous
async def test_a_server_that_was_stopped_does_not_take_its_worker_for_hung() -> None:
    """While the loop stands still the worker is silent, too, and a little longer."""
    runner = FakeRunner()
    async with lives(runner) as client:
        runner.gate.let(2)
        task = begin(client, params(1, steps=5))
        await until(lambda: len(runner.batches) == 2)
        await asyncio.sleep(0.1)  # what it said so far is read
        time.sleep(3 * HANG.hang_seconds)
        await asyncio.sleep(0.1)
        runner.gate.open()
        assert (await task).images == (pixel(1),)
        assert client.fleet.restarts == 0


@asynchronous
async def test_a_request_at_which_every_worker_hangs_fails_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    runners = [FakeRunner(stuck=[7]) for _ in range(5)]
    async with lives(*runners, upkeep=Upkeep(hang_seconds=0.2)) as client:
        secret = Condition(0, Prompt("a private wish", "a private fear"))
        tasks = [
            begin(client, dataclasses.replace(params(seed, steps=3), condition=secret))
            for seed in (1, 7, 2)
        ]
        _, bad, _ = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(bad, GenerationFailed)
        assert [tasks[k].result().images for k in (0, 2)] == [(pixel(1),), (pixel(2),)]
        assert client.fleet.restarts == 4, "twice with the others, twice alone"
    assert "(fake, 1x1) was running alone at two deaths" in caplog.text
    assert "private" not in caplog.text + str(bad)


class Loaders:
    """What each model's opening does, by name, in each life of the worker: the last for good."""

    def __init__(self, **lives: list[Callable[[], ModelRunner]]) -> None:
        self._lives = {name: iter(each) for name, each in lives.items()}
        self._last: dict[str, Callable[[], ModelRunner]] = {}
        self.load = msgspec.structs.replace(LOAD, models={name: f"/x/{name}" for name in lives})

    def __call__(self, load: Load) -> list[ModelRunner]:
        (name,) = load.models
        self._last[name] = next(self._lives[name], self._last.get(name, lambda: FakeRunner()))
        return [self._last[name]()]

    def start(self, load: Load) -> ThreadWorker:
        return ThreadWorker(load, self)

    def client(self, upkeep: Upkeep = HANG) -> EngineClient:
        return EngineClient(self.load, LIMITS, self.start, upkeep)


def good(name: str) -> Callable[[], ModelRunner]:
    return lambda: FakeRunner(dataclasses.replace(INFO, name=name))


def broken(name: str) -> Callable[[], ModelRunner]:
    def load() -> ModelRunner:
        raise ValueError(f"/x/{name}/unet/config.json: act_fn is\n'tanh'")

    return load


def dead() -> ModelRunner:
    raise SystemExit


class Endless:
    """Never opens, and gives signs of life all the while; ends with the test."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def __call__(self) -> ModelRunner:
        self.over.wait(30)
        raise SystemExit


@pytest.fixture
def endless() -> Iterator[Endless]:
    made = Endless()
    yield made
    made.over.set()


@asynchronous
async def test_a_bad_model_does_not_keep_the_others_from_serving(
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = Loaders(bad=[broken("bad")], fake=[good("fake")], other=[good("other")]).client()
    await client.start()
    await until(lambda: client.ready)
    assert list(client.models) == ["fake", "other"]
    assert client.failed == {"bad": "bad/unet/config.json: act_fn is 'tanh'"}
    assert (await client.generate(Request(params(1)))).images == (pixel(1),)
    with pytest.raises(EngineUnavailable, match="model 'bad' does not load: bad/unet"):
        await client.generate(Request(params(1, model="bad")))
    await client.close()
    logged = [record.getMessage() for record in caplog.records]
    assert "model bad is left out: /x/bad/unet/config.json: act_fn is 'tanh'" in logged
    assert "requests that name no model get fake instead of bad" in logged


def test_all_the_world_is_told_which_models_are_left_out_and_why() -> None:
    engine = Loaders(bad=[broken("bad")], fake=[good("fake")]).client()
    with TestClient(create_app(Settings(), engine), base_url="http://localhost") as client:
        while not engine.ready:
            client.get("/livez")
        listed = client.get("/models").json()
        assert [(model["name"], model["default"]) for model in listed["models"]] == [("fake", True)]
        reason = "bad/unet/config.json: act_fn is 'tanh'"
        assert listed["failed"] == [{"name": "bad", "reason": reason}]
        assert client.get("/readyz").status_code == 200
        asked: Mapping[str, object] = {"model": "bad", "seed": 1}
        answers = [
            client.post("/generate", json=asked),
            client.get("/generate", params={"model": "bad"}),
            client.post("/models/bad", json={"inputs": "a"}),
            client.post("/v1/images/generations", json={"model": "bad", "prompt": "a"}),
            client.get("/v1/models/bad"),
            client.get("/v2/models/bad"),
        ]
        for answer in answers:
            assert answer.status_code == 503, answer.text
            assert f"model 'bad' does not load: {reason}" in answer.text
        ready = client.get("/v2/models/bad/ready")
        assert (ready.status_code, ready.json()["ready"]) == (503, False)
        assert client.get("/v2/models/fake/ready").status_code == 200
        assert client.post("/generate", json={"model": "worse"}).status_code == 404
        assert client.post("/generate", json={"class": "a", "seed": 1}).status_code == 200


@asynchronous
async def test_all_models_can_be_required() -> None:
    upkeep = dataclasses.replace(HANG, require_all=True)
    client = Loaders(fake=[good("fake")], bad=[broken("bad")]).client(upkeep)
    told = asyncio.Event()
    client.fleet.refused = told.set
    await client.start()
    await told.wait()
    assert client.fleet.fault is not None
    assert "bad: bad/unet/config.json: act_fn" in client.fleet.fault
    assert not client.accepting
    await client.close()


@asynchronous
async def test_where_no_model_loads_the_server_stops_and_names_each() -> None:
    client = Loaders(bad=[broken("bad")], worse=[broken("worse")]).client()
    told = asyncio.Event()
    client.fleet.refused = told.set
    await client.start()
    await told.wait()
    expected = "; ".join(f"{n}: {n}/unet/config.json: act_fn is 'tanh'" for n in ("bad", "worse"))
    assert client.fleet.fault == f"models do not load: {expected}"
    await client.close()


@asynchronous
async def test_a_model_at_which_workers_die_is_left_out_after_three_tries() -> None:
    client = Loaders(fake=[good("fake")], deadly=[dead]).client()
    await client.start()
    await until(lambda: client.ready)
    assert client.fleet.restarts == 3
    assert client.failed == {"deadly": "the worker died 3 times while loading it"}
    assert (await client.generate(Request(params(1)))).images == (pixel(1),)
    await client.close()


@asynchronous
async def test_a_model_that_never_loads_is_left_out_at_the_deadline(endless: Endless) -> None:
    upkeep = Upkeep(hang_seconds=30, load_seconds=1)
    client = Loaders(fake=[good("fake")], endless=[endless]).client(upkeep)
    await client.start()
    await until(lambda: client.ready)
    assert client.failed == {"endless": "the worker did not load within 1 s"}
    assert (await client.generate(Request(params(1)))).images == (pixel(1),)
    await client.close()


@asynchronous
async def test_what_does_not_load_again_ends_its_own_requests_alone() -> None:
    held = FakeRunner(dataclasses.replace(INFO, name="bad"))
    loaders = Loaders(fake=[good("fake")], bad=[lambda: held, broken("bad")])
    client = loaders.client()
    await client.start()
    await until(lambda: client.ready)
    held.gate.hold()
    tasks = [begin(client, params(1, model=name)) for name in ("bad", "fake")]
    await until(lambda: held.started)
    worker_of(client).thread.kill()
    bad, _ = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(bad, EngineUnavailable)
    assert "act_fn is 'tanh'" in str(bad)
    assert tasks[1].result().images == (pixel(1),)
    await until(lambda: client.ready)
    assert list(client.models) == ["fake"]
    held.gate.open()
    await client.close()


@asynchronous
async def test_a_server_whose_models_all_fail_to_load_again_goes_on_trying() -> None:
    held = FakeRunner()
    client = Loaders(fake=[lambda: held, broken("fake"), good("fake")]).client()
    await client.start()
    await until(lambda: client.ready)
    held.gate.hold()
    task = begin(client, params(1))
    await until(lambda: held.started)
    worker_of(client).thread.kill()
    with pytest.raises(EngineUnavailable, match="act_fn"):
        await task
    with pytest.raises(EngineUnavailable, match=r"the models are not loaded; fake: .*act_fn"):
        await client.generate(Request(params(1)))
    await until(lambda: client.ready)
    assert client.failed == {}
    assert (await client.generate(Request(params(1)))).images == (pixel(1),)
    held.gate.open()
    await client.close()


@asynchronous
async def test_a_worker_that_is_not_understood_is_replaced(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for garbage in (struct.pack("!I", 1) + b"\xc1", b"\xff" * 4):  # no MessagePack; 4 GiB of it
        runners = [FakeRunner(), FakeRunner()]
        async with lives(*runners, upkeep=Upkeep()) as client:
            runners[0].gate.hold()
            task = begin(client, params(1))
            await until(lambda runners=runners: runners[0].started)
            worker_of(client).thread.worker._connection.sendall(garbage)
            assert (await task).images == (pixel(1),)
            assert client.fleet.restarts == 1
    assert caplog.text.count("cannot be handled; the worker is replaced") == 2
    assert "DecodeError" in caplog.text


@asynchronous
async def test_a_bug_in_what_handles_events_costs_a_worker_and_no_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    runners, raised = [FakeRunner(), FakeRunner()], []

    def watch(update: object) -> None:
        if isinstance(update, Moved) and not raised:
            raised.append(update)
            raise RuntimeError("a bug")

    async with lives(*runners, upkeep=Upkeep()) as client:
        runners[0].gate.let(5)
        task = begin(client, params(1, steps=10), watch=watch)
        await until(lambda: len(runners[0].batches) == 5)
        await asyncio.sleep(0.3)  # longer than the worker takes between reports
        runners[0].gate.open()
        assert (await task).images == (pixel(1),)
        assert client.fleet.restarts == len(raised) == 1
    assert "RuntimeError: a bug" in caplog.text


@asynchronous
async def test_supervision_that_fails_stops_the_server(caplog: pytest.LogCaptureFixture) -> None:
    runner = FakeRunner()
    each = iter([lambda load: ThreadWorker(load, lambda _: [runner])])
    client = EngineClient(LOAD, LIMITS, lambda load: next(each)(load))  # then StopIteration
    told = asyncio.Event()
    client.fleet.refused = told.set
    await client.start()
    await until(lambda: client.ready)
    runner.gate.hold()
    task = begin(client, params(1))
    await until(lambda: runner.started)
    worker_of(client).thread.kill()
    await told.wait()
    with pytest.raises(EngineUnavailable, match="supervision failed"):
        await task
    assert not client.ready
    assert "the worker's supervision failed" in caplog.text
    runner.gate.open()
    await client.close()


@contextmanager
def alone(runner: FakeRunner) -> Iterator[tuple[socket.socket, threading.Event]]:
    """A worker without a server: what it hears, and whether it has given up on who speaks."""
    ours, theirs = socket.socketpair()
    ended = threading.Event()
    with ours, theirs:
        worker = Worker(theirs, lambda _: [runner], orphaned=ended.set)
        thread = threading.Thread(target=worker.run)
        thread.start()
        ours.sendall(pack(LOAD))
        yield ours, ended
        worker.stop()
        thread.join()


def test_a_worker_that_does_not_understand_its_server_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with alone(FakeRunner()) as (server, ended):
        server.sendall(struct.pack("!I", 1) + b"\xc1")
        assert ended.wait(30)
    assert "cannot be read; this worker ends" in caplog.text
    assert "DecodeError" in caplog.text


def test_a_line_about_a_step_that_fails_names_its_requests(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with alone(FakeRunner(poison=[7])) as (server, _):
        server.sendall(pack(Submit(1, Request(params(7), asker=Asker("", "abc-1")))))
        heard = b""
        while b"Failed" not in heard:
            heard += server.recv(4096)
    assert "a step of 1 images failed, of requests abc-1: a bad row" in caplog.text


@asynchronous
async def test_a_model_that_is_slow_to_decode_does_not_hold_up_another() -> None:
    slow, other = FakeRunner(), FakeRunner(dataclasses.replace(INFO, name="other"))
    load = msgspec.structs.replace(LOAD, models={"fake": "", "other": ""})
    by_name: Mapping[str, ModelRunner] = {"fake": slow, "other": other}
    client = EngineClient(
        load, LIMITS, lambda load: ThreadWorker(load, lambda one: [by_name[next(iter(one.models))]])
    )
    await client.start()
    await until(lambda: client.ready)
    slow.shutter.hold()
    decoding = begin(client, params(1, steps=2))
    await until(lambda: len(slow.batches) == 2)
    beside = begin(client, params(2, model="other", steps=50))
    assert (await beside).images == (pixel(2),), "fifty ticks while the other decodes"
    assert not decoding.done()
    slow.shutter.open()
    assert (await decoding).images == (pixel(1),)
    await client.close()
