"""Admission, rides and the ledger, against a model that only remembers what it was told."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from app.engine.costs import Bucket, Costs
from app.engine.job import LONG, Image, Job, Params, Status
from app.engine.queues import AGING
from app.engine.scheduler import PATIENCE, Plan, Scheduler
from tests.fakes import COSTS, params, pixel

STEPS = st.sampled_from([1, 2, 3, 5, LONG, LONG + 1, LONG + 50])


def tick(scheduler: Scheduler) -> list[int]:
    """One step, decoded at once; the ids of the jobs that were done with it."""
    finished = scheduler.advance(scheduler.plan())
    done = [image.job.id for image in finished if scheduler.deliver(image, pixel(0))]
    scheduler.audit()
    return done


class Machine(RuleBasedStateMachine):
    """Everything that can happen to a scheduler, in any order."""

    jobs = Bundle("jobs")
    decoding = Bundle("decoding")

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(3, COSTS)
        self.ends: Counter[int] = Counter()
        self.all: list[Job] = []
        self.admitted: list[Image] = []

    def ended(self, job: Job, status: Status) -> None:
        assert job.status is status
        self.ends[job.id] += 1

    @rule(
        target=jobs,
        steps=STEPS,
        n=st.integers(1, 4),
        guided=st.booleans(),
        priority=st.integers(-1, 1),
    )
    def submit(self, steps: int, n: int, guided: bool, priority: int) -> Job:
        job = Job(len(self.all), params(steps=steps, n=n, scale=2.0 if guided else 1.0), priority)
        self.all.append(job)
        self.scheduler.submit(job)
        return job

    @rule(job=jobs)
    def cancel(self, job: Job) -> None:
        if self.scheduler.cancel(job.id):
            self.ended(job, Status.CANCELLED)

    @rule(job=jobs)
    def fail(self, job: Job) -> None:
        if self.scheduler.fail(job):
            self.ended(job, Status.FAILED)

    def plan(self) -> Plan:
        plan = self.scheduler.plan()
        self.admitted += plan.admitted
        assert sum(image.rows for image in plan.riding) <= plan.rows
        assert not self.scheduler.running or plan.riding, "nobody rides though somebody could"
        return plan

    @rule(target=decoding)
    def step(self) -> tuple[Image, ...]:
        return self.scheduler.advance(self.plan())

    @rule(memory=st.booleans())
    def stumble(self, memory: bool) -> None:
        plan = self.plan()
        if plan.riding and (job := self.scheduler.stumble(plan, memory=memory)):
            assert len(plan.riding) == 1
            assert self.scheduler.fail(job)
            self.ended(job, Status.FAILED)

    @rule(images=consumes(decoding), spoilt=st.booleans())
    def deliver(self, images: tuple[Image, ...], spoilt: bool) -> None:
        for image in images:
            if spoilt:
                if self.scheduler.fail(image.job):
                    self.ended(image.job, Status.FAILED)
            elif self.scheduler.deliver(image, pixel(0)):
                self.ended(image.job, Status.DONE)

    @invariant()
    def the_ledger_adds_up(self) -> None:
        self.scheduler.audit()

    @invariant()
    def every_job_ends_once(self) -> None:
        assert all(count == 1 for count in self.ends.values())
        assert {job.id for job in self.all if job.ended} == set(self.ends)
        assert set(self.scheduler.jobs) == {job.id for job in self.all} - set(self.ends)

    @invariant()
    def first_come_first_served(self) -> None:
        """Inside a priority, and among short or long images, nobody overtakes."""
        order: dict[tuple[int, bool], list[tuple[int, int]]] = {}
        for image in self.admitted:
            line = order.setdefault((image.job.priority, image.long), [])
            line.append((image.job.id, image.index))
        assert all(line == sorted(line) for line in order.values())

    def teardown(self) -> None:
        """Left to itself it comes to an end, whatever was left to decode before."""
        for _ in range(20_000):
            if not self.scheduler.busy:
                break
            for image in self.scheduler.advance(self.plan()):
                if self.scheduler.deliver(image, pixel(0)):
                    self.ended(image.job, Status.DONE)
        assert not self.scheduler.busy
        self.the_ledger_adds_up()


TestMachine: Any = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_images_are_admitted_in_order_as_slots_come_free() -> None:
    scheduler = Scheduler(2, COSTS)
    for i, steps in enumerate((2, 3, 1)):
        scheduler.submit(Job(i, params(steps=steps)))
    rides = []
    while scheduler.busy:
        plan = scheduler.plan()
        rides.append(sorted(image.job.id for image in plan.riding))
        for image in scheduler.advance(plan):
            scheduler.deliver(image, pixel(0))
    assert rides == [[0, 1], [0, 1], [1, 2]]


def test_a_short_request_leaves_before_a_long_one_that_came_first() -> None:
    scheduler = Scheduler(2, COSTS)
    scheduler.submit(Job(1, params(steps=LONG)))
    scheduler.submit(Job(2, params(steps=10)))
    ends = [tick(scheduler) for _ in range(LONG)]
    assert ends[9] == [2]
    assert ends[LONG - 1] == [1]


def test_a_job_of_many_images_is_done_with_its_last() -> None:
    scheduler, job = Scheduler(2, COSTS), Job(1, params(steps=1, n=5))
    scheduler.submit(job)
    assert [tick(scheduler) for _ in range(3)] == [[], [], [1]]
    assert job.status is Status.DONE
    assert sorted(job.images) == [0, 1, 2, 3, 4]
    assert not scheduler.busy


@pytest.mark.parametrize("where", ["queued", "starting", "running", "decoding"])
def test_a_job_can_be_cancelled_wherever_it_is(where: str) -> None:
    scheduler = Scheduler(2, COSTS)
    job, other = Job(1, params(n=3, steps=2)), Job(2, params(steps=1))
    scheduler.submit(job)
    decoding: tuple[Image, ...] = ()
    if where in ("starting", "running", "decoding"):
        plan = scheduler.plan()
    if where in ("running", "decoding"):
        assert scheduler.advance(plan) == ()
    if where == "decoding":
        decoding = scheduler.advance(scheduler.plan())
        assert decoding
    scheduler.submit(other)
    assert scheduler.cancel(1)
    assert not scheduler.cancel(1), "a second time is nothing"
    scheduler.audit()
    assert scheduler.running == 0
    assert job.status is Status.CANCELLED
    assert not any(scheduler.deliver(image, pixel(0)) for image in decoding), "it came too late"
    assert tick(scheduler) == [2]


def test_a_priority_is_worth_so_many_ticks_and_no_more() -> None:
    """A stream of urgent jobs delays a lowly one by the difference, and then it has its turn."""
    scheduler = Scheduler(1, COSTS)
    scheduler.submit(Job(0, params(steps=1), priority=0))
    scheduler.submit(Job(1, params(steps=1), priority=-1))
    scheduler.submit(Job(2, params(steps=1), priority=1))
    ends: list[int] = []
    for i in range(3, 3 * AGING):
        scheduler.submit(Job(i, params(steps=1), priority=0))
        ends += tick(scheduler)
    assert ends[:2] == [2, 0]
    assert AGING <= ends.index(1) <= AGING + 3


@pytest.mark.parametrize("slots", [2, 8, 64])
def test_a_short_request_gets_in_while_long_ones_hold_the_slots(slots: int) -> None:
    """And they end as well, though short ones keep coming."""
    scheduler = Scheduler(slots, COSTS)
    for i in range(2 * slots):
        scheduler.submit(Job(i, params(steps=1000, scale=2.0)))
    for _ in range(5):
        tick(scheduler)
    came, short, ended = scheduler.ticks, 10_000, set()
    scheduler.submit(Job(short, params(steps=10)))
    waits = []
    while scheduler.jobs:
        for done in tick(scheduler):
            ended.add(done)
            if done == short and len(waits) < 1000:
                waits.append(scheduler.ticks - came)
                came, short = scheduler.ticks, short + 1
                scheduler.submit(Job(short, params(steps=10)))
    assert max(waits) <= 11, "it rides every tick from the next one on"
    assert set(range(2 * slots)) <= ended


def test_a_tick_is_short_while_a_short_image_rides_with_long_ones() -> None:
    costs = Costs(tuple(Bucket(rows, 2 + rows / 2) for rows in (1, 2, 4, 8, 16, 32)))
    scheduler = Scheduler(32, costs, most=32)
    for i in range(28):
        scheduler.submit(Job(i, params(steps=200)))
    scheduler.advance(scheduler.plan())
    assert scheduler.plan().rows == 16
    scheduler.submit(Job(100, params(steps=10, n=2)))
    plan = scheduler.plan()
    assert plan.rows == 8, "the largest within twice the 3 seconds of two rows"
    assert [image.job.id for image in plan.riding][:2] == [100, 100]
    assert len(plan.riding) == 8


@given(
    st.lists(st.tuples(STEPS, st.booleans()), min_size=1, max_size=12),
    st.integers(1, 8),
)
def test_nobody_waits_long_for_a_step(wanted: list[tuple[int, bool]], most: int) -> None:
    """Between two steps of an image lie at most as many ticks as there are images, and two a row
    for the long ones, whose part of a tick may be one image."""
    scheduler = Scheduler(12, COSTS, most=max(most, 2))
    for i, (steps, guided) in enumerate(wanted):
        scheduler.submit(Job(i, params(steps=steps, scale=2.0 if guided else 1.0)))
    last: dict[int, int] = {}
    while scheduler.busy:
        plan = scheduler.plan()
        for image in plan.riding:
            waited = scheduler.ticks - last.get(image.job.id, -1)
            assert waited <= 2 * len(wanted) + 1
            last[image.job.id] = scheduler.ticks
        for image in scheduler.advance(plan):
            scheduler.deliver(image, pixel(0))


def test_memory_that_runs_out_halves_the_rows_for_a_while() -> None:
    scheduler = Scheduler(10, COSTS)  # long images take eight of them
    for i in range(8):
        scheduler.submit(Job(i, params(steps=1000)))
    assert scheduler.plan().rows == 8
    assert scheduler.stumble(scheduler.plan(), memory=True) is None
    sizes = []
    for _ in range(PATIENCE + 1):
        plan = scheduler.plan()
        sizes.append(len(plan.riding))
        scheduler.advance(plan)
    assert sizes == [4] * PATIENCE + [8]


@pytest.mark.parametrize(
    "wanted",
    [
        [(10, 1.0), (200, 1.0)],
        [(10, 2.0), (200, 2.0)],
        [(10, 1.0), (10, 1.0), (10, 2.0)],
        [(200, 2.0), (200, 2.0), (10, 1.0), (10, 2.0)],
    ],
)
@pytest.mark.parametrize("memory", [True, False])
@pytest.mark.parametrize("costs", [COSTS, Costs(COSTS.buckets[-1:])])
def test_whatever_rides_a_step_that_never_succeeds_comes_down_to_one(
    wanted: list[tuple[int, float]], memory: bool, costs: Costs
) -> None:
    scheduler = Scheduler(8, costs)
    for i, (steps, scale) in enumerate(wanted):
        scheduler.submit(Job(i, params(steps=steps, scale=scale)))
    for left in range(len(wanted), 0, -1):
        for _ in range(10):
            if job := scheduler.stumble(scheduler.plan(), memory=memory):
                scheduler.fail(job)
                break
        assert len(scheduler.jobs) == left - 1, "ten tries were not enough"
    scheduler.audit()


def test_one_bad_row_is_found_and_the_others_go_on() -> None:
    scheduler, failed = Scheduler(8, COSTS), None
    jobs = [Job(i, params(steps=2)) for i in range(8)]
    for job in jobs:
        scheduler.submit(job)
    for _ in range(20):
        plan = scheduler.plan()
        if jobs[5] in [image.job for image in plan.riding]:
            if failed := scheduler.stumble(plan, memory=False):
                scheduler.fail(failed)
            continue
        for image in scheduler.advance(plan):
            scheduler.deliver(image, pixel(0))
    assert failed is jobs[5]
    assert [job.status for job in jobs] == [Status.DONE] * 5 + [Status.FAILED] + [Status.DONE] * 2


def test_guidance_costs_a_second_row_inside_its_interval() -> None:
    scheduler = Scheduler(1, COSTS)
    scheduler.submit(Job(0, Params("fake", 0, 10, 3.0, (0.2, 0.55), 0.0, 0, 1)))
    rows = []
    while scheduler.busy:
        plan = scheduler.plan()
        rows.append(plan.rows)
        scheduler.advance(plan)
    assert rows == [1, 1, 2, 2, 2, 2, 1, 1, 1, 1]
