"""Admission, steps and the slot ledger."""

from hypothesis import given
from hypothesis import strategies as st

from app.engine.job import Job, Pixels, Status
from app.engine.scheduler import Scheduler
from tests.fakes import params

PIXEL = Pixels(1, 1, 1, b"\0")


def tick(scheduler: Scheduler) -> list[int]:
    """One step; the ids of the jobs that were done with it."""
    finished = scheduler.advance(scheduler.plan())
    done = [slot.job.id for slot in finished if scheduler.deliver(slot, PIXEL)]
    scheduler.audit()
    return done


def test_images_are_admitted_in_order_as_slots_come_free() -> None:
    scheduler = Scheduler(2)
    for i, steps in enumerate((2, 3, 1)):
        scheduler.submit(Job(i, params(steps=steps)))
    rides = []
    while scheduler.busy:
        plan = scheduler.plan()
        rides.append(sorted(slot.job.id for slot in plan.riding))
        for slot in scheduler.advance(plan):
            scheduler.deliver(slot, PIXEL)
    assert rides == [[0, 1], [0, 1], [1, 2]]


def test_a_short_request_leaves_before_a_long_one_that_came_first() -> None:
    scheduler = Scheduler(2)
    scheduler.submit(Job(1, params(steps=500)))
    scheduler.submit(Job(2, params(steps=10)))
    ends = [tick(scheduler) for _ in range(500)]
    assert ends[9] == [2]
    assert ends[499] == [1]


def test_a_job_of_many_images_is_done_with_its_last() -> None:
    scheduler, job = Scheduler(2), Job(1, params(steps=1, n=5))
    scheduler.submit(job)
    assert [tick(scheduler) for _ in range(3)] == [[], [], [1]]
    assert job.status is Status.DONE
    assert sorted(job.images) == [0, 1, 2, 3, 4]
    assert not scheduler.busy


def test_cancelling_frees_slots_and_queue() -> None:
    scheduler = Scheduler(2)
    job, next_job = Job(1, params(n=5)), Job(2, params(steps=1))
    scheduler.submit(job)
    scheduler.submit(next_job)
    tick(scheduler)
    assert len(scheduler.cancel(1)) == 2
    assert job.status is Status.CANCELLED
    assert scheduler.cancel(1) == (), "a second time is nothing"
    assert tick(scheduler) == [2]


@given(
    capacity=st.integers(1, 5),
    actions=st.lists(
        st.one_of(
            st.tuples(st.just("submit"), st.integers(1, 4), st.integers(1, 4)),
            st.tuples(st.just("cancel"), st.integers(0, 12), st.just(0)),
            st.tuples(st.just("tick"), st.just(0), st.just(0)),
        ),
        max_size=40,
    ),
)
def test_whatever_happens_the_ledger_adds_up_and_every_job_ends(
    capacity: int, actions: list[tuple[str, int, int]]
) -> None:
    scheduler, jobs = Scheduler(capacity), []
    for action, a, b in actions:
        if action == "submit":
            jobs.append(Job(len(jobs), params(steps=a, n=b)))
            scheduler.submit(jobs[-1])
        elif action == "cancel":
            scheduler.cancel(a)
        else:
            tick(scheduler)
        scheduler.audit()
    while scheduler.busy:
        tick(scheduler)
    assert all(job.ended for job in jobs)
    assert all(len(job.images) == job.params.n for job in jobs if job.status is Status.DONE)
