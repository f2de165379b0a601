"""benchmarks/browsing.py: a trace's tasks, and what they are made of."""

from typing import Any

import pytest

pytest.importorskip("selenium")
from benchmarks.browsing import Step, Task, tasks_of

MAIN, OTHER = {"pid": 1, "tid": 1}, {"pid": 1, "tid": 2}


def span(name: str, ts: float, dur: float, **more: Any) -> dict[str, Any]:
    """Milliseconds here, microseconds in the trace."""
    return MAIN | {"name": name, "ph": "X", "ts": ts * 1000, "dur": dur * 1000} | more


def named(thread: dict[str, int], name: str) -> dict[str, Any]:
    return thread | {"name": "thread_name", "ph": "M", "ts": 0, "args": {"name": name}}


def test_a_task_tells_what_each_part_took_by_itself() -> None:
    called = {"data": {"functionName": "follow", "url": "http://a/js/print.js", "lineNumber": 7}}
    events = [
        named(MAIN, "CrRendererMain"),
        named(OTHER, "Compositor"),
        span("RunTask", 200, 5, tdur=4000),
        span("RunTask", 0, 100, tdur=60000),
        span("FunctionCall", 10, 50, args=called),
        span("Layout", 20, 15),
        span("Layout", 40, 5),
        span("Paint", 70, 20),
        span("Paint", 150, 20),  # of no task
        OTHER | {"name": "RunTask", "ph": "X", "ts": 0, "dur": 900_000},
        MAIN | {"name": "a mark", "ph": "I", "ts": 1},
    ]
    first, second = tasks_of(events)
    assert (first.wall, first.cpu) == (100, 60)
    assert first.parts == {
        "the task itself": 30,
        "follow (print.js:7)": 30,
        "Layout": 20,
        "Paint": 20,
    }
    assert second == Task(5, 4, {"the task itself": 5})


def test_steps_are_joined() -> None:
    one = Step("a", 1, [60.0], [Task(60, 10), Task(9, 9)], ["x"], 5)
    other = Step("b", 2, [70.0], [Task(70, 20)], ["y"], 6)
    both = Step.joined("both", [one, other])
    assert (both.seconds, both.longest, both.hardest.cpu) == (3, 70, 20)
    assert (both.requests, both.received) == (["x", "y"], 11)
    assert (Step("quiet").longest, Step("quiet").hardest.cpu) == (0, 0)
