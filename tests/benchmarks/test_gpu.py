"""benchmarks/gpu.py: parts that crash, hang or come too late cost themselves alone."""

import importlib.util
import json
import time
from pathlib import Path

import psutil
import pytest
import torch
from torch import Tensor

from app.engine.backends.eager import Eager
from app.engine.runner import Runner
from benchmarks.device.exact import classes
from benchmarks.device.findings import MISSING, Findings, Row, Setting, Tables
from benchmarks.device.loop import crowd, pace_row, plain_loop
from benchmarks.device.names import (
    BUCKETS,
    EAGER,
    ENGINE,
    FAULTS,
    FLOOR,
    LAUNCH,
    LOAD,
    LOOP,
    OFF,
    PIXELS,
    RATES,
)
from benchmarks.device.running import Ended, Part, allowance, run_part, run_parts
from benchmarks.device.tables import markdown
from benchmarks.gpu import PARTS, part
from models.library import find
from models.pipeline import LatentDiffusion
from tests.fakes import drawn

pytestmark = pytest.mark.slow  # parts are processes

SMALL = Setting("cpu", small=True)
# A part that writes one row, and then does what follows.
WRITES = """
import json, os, pathlib, signal, subprocess, sys, time
def write(**row):
    pathlib.Path(sys.argv[1]).write_text(json.dumps({"Numbers": [row]}))
write(number=7)
"""
FOUND: Tables = {"Numbers": [{"number": 7}]}


def fake(then: str, seconds: float = 60.0) -> Part:
    return Part("A fake.", ("-c", WRITES + then), seconds)


@pytest.mark.parametrize(
    ("then", "how"),
    [
        ("", "done"),
        ("sys.exit(3)", "failed with status 3"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "ended by signal 11"),
    ],
)
def test_what_a_part_had_found_is_kept_however_it_ends(then: str, how: str) -> None:
    ended = run_part(fake(then), seconds=60)
    assert (ended.how, ended.tables) == (how, FOUND)


def test_a_part_that_runs_out_of_time_is_ended_with_all_its_children() -> None:
    """Servers have sessions of their own; no signal to the part's group would reach them."""
    child = """
sleeps = [sys.executable, "-c", "import time; time.sleep(60)"]
child = subprocess.Popen(sleeps, start_new_session=True)
write(number=child.pid)
time.sleep(60)
"""
    ended = run_part(fake(child), seconds=1.5)
    assert ended.how == "out of time"
    (row,) = ended.tables["Numbers"]
    assert not running(int(row["number"] or 0))


