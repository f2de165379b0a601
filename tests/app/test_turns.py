"""Who is a client, in whose turn requests begin, and how fast they are answered or refused."""

import asyncio
from collections import Counter
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Message, Scope

from app.http.turns import Pace, TakeTurns, Turns, client_of
from tests.engine import asynchronous

pytestmark = pytest.mark.slow  # refusals that are late


@pytest.mark.parametrize(
    ("hosts", "client"),
    [
        (["192.0.2.7", "::ffff:192.0.2.7", "::ffff:c000:207"], "192.0.2.7"),
        (["2001:db8::1", "2001:db8:0:0:ffff:1:2:3", "2001:DB8::"], "2001:db8::/64"),
        (["2001:db8:0:1::1"], "2001:db8:0:1::/64"),
        (["::1"], "::/64"),
        (["fe80::1%eth0", "fe80::2%eth1"], "fe80::/64"),
        (["testclient"], "testclient"),
        ([""], ""),
    ],
)
def test_an_address_or_a_network_is_one_client(hosts: list[str], client: str) -> None:
    assert {client_of(host) for host in hosts} == {client}


async def rounds(waiting: dict[str, int], leaving: int = 0) -> list[Counter[str]]:
    """Who began in each round of the event loop, where so many of each client come at once."""
    turns, began = Turns(), list[str]()

    async def one(client: str) -> None:
        await turns.take(client)
        began.append(client)

    tasks = [asyncio.create_task(one(c)) for c, count in waiting.items() for _ in range(count)]
    for task in tasks[len(tasks) - leaving :]:
        asyncio.get_running_loop().call_soon(task.cancel)
    told = []
    while not all(task.done() for task in tasks):
        before = len(began)
        await asyncio.sleep(0)
        told.append(Counter(began[before:]))
        assert len(told) < 10_000
    return [one for one in told if one]


@asynchronous
async def test_a_flood_does_not_keep_another_waiting() -> None:
    told = await rounds({"flood": 600, "quiet": 3})
    assert max(one.total() for one in told) <= 4
    last = max(k for k, one in enumerate(told) if one["quiet"])
    assert last <= 4, "all three began while 600 waited"
    assert sum(told, Counter()) == {"flood": 600, "quiet": 3}


@asynchronous
async def test_clients_take_turns() -> None:
    told = await rounds({"a": 40, "b": 40, "c": 40})
    assert all(one["b"] >= 1 and one["c"] >= 1 for one in told[12:25])


@asynchronous
async def test_few_do_not_wait_and_who_leaves_is_passed_over() -> None:
    assert await rounds({"a": 4}) == [Counter(a=4)]
    told = await rounds({"a": 30, "b": 20}, leaving=20)
    assert sum(told, Counter()) == {"a": 30}


@given(st.lists(st.floats(0, 0.01), min_size=300, max_size=600))
@settings(max_examples=20, deadline=None)
def test_answers_of_one_client_are_spread_over_time(gaps: list[float]) -> None:
    pace, now, told = Pace(100), 1000.0, []
    for gap in gaps:
        now += gap
        told.append(now + pace.delay("a", now))
        assert pace.delay("b", now + 10**6 * len(told)) == 0, "it asks once in a while"
    assert told[:100] == sorted(told[:100])
    for k in range(len(told) - 101):
        assert told[k + 100] - told[k] > -1e-6
        window = [t for t in told if told[k] <= t < told[k] + 1]
        assert len(window) <= 200 + 100 + 1


def test_those_who_asked_long_ago_are_forgotten() -> None:
    pace = Pace(100)
    for k in range(10_000):
        pace.delay(f"c{k}", float(k))
    assert len(pace._due) <= 4097


async def status(app: Any, path: str, host: str, method: str = "GET") -> int:
    """The status of a request by a client at an address."""
    sent: list[Message] = []
    scope: Scope = {
        "type": "http", "method": method, "path": path, "headers": [], "query_string": b"",
        "client": (host, 1), "http_version": "1.1", "scheme": "http", "server": ("x", 80),
        "root_path": "",
    }  # fmt: skip

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    found: int = sent[0]["status"]
    return found


@asynchronous
async def test_a_refusal_is_late_only_for_who_had_many() -> None:
    inner = FastAPI(openapi_url=None)

    @inner.get("/there")
    async def there() -> int:
        return 1

    app, loop = TakeTurns(inner), asyncio.get_running_loop()
    assert await status(app, "/gone", "192.0.2.1") == 404
    flood = [asyncio.create_task(status(app, "/gone", "192.0.2.1")) for _ in range(400)]
    began = loop.time()
    while sum(task.done() for task in flood) < 99:
        await asyncio.sleep(0)
    assert await status(app, "/gone", "192.0.2.2") == 404
    assert await status(app, "/there", "192.0.2.1") == 200, "what is no refusal is not late"
    assert not all(task.done() for task in flood)
    assert await asyncio.gather(*flood) == [404] * 400
    assert loop.time() - began > 1.4, "three hundred, two hundred a second"


@asynchronous
async def test_reads_are_spread_beyond_five_hundred_a_second_and_what_draws_is_not() -> None:
    inner = FastAPI(openapi_url=None)

    @inner.api_route("/there", methods=["GET", "POST"])
    async def there() -> int:
        return 1

    app, loop = TakeTurns(inner), asyncio.get_running_loop()
    flood = [asyncio.create_task(status(app, "/there", "192.0.2.1")) for _ in range(1250)]
    began = loop.time()
    while sum(task.done() for task in flood) < 499:
        await asyncio.sleep(0)
    assert await status(app, "/there", "192.0.2.2") == 200
    assert await status(app, "/there", "192.0.2.1", "POST") == 200
    assert not all(task.done() for task in flood)
    assert await asyncio.gather(*flood) == [200] * 1250
    assert loop.time() - began > 1.4, "750, 500 a second"
