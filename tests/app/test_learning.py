"""What ticks cost is learned from those that run, whatever was measured at the start."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.costs import Bucket, Costs
from app.engine.job import Request
from app.engine.lane import Ended
from app.engine.learning import Learning
from app.engine.stopwatch import Stopwatch
from tests.fakes import params
from tests.simulated import DIGITS, Device, Engine, SimulatedRunner, costs_of, jitter

TRUE = costs_of(DIGITS)
BEST = max(bucket.rate for bucket in TRUE.buckets)
FLAT = {rows: 0.1 * rows for rows in (1, 2, 4, 8, 16)}  # nothing is gained by more rows


def spoiled(factors: dict[int, float]) -> Costs:
    """The digits' table, measured in moments in which something else ran."""
    return Costs(tuple(Bucket(b.rows, b.seconds * factors.get(b.rows, 1.0)) for b in TRUE.buckets))


def random_factors(seed: int) -> dict[int, float]:
    chance = random.Random(seed)
    return {rows: chance.choice([1.0, 1.1, 1.5, 2.0, 4.0]) for rows in DIGITS}


PRIORS = {
    "right": {},
    "all twice as long": dict.fromkeys(DIGITS, 2.0),
    "the best four times": {48: 4.0, 64: 4.0},
    "only the smallest right": {rows: 3.0 for rows in DIGITS if rows > 2},
    "the large ones": {32: 1.6, 48: 1.7, 64: 2.0},
    "one too short": {8: 0.4},
    "all too short": dict.fromkeys(DIGITS, 0.6),
    "at random": random_factors(1),
    "at random, again": random_factors(2),
}


def learn(learning: Learning, seconds: float, noise: "object" = lambda: 1.0) -> Counter[int]:
    """Full ticks for so long, one after the other; the seconds of each bucket."""
    watch, now, spent = Stopwatch(), 0.0, Counter[int]()
    while now < seconds:
        rows = learning.trial(1000, None) or learning.costs.best.rows
        known = watch.begin(rows, now, now)
        learning.ran(rows)
        if known:
            learning.learn(*known)
        took = DIGITS[rows] * noise()  # type: ignore[operator]
        spent[rows] += took  # type: ignore[assignment]
        now += took
    return spent


def true_rate(costs: Costs) -> float:
    rows = costs.best.rows
    return rows / DIGITS[rows]


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("spread", [0.0, 0.03, 0.1])
def test_the_bucket_that_is_chosen_in_the_end_is_a_good_one(name: str, spread: float) -> None:
    learning = Learning(spoiled(PRIORS[name]))
    learn(learning, 60, jitter(1, spread) if spread else lambda: 1.0)
    assert true_rate(learning.costs) >= 0.95 * BEST, learning.costs


@pytest.mark.parametrize("name", PRIORS)
def test_after_a_minute_hardly_any_time_is_lost(name: str) -> None:
    """Trials take little of the time, and what is chosen is as good as the best."""
    learning = Learning(spoiled(PRIORS[name]))
    learn(learning, 60, jitter(2, 0.03))
    spent = learn(learning, 20, jitter(3, 0.03))
    rows = sum(seconds / DIGITS[each] * each for each, seconds in spent.items())
    assert rows >= 0.95 * BEST * sum(spent.values()) / 1.03
    usual = sum(spent[rows] for rows in (32, 48, 64))
    assert usual >= 0.98 * sum(spent.values()), spent


def test_ten_seconds_of_noise_are_forgotten() -> None:
    """A busy loop beside the start makes everything twice as long, for a while."""
    learning = Learning(spoiled(dict.fromkeys(DIGITS, 2.0)))
    chance = random.Random(5)
    learn(learning, 10, lambda: chance.uniform(1.4, 2.2))
    learn(learning, 50, jitter(6, 0.02))
    assert true_rate(learning.costs) >= 0.95 * BEST


def test_a_burst_of_noise_changes_nothing() -> None:
    """Seconds in which something else has the cores say nothing about a bucket."""
    learning = Learning(TRUE)
    learn(learning, 30, jitter(8, 0.02))
    before, chance = learning.costs, random.Random(9)
    learn(learning, 8, lambda: chance.uniform(1.5, 3.0))
    assert true_rate(learning.costs) >= 0.95 * BEST
    for bucket, known in zip(learning.costs.buckets, before.buckets, strict=True):
        assert bucket.seconds == pytest.approx(known.seconds, rel=0.05)


