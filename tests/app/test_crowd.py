"""Who may connect, and who goes for it."""

import random
from dataclasses import dataclass, field

from app.http.crowd import Bounds, Crowd

BOUNDS = Bounds(connections=50, head_bytes=1, head_seconds=1, body_seconds=1, answer_seconds=1)


@dataclass(eq=False)
class Caller:
    """A connection that counts how often it is evicted."""

    address: str
    evicted: int = 0
    crowd: Crowd | None = field(default=None, repr=False)

    def evict(self) -> None:
        self.evicted += 1


def crowd_of(*addresses: str) -> tuple[Crowd, list[Caller]]:
    crowd = Crowd(BOUNDS)
    callers = [Caller(address) for address in addresses]
    for caller in callers:
        assert crowd.enter(caller)
    return crowd, callers


def test_one_client_alone_has_four_fifths() -> None:
    crowd, callers = crowd_of(*["a"] * 40)
    for caller in callers:
        crowd.mark(caller, waiting=False)
    assert not crowd.enter(Caller("a")), "all of its own are served"
    assert crowd.enter(Caller("b"))


def test_greedy_clients_share_and_leave_room() -> None:
    """Of n, each has 4 / (4 n + 1): eq. 1 of Choudhury & Hahne 1998, solved for all alike."""
    crowd = Crowd(BOUNDS)
    counts = dict.fromkeys("abc", 0)
    for _ in range(50):
        for address in counts:
            caller = Caller(address)
            if crowd.enter(caller):
                crowd.mark(caller, waiting=False)
                counts[address] += 1
    assert all(abs(count - 50 * 4 / 13) <= 1 for count in counts.values()), counts
    assert crowd.enter(Caller("d"))


def test_the_one_that_waits_longest_goes() -> None:
    crowd, callers = crowd_of(*["a"] * 40)
    crowd.mark(callers[0], waiting=False)
    crowd.mark(callers[1], waiting=False)
    crowd.mark(callers[1], waiting=True)  # answered just now
    assert crowd.enter(Caller("a"))
    assert crowd.enter(Caller("a"))
    assert [caller.evicted for caller in callers[:5]] == [0, 0, 1, 1, 0]


def test_when_all_are_taken_the_client_with_most_that_wait_gives_one() -> None:
    crowd, callers = crowd_of(*["a"] * 30, *[f"b{k}" for k in range(20)])
    assert crowd.enter(Caller("c"))
    assert callers[0].evicted == 1
    assert sum(caller.evicted for caller in callers) == 1


def test_there_are_never_more_than_there_may_be() -> None:
    """Random comings, goings and requests; whoever is evicted has waited."""
    chance = random.Random(0)
    crowd = Crowd(BOUNDS)
    inside: list[Caller] = []
    served: set[int] = set()
    for _ in range(5000):
        act = chance.random()
        if act < 0.5:
            caller = Caller(chance.choice("abcdef"))
            if crowd.enter(caller):
                inside.append(caller)
        elif inside:
            caller = chance.choice(inside)
            if act < 0.6:
                crowd.leave(caller)
                inside.remove(caller)
                served.discard(id(caller))
            else:
                busy = act < 0.8
                crowd.mark(caller, waiting=not busy)
                (served.add if busy else served.discard)(id(caller))
        gone = [caller for caller in inside if caller.evicted]
        assert not any(id(caller) in served for caller in gone)
        inside = [caller for caller in inside if not caller.evicted]
        assert len(inside) <= BOUNDS.connections
        assert len(inside) == len(crowd._members)
