"""Which models leave, and when the next one may."""

import pytest

from app.engine.keeping import _FRESH, Keeping

IDLE = {"old": 9.0, "new": 3.0}


@pytest.mark.parametrize(
    ("idle_seconds", "idle", "crowded", "busy", "leaving", "again"),
    [
        (None, IDLE, False, True, set(), None),
        (None, IDLE, True, False, {"old"}, _FRESH),
        (None, {"old": 0.05}, True, True, set(), 0.15),
        (None, {}, True, True, set(), _FRESH),
        (5.0, IDLE, False, False, {"old"}, 2.0),
        (5.0, {}, False, False, set(), None),
        (5.0, {}, False, True, set(), 5.0),
        (20.0, IDLE, True, False, {"old"}, _FRESH),
        (2.0, IDLE, False, True, {"old", "new"}, 2.0),
    ],
)
def test_who_leaves(
    idle_seconds: float | None,
    idle: dict[str, float],
    crowded: bool,
    busy: bool,
    leaving: set[str],
    again: float | None,
) -> None:
    told = Keeping(idle_seconds=idle_seconds).leaving(idle, crowded=crowded, busy=busy)
    assert set(told[0]) == leaving
    assert told[1] == (None if again is None else pytest.approx(again))


def test_there_is_room_below_the_limit() -> None:
    assert [Keeping(most=2).has_room(loaded) for loaded in range(4)] == [True, True, False, False]
    assert Keeping().has_room(10**6)
