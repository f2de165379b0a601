"""Admission, rides and the ledger, against a model that only remembers what it was told."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from app.engine.costs import Bucket, Costs
from app.engine.job import Asker, Image, Job, SamplingParams, Status
from app.engine.queues import AGING
from app.engine.scheduler import PATIENCE, Plan, Scheduler
from tests.fakes import COSTS, drawn, job_of, params, pixel

LONG = 100  # evaluations of one row, by COSTS, are the most that is not long: 0.25 s
SLOW = Costs((Bucket(1, AGING / 20),))
AGES = 20  # its ticks are as long as a level of priority is worth

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
        client=st.sampled_from(["a", "a", "b", "c"]),
    )
    def submit(self, steps: int, n: int, guided: bool, priority: int, client: str) -> Job:
        want = params(steps=steps, n=n, scale=2.0 if guided else 1.0)
        job = job_of(len(self.all), want, priority, asker=Asker(client))
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
        self.shares_are_kept(plan)
        assert sum(image.rows for image in plan.riding) <= plan.rows
        assert not self.scheduler._running or plan.riding, "nobody rides though somebody could"
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

    def shares_are_kept(self, plan: Plan) -> None:
        """No slot was given to who had four fifths of what the others left; nobody who has none
        waits for a short image while one is free."""
        holders = [*self.scheduler._running.values(), *self.scheduler._made]
        running = [image.job.asker.client for image in holders]
        total, held = 4, Counter(running)  # one alone has three
        held -= Counter(image.job.asker.client for image in plan.admitted)
        for image in plan.admitted:
            client = image.job.asker.client
            others = held.total() - held[client]
            held[client] += 1
            assert held[client] <= max((total - others) * 4 // 5, 1)
        for job in self.all:
            if not job.ended and job.begun < job.params.n and not job.long:
                assert held[job.asker.client] or len(running) == total

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
        """Of one client, inside a priority, and among short or long images, nobody overtakes."""
        order: dict[tuple[str, int, bool], list[tuple[int, int]]] = {}
        for image in self.admitted:
            kind = (image.job.asker.client, image.job.request.priority, image.long)
            line = order.setdefault(kind, [])
            line.append((image.job.id, image.index))
        assert all(line == sorted(line) for line in order.values())

    def teardown(self) -> None:
        """Left to itself it comes to an end, a step a tick at least, whatever was left to decode
        before."""
        left = sum(job.params.steps * job.params.n for job in self.all if not job.ended)
        for _ in range(left + 1):
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
        scheduler.submit(job_of(i, params(steps=steps)))
    rides = []
    while scheduler.busy:
        plan = scheduler.plan()
        rides.append(sorted(image.job.id for image in plan.riding))
        for image in scheduler.advance(plan):
            scheduler.deliver(image, pixel(0))
    assert rides == [[0, 1], [0, 1], [1, 2]]


def test_a_short_request_leaves_before_a_long_one_that_came_first() -> None:
    scheduler = Scheduler(2, COSTS)
    scheduler.submit(job_of(1, params(steps=LONG)))
    scheduler.submit(job_of(2, params(steps=10)))
    ends = [tick(scheduler) for _ in range(LONG)]
    assert ends[9] == [2]
    assert ends[LONG - 1] == [1]


def test_a_job_of_many_images_is_done_with_its_last() -> None:
    scheduler, job = Scheduler(2, COSTS), job_of(1, params(steps=1, n=5))
    scheduler.submit(job)
    assert [tick(scheduler) for _ in range(3)] == [[], [], [1]]
    assert job.status is Status.DONE
    assert sorted(job.images) == [0, 1, 2, 3, 4]
    assert not scheduler.busy


@pytest.mark.parametrize("where", ["queued", "starting", "running", "decoding"])
def test_a_job_can_be_cancelled_wherever_it_is(where: str) -> None:
    scheduler = Scheduler(2, COSTS)
    job, other = job_of(1, params(n=3, steps=2)), job_of(2, params(steps=1))
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


def test_a_priority_is_worth_so_many_seconds_and_no_more() -> None:
    """A stream of urgent jobs delays a lowly one by the difference, and then it has its turn."""
    scheduler = Scheduler(1, SLOW)
    scheduler.submit(job_of(0, params(steps=1), priority=0))
    scheduler.submit(job_of(1, params(steps=1), priority=-1))
    scheduler.submit(job_of(2, params(steps=1), priority=1))
    ends: list[int] = []
    for i in range(3, 3 * AGES):
        scheduler.submit(job_of(i, params(steps=1), priority=0))
        ends += tick(scheduler)
    assert ends[:2] == [2, 0]
    assert AGES <= ends.index(1) <= AGES + 3


@pytest.mark.slow
@pytest.mark.parametrize("slots", [2, 8, 64])
def test_a_short_request_gets_in_while_long_ones_hold_the_slots(slots: int) -> None:
    """And they end as well, though short ones keep coming."""
    scheduler = Scheduler(slots, COSTS)
    for i in range(2 * slots):
        scheduler.submit(job_of(i, params(steps=300, scale=2.0)))
    for _ in range(5):
        tick(scheduler)
    came, short, ended = scheduler.ticks, 10_000, set()
    scheduler.submit(job_of(short, params(steps=10)))
    waits = []
    while scheduler.jobs:
        for done in tick(scheduler):
            ended.add(done)
            if done == short and len(waits) < 300:
                waits.append(scheduler.ticks - came)
                came, short = scheduler.ticks, short + 1
                scheduler.submit(job_of(short, params(steps=10)))
    assert max(waits) <= 11, "it rides every tick from the next one on"
    assert set(range(2 * slots)) <= ended


def test_a_tick_is_short_while_a_short_image_rides_with_long_ones() -> None:
    costs = Costs(tuple(Bucket(rows, 2 + rows / 2) for rows in (1, 2, 4, 8, 16, 32)))
    scheduler = Scheduler(32, costs, most=32)
    for i in range(28):
        scheduler.submit(job_of(i, params(steps=200)))
    scheduler.advance(scheduler.plan())
    assert scheduler.plan().rows == 16
    scheduler.submit(job_of(100, params(steps=10, n=2)))
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
        scheduler.submit(job_of(i, params(steps=steps, scale=2.0 if guided else 1.0)))
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
        scheduler.submit(job_of(i, params(steps=1000)))
    assert scheduler.plan().rows == 8
    assert scheduler.stumble(scheduler.plan(), memory=True) is None
    sizes = []
    patience = round(PATIENCE / COSTS.holding(4).seconds)  # ticks
    for _ in range(patience + 2):
        plan = scheduler.plan()
        sizes.append(len(plan.riding))
        scheduler.advance(plan)
    assert patience <= sizes.index(8) <= patience + 1
    assert set(sizes[:patience]) == {4}


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
        scheduler.submit(job_of(i, params(steps=steps, scale=scale)))
    for left in range(len(wanted), 0, -1):
        for _ in range(10):
            if job := scheduler.stumble(scheduler.plan(), memory=memory):
                scheduler.fail(job)
                break
        assert len(scheduler.jobs) == left - 1, "ten tries were not enough"
    scheduler.audit()


def test_one_bad_row_is_found_and_the_others_go_on() -> None:
    scheduler, failed = Scheduler(8, COSTS), None
    jobs = [job_of(i, params(steps=2)) for i in range(8)]
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


def test_a_bucket_is_tried_where_it_can_be_filled_and_holds_up_nobody() -> None:
    scheduler = Scheduler(16, COSTS)
    for i in range(3):
        scheduler.submit(job_of(i, params(steps=9, scale=2.0)))
    assert scheduler.plan(trial=8).rows != 8, "there are six rows"
    plan = scheduler.plan(trial=2)
    assert (plan.rows, len(plan.riding)) == (2, 1)
    assert scheduler.plan(trial=1).riding, "no image has one row"
    scheduler.submit(job_of(4, params(steps=2)))
    scheduler.plan()
    assert scheduler.plan(trial=1).rows != 1, "its last step is too near"
    scheduler.submit(job_of(5, params(steps=500)))
    scheduler.plan()
    assert scheduler.plan(trial=2).rows != 2, "short ones ride before a long one"


def test_guidance_costs_a_second_row_inside_its_interval() -> None:
    scheduler = Scheduler(1, COSTS)
    scheduler.submit(job_of(0, drawn("fake", 0, 10, 3.0, (0.2, 0.55), 0.0, 0, 1)))
    rows = []
    while scheduler.busy:
        plan = scheduler.plan()
        rows.append(plan.rows)
        scheduler.advance(plan)
    assert rows == [1, 1, 2, 2, 2, 2, 1, 1, 1, 1]


# Two rows take 2.4 ms and 48 take 22: as the digits do on two cores.
DIGITS = Costs(
    tuple(
        Bucket(rows, seconds)
        for rows, seconds in (
            (2, 0.0024),
            (4, 0.0034),
            (8, 0.0055),
            (16, 0.0085),
            (32, 0.0155),
            (48, 0.022),
        )
    )
)


class Crowd:
    """Clients who keep so many requests in the queue, and a clock that goes by the table."""

    def __init__(
        self, scheduler: Scheduler, costs: Costs, wants: dict[str, tuple[SamplingParams, int]]
    ):
        self.scheduler, self.costs, self.wants = scheduler, costs, wants
        self.clock, self.rows = 0.0, Counter[str]()
        self.waiting = Counter[str]()
        self.jobs = 0

    def submit(self, client: str, want: SamplingParams, priority: int = 0) -> Job:
        self.jobs += 1
        job = job_of(self.jobs, want, priority, costs=self.costs, asker=Asker(client))
        self.scheduler.submit(job)
        return job

    def tick(self) -> Plan:
        for client, (want, depth) in self.wants.items():
            while self.waiting[client] < depth:
                self.submit(client, want)
                self.waiting[client] += 1
        plan = self.scheduler.plan()
        self.clock += self.costs.holding(plan.rows).seconds
        for image in plan.riding:
            self.rows[image.job.asker.client] += image.rows
        for image in self.scheduler.advance(plan):
            if self.scheduler.deliver(image, pixel(0)):
                self.waiting[image.job.asker.client] -= 1
        self.scheduler.audit()
        return plan


@pytest.mark.parametrize(
    "flood",
    [
        params(steps=10, scale=2.0),
        params(steps=1),
        params(steps=100, n=16, scale=2.0),
        params(steps=1000, n=16, scale=2.0),
    ],
    ids=["ten", "one", "a hundred, sixteen", "a thousand, sixteen"],
)
@pytest.mark.slow
@pytest.mark.parametrize("flooders", [1, 3])
@pytest.mark.parametrize("quiet", [params(steps=10, scale=2.0), params(steps=100, scale=2.0)])
def test_a_quiet_client_is_as_good_as_alone(
    flood: SamplingParams, flooders: int, quiet: SamplingParams
) -> None:
    """It gets a slot at the next tick, rides every one, and takes less than three times as long."""
    crowd = Crowd(Scheduler(64, DIGITS), DIGITS, {f"f{k}": (flood, 100) for k in range(flooders)})
    for _ in range(300):
        crowd.tick()
    before = sum(crowd.rows.values())
    for _ in range(2):
        job, came, ticks = crowd.submit("quiet", quiet), crowd.clock, 0
        while not job.ended:
            plan = crowd.tick()
            ticks += 1
            assert job in [image.job for image in plan.riding]
        assert ticks == quiet.steps
        assert crowd.clock - came < 3 * quiet.steps * DIGITS.buckets[0].seconds
        for _ in range(40):
            crowd.tick()
    assert sum(crowd.rows.values()) - before > crowd.rows["quiet"] * 2, "the flood has its part"


@pytest.mark.parametrize("priority", [-10, 0, 10])
def test_a_level_of_priority_is_worth_as_much_between_clients(priority: int) -> None:
    """Of two who want every slot the urgent one has them, until the other has waited for so long;
    and whoever has the fewest slots comes first where both are alike."""
    crowd = Crowd(Scheduler(1, SLOW), SLOW, {})
    others = [crowd.submit("a", params(steps=1)) for _ in range(AGES * 12)]
    mine = [crowd.submit("b", params(steps=1), priority) for _ in range(3)]
    crowd.scheduler._queues.slots.take("c", 1)  # somebody keeps the reserve
    crowd.scheduler._free.pop()
    order: list[str] = []
    while not all(job.ended for job in mine):
        order += [image.job.asker.client for image in crowd.scheduler.plan().admitted]
        for image in crowd.scheduler.advance(crowd.scheduler.plan()):
            crowd.scheduler.deliver(image, pixel(0))
    first = order.index("b")
    assert first == {-10: AGES * 10, 0: 1, 10: 0}[priority]
    assert any(not job.ended for job in others) == (priority >= 0)


@given(st.integers(24, 64), st.integers(24, 64))
@settings(max_examples=20, deadline=None)
def test_rows_are_shared_out_by_client_and_not_by_image(a: int, b: int) -> None:
    """One who has every slot, one who has what is left and one with a single image: the last rides
    every tick, and the others have as much as each other."""
    want = params(steps=100, scale=2.0)
    crowd = Crowd(Scheduler(64, DIGITS), DIGITS, {"a": (want, a)})
    crowd.tick()
    crowd.wants |= {"b": (want, b), "c": (want, 1)}
    crowd.tick()
    crowd.rows.clear()
    for _ in range(60):
        crowd.tick()
    assert crowd.rows["c"] == 60 * 2
    assert abs(crowd.rows["a"] - crowd.rows["b"]) <= 6, crowd.rows


def test_of_many_who_are_alike_everybody_rides_as_often_as_with_one_image_each() -> None:
    """Thirty with two or three images each, and one with one: none is light."""
    crowd = Crowd(
        Scheduler(64, DIGITS),
        DIGITS,
        {f"c{k}": (params(steps=50, scale=2.0), 20) for k in range(30)},
    )
    for _ in range(100):
        crowd.tick()
    crowd.wants["one"] = (params(steps=50, scale=2.0), 1)
    crowd.rows.clear()
    for _ in range(100):
        crowd.tick()
    assert crowd.rows["one"] >= 0.9 * sum(crowd.rows.values()) / 31


def test_one_client_alone_has_all_the_slots_and_others_the_reserve() -> None:
    crowd = Crowd(Scheduler(64, COSTS), COSTS, {"a": (params(steps=50), 1000)})
    crowd.tick()
    assert crowd.scheduler.running == 64
    for _ in range(20):
        crowd.submit("b", params(steps=50))
    crowd.tick()
    assert crowd.scheduler.running == 64 + 12, "four fifths of sixteen"
    crowd.submit("c", params(steps=50))
    crowd.tick()
    assert crowd.scheduler.running == 64 + 12 + 1, "there is room for who comes next"


def test_two_who_want_every_slot_come_to_have_as_many() -> None:
    crowd = Crowd(Scheduler(64, COSTS), COSTS, {"a": (params(steps=50), 200)})
    for _ in range(30):
        crowd.tick()
    crowd.wants["b"] = (params(steps=50), 200)
    for _ in range(1500):
        crowd.tick()
    held = crowd.scheduler._queues.slots.by_client
    assert held == {"a": held["a"], "b": held["b"]}
    assert abs(held["a"] - held["b"]) <= 1
    assert sum(held.values()) <= 80 * 8 / 9 + 1


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 64, 4096])
def test_a_short_request_of_another_client_never_waits_for_long_ones(slots: int) -> None:
    crowd = Crowd(Scheduler(slots, COSTS), COSTS, {"a": (params(steps=1000, n=16), 2 * slots)})
    for _ in range(3):
        crowd.tick()
    assert crowd.scheduler.running == slots - (-(-slots // 8) if slots > 1 else 0)
    job = crowd.submit("b", params(steps=2))
    crowd.tick()
    crowd.tick()
    assert job.ended


def test_leaving_costs_nothing_to_others_however_much_was_asked() -> None:
    """A client's queue is searched when one of its jobs is cancelled, and no other's."""
    crowd = Crowd(Scheduler(4, COSTS), COSTS, {"b": (params(steps=3), 3)})
    mine = [crowd.submit("a", params(steps=200, n=16)) for _ in range(500)]
    crowd.tick()
    for job in mine:
        assert crowd.scheduler.cancel(job.id)
    crowd.scheduler.audit()
    assert set(crowd.scheduler._queues.slots.by_client) == {"b"}
    for _ in range(10):
        crowd.tick()
    assert all(job.status is Status.CANCELLED for job in mine)


def test_decoding_is_paced_and_no_one_waits_for_a_flood_of_it() -> None:
    """A flood of single steps fills the decoder; what waits for it keeps its slots, and a quiet
    client's image is decoded in the tick that it is made."""
    crowd = Crowd(Scheduler(64, DIGITS), DIGITS, {"flood": (params(steps=1), 400)})
    left: list[tuple[str, ...]] = []
    advance = crowd.scheduler.advance

    def noting(plan: Plan) -> tuple[Image, ...]:
        leaving = advance(plan)
        left.append(tuple(image.job.asker.client for image in leaving))
        return leaving

    crowd.scheduler.advance = noting  # type: ignore[method-assign]
    for k in range(200):
        if k == 100:
            crowd.submit("quiet", params(steps=50, scale=2.0))
        crowd.tick()
        assert len(left[-1]) <= 16
        assert crowd.scheduler.running <= 64 + (k >= 100)
    assert left[50] == ("flood",) * 16
    assert left[120] == ("flood",)
    assert left[149] == ("quiet", "flood")
    assert left[170] == ("flood",) * 16


def test_what_is_made_is_decoded_though_nothing_rides_any_more() -> None:
    scheduler = Scheduler(64, DIGITS)
    for k in range(30):
        scheduler.submit(job_of(k, params(steps=1)))
    scheduler.submit(long := job_of(99, params(steps=50)))
    scheduler.advance(scheduler.plan())
    scheduler.cancel(long.id)
    scheduler.audit()
    assert scheduler.busy
    plan = scheduler.plan()
    assert not plan.riding
    leaving = scheduler.advance(plan)
    assert len(leaving) == 30 - 16
    assert not scheduler.busy
    scheduler.audit()
