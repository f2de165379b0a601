"""One stream for all jobs of a client: every end once, and of all else the newest."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from app.errors import StoreUnavailable, UnknownEventId
from app.jobs import events, waiting
from app.jobs.events import EventHub, JobEvent
from app.jobs.following import Cursor
from app.jobs.job import Job, JobStatus
from app.jobs.telling import PreviewData, ProgressData, QueuedData
from app.jobs.waiting import Waiting
from tests.engine import asynchronous, until

ME, PATIENCE = "me", 10
KEPT = 7 * 24 * 3600.0  # seconds
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Shown(msgspec.Struct):
    id: str
    status: str


def show(job: Job) -> Shown:
    return Shown(job.id, job.status.value)


@dataclass
class FakeStore:
    """Jobs by id, in memory."""

    jobs: dict[str, Job] = field(default_factory=dict)
    ends: int = 0
    error: Exception | None = None  # of whatever is asked

    def add(self, job_id: str, owner: str = ME) -> None:
        self.jobs[job_id] = Job(
            number=len(self.jobs),
            id=job_id,
            owner=owner,
            model="tiny",
            digest="",
            dialect="native",
            request={},
            work=b"",
            images=1,
            status=JobStatus.QUEUED,
            created=NOW,
        )

    def end(self, job_id: str, status: JobStatus = JobStatus.SUCCEEDED) -> None:
        self.ends += 1
        self.jobs[job_id] = replace(self.jobs[job_id], status=status, ended_no=self.ends)

    async def ended_since(self, owner: str, cursor: int, limit: int) -> Sequence[Job]:
        self._check()
        ended = [job for job in self.jobs.values() if (job.ended_no or 0) > cursor]
        mine = [job for job in ended if job.owner == owner]
        return sorted(mine, key=lambda job: job.ended_no or 0)[:limit]

    async def ended(self, job_ids: Sequence[str]) -> Sequence[Job]:
        self._check()
        return [job for job in self.jobs.values() if job.id in job_ids and job.ended_no]

    async def last_end(self) -> int:
        self._check()
        return self.ends

    async def list(self, owner: str, *, limit: int, statuses: Sequence[JobStatus]) -> Sequence[Job]:
        self._check()
        mine = [job for job in self.jobs.values() if job.owner == owner]
        return [job for job in reversed(mine) if job.status in statuses][:limit]

    def _check(self) -> None:
        if self.error:
            raise self.error


@dataclass(frozen=True)
class Told:
    name: str
    id: str
    data: Any


def parse(piece: bytes) -> list[Told]:
    """Events as a browser reads them; comments are left out."""
    told = []
    for block in piece.decode().split("\n\n"):
        lines = [line.split(": ", 1) for line in block.split("\n") if line and line[0] != ":"]
        if fields := dict(lines):
            told.append(Told(fields["event"], fields["id"], json.loads(fields["data"])))
    return told


class Reader:
    """Reads a stream, piece by piece, as fast as it is told to."""

    def __init__(self, stream: AsyncGenerator[bytes, None]) -> None:
        self.stream = stream
        self.told: list[Told] = []

    async def read(self) -> list[Told]:
        async with asyncio.timeout(PATIENCE):
            piece = parse(await anext(self.stream))
        self.told += piece
        return piece

    async def read_until(self, name: str, count: int = 1) -> list[Told]:
        while sum(event.name == name for event in self.told) < count:
            await self.read()
        return self.told

    @property
    def last_id(self) -> str:
        return self.told[-1].id

    def names(self) -> list[tuple[str, str]]:
        return [(event.name, event.data["id"]) for event in self.told if event.name != "snapshot"]


def follow(hub: EventHub, last: str | None = None, owner: str = ME, **how: Any) -> Any:
    return aclosing(hub.subscribe(owner, last, show, **how))


def queued(job: str, place: int = 0) -> JobEvent:
    return JobEvent("queued", QueuedData(job, place))


def progress(job: str, evaluation: int) -> JobEvent:
    return JobEvent("progress", ProgressData(job, evaluation, 100, 1.0))


def preview(job: str, step: int, image: int = 0, size: int = 4000) -> JobEvent:
    return JobEvent("preview", PreviewData(job, image, step, 100, "x" * size))


END = JobEvent("succeeded", Shown("", ""), final=True)


@asynchronous
async def test_a_stream_begins_with_the_state_of_every_open_job() -> None:
    store = FakeStore()
    hub = EventHub(store, KEPT)
    for name in ("a", "b", "c"):
        store.add(name)
        hub.publish(ME, name, queued(name))
    store.add("another's", "you")
    hub.publish("you", "another's", queued("another's"))
    hub.publish(ME, "b", progress("b", 7))
    hub.publish(ME, "b", preview("b", 7))
    store.end("a")
    hub.publish(ME, "a", END)
    async with follow(hub) as stream:
        reader = Reader(stream)
        (first,) = await reader.read()
        assert first.name == "snapshot"
        open_jobs = [{"id": "c", "status": "queued"}, {"id": "b", "status": "queued"}]
        assert first.data == {"resumed": False, "jobs": open_jobs}
        rest = await reader.read()
        assert [(event.name, event.data["id"]) for event in rest] == [
            ("queued", "c"),
            ("progress", "b"),
            ("preview", "b"),
        ]
        assert rest[1].data == {"id": "b", "evaluation": 7, "total": 100, "eta": 1.0}
        hub.publish(ME, "c", progress("c", 1))
        hub.publish("you", "another's", progress("another's", 1))
        assert [event.data["id"] for event in await reader.read()] == ["c"]


@asynchronous
async def test_a_hundred_jobs_over_one_connection_newest_first_and_all_ends() -> None:
    store = FakeStore()
    hub = EventHub(store, KEPT)
    names = [f"job{k:03}" for k in range(100)]
    async with follow(hub) as stream:
        reader = Reader(stream)
        await reader.read()
        for name in names:
            store.add(name)
            hub.publish(ME, name, queued(name))
        for step in range(20):
            for name in names:
                hub.publish(ME, name, progress(name, step))
                hub.publish(ME, name, preview(name, step))
        assert hub.dropped == 20 * 200 - 100  # the states replace those of waiting
        while len([event for event in reader.told if event.name == "preview"]) < 100:
            await reader.read()
        for kind in ("progress", "preview"):
            told = [event for event in reader.told if event.name == kind]
            assert [event.data["id"] for event in told] == names[::-1]
            assert {event.data.get("step", event.data.get("evaluation")) for event in told} == {19}
        for name in names:
            store.end(name)
            hub.publish(ME, name, END)
        await reader.read_until("succeeded", 100)
        ends = [event.data["id"] for event in reader.told if event.name == "succeeded"]
        assert ends == names


@asynchronous
async def test_the_newest_goes_first_even_when_it_comes_while_others_wait() -> None:
    store = FakeStore()
    hub = EventHub(store, KEPT)
    for name in ("old", "newer", "newest"):
        store.add(name)
        hub.publish(ME, name, queued(name))
    async with follow(hub) as stream:
        reader = Reader(stream)
        await reader.read()
        await reader.read()
        for name in ("old", "newer"):
            hub.publish(ME, name, preview(name, 1, size=40_000))
        assert [event.data["id"] for event in await reader.read()] == ["newer"]
        hub.publish(ME, "newest", preview("newest", 1, size=40_000))
        assert [event.data["id"] for event in await reader.read()] == ["newest"]
        assert [event.data["id"] for event in await reader.read()] == ["old"]


@asynchronous
async def test_a_reader_that_does_not_read_holds_names_and_no_more() -> None:
    """However much is told: one state and one preview of each image of each job."""
    store = FakeStore()
    hub = EventHub(store, KEPT)
    names = [f"job{k}" for k in range(100)]
    for name in names:
        store.add(name)
    async with follow(hub) as stream:
        await Reader(stream).read()
        (follower,) = hub._followers[ME]
        for step in range(100):
            for name in names:
                hub.publish(ME, name, progress(name, step))
                for image in range(4):
                    hub.publish(ME, name, preview(name, step, image))
        assert len(follower) == 100 * (1 + 4)
        held = vars(follower)["_untold"]
        assert all(isinstance(number, int) for number in held.values())
        assert hub.dropped == 99 * 500
        for name in names:
            store.end(name)
            hub.publish(ME, name, END)
        assert not any(news.events or news.rendered for news in hub._news.values())
        reader = Reader(stream)
        await reader.read_until("succeeded", 100)
        assert {event.name for event in reader.told} == {"succeeded"}  # the rest is stale


@asynchronous
async def test_coming_back_loses_no_end_and_repeats_none() -> None:
    """Also where the server was restarted, or another one is asked: the store knows the ends."""
    store = FakeStore()
    names = [f"job{k}" for k in range(100)]
    for name in names:
        store.add(name)
    told: list[tuple[str, str]] = []
    last = None
    ending = iter(names)
    for session in range(10):
        hub = EventHub(store, KEPT)  # it remembers nothing
        async with follow(hub, last) as stream:
            reader = Reader(stream)
            (first,) = await reader.read()
            assert first.data["resumed"] is (session > 0)
            for _ in range(5):
                store.end(name := next(ending))
                hub.publish(ME, name, END)
            await reader.read_until("succeeded", 5 if session == 0 else 10)
            told += reader.names()
            last = reader.last_id
        for _ in range(5):
            store.end(next(ending))  # nobody listens
    async with follow(EventHub(store, KEPT), last) as stream:
        reader = Reader(stream)
        await reader.read_until("succeeded", 5)
        told += reader.names()
    assert told == [("succeeded", name) for name in names]


@asynchronous
async def test_every_event_has_the_id_to_go_on_from() -> None:
    """A page that was told of progress alone must not miss an end either."""
    store = FakeStore()
    hub = EventHub(store, KEPT)
    store.add("a")
    async with follow(hub) as stream:
        reader = Reader(stream)
        await reader.read()
        hub.publish(ME, "a", progress("a", 1))
        await reader.read()
    store.end("a")
    for event in reader.told:
        async with follow(EventHub(store, KEPT), event.id) as stream:
            again = Reader(stream)
            await again.read_until("succeeded")
            assert again.names() == [("succeeded", "a")]


@asynchronous
async def test_ends_on_another_server_are_told() -> None:
    store = FakeStore()
    here, there = EventHub(store, KEPT), EventHub(store, KEPT)
    store.add("a")
    async with follow(here) as stream:
        reader = Reader(stream)
        await reader.read()
        store.end("a", JobStatus.FAILED)
        there.publish(ME, "a", END)
        await reader.read_until("failed")


@asynchronous
async def test_what_comes_after_an_end_is_not_told() -> None:
    store = FakeStore()
    hub = EventHub(store, KEPT)
    store.add("a")
    store.add("b")
    async with follow(hub) as stream:
        reader = Reader(stream)
        await reader.read()
        store.end("a", JobStatus.CANCELED)
        hub.publish(ME, "a", END)
        hub.publish(ME, "a", progress("a", 9))
        hub.publish(ME, "b", progress("b", 1))
        await reader.read_until("progress")
        assert reader.names() == [("canceled", "a"), ("progress", "b")]


@pytest.mark.parametrize(
    "text", ["17", "x", "1-2-3", "-1-2", "1-", "9" * 40 + "-1", "\u0661-\u0661", "1-1\n"]
)
@asynchronous
async def test_an_id_that_no_event_has_is_refused(text: str) -> None:
    async with follow(EventHub(FakeStore(), KEPT), text) as stream:
        with pytest.raises(UnknownEventId, match="allowed: the id of an event"):
            await anext(stream)


@asynchronous
async def test_an_id_from_too_long_ago_or_of_another_store_is_told_so() -> None:
    """What is kept is told all the same."""
    store = FakeStore()
    for name in ("a", "b"):
        store.add(name)
    store.end("a")
    old, foreign = Cursor.now(0)._replace(seconds=1), Cursor.now(99)
    async with follow(EventHub(store, KEPT), str(old)) as stream:
        reader = Reader(stream)
        await reader.read_until("succeeded")
        assert reader.told[0].data["resumed"] is False
    async with follow(EventHub(store, KEPT), str(foreign)) as stream:
        (first,) = await Reader(stream).read()
        assert first.data == {"resumed": False, "jobs": [{"id": "b", "status": "queued"}]}
        assert first.id.startswith("1-")


@asynchronous
async def test_a_stream_of_some_jobs() -> None:
    store = FakeStore()
    hub = EventHub(store, KEPT)
    for name in ("a", "b"):
        store.add(name)
    async with follow(hub, jobs=["b", "unknown"]) as stream:
        reader = Reader(stream)
        (first,) = await reader.read()
        assert [job["id"] for job in first.data["jobs"]] == ["b"]
        for name in ("a", "b"):
            hub.publish(ME, name, progress(name, 1))
            store.end(name)
            hub.publish(ME, name, END)
        await reader.read_until("succeeded")
        assert {job for _, job in reader.names()} == {"b"}


@asynchronous
async def test_nobody_looks_for_ends_where_nobody_follows() -> None:
    hub, tasks = EventHub(FakeStore(), KEPT), len(asyncio.all_tasks())
    async with follow(hub) as one, follow(hub, owner="you") as two:
        for stream in (one, two):
            await anext(stream)
        assert hub.streams == 2
    assert hub.streams == 0
    await until(lambda: len(asyncio.all_tasks()) == tasks)


@asynchronous
async def test_a_stream_outlives_a_store_that_is_down() -> None:
    store = FakeStore()
    hub = EventHub(store, KEPT)
    store.add("a")
    async with follow(hub) as stream:
        reader = Reader(stream)
        await reader.read()
        store.end("a")
        store.error = StoreUnavailable("it is down")
        hub.publish(ME, "a", END)
        store.add("b")
        hub.publish(ME, "b", progress("b", 1))
        await reader.read_until("progress")
        async with follow(hub) as refused:
            with pytest.raises(StoreUnavailable):
                await anext(refused)
        assert hub.streams == 1
        store.error = None
        await reader.read_until("succeeded")


@asynchronous
async def test_a_quiet_stream_gives_signs_of_life_and_ends_with_the_server() -> None:
    store = FakeStore()
    hub = EventHub(store, KEPT)
    store.add("a")
    async with follow(hub, quiet=0.01) as stream:
        await anext(stream)
        assert await anext(stream) == b": keep-alive\n\n"
        store.end("a")
        hub.close()
        rest = b"".join([piece async for piece in stream])
        assert [event.name for event in parse(rest)] == ["succeeded"]


@asynchronous
async def test_a_bug_does_not_end_the_look_for_ends_on_other_servers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and the next look finds what ended meanwhile."""
    monkeypatch.setattr(events, "_POLL_SECONDS", 0.001)
    monkeypatch.setattr(waiting, "_POLL_SECONDS", 0.001)
    store = FakeStore()
    store.add("a")
    async with follow(EventHub(store, KEPT)) as stream:
        reader = Reader(stream)
        await reader.read()
        waited = asyncio.create_task(Waiting(store).end("a", PATIENCE))
        store.error = ZeroDivisionError()
        wrong = ("on other servers", "that are waited for")
        await until(lambda: all(what in caplog.text for what in wrong))
        store.error = None
        store.end("a")
        await reader.read_until("succeeded")
        ended = await waited
        assert ended is not None
        assert ended.ended_no == 1
