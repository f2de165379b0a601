"""Buckets, and what is foretold against what then happens."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.engine.costs import Ahead, Bucket, Costs, forecast, solo
from app.engine.scheduler import Scheduler
from tests.fakes import job_of, params, pixel

# Rates 100, 160, 200, 250, 240: more than 16 rows are no faster.
COSTS = Costs(
    tuple(Bucket(n, s) for n, s in ((1, 0.01), (4, 0.025), (8, 0.04), (16, 0.064), (32, 0.1333)))
)


def test_the_best_bucket_is_the_smallest_that_is_nearly_as_fast_as_any() -> None:
    assert COSTS.best.rows == 16
    assert Costs((Bucket(8, 0.8), Bucket(16, 1.0))).best.rows == 16


@pytest.mark.parametrize(
    ("wanted", "least", "most", "rows"),
    [
        (1, 1, 32, 1),
        (2, 1, 32, 1),  # one after the other is 100 a second, two padded to four are 80
        (3, 1, 32, 4),  # 120
        (9, 1, 32, 8),  # 200, and padded to sixteen 141
        (15, 1, 32, 16),
        (100, 1, 8, 8),
        (2, 2, 32, 4),  # a guided image has two rows
        (8, 1, 3, 1),
        (9, 40, 50, 32),  # none is so large
    ],
)
def test_a_tick_takes_the_bucket_that_makes_most_of_what_is_wanted(
    wanted: int, least: int, most: int, rows: int
) -> None:
    assert COSTS.choose(wanted, least, most).rows == rows


def test_a_bound_on_seconds_gives_way_to_the_least_rows() -> None:
    assert COSTS.within(0.05, 1).rows == 8
    assert COSTS.within(0.05, 9).rows == 16
    assert COSTS.within(0.001, 1).rows == 1


def test_alone_a_job_takes_its_steps() -> None:
    assert solo(COSTS, evaluations=10, rows=10) == pytest.approx(10 * 0.01)
    assert solo(COSTS, evaluations=10, rows=20) == pytest.approx(10 * 0.025)
    assert solo(COSTS, evaluations=10, rows=10 * 36) == pytest.approx(10 * (2 * 0.064 + 0.025))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(5, 60), st.integers(1, 4), st.booleans()), min_size=1, max_size=60
    ),
    st.tuples(st.integers(5, 60), st.integers(1, 4), st.booleans()),
)
def test_a_forecast_is_right_within_a_factor_of_two(
    before: list[tuple[int, int, bool]], job: tuple[int, int, bool]
) -> None:
    """Against the scheduler itself, with the table for a clock."""
    slots, clock = 16, 0.0
    scheduler = Scheduler(slots, COSTS)
    wanted = [params(steps=s, n=n, scale=2.0 if guided else 1.0) for s, n, guided in (*before, job)]
    for i, want in enumerate(wanted):
        scheduler.submit(job_of(i, want))
    last = len(wanted) - 1
    begun = ended = None
    while ended is None:
        plan = scheduler.plan()
        if any(image.job.id == last and image.index == job[1] - 1 for image in plan.admitted):
            begun = clock
        clock += COSTS.holding(plan.rows).seconds
        for image in scheduler.advance(plan):
            if scheduler.deliver(image, pixel(0)) and image.job.id == last:
                ended = clock
    ahead = Ahead(sum(w.n for w in wanted[:-1]), sum(w.work for w in wanted[:-1]))
    mine = wanted[-1]
    told = forecast(
        COSTS, ahead, slots, evaluations=mine.steps, images=mine.n, rows=mine.work, slowness=1.0
    )
    a_round = mine.steps * COSTS.best.seconds
    assert ended / 2 - a_round <= told.end <= 2 * ended + a_round
    assert begun is not None
    assert begun / 2 - a_round <= told.wait <= 2 * begun + a_round
