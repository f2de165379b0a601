"""Several lanes on one device: shares of its time, forecasts, sizes; by a simulated clock."""

import dataclasses
import itertools
import random
import statistics
from collections.abc import Callable, Sequence

import msgspec
import pytest

from app.engine.errors import EngineBusy, OutOfMemory
from app.engine.job import Asker, Request
from app.engine.lane import Ended
from app.engine.ledger import Ledger, Limits
from app.engine.model_info import LaneId
from app.engine.pending import Pending
from app.engine.stats import Stats
from app.engine.turns import Turns
from app.engine.turnstile import Turn
from app.engine.wire import LaneProgress, Progress
from models.sizes import Sizes
from tests.fakes import LOAD, params
from tests.simulated import DIGITS, Device, Engine, SimulatedRunner, jitter

MODELS = ("cheap", "dear")


def dear(factor: float) -> dict[int, float]:
    return {rows: factor * seconds for rows, seconds in DIGITS.items()}


def always(engine: Engine, wants: Sequence[tuple[str, int, int]]) -> None:
    """Clients that ask again at once: (model, steps, how many of them)."""
    steps = {model: each for model, each, _ in wants}

    def again(end: Ended) -> Request:
        return Request(end.job.params)

    engine.answered = again
    for model, _, count in wants:
        for seed in range(count):
            engine.submit(Request(params(seed, steps=steps[model], scale=2.0, model=model)))


@pytest.mark.parametrize("factor", [1, 10, 100])
@pytest.mark.parametrize("clients", [(32, 32), (1, 32), (32, 1), (1, 1)])
@pytest.mark.parametrize("ahead", [False, True], ids=["CPU", "GPU"])
def test_two_lanes_have_half_of_the_device_each(
    factor: float, clients: tuple[int, int], ahead: bool
) -> None:
    """Also where one row of one takes longer than a whole tick of the other."""
    device = Device(ahead=ahead)
    engine = Engine.of(
        device,
        SimulatedRunner(device, DIGITS, name="cheap"),
        SimulatedRunner(device, dear(factor), name="dear"),
    )
    # One client alone is always there if its request is long.
    always(engine, [(m, 20 if n > 1 else 10_000, n) for m, n in zip(MODELS, clients, strict=True)])
    engine.run(5)
    before = dict(device.work)
    engine.run(40 if factor == 100 else 5)
    had = {model: device.work[model] - before[model] for model in before}
    assert min(had.values()) >= 0.45 * sum(had.values()), had


def test_a_lane_that_was_idle_has_saved_nothing_up() -> None:
    turns = Turns[str]()
    for _ in range(1000):
        assert turns.next(["a"]) == "a"
        turns.used("a", 1.0)
    order = []
    for _ in range(10):
        order.append(turns.next(["a", "b"]))
        turns.used(order[-1], 1.0)
    assert abs(order.count("a") - order.count("b")) <= 2


def test_a_lane_that_was_dropped_and_made_again_begins_anew() -> None:
    turns = Turns[str]()
    assert turns.next(["own", "x"]) == "own"
    turns.used("own", 1.0)
    turns.forget("x")
    assert turns.next(["own", "x"]) == "x", "it may have been busy last time"


def test_lanes_change_seldom_where_ticks_are_short() -> None:
    """A change costs what the device would have done meanwhile."""
    turns = Turns[str]()
    order = []
    for _ in range(1000):
        order.append(turns.next(["a", "b", "c"]))
        turns.used(order[-1], 0.001)
    changes = sum(one != other for one, other in itertools.pairwise(order))
    assert changes <= 1000 / 10
    assert min(order.count(lane) for lane in "abc") >= 1000 / 3 - 40


def test_a_tick_begins_when_that_of_another_lane_is_done() -> None:
    """No two lanes' ticks run at once, so what they take is their own time."""
    device = Device()
    engine = Engine.of(
        device,
        SimulatedRunner(device, DIGITS, name="cheap"),
        SimulatedRunner(device, dear(10), name="dear"),
    )
    run, models = device.run, []

    def settled(model: str, seconds: float, decoded: int) -> None:
        assert not models or models[-1] == model or device.now >= device.end
        models.append(model)
        run(model, seconds, decoded)

    device.run = settled  # type: ignore[method-assign]
    always(engine, [("cheap", 10, 20), ("dear", 10, 3)])
    engine.run(5)
    assert set(models) == {"cheap", "dear"}


