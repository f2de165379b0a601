"""When a call that failed is made again."""

import asyncio
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.jobs.webhooks.schedule import Schedule, retry_after
from app.jobs.webhooks.service import Options
from tests.engine import asynchronous, until
from tests.jobs.desk import QUICK, Desk, desk, due_now, job_of
from tests.jobs.receivers import OK, receiving, status

ROOT = Path(__file__).parents[2]


def test_the_schedule_is_as_documented() -> None:
    schedule, expected = Schedule(), [5, 25, 125, 625, 3125, 14400, 14400]
    for attempt, seconds in enumerate(expected, 1):
        waits = [schedule.wait(attempt) for _ in range(50)]
        assert all(wait is not None and 0.75 * seconds <= wait <= seconds for wait in waits)
        assert len(set(waits)) > 40  # not all at once
    assert schedule.wait(8) is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("120", 120),
        (" 0 ", 0),
        ("9" * 400, 999_999_999),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Thu, 99 Jan 1970 00:00:00 GMT", None),
        ("\u0663", None),
    ],
)
def test_what_a_receiver_asks_for(header: str | None, seconds: float | None) -> None:
    assert retry_after(header) == seconds


def test_a_receiver_may_ask_for_a_longer_wait_but_not_for_any() -> None:
    schedule = Schedule()
    assert schedule.wait(1, 100) == 100
    assert schedule.wait(1, 0.0) == pytest.approx(4.375, abs=0.625)
    assert schedule.wait(1, 1e9) == 4 * 3600
    assert schedule.wait(8, 100) is None


@asynchronous
async def test_retry_after_is_heard(tmp_path: Path) -> None:
    async with receiving(status(429, "retry-after: 1000")) as receiver, desk(tmp_path) as at:
        await at.note(job_of(receiver.url))
        while (await at.state()).status is None:
            await asyncio.sleep(0.005)
        due = (await at.state()).due
        assert due is not None
        assert 900 < (due - datetime.now(UTC)).total_seconds() <= 1000


# As docs/events.md says.

_SECONDS = {"s": 1, "min": 60, "h": 3600}


def documented() -> list[float]:
    """The waits between attempts that the documentation names; seconds."""
    text = " ".join((ROOT / "docs/events.md").read_text(encoding="utf-8").split())
    found = re.search(r"waits after the first seven attempts are (.+?), each", text)
    assert found
    waits = re.findall(r"(\d+) (min|s|h)", found[1])
    return [int(number) * _SECONDS[unit] for number, unit in waits]


def test_the_documented_waits_are_those_of_the_default_schedule() -> None:
    waits = documented()
    assert len(waits) == Options().schedule.attempts - 1
    for attempt, documented_wait in enumerate(waits, 1):
        longest = max(_waits(attempt))
        assert longest == pytest.approx(documented_wait, rel=0.05)  # told in whole minutes
        assert min(_waits(attempt)) >= 0.7 * documented_wait


def _waits(attempt: int) -> list[float]:
    found = [Options().schedule.wait(attempt) for _ in range(200)]
    return [wait for wait in found if wait is not None]


@asynchronous
async def test_500_three_times_is_tried_again_at_the_documented_times(tmp_path: Path) -> None:
    usual = replace(QUICK, schedule=Options().schedule)
    async with receiving(*[status(500)] * 3, OK) as receiver, desk(tmp_path, usual) as at:
        await at.note(job_of(receiver.url))
        for attempt, wait in enumerate(documented()[:3], 1):
            await until(lambda attempt=attempt: receiver.connections == attempt)
            assert 0.7 * wait - 2 <= await seconds_to_next(at, attempt) <= 1.05 * wait
            await due_now(at)
        told = await at.ends()
        assert (told.state, told.attempts, told.status) == ("delivered", 4, 200)
        assert len({received.headers["webhook-id"] for received in receiver.received}) == 1


async def seconds_to_next(at: Desk, attempt: int) -> float:
    """Until the attempt after this one, once it has failed."""
    await until(lambda: at.webhooks.counts["retried"] == attempt)
    told = await at.state()
    assert (told.attempts, told.error) == (attempt, "status 500")
    assert told.due is not None
    return (told.due - datetime.now(UTC)).total_seconds()
