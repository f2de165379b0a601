"""What becomes of jobs, told to whoever follows them: the newest of each, and every end.

Ends come from the store alone, in the order of their numbers. So none is lost or told twice, when a
reader is slow, comes back, or asks another server. All else is kept once per job, the newest of
each kind, and a reader holds only the names of what it has not been told.
"""

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
from pydantic import BaseModel

from app.errors import StoreUnavailable
from app.http.sse import KEEP_ALIVE
from app.jobs.database import enduring
from app.jobs.following import Cursor, Follower, Key
from app.jobs.job import Job, JobStatus
from app.jobs.snapshot import OpenJob, SnapshotEvent

_POLL_SECONDS = 1.0  # between two looks at what other servers have ended
_RETRY = "retry: 2000\n"  # milliseconds after which a browser connects again
_MOST_JOBS = 4096  # whose newest events are kept; those that are silent for longest go first
_OPEN = (JobStatus.QUEUED, JobStatus.RUNNING)
_PAGE = 32  # ends that are read at once

Data = BaseModel | msgspec.Struct
Show = Callable[[Job], Data]


@dataclass(frozen=True)
class JobEvent:
    """One thing that became of a job; `final`: it is its end."""

    name: str  # queued, progress, preview, succeeded, failed, canceled
    data: Data
    final: bool = False

    def key(self, job_id: str) -> Key:
        """What it takes the place of: the job's state, or the preview of the same image."""
        return Key(job_id, getattr(self.data, "image", 0) if self.name == "preview" else None)


class Ends(Protocol):
    """What the hub asks of the store; each raises `StoreUnavailable`."""

    async def ended_since(self, owner: str, cursor: int, limit: int) -> Sequence[Job]:
        """The first ends of an owner's jobs with a number above the cursor, in order."""

    async def last_end(self) -> int:
        """The highest number of an end of any job; 0 if there is none."""

    async def list(self, owner: str, *, limit: int, statuses: Sequence[JobStatus]) -> Sequence[Job]:
        """The newest jobs of an owner that have one of these statuses."""


@dataclass
class _News:
    """The newest of one job, which is rendered once for all who follow."""

    number: int  # grows with the jobs
    events: dict[Key, JobEvent] = field(default_factory=dict)
    rendered: dict[Key, str] = field(default_factory=dict)
    ended: bool = False  # what still comes is stale