class Served:
    """The server's ledger beside a simulated worker: what was foretold, and what came of it."""

    def __init__(self, device: Device, *runners: SimulatedRunner) -> None:
        self.device, self.engine = device, Engine.of(device, *runners)
        load, limits = msgspec.structs.replace(LOAD, slots=64), Limits(10**6, 10**6, 3600)
        self.ledger = Ledger(load, limits, clock=lambda: device.now)
        self.ledger.models = {runner.info.name: runner.info for runner in runners}
        self.engine.came, self.engine.answered = self._come, self._answered
        self.told: dict[int, tuple[float, float]] = {}  # when it came, when it should end
        self.right: list[tuple[str, float, float]] = []  # model, seconds foretold, seconds
        self.reported = device.now

    def _come(self, number: int, request: Request) -> None:
        self._report()
        self.told[number] = self.device.now, self.ledger.expected(request).end
        self.ledger.add(Pending(number, request, request.params.work, None))  # type: ignore[arg-type]

    def _answered(self, end: Ended) -> None:
        job = end.job
        came, foretold = self.told.pop(job.id)
        self.right.append((job.params.model, foretold, self.device.now - came))
        self.ledger.forget(self.ledger.requests[job.id])

    def _report(self) -> None:
        """What the worker tells, as often as it does."""
        lanes, now = self.engine.lanes, self.device.now - self.engine.idle
        if now - self.reported < 0.2:
            return
        made: dict[int, int] = {}
        for lane in lanes:
            made |= lane.scheduler.evaluations
        progress = tuple(lane.progress() for lane in lanes)
        self.ledger.heard(Progress(now - self.reported, progress, made, {}))
        for number, evaluations in made.items():
            self.ledger.note(self.ledger.requests[number], evaluations)
        self.reported = now


def mixed(seed: int, seconds: float, load: dict[str, float]) -> list[tuple[float, Request]]:
    """Requests of all kinds at random moments: by model, so many per second."""
    chance, arrivals = random.Random(seed), []
    for model, rate in load.items():
        at = 0.0
        while (at := at + chance.expovariate(rate)) < seconds:
            want = params(
                chance.randrange(10**6),
                steps=chance.choice([4, 10, 20, 50]),
                n=chance.choice([1, 1, 1, 4]),
                scale=chance.choice([1.0, 2.0]),
                model=model,
            )
            arrivals.append((at, Request(want, asker=Asker(chance.choice("abc")))))
    return sorted(arrivals, key=lambda each: each[0])


@pytest.mark.parametrize(
    ("factor", "load"),
    [
        (1, {"cheap": 10.0, "dear": 10.0}),
        (10, {"cheap": 10.0, "dear": 1.0}),
        (10, {"cheap": 15.0, "dear": 0.7}),
    ],
    ids=str,
)
def test_the_end_is_foretold(factor: float, load: dict[str, float]) -> None:
    """Within 30% at the median, where the device is busy 0.8 to 0.9 of the time."""
    device = Device(decoding=0.0014, noise=jitter(3, 0.03))
    served = Served(
        device,
        SimulatedRunner(device, DIGITS, name="cheap"),
        SimulatedRunner(device, dear(factor), name="dear"),
    )
    served.engine.run(25, mixed(4, 25, load))
    ratios = [told / took for _, told, took in served.right]
    assert statistics.median(abs(ratio - 1) for ratio in ratios) <= 0.3
    assert 0.75 <= statistics.median(ratios) <= 1.25
    for model in load:
        ratios = [told / took for name, told, took in served.right if name == model]
        assert 0.5 <= statistics.median(ratios) <= 1.6, model


def crowded(count: int) -> Ledger:
    """A server with two lanes that are alike; one has so many images to draw."""
    device = Device()
    runners = [SimulatedRunner(device, DIGITS, name=name) for name in ("mine", "other")]
    made = Ledger(msgspec.structs.replace(LOAD, slots=64), Limits(10**6, 10**6, 3600))
    made.models = {runner.info.name: runner.info for runner in runners}
    for number in range(count):
        request = Request(params(number, steps=100, model="other"))
        made.add(Pending(number, request, request.params.work, None))  # type: ignore[arg-type]
    return made


def test_beside_a_busy_lane_a_request_takes_twice_as_long() -> None:
    """It is refused if that is too long, and taken if it is not."""
    request = Request(params(steps=100, model="mine"))  # 0.24 s alone
    with pytest.raises(EngineBusy, match=r"it would take about 0\.49 s now"):
        crowded(48).admit(request, 0.46)
    crowded(48).admit(request, 0.5)
    crowded(0).admit(request, 0.25)


def test_what_another_lane_has_left_is_all_that_it_takes() -> None:
    """A long request beside a short one takes no longer than both."""
    where, request = crowded(1), Request(params(steps=1000, model="mine"))  # 2.4 s, and 0.24
    with pytest.raises(EngineBusy, match=r"it would take about 2\.6 s now"):
        where.admit(request, 2.5)
    where.admit(request, 2.7)


def sized(side: int, seed: int = 0, steps: int = 5) -> Request:
    return Request(dataclasses.replace(params(seed, steps=steps), width=side, height=side))


def test_a_size_has_a_lane_when_it_is_first_asked_for() -> None:
    device = Device()
    engine = Engine.of(device, SimulatedRunner(device, DIGITS))
    done: list[int] = []
    engine.answered = lambda end: done.append(end.job.params.width)
    for side in (1, 2, 2, 3):
        engine.submit(sized(side))
    engine.run(10)
    assert sorted(done) == [1, 2, 2, 3]
    assert [lane.id for lane in engine.lanes] == [LaneId("fake", s, s) for s in (1, 2, 3)]
    assert engine.lane_at(3).costs.buckets[0].seconds == pytest.approx(9 * 0.0024)