def test_a_device_that_stays_slower_is_known_to_be() -> None:
    learning = Learning(TRUE)
    learn(learning, 20)
    learn(learning, 120, lambda: 2.0)
    rows = learning.costs.best.rows
    assert learning.costs.best.seconds == pytest.approx(2 * DIGITS[rows], rel=0.01)
    assert true_rate(learning.costs) >= 0.95 * BEST


def test_a_single_time_that_is_far_too_short_changes_nothing_for_long() -> None:
    learning = Learning(TRUE)
    learn(learning, 20)
    learning.learn(16, 0.001)
    learn(learning, 60)
    assert learning.costs.best.rows == 48


@given(
    st.lists(st.floats(0.001, 1.0), min_size=8, max_size=8),
    st.lists(st.tuples(st.sampled_from(list(DIGITS)), st.floats(0.001, 1.0)), max_size=60),
)
def test_more_rows_never_take_less_time(prior: list[float], times: list[tuple[int, float]]) -> None:
    """Whatever was measured; and the buckets are always those that there were."""
    learning = Learning(Costs(tuple(map(Bucket, DIGITS, prior))))
    for rows, seconds in times:
        learning.ran(rows)
        learning.learn(rows, seconds)
        table = learning.costs.buckets
        assert [bucket.rows for bucket in table] == list(DIGITS)
    if times:
        seconds_each = [bucket.seconds for bucket in learning.costs.buckets]
        assert seconds_each == sorted(seconds_each)


def test_what_cannot_be_filled_is_not_tried() -> None:
    learning = Learning(spoiled({4: 3.0, 16: 3.0}))
    for _ in range(10_000):
        assert learning.trial(15, None) <= 15
        assert learning.trial(1000, 8) <= 8
        learning.ran(8)
    assert learning.trial(3, 8) <= 3


def test_a_bucket_that_never_has_its_turn_holds_up_no_other() -> None:
    """As one row does where every image takes two."""
    learning, tried = Learning(TRUE), set()
    for _ in range(20_000):
        rows = learning.trial(1000, None)
        learning.ran(rows if rows > 8 else 48)
        tried.add(rows)
    assert tried == {0, *DIGITS} - {48}


def test_where_more_rows_gain_nothing_the_smallest_bucket_is_kept() -> None:
    learning = Learning(costs_of(FLAT))
    assert learning.costs.best.rows == 1


@pytest.mark.parametrize("kind", [{}, {"ahead": True}, {"at_once": True}], ids=str)
def test_a_lane_learns_from_ticks_between_which_nothing_is_decoded(kind: dict[str, bool]) -> None:
    """Through scheduler, lane and stopwatch, with decoding that takes as long as ticks do."""
    device = Device(**kind, decoding=0.01, noise=jitter(7, 0.01))
    runner = SimulatedRunner(device, DIGITS, spoiled(dict.fromkeys(DIGITS, 2.5)))
    engine, want = Engine.of(device, runner), params(steps=20, scale=2.0)

    def again(_: Ended) -> Request:
        return Request(want)

    engine.answered = again
    for _ in range(60):
        engine.submit(Request(want))
    engine.run(45)
    costs = engine.lane("fake").costs
    assert true_rate(costs) >= 0.95 * BEST
    assert costs.best.seconds == pytest.approx(DIGITS[costs.best.rows], rel=0.05)


def test_the_time_of_a_tick_is_that_between_two_begins() -> None:
    watch = Stopwatch()
    assert watch.begin(8, 0.0, 0.1) is None
    assert watch.begin(8, 1.0, 1.1) is None
    assert watch.begin(8, 2.5, 2.6) == (8, pytest.approx(1.5))
    assert watch.begin(16, 3.5, 3.6) is None, "it is another bucket's, and may have waited"
    assert watch.begin(8, 4.0, 4.1) is None, "the one before was another bucket's"
    assert watch.begin(8, 5.0, 5.1) is None
    watch.disturb()
    assert watch.begin(8, 6.0, 6.1) is None, "something else ran meanwhile"
    assert watch.begin(8, 7.0, 7.1) is None
    assert watch.begin(8, 8.0, 8.1) == (8, pytest.approx(1.0))


def test_ticks_that_are_waited_for_have_their_mean() -> None:
    watch = Stopwatch()
    for began in (0.0, 1.0, 2.0):
        watch.begin(4, began, began + 0.3)
    assert watch.settle(3.0) == (4, pytest.approx(1.0))
    assert watch.settle(4.0) is None
    watch.begin(4, 4.0, 4.3)
    watch.begin(8, 5.0, 5.3)
    assert watch.settle(7.0) is None, "they are not alike"
    watch.begin(4, 7.0, 7.3)
    watch.disturb()
    assert watch.settle(9.0) is None
