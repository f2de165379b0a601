"""A quiet client beside one that floods, from the HTTP request to the worker's loop."""

import asyncio
from collections.abc import Sequence

import httpx
import pytest

from app.engine.errors import EngineBusy
from app.engine.job import Asker, Image, Request
from app.engine.ledger import Limits
from app.main import create_app
from app.settings import Settings
from tests.engine import asynchronous, begin, running, served, until
from tests.fakes import FakeRunner, params, pixel

FLOOD, QUIET = Asker("flood"), Asker("quiet")
LIMITS = Limits(jobs=100, work=10**6, seconds=3600)


@asynchronous
async def test_a_quiet_client_rides_beside_a_flood_of_any_length() -> None:
    """Its first step is at most two ticks away, and it rides every one from there."""
    runner = FakeRunner()
    async with running(runner, limits=LIMITS) as client:
        runner.gate.hold()
        flood = [begin(client, params(k, steps=90, n=16), asker=FLOOD) for k in range(0, 1600, 16)]
        await until(lambda: runner.started)
        with pytest.raises(EngineBusy, match="100 requests of this client"):
            await client.generate(Request(params(9), asker=FLOOD))
        runner.gate.let(10)
        await until(lambda: len(runner.batches) == 10)
        quiet = begin(client, params(5000, steps=10), asker=QUIET)
        await until(lambda: client.jobs == 101)
        await asyncio.sleep(0.05)  # heard by the worker
        runner.gate.let(14)
        assert (await quiet).images == (pixel(5000),)
        rides = [5000 in batch for batch in runner.batches[10:]]
        assert rides.index(True) <= 2
        assert rides[rides.index(True) :][:10] == [True] * 10
        for task in flood:
            task.cancel()
        runner.gate.open()
        await asyncio.wait(flood)


@asynchronous
async def test_equal_requests_of_another_client_are_computed_once_unless_it_floods() -> None:
    runner = FakeRunner()
    async with running(runner) as client:
        runner.gate.hold()
        flood = [begin(client, params(k), asker=FLOOD) for k in range(20)]
        await until(lambda: client.jobs == 20)
        quiet = begin(client, params(3), asker=QUIET)
        await until(lambda: client.jobs == 21)
        third = begin(client, params(3), asker=Asker("third"))
        await until(lambda: client.stats.shared == 1)
        runner.gate.open()
        for answer in await asyncio.gather(quiet, third, flood[3]):
            assert answer.images == (pixel(3),)
        await asyncio.gather(*flood)
    assert runner.started.count(3) == 2


@pytest.mark.parametrize(
    ("address", "name"),
    [("192.0.2.7", "192.0.2.7"), ("::ffff:192.0.2.7", "192.0.2.7"), ("2001:db8::1", None)],
)
def test_a_request_is_its_addresses(address: str, name: str | None) -> None:
    """Of the address of its connection, where an IPv6 network is one; and it keeps its id."""
    asked: list[Asker] = []

    class Asked(FakeRunner):
        def step(self, images: Sequence[Image], rows: int) -> None:
            asked.extend(request.asker for request in engine._ledger.requests.values())
            super().step(images, rows)

    with served(Asked(), client=address) as (client, engine):
        assert client.post("/generate", json={"class": "a", "steps": 1}).status_code == 200
    assert {asker.client for asker in asked} == {name or "2001:db8::/64"}


def asks(priority: int) -> list[tuple[str, str, dict[str, object]]]:
    """Requests of a priority, in every way there is to ask for one."""
    body = {"class": "a", "steps": 2, "seed": 1, "priority": priority}
    query = f"/generate?class=a&steps=2&seed=1&priority={priority}"
    return [
        ("POST", "/generate", {"json": body}),
        ("POST", "/generate", {"data": body}),
        ("POST", "/generate", {"json": body, "headers": {"accept": "text/event-stream"}}),
        ("GET", query, {}),
        ("GET", query, {"headers": {"if-none-match": "*"}}),
        ("HEAD", query, {}),
        ("HEAD", query.replace("seed=1&", ""), {}),
        ("GET", query.replace("seed=1&", ""), {}),
    ]


@pytest.mark.parametrize("allowed", [0, 3, 10])
def test_priorities_above_what_is_set_are_refused(allowed: int) -> None:
    with served(FakeRunner(), max_priority=allowed) as (client, _):
        for method, path, how in asks(allowed):
            answer = client.request(method, path, **how)
            assert answer.status_code in (200, 304), (method, path, answer.text)
        for method, path, how in asks(allowed + 1) if allowed < 10 else ():
            answer = client.request(method, path, **how)
            assert answer.status_code == 422, (method, path)
            if method != "HEAD":
                (error,) = answer.json()["errors"]
                assert error["pointer"] == "#/priority"
                assert error["detail"] == f"must be at most {allowed} here (DARKROOM_MAX_PRIORITY)"


@pytest.mark.parametrize("allowed", [0, 7])
def test_the_document_says_what_priority_is_allowed(allowed: int) -> None:
    with served(FakeRunner(), max_priority=allowed) as (client, _):
        document = client.get("/openapi.json").json()
    schemas = [document["components"]["schemas"]["GenerateRequest"]["properties"]["priority"]]
    generate = document["paths"]["/generate"]
    for content in generate["post"]["requestBody"]["content"].values():
        if "properties" in content["schema"]:
            schemas += content["schema"]["properties"]["priority"]["anyOf"][:1]
    for method in ("get", "head"):
        for parameter in generate[method]["parameters"]:
            if parameter["name"] == "priority":
                schemas += parameter["schema"]["anyOf"][:1]
    assert len(schemas) == 5
    assert {schema["maximum"] for schema in schemas} == {allowed}


@asynchronous
async def test_a_full_share_is_refused_to_its_client_alone() -> None:
    """Over HTTP, by address; and it is said whose it is, and when to come back."""
    runner = FakeRunner()
    limits = Limits(jobs=4, work=10**6, seconds=60)
    async with running(runner, limits=limits) as engine:
        app = create_app(Settings(), engine)

        def of(address: str) -> httpx.AsyncClient:
            transport = httpx.ASGITransport(app, client=(address, 1))
            return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")

        runner.gate.hold()
        async with of("192.0.2.1") as flood, of("192.0.2.2") as quiet:
            body = {"class": "a", "steps": 5}
            waiting = [asyncio.create_task(flood.post("/generate", json=body)) for _ in range(4)]
            await until(lambda: engine.jobs == 4)
            refused = await flood.post("/generate", json=body)
            assert refused.status_code == 429
            assert refused.json()["detail"] == (
                "4 requests of this client (0.015 s of the device's time) are waiting or running; "
                "the limits are 4 and 1000000 s"
            )
            assert 1 <= int(refused.headers["retry-after"]) <= 120
            other = asyncio.create_task(quiet.post("/generate", json=body))
            await until(lambda: engine.jobs == 5)
            runner.gate.open()
            answers = await asyncio.gather(other, *waiting)
        assert [answer.status_code for answer in answers] == [200] * 5