def test_the_size_that_was_idle_longest_makes_room_and_the_own_one_stays() -> None:
    device = Device()
    engine = Engine.of(device, SimulatedRunner(device, DIGITS), sizes=3)
    for side in (2, 3, 2, 4, 5):
        engine.submit(sized(side))
        engine.run(10)
    assert sorted(lane.id.width for lane in engine.lanes) == [1, 4, 5]
    engine.submit(sized(4))
    engine.run(10)
    engine.submit(sized(2))
    engine.run(10)
    assert sorted(lane.id.width for lane in engine.lanes) == [1, 2, 4]


def test_who_waits_for_a_size_waits_for_no_one_that_came_later() -> None:
    """Lanes that are always asked for come to be idle; the model's own size is not held up."""
    device = Device()
    engine = Engine.of(device, SimulatedRunner(device, DIGITS), sizes=2)
    done: list[int] = []

    def again(end: Ended) -> Request | None:
        done.append(end.job.params.width)
        return sized(done[-1]) if done[-1] != 3 else None

    engine.answered = again
    for side in (1, 2, 2, 2):
        engine.submit(sized(side))
    engine.run(3)
    assert set(done) == {1, 2}
    engine.submit(sized(3))
    done.clear()
    engine.run(5)
    assert done.index(3) < 40
    assert {1, 2, 3} == set(done), "and those who came later have their turn after it"


def test_a_request_that_waits_for_a_size_can_be_cancelled() -> None:
    device = Device()
    engine = Engine.of(device, SimulatedRunner(device, DIGITS), sizes=1)
    number = engine.submit(sized(2))
    assert engine.lanes.cancel(number)
    assert not engine.lanes.cancel(number)
    assert engine.lanes.missing() is None


class Small(SimulatedRunner):
    """Has memory for a number of pixels, in all lanes together."""

    def __init__(self, device: Device, memory: int, area: int = 1) -> None:
        super().__init__(device, DIGITS)
        self.memory, self.area = memory, area
        self.lanes: Callable[[], list[int]] = list

    def at(self, width: int, height: int) -> "Small":
        made = Small(self.device, self.memory - sum(self.lanes()), width * height)
        made.info = dataclasses.replace(made.info, sizes=Sizes(width, height))
        return made

    def warm_up(self, *, turn: Turn) -> None:
        if self.area > self.memory:
            raise ValueError("fake: out of memory even for the smallest tick") from OutOfMemory()


def test_where_memory_does_not_suffice_idle_lanes_go_and_then_the_request_fails() -> None:
    device = Device()
    runner = Small(device, 10)
    engine = Engine.of(device, runner)
    runner.lanes = lambda: [lane.id.width**2 for lane in engine.lanes]
    engine.submit(sized(2))
    engine.run(5)
    engine.submit(sized(3))
    engine.run(5)
    assert [lane.id.width for lane in engine.lanes] == [1, 3], "2 x 2 was dropped"
    numbers = [engine.submit(sized(side, steps=900)) for side in (1, 4, 4)]
    wanted = engine.lanes.missing()
    assert wanted == LaneId("fake", 4, 4)
    failed = engine.lanes.open(wanted)
    assert [number for number, _ in failed] == numbers[1:]
    assert {why for _, why in failed} == {
        "no images of 4x4 can be made: fake: out of memory even for the smallest tick"
    }
    assert engine.lanes.missing() is None
    engine.answered = lambda end: None
    engine.run(5)
    assert not engine.lanes.busy


def test_pace_is_that_of_the_device_however_long_ticks_are() -> None:
    """A report has the seconds of one tick, and what the next one should take."""
    stats, lanes = Stats(), [LaneId("dear", 1, 1), LaneId("cheap", 1, 1)]
    seen = []
    for k in range(200):
        passed, foreseen = ((1.0, 5.0), (5.0, 1.0))[k % 2]
        one = LaneProgress(lanes[k % 2], 1, 1, 0, passed, foreseen, 1, None)
        other = LaneProgress(lanes[1 - k % 2], 0, 0, 0, passed, 0.0, 1, None)
        stats.note(Progress(passed, (one, other), {}, {}))
        seen.append(stats.slowness)
    assert all(0.6 < slowness < 1.6 for slowness in seen[50:])


def test_what_is_told_of_lanes_is_of_those_that_there_are() -> None:
    stats = Stats()
    for name, side in (("a", 1), ("b", 1), ("b", 2)):
        lane = LaneProgress(LaneId(name, side, side), 1, 1, 0, 1.0, 1.0, 1, None)
        stats.note(Progress(1.0, (lane,), {}, {}))
    assert list(stats.lanes) == [LaneId("a", 1, 1), LaneId("b", 2, 2)], "each worker's own"
    assert stats.running == 2
    stats.forget("b")
    assert list(stats.lanes) == [LaneId("a", 1, 1)]
    assert stats.running == 1
