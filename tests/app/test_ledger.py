"""What is refused, what lies before whom, and who computes for whom; with several clients."""

import dataclasses
from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.engine.costs import Bucket, Costs
from app.engine.errors import DeadlineTooShort, EngineBusy
from app.engine.job import MAX_IMAGES, MAX_STEPS, Asker, Request, SamplingParams
from app.engine.ledger import Ledger, Limits
from app.engine.pending import Pending
from app.engine.scheduler import Scheduler
from app.engine.shares import Shares
from tests.fakes import INFO, LOAD, drawn, job_of, params, pixel

COSTS = Costs(
    tuple(Bucket(n, s) for n, s in ((1, 0.01), (4, 0.025), (8, 0.04), (16, 0.064), (32, 0.1333)))
)


def ledger(jobs: int = 512, work: float = 500_000, slots: int = 16) -> Ledger:
    """Work as it is with full ticks: so many UNet evaluations of one client."""
    limits = Limits(jobs, work / COSTS.best.rate, 300)
    made = Ledger(msgspec.structs.replace(LOAD, slots=slots), limits)
    made.models = {"fake": dataclasses.replace(INFO, costs=COSTS)}
    return made


def asked(want: SamplingParams, client: str, priority: int = 0) -> Request:
    return Request(want, priority, asker=Asker(client))


def add(where: Ledger, client: str, want: SamplingParams, priority: int = 0) -> Pending:
    number = max(where.requests, default=0) + 1
    request = Pending(number, asked(want, client, priority), want.work, None)  # type: ignore[arg-type]
    where.add(request)
    return request


def fill(where: Ledger, client: str, want: SamplingParams) -> int:
    """Ask until it is refused; how often it was not."""
    count = 0
    while True:
        try:
            where.admit(asked(want, client), 10**9)
        except EngineBusy:
            return count
        add(where, client, want)
        count += 1


@given(st.integers(1, 600), st.integers(1, 12))
def test_of_what_is_scarce_one_has_all_and_many_have_equal_parts(alone: int, clients: int) -> None:
    shares = Shares(alone)
    names = [f"c{k}" for k in range(clients)]
    while takers := [name for name in names if shares.fits(name)]:
        for name in takers:
            if shares.fits(name):
                shares.take(name)
    held = [shares.held(name) for name in names]
    assert shares.taken == sum(held) <= shares.total
    if clients == 1:
        assert held == [alone]
    elif min(held) > 0:
        part = 4 * shares.total / (4 * clients + 1)
        assert all(abs(one - part) <= 1 for one in held if one > 1)
    for name in names:
        shares.take(name, -shares.held(name))
    assert (shares.taken, shares.clients) == (0, 0)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 40)), max_size=60))
def test_a_share_is_four_times_what_is_free(wanted: list[tuple[str, int]]) -> None:
    """The rule as it is published: held <= 4 x (total - taken), once it is taken."""
    shares, held = Shares(100), Counter[str]()
    for client, amount in wanted:
        mine = held[client] + amount
        free = shares.total - held.total() - amount
        fits = free >= 0 if not held[client] else mine <= 4 * free
        assert shares.fits(client, amount) == fits
        if fits:
            shares.take(client, amount)
            held[client] += amount
    assert shares.by_client == held


def test_a_flood_leaves_room_for_others() -> None:
    where = ledger()
    assert fill(where, "flood", params(steps=10)) == 512, "as much as before, alone"
    assert fill(where, "quiet", params(steps=10)) == 102, "four fifths of 128"
    assert fill(where, "third", params(steps=10)) == 20
    with pytest.raises(
        EngineBusy,
        match=r"512 requests of this client \(20 s of the device's time\) are waiting or running "
        "besides those of other clients; the limits are 414 and 1996 s",
    ):
        where.admit(asked(params(), "flood"), 10**9)


def test_a_flood_of_work_leaves_room_for_the_largest_request() -> None:
    where, largest = ledger(), params(steps=MAX_STEPS, n=MAX_IMAGES, scale=2.0)
    assert fill(where, "flood", largest) == 15
    assert fill(where, "quiet", largest) == 3


@pytest.mark.parametrize(("jobs", "work"), [(1, 32_000), (2, 32_000), (512, 32_000), (512, 1600)])
def test_the_smallest_settings_allow_any_one_request(jobs: int, work: int) -> None:
    """Also one with twenty times the work that one client may have."""
    where, largest = ledger(jobs, work), params(steps=MAX_STEPS, n=MAX_IMAGES, scale=2.0)
    assert fill(where, "a", largest) == 1
    assert fill(where, "b", params(steps=10)) >= 1, "and one of somebody else beside it"
    with pytest.raises(EngineBusy):
        where.admit(asked(largest, "b"), 10**9)


def test_a_request_beyond_the_limit_is_refused_only_by_its_deadline() -> None:
    where, largest = ledger(work=1600), params(steps=MAX_STEPS, n=MAX_IMAGES, scale=2.0)
    where.admit(asked(largest, "a"), 150)
    with pytest.raises(DeadlineTooShort, match="takes about 128 s alone"):
        where.admit(asked(largest, "a"), 100)


def test_where_even_the_reserve_is_taken_it_is_said() -> None:
    where = ledger(jobs=1)
    for client in "ab":
        assert fill(where, client, params()) == 1
    with pytest.raises(EngineBusy, match=r"2 requests of 2 clients \(0.024 s .* limits are 2 and"):
        where.admit(asked(params(), "c"), 10**9)


