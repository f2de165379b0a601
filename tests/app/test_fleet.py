"""Models that come and go, over runners without a network: loaded on demand, and out of the way."""

import asyncio
import dataclasses
import json
import struct
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from fastapi.testclient import TestClient

from app.engine import catalogue, keeping
from app.engine.client import EngineClient
from app.engine.errors import EngineUnavailable
from app.engine.job import Request
from app.engine.keeping import Keeping
from app.engine.model_runner import ModelRunner
from app.engine.watchdog import Upkeep
from app.engine.wire import Load
from app.main import create_app
from app.settings import Settings
from models.shelf import Shelf
from tests.engine import LIMITS, asynchronous, begin, until
from tests.fakes import INFO, LOAD, FakeRunner, ThreadWorker, params, pixel

HEADER = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
WHOLE = struct.pack("<Q", len(HEADER)) + HEADER + b"\0\0\0\0"


class Loader:
    """What loading does, by model; counts the loads, and keeps the runners."""

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.runners: dict[str, FakeRunner] = {}
        self.broken: dict[str, str] = {}
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, load: Load) -> list[ModelRunner]:
        ((name, place),) = load.models.items()
        self.loads.append(name)
        assert self.gate.wait(20)
        if name in self.broken:
            raise ValueError(f"{place}: {self.broken[name]}")
        self.runners[name] = FakeRunner(dataclasses.replace(INFO, name=name))
        return [self.runners[name]]


def engine_of(loader: Loader, folder: Path | None, **keeping: object) -> EngineClient:
    folders = (folder,) if folder else ()
    return EngineClient(
        msgspec.structs.replace(LOAD, models={"fake": ""}),
        LIMITS,
        lambda load: ThreadWorker(load, loader),
        Upkeep(),
        Keeping(folders, **keeping),  # type: ignore[arg-type]
    )


@asynccontextmanager
async def fleeting(loader: Loader, folder: Path, **keeping: object) -> AsyncIterator[EngineClient]:
    client = engine_of(loader, folder, **keeping)
    await client.start()
    await until(lambda: client.ready)
    try:
        yield client
    finally:
        for runner in loader.runners.values():
            runner.gate.open()
        loader.gate.set()
        await client.close()


@contextmanager
def served(loader: Loader, folder: Path, **keeping: object) -> Iterator[TestClient]:
    engine = engine_of(loader, folder, **keeping)
    app = create_app(Settings(), engine)
    with TestClient(app, base_url="http://localhost", client=("127.0.0.1", 1)) as http:
        while not engine.ready:
            http.get("/livez")
        yield http


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("one", "two", "three"):
        (tmp_path / f"{name}.safetensors").write_bytes(WHOLE)
    return tmp_path


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "_SCAN", 0.0)
    monkeypatch.setattr(keeping, "_FRESH", 0.01)


def states(client: EngineClient) -> dict[str, str]:
    return {name: str(client.fleet.state(name)) for name in client.fleet.names}


async def draw(client: EngineClient, seed: int, model: str) -> None:
    """As a route does it: the model is awaited, then asked."""
    await client.described(model, 30)
    answer = await client.generate(Request(params(seed, model=model)))
    assert answer.images == (pixel(seed),)


@asynchronous
async def test_a_model_of_a_folder_is_loaded_when_it_is_asked_for(folder: Path) -> None:
    loader = Loader()
    async with fleeting(loader, folder) as client:
        unloaded = dict.fromkeys(("one", "three", "two"), "unloaded")
        assert states(client) == {"fake": "loaded"} | unloaded
        assert list(client.models) == ["fake"]
        await asyncio.gather(*(draw(client, seed, "one") for seed in range(8)))
        assert loader.loads == ["fake", "one"], "equal loads in flight are one"
        assert states(client)["one"] == "loaded"
        with pytest.raises(KeyError):
            client.models["unknown"]


