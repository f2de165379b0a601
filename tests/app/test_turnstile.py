"""Workers of one device take turns: by a clock that the test moves, and processes that die."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from app.engine import turnstile
from app.engine.turns import AHEAD
from app.engine.turnstile import Turnstile


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def file() -> Iterator[int]:
    made = turnstile.shared()
    yield made
    os.close(made)


@contextlib.contextmanager
def places(file: int, count: int) -> Iterator[tuple[Clock, list[Turnstile]]]:
    clock = Clock()
    made = [Turnstile(file, clock) for _ in range(count)]
    yield clock, made
    for each in made:
        each.close()


def run(clock: Clock, ticks: dict[Turnstile, float], seconds: float) -> dict[Turnstile, float]:
    """All want the device all the time; how much of it each has had."""
    had, end = dict.fromkeys(ticks, 0.0), clock.now + seconds
    while clock.now < end:
        held = [each for each in ticks if each.held]
        assert len(held) <= 1, "two ticks at once"
        for each in ticks:
            if each.held and each.due:
                each.give()
        takers = [each for each, tick in ticks.items() if each.take(tick)]
        assert len(takers) <= 1
        step = ticks[takers[0]] if takers else 0.0005
        clock.now += step
        if takers:
            had[takers[0]] += step
    return had


@pytest.mark.parametrize("ticks", [(0.009, 0.009), (0.009, 0.1), (0.002, 0.05, 0.3)])
def test_those_who_always_want_the_device_have_equal_times_of_it(
    file: int, ticks: tuple[float, ...]
) -> None:
    with places(file, len(ticks)) as (clock, each):
        had = run(clock, dict(zip(each, ticks, strict=True)), 60)
        assert sum(had.values()) > 0.9 * 60
        even = sum(had.values()) / len(ticks)
        assert all(abs(one - even) < 0.02 * even + max(ticks) for one in had.values())


def test_a_turn_is_kept_while_nobody_else_wants_the_device(file: int) -> None:
    with places(file, 2) as (clock, (first, second)):
        for _ in range(100):
            assert first.take(0.1)
            clock.now += 0.1
            assert not first.due
        assert not second.take()
        assert not first.due, "both begin where the first is"
        clock.now += 2 * AHEAD
        assert first.due
        first.give()
        assert second.take()
        assert not first.take()


def test_who_was_idle_has_saved_nothing_up(file: int) -> None:
    with places(file, 2) as (clock, (first, second)):
        assert first.take()
        clock.now += 100
        assert not first.due
        assert not second.take()
        clock.now += AHEAD / 2
        assert not first.due, "both begin where the first was"
        clock.now += AHEAD
        assert first.due


def test_a_turn_is_taken_from_who_hangs_and_it_notices(file: int) -> None:
    with places(file, 3) as (clock, (hung, second, third)):
        assert hung.take(1.0)
        assert not second.take()
        clock.now += 19
        assert not second.take(), "twenty ticks are not over"
        clock.now += 2
        assert not second.take(), "it sees that"
        assert second.take()
        assert not third.take(), "the others take turns without it"
        assert not hung.held
        assert not hung.take()
        second.give()
        hung.give()
        assert third.take()


def test_who_waited_and_looks_no_more_is_not_waited_for(file: int) -> None:
    with places(file, 2) as (clock, (first, second)):
        assert first.take()
        clock.now += 10
        assert not second.take()
        assert first.due
        clock.now += 1
        assert not first.wanted
        assert not first.due


_HOLDER = """
import sys, time
from app.engine.turnstile import Turnstile
one = Turnstile(int(sys.argv[1]))
assert one.take()
print("held", flush=True)
with one.loading():
    print("loading", flush=True)
    time.sleep(60)
"""


def test_a_process_that_is_killed_lets_go_of_everything(file: int) -> None:
    code = [sys.executable, "-c", _HOLDER, str(file)]
    with subprocess.Popen(code, stdout=subprocess.PIPE, pass_fds=[file]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert process.stdout.readline() == b"loading\n"
        mine = Turnstile(file)
        assert not mine.take()
        process.send_signal(signal.SIGKILL)
        process.wait()
        with mine.loading():
            end = time.monotonic() + 10
            while not mine.take() and time.monotonic() < end:
                time.sleep(0.001)
        assert mine.held
        mine.close()


def test_a_worker_alone_shares_with_nobody() -> None:
    first, second = Turnstile(None), Turnstile(None)
    assert first.take()
    assert second.take()
    with second.turn():
        assert second.held
    assert not second.held
    first.close()
    second.close()