def test_children_of_a_part_that_crashed_are_ended() -> None:
    child = """
sleeps = [sys.executable, "-c", "import time; time.sleep(60)"]
child = subprocess.Popen(sleeps, start_new_session=True)
write(number=child.pid)
time.sleep(0.8)  # as long as it takes to be seen
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = run_part(fake(child), seconds=60)
    assert ended.how == "ended by signal 9"
    assert not running(int(ended.tables["Numbers"][0]["number"] or 0))


def running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_the_parts_after_one_that_fails_run_and_every_state_is_kept() -> None:
    kept: list[list[str]] = []
    results = run_parts(
        {"first": fake("sys.exit(1)"), "second": fake("")},
        600,
        lambda so_far: kept.append([ended.how for ended in so_far.values()]),
    )
    assert [ended.tables for ended in results.values()] == [FOUND, FOUND]
    assert kept == [["failed with status 1"], ["failed with status 1", "done"]]


def test_a_budget_that_is_more_than_enough_gives_every_part_more() -> None:
    told = fake("write(number=float(sys.argv[2]))", seconds=60)
    ended = run_parts({"only": told}, 600, lambda _: None)["only"]
    assert 590 < float(ended.tables["Numbers"][0]["number"] or 0) < 600


def test_a_part_for_which_no_time_is_left_is_not_begun() -> None:
    ended = run_parts({"late": fake("")}, 5, lambda _: None)["late"]
    assert ended.how.startswith("not begun")
    assert ended.tables == {}


@pytest.mark.parametrize(
    ("left", "wanted", "later", "seconds"),
    [
        (470, 45, [100, 40], 45),  # enough for all
        (100, 90, [50, 50], 60),  # the others are left their least
        (100, 90, [5], 90),  # or what they want, if it is less
        (45, 90, [50, 50], 20),  # the least, at the cost of the last
        (25, 10, [50], 10),
        (15, 90, [], 0),
        (15, 10, [], 10),
    ],
)
def test_the_budget_is_shared(
    left: float, wanted: float, later: list[float], seconds: float
) -> None:
    assert allowance(left, wanted, later, least=20) == seconds


def test_a_measurement_that_fails_leaves_its_rows_and_its_reason(tmp_path: Path) -> None:
    file = tmp_path / "tables.json"
    findings = Findings(file, time.monotonic() + 60)

    def measure():  # type: ignore[no-untyped-def]
        yield {"rows": 1}
        raise RuntimeError("two\nlines")

    findings.attempt("Speed", {"way": "ours"}, 0, measure)
    findings.attempt("Speed", {"way": "theirs"}, 100, measure)
    tables = json.loads(file.read_text())
    assert tables["Speed"] == [{"way": "ours", "rows": 1}]
    failed, late = tables[MISSING]
    assert (failed["what"], late["what"]) == ("ours", "theirs")
    assert failed["reason"].startswith("RuntimeError: two lines (test_gpu.py:")
    assert late["reason"].endswith("s were left")


def test_every_part_is_a_module_that_a_process_can_run() -> None:
    for name in PARTS:
        assert importlib.util.find_spec(f"benchmarks.device.{name}"), name
        assert part(name, "cpu", small=True).command[2:] == (name, "cpu", "--small")


def test_the_document_says_what_it_comes_to_and_how_each_part_ended() -> None:
    pixels = {"precision": "float32", "exact": True, "in a crowd as alone": False}
    rate: Row = {"precision": "float32", "rows": 16}
    results = {
        "correct": {
            PIXELS: [pixels | {OFF: 1}],
            BUCKETS: [
                {"precision": "float32", "rows": rows, "used": used}
                for rows, used in ((1, False), (16, True), (64, True))
            ],
        },
        "served": {
            LOAD: [
                {"server": "as it is", "clients": 16, "images/s": 80.0, "rows/s": 4000}
                | {"p95 ms": None, "GPU busy, by its driver": "70%"}
            ]
        },
        "speed": {
            RATES: [
                rate | {"way": ENGINE, "rows/s": 9000},
                rate | {"way": FLOOR, "rows/s": 10_000},
            ],
            LOOP: [{"precision": "float32", "compiled": False, "in flight": 16, "rows/s": 5000}],
            LAUNCH: [rate | {"compiled": False, "us until the call returns": 42.0}],
        },
        "peer": {RATES: [rate | {"way": EAGER, "rows/s": 3000}]},
        "faults": {FAULTS: [{"fault": "a | b", "as it should": False, "seen": "nothing"}]},
    }
    text = markdown(
        {"GPU": "none"},
        {name: Ended("Says.", "out of time", 9.0, tables) for name, tables in results.items()},
    )
    assert "| float32 | yes | 16 64 | 1 | **no** | 1 |" in text
    assert "| as it is | 16 | 80 | 4000 | 0.8 | - | 70% |" in text
    assert "| float32 | 16 | 9000 | 0.9 | - | 3 | - | 42 |" in text
    assert "| a / b | **no** | nothing |" in text
    assert text.count("Says. 9 s; out of time.") == 5


def test_nothing_measured_makes_a_document_as_well() -> None:
    assert "not begun" in markdown({}, {"late": Ended("Says.", "not begun", 0.0, {})})


def test_sizes_are_grouped_by_equal_bits() -> None:
    """A network whose last bits depend on the size of the batch, and at 24 on the place in it."""

    def network(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        size = len(x)
        place = torch.arange(size).view(-1, 1) if size == 24 else 0
        return x + t[:, None] + label[:, None] + (size > 8) * 1e-3 + place

    same, unsteady = classes(network, (1, 8, 16, 24, 64), (3,), "cpu", count=20)
    assert same == [[1, 8], [16, 64]]
    assert unsteady == [24]


@pytest.fixture(scope="module")
def runner() -> Runner:
    model = LatentDiffusion.open(find("digits"))
    backend = Eager(model)
    backend.buckets = (16,)
    made = Runner("model", model, "", backend, 8)
    made.warm_up()
    return made


def test_a_crowd_is_drawn_as_the_plain_loop_draws(runner: Runner) -> None:
    wanted = [
        drawn("model", 3, 2, 3.0, (0.0, 1.0), 0.0, 1, 2),
        drawn("model", 5, 3, 1.0, (0.0, 1.0), 0.5, 9, 1),
    ]
    model = LatentDiffusion.open(find("digits"))
    assert crowd(runner, wanted, 4) == [plain_loop(model, params) for params in wanted]


def test_the_pace_row_leaves_nothing_behind(runner: Runner) -> None:
    """What comes afterwards gets its own images alone."""
    row = pace_row(SMALL, runner, 3, slots=4, ticks=5)
    assert row["in flight"] == 3
    (made,) = crowd(runner, [drawn("model", 3, 2, 1.0, (0.0, 1.0), 0.0, 1, 1)], 4)
    assert isinstance(made[0], bytes)