class EventHub:
    """Passes events on to those who follow the jobs of an owner. One event loop uses it.

    Ends are `kept` by the store for so many seconds.
    """

    def __init__(self, ends: Ends, kept: float) -> None:
        self.dropped = 0  # events that gave way to newer ones before a reader was told
        self._ends, self._kept = ends, kept
        self._news: OrderedDict[str, _News] = OrderedDict()
        self._numbers = itertools.count()
        self._followers: dict[str, set[Follower]] = {}
        self._watching: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def streams(self) -> int:
        """How many are open."""
        return sum(map(len, self._followers.values()))

    def publish(self, owner: str, job_id: str, event: JobEvent) -> None:
        """Tell of an event. It never waits."""
        followers = self._followers.get(owner, ())
        news = self._of(job_id)
        if event.final:
            self._end(job_id)
            for follower in followers:
                follower.look()
        elif not news.ended:
            key = event.key(job_id)
            news.events[key] = event
            news.rendered.pop(key, None)
            for follower in followers:
                self.dropped += follower.note(key, news.number)

    async def subscribe(
        self,
        owner: str,
        last_event_id: str | None,
        show: Show,
        jobs: Collection[str] = (),
        quiet: float = 15.0,
    ) -> AsyncGenerator[bytes, None]:
        """The events of an owner's jobs: how things stand, the ends since an id, and what comes.

        `show` gives what an end tells of a job. If `jobs` are named, it is of those alone. A sign
        of life comes after `quiet` seconds.

        Raises:
            UnknownEventId: no event of such a stream has this id.
            StoreUnavailable: the store cannot be asked now; before anything is told.
        """
        cursor = Cursor.parse(last_event_id) if last_event_id else None
        follower = self._enter(owner, jobs)
        try:
            yield await self._snapshot(owner, follower, cursor)
            while True:
                piece = await self._ended(owner, follower, show) if follower.ends else b""
                piece += follower.take(lambda key: self._render(key, follower.cursor))
                if piece:
                    yield piece
                elif self._closed:
                    return
                elif not await follower.wait(quiet):
                    yield KEEP_ALIVE
        finally:
            self._leave(owner, follower)

    def close(self) -> None:
        """End every stream, once it has told what there is to tell; readers come back."""
        self._closed = True
        self._look()

    def _look(self) -> None:
        for follower in itertools.chain.from_iterable(self._followers.values()):
            follower.look()

    def _enter(self, owner: str, jobs: Collection[str]) -> Follower:
        follower = Follower(jobs)
        self._followers.setdefault(owner, set()).add(follower)
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())
        return follower

    def _leave(self, owner: str, follower: Follower) -> None:
        own = self._followers[owner]
        own.discard(follower)
        if not own:
            del self._followers[owner]
        if not self._followers and self._watching is not None:
            self._watching.cancel()
            self._watching = None

    async def _watch(self) -> None:
        """Look for ends that nobody here tells of: of jobs on other servers."""
        seen = -1
        while True:
            with enduring("ends of jobs on other servers could not be looked for"):
                last = await self._ends.last_end()
                if last != seen:
                    self._look()
                seen = last
            await asyncio.sleep(_POLL_SECONDS)

    async def _snapshot(self, owner: str, follower: Follower, cursor: Cursor | None) -> bytes:
        """Which jobs are open; what is known of them follows, after what ended meanwhile."""
        last = await self._ends.last_end()  # before the jobs: what ends between is told as an end
        open_jobs = await self._ends.list(owner, limit=_MOST_JOBS, statuses=_OPEN)
        jobs = [job for job in open_jobs if follower.follows(job.id)]
        follower.number = last
        resumed = False
        if cursor is not None and cursor.number <= last:
            resumed = cursor.age <= self._kept
            follower.number = cursor.number
            follower.look()
        for job in jobs:
            if (news := self._news.get(job.id)) is not None:
                for key in news.events:
                    follower.note(key, news.number)
        told = SnapshotEvent(
            resumed=resumed,
            jobs=[OpenJob(id=job.id, status=job.status.value) for job in jobs],
        )
        return _written("snapshot", told.model_dump_json(), follower.cursor, _RETRY)

    async def _ended(self, owner: str, follower: Follower, show: Show) -> bytes:
        """The next ends that a reader was not told of."""
        follower.ends = False
        try:
            jobs = await self._ends.ended_since(owner, follower.number, _PAGE)
        except StoreUnavailable:
            asyncio.get_running_loop().call_later(_POLL_SECONDS, follower.look)
            return b""
        told = b""
        for job in jobs:
            assert job.ended_no is not None
            self._end(job.id)
            follower.number = job.ended_no
            if follower.follows(job.id):
                text = _json(job.id, show(job))
                told += _written(job.status.value, text, follower.cursor)
        follower.ends = follower.ends or len(jobs) == _PAGE
        return told

    def _render(self, key: Key, cursor: Cursor) -> bytes:
        """An event that a reader is to be told; nothing if its job has ended."""
        news = self._news.get(key.job)
        event = news and news.events.get(key)
        if not news or not event:
            return b""
        if key not in news.rendered:
            news.rendered[key] = _json(key.job, event.data)
        return _written(event.name, news.rendered[key], cursor)

    def _of(self, job_id: str) -> _News:
        """What is known of a job, which was heard of just now."""
        news = self._news.get(job_id)
        if news is None:
            news = self._news[job_id] = _News(next(self._numbers))
            if len(self._news) > _MOST_JOBS:
                self._news.popitem(last=False)
        self._news.move_to_end(job_id)
        return news

    def _end(self, job_id: str) -> None:
        """Forget all but that it ended."""
        news = self._of(job_id)
        news.ended = True
        news.events.clear()
        news.rendered.clear()


def _json(job_id: str, data: Data) -> str:
    """What is told of a job, with its id."""
    text = (
        data.model_dump_json(by_alias=True)
        if isinstance(data, BaseModel)
        else msgspec.json.encode(data).decode()
    )
    if hasattr(data, "id"):
        return text
    return f'{{"id":"{job_id}"{"," if text != "{}" else ""}{text[1:]}'


def _written(name: str, data: str, cursor: Cursor, more: str = "") -> bytes:
    """One event; JSON has no line breaks."""
    return f"event: {name}\n{more}id: {cursor}\ndata: {data}\n\n".encode()