@asynchronous
async def test_an_unloaded_model_comes_back_for_its_next_request(folder: Path) -> None:
    loader = Loader()
    async with fleeting(loader, folder) as client:
        for round_ in range(10):
            await draw(client, round_, "one")
            await asyncio.gather(client.fleet.unload("one"), draw(client, 50 + round_, "one"))
            await client.fleet.unload("one")
            assert states(client)["one"] == "unloaded"
        assert loader.loads.count("one") >= 10
        assert len(client.fleet.workers) == 1
        assert len(asyncio.all_tasks()) <= 4, "the test, and what looks after one worker"
        assert client.fleet.restarts == 0
        await client.fleet.unload("fake")
        assert client.ready
        await draw(client, 7, "fake")


@asynchronous
async def test_unloading_finishes_what_runs_and_lets_new_requests_wait(folder: Path) -> None:
    loader = Loader()
    async with fleeting(loader, folder) as client:
        await draw(client, 1, "one")
        first = loader.runners["one"]
        first.gate.hold()
        running = begin(client, params(2, model="one"))
        await until(lambda: 2 in first.started)
        unloading = asyncio.create_task(client.fleet.unload("one"))
        await asyncio.sleep(0)
        late = begin(client, params(3, model="one"))
        await asyncio.sleep(0.05)
        assert not unloading.done()
        first.gate.open()
        assert (await running).images == (pixel(2),)
        await unloading
        assert (await late).images == (pixel(3),)
        assert 3 not in first.started
        assert 3 in loader.runners["one"].started


@asynchronous
async def test_the_least_recently_used_leaves_and_what_is_busy_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.engine.turnstile._PATIENCE", 0.2)  # both are busy in their turn
    loader = Loader()
    async with fleeting(loader, folder, most=3) as client:
        await draw(client, 1, "one")
        await draw(client, 2, "two")
        await draw(client, 3, "one")
        await draw(client, 4, "three")
        assert states(client) == {
            "fake": "loaded",
            "one": "loaded",
            "three": "loaded",
            "two": "unloaded",
        }
        for name in ("one", "three"):
            loader.runners[name].gate.hold()
        busy = [begin(client, params(5, model=name)) for name in ("one", "three")]
        await until(lambda: all(5 in loader.runners[n].started for n in ("one", "three")))
        waiting = asyncio.create_task(draw(client, 6, "two"))
        await asyncio.sleep(0.1)
        assert states(client)["two"] == "unloaded"
        assert not waiting.done()
        loader.runners["three"].gate.open()
        await waiting
        assert states(client)["three"] == "unloaded"
        assert states(client)["fake"] == "loaded", "it stays"
        loader.runners["one"].gate.open()
        await asyncio.gather(*busy)


@asynchronous
async def test_models_that_are_always_busy_take_turns(folder: Path) -> None:
    loader, answers = Loader(), Counter[str]()
    async with fleeting(loader, folder, most=2, turn_seconds=0.2) as client:

        async def press(name: str, first: int) -> None:
            """Never less than two requests of a model, one after the other."""
            for seed in range(first, first + 10**6, 2):
                await draw(client, seed, name)
                answers[name] += 1

        names = ("one", "two", "three")
        pressing = [
            asyncio.create_task(press(name, i * 10**7 + j))
            for i, name in enumerate(names)
            for j in range(2)
        ]
        await until(lambda: all(loader.loads.count(name) > 1 for name in names))
        for task in pressing:
            assert not task.done()
            task.cancel()
        await asyncio.gather(*pressing, return_exceptions=True)
        assert min(answers[name] for name in names) > 1


@asynchronous
async def test_a_request_waits_for_room_no_longer_than_its_deadline(folder: Path) -> None:
    loader = Loader()
    async with fleeting(loader, folder, most=2) as client:
        await draw(client, 1, "one")
        loader.runners["one"].gate.hold()
        busy = begin(client, params(2, model="one"))
        await until(lambda: 2 in loader.runners["one"].started)
        with pytest.raises(EngineUnavailable, match=r"model 'two' is not loaded yet, after 0\.2"):
            await client.described("two", 0.2)
        loader.runners["one"].gate.open()
        await busy
        await asyncio.sleep(0.1)
        assert loader.loads == ["fake", "one"], "nobody waits any more"