def test_what_is_done_and_what_has_ended_counts_no_more() -> None:
    where, want = ledger(work=32_000), params(steps=1000, n=16)
    first = add(where, "a", want)
    add(where, "a", want)
    with pytest.raises(EngineBusy):
        where.admit(asked(params(), "a"), 10**9)
    where.note(first, 8000)
    where.admit(asked(params(), "a"), 10**9)
    where.note(first, 0)  # the worker died
    with pytest.raises(EngineBusy):
        where.admit(asked(params(), "a"), 10**9)
    for request in list(where.requests.values()):
        where.forget(request)
        where.forget(request)  # a second time is nothing
    assert fill(where, "a", want) == 2


Wish = tuple[int, int, bool]
WISHES = st.tuples(st.integers(5, 60), st.integers(1, 4), st.booleans())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(WISHES, max_size=50), min_size=1, max_size=3), WISHES)
def test_a_client_is_refused_by_what_lies_before_it_and_not_by_all_there_is(
    floods: list[list[Wish]], wish: Wish
) -> None:
    """Against the scheduler itself, with the table for a clock: within a factor of two."""
    where, scheduler, clock = ledger(), Scheduler(16, COSTS), 0.0

    def wanted(steps: int, n: int, guided: bool) -> SamplingParams:
        return params(steps=steps, n=n, scale=2.0 if guided else 1.0)

    for number, flood in enumerate(floods):
        for one in flood:
            request = add(where, f"f{number}", wanted(*one))
            scheduler.submit(job_of(request.id, request.params, asker=Asker(request.client)))
    want = wanted(*wish)
    job = job_of(10**6, want, asker=Asker("quiet"))
    scheduler.submit(job)
    while not job.ended:
        plan = scheduler.plan()
        clock += COSTS.holding(plan.rows).seconds
        for image in scheduler.advance(plan):
            scheduler.deliver(image, pixel(0))
    a_round = want.steps * COSTS.best.seconds
    where.admit(asked(want, "quiet"), 2 * clock + a_round)
    if (short := clock / 2 - a_round) > 0:
        with pytest.raises((EngineBusy, DeadlineTooShort)):
            where.admit(asked(want, "quiet"), short)


@pytest.mark.parametrize("priority", [0, 10])
def test_a_queue_is_its_own_clients(priority: int) -> None:
    """However urgent: another client has a share of the slots, and turns."""
    where, want = ledger(), params(steps=50)
    for _ in range(200):
        add(where, "flood", want, priority=priority)
    where.admit(asked(want, "quiet"), 5)
    with pytest.raises(EngineBusy, match="it would take about"):
        where.admit(asked(want, "flood"), 5)
    if priority:
        where.admit(asked(want, "flood", priority + 1), 5)


def test_places_follow_turns() -> None:
    where = ledger(slots=1)
    mine = [add(where, "flood", params(seed=k, n=1 + (k == 4))) for k in range(6)]
    mine[0].riding = True
    quiet = [add(where, "quiet", params(seed=10 + k)) for k in range(2)]
    urgent = add(where, "flood", params(seed=20), priority=1)
    places = {request.id: place for request, place in where.places(lambda _: True)}
    order = [urgent, quiet[0], quiet[1], *mine[1:]]  # the urgent one is its client's first
    assert [places[request.id].position for request in order] == list(range(8))
    waits = [places[request.id].wait for request in order]
    assert waits == sorted(waits)


def test_one_clients_equal_request_is_not_computed_in_the_queue_of_one_who_wants_more() -> None:
    where, want = ledger(), params(seed=5)
    first = add(where, "quiet", want)
    assert where.equal(asked(want, "quiet")) is first
    assert where.equal(asked(want, "other")) is first, "the other would come later"
    where.forget(first)
    for seed in range(10):
        add(where, "flood", params(seed))
    assert where.equal(asked(want, "quiet")) is None
    assert where.equal(asked(want, "flood")) is where.requests[6]
    second = add(where, "quiet", want)
    assert where.equal(asked(want, "third")) is second
    assert where.equal(asked(want, "flood")) is where.requests[6]
    for request in list(where.requests.values()):
        where.forget(request)
    assert where.equal(asked(want, "flood")) is None


@given(
    st.integers(1, 60),
    st.integers(1, 4),
    st.sampled_from([0.0, 1.0, 3.0]),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_the_work_of_a_request_is_the_rows_of_all_its_steps(
    steps: int, n: int, scale: float, interval: tuple[float, float]
) -> None:
    want = drawn("fake", 0, steps, scale, interval, 0.0, 0, n)
    assert want.work == n * sum(want.rows(step) for step in range(steps))
    kept = want.canonical(INFO)
    assert kept.work == want.work
    assert kept.canonical(INFO) == kept


def test_suspects_are_known_until_they_end_or_are_cleared() -> None:
    where = ledger()
    first, second = add(where, "a", params(1)), add(where, "b", params(2))
    for _ in range(2):
        first.riding = second.riding = True
        where.bury("fake")
    assert list(where.suspects.values()) == [first, second] == list(where.requests.values())
    where.forget(second)
    third = add(where, "c", params(3))
    assert list(where.suspects.values()) == [first]
    third.riding = True  # alone in flight at the next death: the others are as they were
    where.bury("fake")
    assert list(where.suspects.values()) == [first]
    where.forget(first)
    assert not where.suspects


def test_of_two_equal_requests_of_one_client_either_may_end_first() -> None:
    """With previews they are not shared."""
    for order in ((0, 1), (1, 0)):
        where = ledger()
        twins = [add(where, "same", params(seed=1)) for _ in range(2)]
        for k in order:
            where.forget(twins[k])
        assert not where.requests
        assert where.equal(asked(params(seed=1), "same")) is None
