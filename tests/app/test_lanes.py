"""Several lanes on one device: shares of its time, forecasts, sizes; by a simulated clock."""

import random
import statistics
from collections.abc import Sequence

import msgspec
import pytest

from app.engine.errors import EngineBusy
from app.engine.job import Asker, Request
from app.engine.lane import Ended
from app.engine.ledger import Ledger, Limits
from app.engine.model_info import LaneId
from app.engine.pending import Pending
from app.engine.turns import Turns
from app.engine.wire import Progress
from tests.fakes import LOAD, params
from tests.simulated import DIGITS, Device, Engine, SimulatedRunner, job_ended


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
    always(engine, [("cheap", 20, clients[0]), ("dear", 20, clients[1])])
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
    assert abs(order.count("a") - order.count("b")) <= 1


def test_lanes_change_seldom_where_ticks_are_short() -> None:
    """A change costs what the device would have done meanwhile."""
    turns = Turns[str]()
    order = []
    for _ in range(1000):
        order.append(turns.next(["a", "b", "c"]))
        turns.used(order[-1], 0.001)
    changes = sum(one != other for one, other in zip(order, order[1:], strict=False))
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
        self.refused = 0
        self.reported = device.now

    def _come(self, number: int, request: Request) -> None:
        self._report()
        low, high = 0.0, 10_000.0  # the least timeout with which it is taken
        while high - low > 0.002 * high:
            middle = (low + high) / 2
            try:
                self.ledger.admit(request, middle)
                high = middle
            except Exception:
                low = middle
        self.told[number] = self.device.now, high
        self.ledger.add(Pending(number, request, request.params.work, None))  # type: ignore[arg-type]

    def _answered(self, end: Ended) -> None:
        job = job_ended(end)
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
        self.ledger.stats.note(Progress(now - self.reported, progress, made, {}))
        for number, evaluations in made.items():
            self.ledger.note(self.ledger.requests[number], evaluations)
        self.reported = now

    def run(self, seconds: float, arrivals: list[tuple[float, Request]]) -> None:
        self.engine.run(seconds, arrivals)


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
        (10, {"cheap": 12.0, "dear": 1.2}),
        (10, {"cheap": 25.0, "dear": 1.2}),
        (10, {"cheap": 5.0, "dear": 2.5}),
        (1, {"cheap": 14.0, "dear": 14.0}),
        (100, {"cheap": 20.0, "dear": 0.15}),
    ],
    ids=lambda each: str(each),
)
def test_the_end_is_foretold(factor: float, load: dict[str, float]) -> None:
    """Within 30% at the median, of each model's requests and of all, at loads of 0.5 to 1.2."""
    device = Device(decoding=0.0014, noise=jitter_(3))
    served = Served(
        device,
        SimulatedRunner(device, DIGITS, name="cheap"),
        SimulatedRunner(device, dear(factor), name="dear"),
    )
    served.run(60, mixed(4, 60, load))
    for models in (["cheap"], ["dear"], ["cheap", "dear"]):
        ratios = [told / took for model, told, took in served.right if model in models]
        off = statistics.median(abs(ratio - 1) for ratio in ratios)
        print(models, len(ratios), round(off, 3), round(statistics.median(ratios), 3))
        assert off <= 0.3, (models, off, statistics.median(ratios))


def jitter_(seed: int):  # type: ignore[no-untyped-def]
    from tests.simulated import jitter

    return jitter(seed, 0.03)