@asynchronous
async def test_an_idle_model_leaves_and_those_that_stay_do_not(folder: Path) -> None:
    loader = Loader()
    async with fleeting(loader, folder, idle_seconds=0.2) as client:
        await draw(client, 1, "one")
        assert states(client)["one"] == "loaded"
        await until(lambda: states(client)["one"] == "unloaded")
        await until(lambda: "one" not in client.fleet.workers)
        assert states(client)["fake"] == "loaded"
        await draw(client, 2, "one")
        assert loader.loads == ["fake", "one", "one"]


@asynchronous
async def test_a_load_that_fails_is_told_to_all_who_wait_and_tried_again_later(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = Loader()
    loader.broken["one"] = "act_fn is 'tanh'"
    async with fleeting(loader, folder) as client:
        loader.gate.clear()
        waiting = [asyncio.create_task(draw(client, seed, "one")) for seed in range(3)]
        await until(lambda: "one" in loader.loads)
        loader.gate.set()
        for told in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(told, EngineUnavailable)
            assert str(told) == "model 'one' does not load: one: act_fn is 'tanh'"
        assert states(client)["one"] == "failed"
        with pytest.raises(EngineUnavailable, match="act_fn"):
            await draw(client, 1, "one")
        assert loader.loads == ["fake", "one"], "not tried again at once"
        monkeypatch.setattr(catalogue, "_AGAIN", 0.0)
        await client.fleet.refresh()
        with pytest.raises(EngineUnavailable, match="act_fn"):
            await client.open("one", at_once=True)
        del loader.broken["one"]
        await draw(client, 1, "one")
        assert loader.loads == ["fake", "one", "one", "one"]
        assert client.failed == {}
        assert client.fleet.restarts == 0
        assert client.ready


@asynchronous
async def test_a_model_that_fails_again_and_again_is_tried_less_and_less(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would take the place of one that works every ten seconds."""
    loader, now = Loader(), [time.monotonic()]
    monkeypatch.setattr(catalogue, "time", SimpleNamespace(monotonic=lambda: now[0]))
    loader.broken["one"] = "act_fn is 'tanh'"
    pauses = []
    async with fleeting(loader, folder) as client:
        for _ in range(7):
            before = loader.loads.count("one")
            with pytest.raises(EngineUnavailable, match="act_fn") as told:
                await client.open("one", 5)
            assert loader.loads.count("one") == before + 1
            assert told.value.retry_after is not None
            pauses.append(told.value.retry_after)
            now[0] += told.value.retry_after - 1
            with pytest.raises(EngineUnavailable, match="act_fn"):
                await client.open("one", 5)
            assert loader.loads.count("one") == before + 1, "not tried again yet"
            now[0] += 1.5
        assert pauses == [10, 20, 40, 80, 160, 300, 300]
        (folder / "one.safetensors").write_bytes(WHOLE + b"mended")
        await client.fleet.refresh()
        assert client.failed == {}, "another file"
        del loader.broken["one"]
        await draw(client, 1, "one")


@asynchronous
async def test_a_model_that_is_gone_before_there_is_room_for_it_is_refused(folder: Path) -> None:
    loader = Loader()
    async with fleeting(loader, folder, most=2) as client:
        await draw(client, 1, "one")
        loader.runners["one"].gate.hold()
        busy = begin(client, params(2, model="one"))
        await until(lambda: 2 in loader.runners["one"].started)
        waiting = asyncio.create_task(client.described("two", 30))
        await asyncio.sleep(0.05)
        (folder / "two.safetensors").unlink()
        await client.fleet.refresh()
        with pytest.raises(EngineUnavailable, match=r"model 'two' .*is not there any more"):
            await waiting
        loader.runners["one"].gate.open()
        await busy
        await client.fleet.refresh()
        assert states(client) == {"fake": "loaded", "one": "loaded", "three": "unloaded"}
        assert client.failed == {}, "what is gone is not listed for ever"


@asynchronous
async def test_a_model_whose_file_goes_while_it_is_loaded_is_served_until_it_leaves(
    folder: Path,
) -> None:
    loader = Loader()
    async with fleeting(loader, folder) as client:
        loader.gate.clear()
        drawing = asyncio.create_task(draw(client, 1, "one"))
        await until(lambda: "one" in loader.loads)
        (folder / "one.safetensors").unlink()
        await client.fleet.refresh()
        loader.gate.set()
        await drawing
        await client.fleet.refresh()
        await draw(client, 2, "one")
        assert states(client)["one"] == "loaded"
        await client.fleet.unload("one")
        assert "one" not in states(client)
        assert list(client.models) == ["fake"]
        with pytest.raises(KeyError):
            client.models["one"]
        assert client.failed == {}


@asynchronous
async def test_a_look_into_the_folders_is_shared_and_outlives_who_asked(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, looks, scan = threading.Event(), [], Shelf.scan

    def slow(shelf: Shelf) -> object:
        looks.append(1)
        assert gate.wait(20)
        return scan(shelf)

    loader = Loader()
    async with fleeting(loader, folder) as client:
        (folder / "four.safetensors").write_bytes(WHOLE)
        monkeypatch.setattr(Shelf, "scan", slow)
        first = asyncio.create_task(client.fleet.refresh())
        await until(lambda: looks)
        waiting = asyncio.create_task(draw(client, 4, "four"))
        await asyncio.sleep(0.02)
        first.cancel()
        gate.set()
        await waiting
        assert looks == [1], "one look for both"
        assert "four" in client.models.names


@asynchronous
async def test_who_waits_for_a_model_is_told_at_once_that_the_server_stops(folder: Path) -> None:
    loader = Loader()
    async with fleeting(loader, folder) as client:
        loader.gate.clear()
        waiting = asyncio.create_task(client.described("one", 30))
        await until(lambda: "one" in loader.loads)
        client.fleet.retire()
        with pytest.raises(EngineUnavailable, match="the server is stopping"):
            await asyncio.wait_for(waiting, 5)


@asynchronous
async def test_a_death_concerns_the_requests_of_its_model_alone(folder: Path) -> None:
    loader = Loader()
    async with fleeting(loader, folder) as client:
        await draw(client, 1, "one")
        held = dict(loader.runners)
        for runner in held.values():
            runner.gate.hold()
        tasks = [begin(client, params(2, model=name)) for name in ("fake", "one")]
        await until(lambda: 2 in held["one"].started or 2 in held["fake"].started)
        worker = client.fleet.workers["one"]
        assert isinstance(worker, ThreadWorker)
        worker.thread.kill()
        for runner in held.values():
            runner.gate.open()
        assert [(await task).images for task in tasks] == [(pixel(2),)] * 2
        assert client.fleet.restarts == 1
        assert client.fleet.crew.restarts_of("fake") == 0
        assert sorted(loader.loads) == ["fake", "one", "one"]


@asynchronous
async def test_a_new_checkpoint_is_served_and_one_that_is_gone_is_not(folder: Path) -> None:
    loader = Loader()
    async with fleeting(loader, folder) as client:
        (folder / "new.safetensors").write_bytes(WHOLE[:-1])
        await client.described("new", 5)
        assert "new" not in client.fleet.names, "it is still being copied"
        (folder / "new.safetensors").write_bytes(WHOLE)
        await draw(client, 1, "new")
        (folder / "one.safetensors").unlink()
        await client.fleet.refresh()
        assert "one" not in client.fleet.names
        await client.fleet.unload("new")
        (folder / "new.safetensors").write_bytes(WHOLE + b"other")
        await client.fleet.refresh()
        assert "new" not in client.models, "it is another model by now"
        await draw(client, 2, "new")


def test_every_dialect_waits_for_the_model_that_it_asks_for(folder: Path) -> None:
    asked: list[tuple[str, str, dict[str, object]]] = [
        ("POST", "/generate", {"json": {"class": "a", "seed": 1, "model": "MODEL"}}),
        ("POST", "/generate", {"json": {"inputs": "a", "model": "MODEL"}}),
        ("GET", "/generate?class=a&seed=1&model=MODEL", {}),
        ("POST", "/models/MODEL", {"json": {"inputs": "a"}}),
        ("POST", "/v1/images/generations", {"json": {"prompt": "a", "model": "MODEL"}}),
        ("POST", "/v1/models/any/MODEL/predictions", {"json": {"input": {"prompt": "a"}}}),
        ("POST", "/v1/predictions", {"json": {"version": "any/MODEL", "input": {"prompt": "a"}}}),
        ("GET", "/v1/models/any/MODEL", {}),
        ("GET", "/v1/models/any/MODEL/versions", {}),
        ("GET", "/v2/models/MODEL", {}),
        (
            "POST",
            "/sdapi/v1/txt2img",
            {"json": {"prompt": "a", "override_settings": {"sd_model_checkpoint": "MODEL"}}},
        ),
    ]
    for k in range(len(asked)):
        (folder / f"m{k}.safetensors").write_bytes(WHOLE)
    loader = Loader()
    with served(loader, folder) as http:
        for k, (method, path, options) in enumerate(asked):
            name = f"m{k}"
            options = json.loads(json.dumps(options).replace("MODEL", name))
            answer = http.request(method, path.replace("MODEL", name), **options)
            assert answer.status_code in (200, 201), (path, answer.text)
            assert loader.loads[-1] == name
        unknown = http.post("/generate", json={"class": "a", "model": "nothing"})
        assert unknown.status_code == 404
        assert "not loaded: one, three, two" in unknown.json()["detail"]


def test_all_lists_name_what_is_not_loaded(folder: Path) -> None:
    with served(Loader(), folder) as http:
        (folder / "four.safetensors").write_bytes(WHOLE)
        names = ["fake", "four", "one", "three", "two"]
        listed = http.get("/models").json()["models"]
        assert [model["name"] for model in listed] == names
        assert [model["state"] for model in listed] == ["loaded", *["unloaded"] * 4]
        assert listed[0]["default"]
        assert listed[0]["width"] == 1
        assert listed[1] | {"name": "", "default": 0, "state": "", "stays": 0} == dict.fromkeys(
            listed[1]
        ) | {"name": "", "default": 0, "state": "", "stays": 0}
        assert [model["id"] for model in http.get("/v1/models").json()["data"]] == names
        titles = [model["model_name"] for model in http.get("/sdapi/v1/sd-models").json()]
        assert titles == names
        assert http.get("/v1/models/two").status_code == 200
        assert http.get("/v2/models/two/ready").status_code == 200, "requests for it are taken"
        assert http.get("/v2/models/two/versions/1/ready").status_code == 503
        assert http.get("/v2/models/six/ready").status_code == 404
        document = http.get("/openapi.json").json()
        enum = document["components"]["schemas"]["GenerateRequest"]["properties"]["model"]
        assert enum["anyOf"][0]["enum"] == names


def test_models_are_loaded_and_unloaded_on_demand(folder: Path) -> None:
    loader = Loader()
    with served(loader, folder) as http:
        loaded = http.post("/models/one/load")
        assert (loaded.status_code, loaded.json()["state"]) == (200, "loaded")
        assert http.post("/models/one/load").json()["state"] == "loaded"
        assert loader.loads == ["fake", "one"]
        workers = http.get("/engine").json()["workers"]
        assert [worker["model"] for worker in workers] == ["fake", "one"]
        for _ in range(2):
            unloaded = http.post("/models/one/unload")
            assert (unloaded.status_code, unloaded.json()["state"]) == (200, "unloaded")
        assert http.get("/readyz").status_code == 200
        assert http.post("/models/nothing/load").status_code == 404
        assert http.post("/models/nothing/unload").status_code == 404
        loader.broken["two"] = "act_fn"
        failed = http.post("/models/two/load")
        assert failed.status_code == 503
        assert "model 'two' does not load" in failed.json()["detail"]
        assert [model["name"] for model in http.get("/models").json()["failed"]] == ["two"]


def test_times_are_told_of_models_that_were_used(folder: Path) -> None:
    with served(Loader(), folder) as http:
        before = {
            model["name"]: model["idle_seconds"] for model in http.get("/models").json()["models"]
        }
        assert before["one"] is None
        assert before["fake"] is not None
        time.sleep(0.2)
        after = http.get("/models").json()["models"][0]
        assert after["idle_seconds"] > before["fake"]
