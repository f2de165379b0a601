"""Which models leave, and when the next one may."""

import pytest

from app.engine.keeping import _FRESH, Keeping

IDLE = {"old": 9.0, "new": 3.0}


BUSY = {"first": 50.0, "second": 2.0}


@pytest.mark.parametrize(
    ("idle_seconds", "idle", "busy", "waited", "leaving", "again"),
    [
        (None, IDLE, BUSY, None, set(), None),
        (None, IDLE, {}, 0.0, {"old"}, _FRESH),
        (None, {"old": 0.05}, BUSY, 0.0, set(), 0.15),
        (None, {}, {}, 0.0, set(), _FRESH),
        (5.0, IDLE, {}, None, {"old"}, 2.0),
        (5.0, {}, {}, None, set(), None),
        (5.0, {}, BUSY, None, set(), 5.0),
        (20.0, IDLE, {}, 0.0, {"old"}, _FRESH),
        (2.0, IDLE, BUSY, None, {"old", "new"}, 2.0),
        (None, {}, BUSY, 9.9, set(), 0.1),
        (None, {}, BUSY, 10.0, {"first"}, _FRESH),
        (None, {}, {"second": 9.95}, 40.0, set(), 0.05),
        (None, {}, {"second": 10.0}, 40.0, {"second"}, _FRESH),
        (None, IDLE, BUSY, 40.0, {"old"}, _FRESH),
    ],
)
def test_who_leaves(
    idle_seconds: float | None,
    idle: dict[str, float],
    busy: dict[str, float],
    waited: float | None,
    leaving: set[str],
    again: float | None,
) -> None:
    keeping = Keeping(idle_seconds=idle_seconds, turn_seconds=10.0)
    told = keeping.leaving(idle, busy, waited)
    assert set(told[0]) == leaving
    assert told[1] == (None if again is None else pytest.approx(again))


def test_there_is_room_below_the_limit() -> None:
    assert [Keeping(most=2).has_room(loaded) for loaded in range(4)] == [True, True, False, False]
    assert Keeping().has_room(10**6)
