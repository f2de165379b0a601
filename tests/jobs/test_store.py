"""The store on SQLite and on PostgreSQL: who has which job, each end once, keys and old results."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sql
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from app.errors import KeyInUse, KeyReused, ResultExpired, TooManyJobs, UnknownJob
from app.http.addresses import Allowance
from app.jobs.claims import Checkpoint, Claim, Claims, Kept, Outcome
from app.jobs.database import Database
from app.jobs.job import Job, JobStatus, Picture, Webhook
from app.jobs.keeping import Keeping, Retention
from app.jobs.keys import Answer, Keyed, Keys
from app.jobs.results import Results
from app.jobs.rows import now
from app.jobs.store import JobStore, NewJob, Place, Room
from app.jobs.tables import CHECKPOINTS, JOBS, KEYS, METADATA, RESULTS
from app.jobs.webhooks import outbox
from app.jobs.webhooks.calling import Outcome as CallOutcome
from app.jobs.webhooks.outbox import Bounds, DeliveryState
from app.jobs.webhooks.schedule import Schedule
from app.jobs.webhooks.service import Options, Webhooks
from tests.engine import asynchronous
from tests.postgres import Postgres

ROOM = Room(jobs=1000, jobs_all=1000, evaluations=10**6, evaluations_all=10**6)
NEW = NewJob(
    owner="me",
    model="tiny",
    digest="0" * 64,
    dialect="native",
    request={"prompt": "a \0 and a \ud800"},
    work=b"\0\xff",
    images=1,
    evaluations=10,
    priority=0,
)
TINY = {NEW.model: NEW.digest}
OURS = Checkpoint(NEW.model, NEW.digest)
KEYED = Keyed("me", "key", "f" * 64)
OK = Answer(200, (("content-type", "image/png"),), b"\0png")
FOREVER = Retention(jobs=3600, results=3600, answers=3600, bytes=1 << 30)


@dataclass(frozen=True)
class Server:
    """What one server has of a database that it may share."""

    store: JobStore
    claims: Claims
    keys: Keys

    async def run(self, statement: Any) -> Any:
        def done(connection: sql.Connection) -> Any:
            result = connection.execute(statement)
            return result.all() if result.returns_rows else None

        return await self.store.database.run(done)

    async def accept(self, **more: Any) -> Job:
        job, _ = await self.store.accept(replace(NEW, **more))
        return job

    async def draw(self, claim: Claim, content: bytes = b"png") -> Job | None:
        digest = hashlib.sha256(content).hexdigest()
        picture = Picture(0, "image/png", len(content), digest)
        return await self.claims.finish(claim, Outcome([Kept(picture, content)]))


@asynccontextmanager
async def servers(url: str, count: int = 2, room: Room = ROOM) -> AsyncIterator[Sequence[Server]]:
    """So many servers on one database, with leases of a minute."""
    made = []
    for k in range(count):
        store = JobStore(Database(url), room)
        name = f"server-{k}"
        made.append(Server(store, Claims(store, name, 60), Keys(store, name, 60, most=3)))
    try:
        yield made
    finally:
        for server in made:
            await server.store.database.close()


async def let_lapse(server: Server, table: sql.Table, column: str) -> None:
    """As if a long time had gone by."""
    then = await server.store.database.run(now) - timedelta(hours=1)
    await server.run(sql.update(table).values({column: then}).where(table.c[column].is_not(None)))


@asynchronous
async def test_migrations_make_what_the_tables_say(database_url: str) -> None:
    def differences(connection: sql.Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        return list(compare_metadata(context, METADATA))

    async with servers(database_url) as (one, other):
        both = (server.store.database.run(differences) for server in (one, other))
        assert await asyncio.gather(*both) == [[], []]  # made by both at once


@asynchronous
async def test_a_job_is_as_it_was_accepted(database_url: str) -> None:
    hook = Webhook("https://example.com/", ("succeeded",))
    async with servers(database_url) as (one, other):
        job = await one.accept(webhook=hook, key="k", timeout=60)
        assert await other.store.get("me", job.id) == (job, Place(0, 0))
        assert (job.request, job.work, job.webhook) == (NEW.request, NEW.work, hook)
        assert job.created.utcoffset() == timedelta(0)
        later = await other.accept()
        assert (await one.store.get("me", later.id))[1] == Place(1, 10)
        urgent = await other.accept(priority=1)
        assert (await one.store.get("me", urgent.id))[1] == Place(0, 0)
        listed = [each.id for each in await one.store.list("me", limit=2)]
        assert listed == [urgent.id, later.id]
        rest = await one.store.list("me", limit=2, before=later.id)
        assert [each.id for each in rest] == [job.id]
        ended, first = await other.store.cancel("me", job.id)
        assert (ended.status, ended.ended_no, first) == (JobStatus.CANCELED, 1, True)
        assert await one.store.cancel("me", job.id) == (ended, False)
        assert [job.status for job in await one.store.ended_since("me", 0)] == [ended.status]
        assert await one.store.ended_since("me", 1) == []
        assert await one.store.last_end() == 1
        assert await one.store.counts() == {"canceled": 1, "queued": 2}


@asynchronous
async def test_an_id_that_cannot_be_is_nobody_s(database_url: str) -> None:
    async with servers(database_url, 1) as (one,):
        job = await one.accept()
        results = Results(one.store, None)
        for owner, wrong in (
            ("me", "\0"),
            ("me", job.id + "\0"),
            ("you", job.id),
            ("me", "é" * 60),
        ):
            for asked in (one.store.get, one.store.cancel):
                with pytest.raises(UnknownJob):
                    await asked(owner, wrong)
            with pytest.raises(UnknownJob):
                await results.read(owner, wrong, 0)
            assert await one.store.list(owner, limit=5, before=wrong) == []


@asynchronous
async def test_room_is_for_one_client_and_for_all(database_url: str) -> None:
    room = Room(jobs=2, jobs_all=3, evaluations=30, evaluations_all=10**6)
    async with servers(database_url, 1, room) as (one,):
        await one.accept()
        with pytest.raises(TooManyJobs, match="1 jobs of this client with 10 evaluations"):
            await one.accept(evaluations=21)
        await one.accept(evaluations=20)
        with pytest.raises(TooManyJobs, match="limits are 2 and 30"):
            await one.accept(evaluations=0)
        await one.accept(owner="you")
        with pytest.raises(TooManyJobs, match="3 jobs of all"):
            await one.accept(owner="you")


@asynchronous
async def test_no_job_is_drawn_by_two_servers(database_url: str) -> None:
    """They claim, and finish, at the same time, and each from several tasks."""
    async with servers(database_url) as pair:
        jobs = [await pair[0].accept() for _ in range(60)]
        drawn: list[tuple[int, str]] = []

        async def work(server: Server) -> None:
            while claims := await server.claims.claim(TINY, 3):
                for claim in claims:
                    drawn.append((claim.fence, claim.job.id))
                    ended = await server.draw(claim)
                    assert ended
                    assert ended.status == JobStatus.SUCCEEDED

        while len(drawn) < len(jobs):  # a claim may find nothing while the others are locked
            await asyncio.gather(*(work(server) for server in pair for _ in range(3)))
        assert sorted(drawn) == sorted((1, job.id) for job in jobs)
        ends = await pair[0].store.ended_since("me", 0)
        assert [job.ended_no for job in ends] == list(range(1, 61))
        assert len(await pair[0].run(sql.select(RESULTS.c.job))) == 60


@asynchronous
async def test_jobs_are_claimed_in_turn_and_by_model(database_url: str) -> None:
    async with servers(database_url, 1) as (one,):
        flood = [await one.accept(owner="flood") for _ in range(3)]
        other = await one.accept(owner="other")
        urgent = await one.accept(owner="flood", priority=1)
        elsewhere = await one.accept(model="absent")
        absent = Checkpoint("absent", NEW.digest)
        assert await one.claims.awaited() == [OURS, absent]
        claimed = []
        while claims := await one.claims.claim(TINY | {"unknown": None}, 1):
            claimed += [claim.job.id for claim in claims]
        assert claimed == [job.id for job in (urgent, flood[0], other, *flood[1:])]
        assert await one.claims.awaited() == [absent]
        assert (await one.store.get("me", elsewhere.id))[0].status == JobStatus.QUEUED


@asynchronous
async def test_a_claim_that_was_lost_ends_nothing(database_url: str) -> None:
    """A server that was asleep for longer than its lease finds its job with another."""
    async with servers(database_url) as (asleep, awake):
        job = await asleep.accept()
        (old,) = await asleep.claims.claim(TINY, 1)
        await let_lapse(awake, JOBS, "lease")
        assert await awake.claims.beat({}) == set()
        (new,) = await awake.claims.claim(TINY, 1)
        assert (new.job.id, new.fence) == (job.id, 2)
        assert await asleep.claims.beat({job.number: old.fence}) == {job.number}
        assert await asleep.draw(old, b"old") is None
        await asleep.claims.release([old])
        ended = await awake.draw(new, b"new")
        assert ended
        assert await awake.draw(new, b"new") == ended  # as where the first answer was lost
        assert await asleep.draw(old, b"old") is None
        assert [row.content for row in await awake.run(sql.select(RESULTS.c.content))] == [b"new"]
        assert await awake.store.last_end() == 1


@asynchronous
async def test_a_lease_that_is_renewed_is_kept(database_url: str) -> None:
    async with servers(database_url) as (one, other):
        job = await one.accept()
        (claim,) = await one.claims.claim(TINY, 1)
        await let_lapse(one, JOBS, "lease")  # the database was gone for long
        assert await one.claims.beat({job.number: claim.fence}) == set()
        await other.claims.beat({})
        assert await other.claims.claim(TINY, 1) == []
        await one.claims.release([claim])
        (again,) = await other.claims.claim(TINY, 1)
        assert again.fence == 2
        assert again.job.started == claim.job.started


@asynchronous
async def test_a_job_at_which_servers_die_fails(database_url: str) -> None:
    async with servers(database_url) as (one, other):
        job = await one.accept()
        for _ in range(10):
            assert len(await one.claims.claim(TINY, 1)) == 1
            await let_lapse(one, JOBS, "lease")
            await other.claims.beat({})
        assert await one.claims.claim(TINY, 1) == []
        ended, _ = await one.store.get("me", job.id)
        assert (ended.status, ended.ended_no) == (JobStatus.FAILED, 1)
        assert ended.error == "10 servers ended while they drew it"


@asynchronous
async def test_a_job_that_waits_beyond_its_deadline_fails(database_url: str) -> None:
    async with servers(database_url) as (one, other):
        late, patient = await one.accept(timeout=2.5), await one.accept()
        soon = await one.accept(timeout=10_000)
        await asyncio.gather(one.claims.lapse([]), other.claims.lapse([]))
        assert await one.store.last_end() == 0
        shifted = {"created": JOBS.c.created, "deadline": late.created}
        await one.run(sql.update(JOBS).where(JOBS.c.id == late.id).values(shifted))
        await one.run(
            sql.update(JOBS)
            .where(JOBS.c.id == late.id)
            .values(created=late.created - timedelta(seconds=2.5))
        )
        assert [claim.job.id for claim in await one.claims.claim(TINY, 1)] == [patient.id]
        await asyncio.gather(one.claims.lapse([]), other.claims.lapse([]))
        ended, _ = await one.store.get("me", late.id)
        assert (ended.status, ended.ended_no) == (JobStatus.FAILED, 1)
        assert ended.error == "not done within 2.5 seconds"
        left = [claim.job.id for claim in await one.claims.claim(TINY, 9)]
        assert left == [soon.id]


@asynchronous
async def test_a_job_is_left_to_the_servers_that_have_its_checkpoint(database_url: str) -> None:
    """Though they draw others first, or start again; then one with another checkpoint ends it."""
    async with servers(database_url) as (here, there):
        other = {"tiny": "1" * 64}
        job = await here.accept()
        await here.claims.beat({}, [OURS, Checkpoint("busy", "2" * 64)])
        await let_lapse(here, JOBS, "created")
        assert await there.claims.claim(other, 9) == []
        await there.claims.lapse([OURS])
        await there.claims.beat({}, [Checkpoint(*one) for one in other.items()])
        assert await here.store.last_end() == 0
        await let_lapse(here, CHECKPOINTS, "lease")
        young = await here.accept()
        await there.claims.lapse([])
        assert await here.store.last_end() == 0
        await there.claims.lapse([OURS])
        ended, _ = await here.store.get("me", job.id)
        assert (ended.status, ended.ended_no) == (JobStatus.FAILED, 1)
        assert ended.error == "model 'tiny' is not the one that the job was accepted for"
        (left,) = await here.claims.claim({"tiny": None}, 9)
        assert left.job.id == young.id


@asynchronous
async def test_servers_say_what_they_have_while_there_are_jobs(database_url: str) -> None:
    async with servers(database_url) as (one, other):
        told = sql.select(CHECKPOINTS.c.server, CHECKPOINTS.c.digest).order_by("server", "digest")
        new = Checkpoint("tiny", "1" * 64)
        await one.claims.beat({}, [OURS])
        assert await one.run(told) == []
        await one.accept()
        await one.claims.claim(TINY, 1)  # one that runs may wait again
        await asyncio.gather(one.claims.beat({}, [OURS]), other.claims.beat({}, [OURS]))
        await one.claims.beat({}, [new])
        both = [("server-0", OURS.digest), ("server-0", new.digest), ("server-1", OURS.digest)]
        assert await one.run(told) == both
        await let_lapse(one, CHECKPOINTS, "lease")
        await one.claims.beat({}, [new])
        assert await one.run(told) == both[1:2]


@asynchronous
async def test_a_key_is_taken_once_and_repeats_its_answer(database_url: str) -> None:
    async with servers(database_url) as (one, other):
        assert await one.keys.begin(KEYED) is None
        for keys in (one.keys, other.keys):
            with pytest.raises(KeyInUse):
                await keys.begin(KEYED)
            with pytest.raises(KeyReused):
                await keys.begin(replace(KEYED, fingerprint="0" * 64))
        assert await other.keys.begin(replace(KEYED, owner="you")) is None
        await other.keys.keep(KEYED, replace(OK, body=b"not its own"))
        await one.keys.beat()
        await one.keys.keep(KEYED, OK)
        assert await other.keys.begin(KEYED) == await one.keys.begin(KEYED) == OK
        await other.keys.drop(KEYED)
        assert await one.keys.begin(KEYED) == OK


@asynchronous
async def test_a_key_whose_server_was_killed_may_be_used_again(database_url: str) -> None:
    async with servers(database_url) as (killed, other):
        await killed.keys.begin(KEYED)
        await let_lapse(other, KEYS, "lease")
        assert await other.keys.begin(KEYED) is None
        await killed.keys.keep(KEYED, replace(OK, body=b"late"))
        await other.keys.keep(KEYED, OK)
        assert await killed.keys.begin(KEYED) == OK


@asynchronous
async def test_of_two_requests_with_a_key_at_once_one_becomes_a_job(database_url: str) -> None:
    async with servers(database_url) as pair:

        def told(job: Job, place: Place) -> Answer:
            return replace(OK, status=202, body=job.id.encode())

        asked = [server.keys.accept(KEYED, NEW, told) for server in pair for _ in range(4)]
        answers, made = zip(*await asyncio.gather(*asked), strict=True)
        (job,) = [each[0] for each in made if each]
        assert {answer.body.decode() for answer in answers} == {job.id}
        assert await pair[0].store.counts() == {"queued": 1}


@asynchronous
async def test_a_job_that_is_refused_leaves_no_key(database_url: str) -> None:
    room = replace(ROOM, jobs=1)
    async with servers(database_url, 1, room) as (one,):
        await one.accept()
        with pytest.raises(TooManyJobs):
            await one.keys.accept(KEYED, NEW, lambda job, place: OK)
        assert await one.keys.begin(KEYED) is None


@asynchronous
async def test_keys_are_forgotten_in_time_and_beyond_so_many(database_url: str) -> None:
    async with servers(database_url, 1) as (one,):
        for k in range(5):
            keyed = replace(KEYED, key=str(k))
            await one.keys.begin(keyed)
            if k:
                await one.keys.keep(keyed, OK)
        kept = await one.run(sql.select(KEYS.c.key).order_by(KEYS.c.created))
        assert [row.key for row in kept] == ["0", "3", "4"]  # 0 is being answered
        moment = await one.store.database.run(now)
        await one.keys.forget(moment - timedelta(hours=1))
        assert len(await one.run(sql.select(KEYS.c.key))) == 3
        await one.keys.forget(moment)
        assert [row.key for row in await one.run(sql.select(KEYS.c.key))] == ["0"]
        await let_lapse(one, KEYS, "lease")
        await one.keys.forget(moment)
        assert await one.run(sql.select(KEYS.c.key)) == []


@asynchronous
async def test_results_are_kept_for_a_time_and_in_so_many_bytes(database_url: str) -> None:
    async with servers(database_url) as (one, other):
        results = Results(one.store, None)
        jobs = [await one.accept() for _ in range(5)]
        for claim in await one.claims.claim(TINY, 5):
            await one.draw(claim, b"x" * 100)
        picture, content = await results.read("me", jobs[0].id, 0)
        assert (picture.size, content) == (100, b"x" * 100)

        async def tidy(**kept: Any) -> list[str]:
            """By both servers; who has a result then."""
            retention = replace(FOREVER, **kept)
            each = [
                Keeping(server.store, results, server.keys, retention) for server in (one, other)
            ]
            await asyncio.gather(*(keeping.tidy() for keeping in each))
            return [job.id for job in await one.store.ended_since("me", 0) if job.results]

        assert await tidy() == [job.id for job in jobs]
        assert await tidy(bytes=300) == [job.id for job in jobs[2:]]
        with pytest.raises(ResultExpired):
            await results.read("me", jobs[0].id, 0)
        gone, _ = await one.store.get("me", jobs[0].id)
        assert (gone.status, gone.results, gone.expired) == ("succeeded", (), True)
        old = sql.update(JOBS).where(JOBS.c.id == jobs[2].id)
        long_ago = jobs[0].created - timedelta(hours=2)
        await one.run(old.values(ended=long_ago))
        assert await tidy(jobs=9000) == [job.id for job in jobs[3:]]
        assert (await one.store.get("me", jobs[2].id))[0].expired
        assert await tidy() == [job.id for job in jobs[3:]]
        with pytest.raises(UnknownJob):
            await one.store.get("me", jobs[2].id)
        await one.accept()  # what waits is never too old
        await one.run(sql.update(JOBS).values(created=long_ago))
        assert len(await tidy()) == 2
        assert (await one.store.counts())["queued"] == 1


@pytest.mark.server
@asynchronous
async def test_what_another_server_removes_meanwhile_is_counted_once(postgres: Postgres) -> None:
    async with servers(postgres.create()) as (one, other):
        results, loop = Results(one.store, None), asyncio.get_running_loop()
        kept = replace(FOREVER, bytes=300)
        here, there = (Keeping(each.store, results, each.keys, kept) for each in (one, other))
        jobs = [await one.accept() for _ in range(5)]
        for claim in await one.claims.claim(TINY, 5):
            await one.draw(claim, b"x" * 100)

        def due(connection: sql.Connection) -> dict[int, tuple[str, bool]]:
            def between(*context: Any) -> None:
                if "sum" in context[2] and not removed:
                    removed.append(asyncio.run_coroutine_threadsafe(there.tidy(), loop).result(20))

            removed: list[None] = []
            sql.event.listen(connection, "after_cursor_execute", between)
            found = here._due(connection)
            assert removed
            return found

        assert not await one.store.database.run(due)
        left = [job.id for job in await one.store.ended_since("me", 0) if job.results]
        assert left == [job.id for job in jobs[2:]]


@asynchronous
async def test_a_webhook_is_noted_with_the_end_and_called_by_one_server(database_url: str) -> None:
    hook = Webhook("https://example.com/", ("succeeded",))
    async with servers(database_url) as pair:
        options = Options(allowance=Allowance.of([]), unsigned=True)
        hooks = Webhooks(pair[0].store.database, options, lambda _, job: job.id)
        for server in pair:
            server.store.noted = hooks.note
        job = await pair[0].accept(webhook=hook)
        await pair[0].accept(webhook=hook)
        for claim in await pair[1].claims.claim(TINY, 1):
            await pair[1].draw(claim)
        due = [
            server.store.database.run(lambda c: outbox.claim(c, [], Bounds(), 60))
            for server in pair
            for _ in range(3)
        ]
        (delivery,) = [each for found in await asyncio.gather(*due) for each in found]
        assert (delivery.message.body, delivery.owner, delivery.attempt) == (job.id, "me", 1)
        done = CallOutcome(status=200)
        state = await pair[1].store.database.run(
            lambda c: outbox.settle(c, delivery, done, Schedule())
        )
        assert state is DeliveryState.DELIVERED
        assert [call.status for call in await hooks.of(job.id)] == [200]
        await hooks.close()
