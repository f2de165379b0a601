"""Whether the engine draws on the GPU what the plain loop draws on the CPU, alone or in a crowd."""

import itertools
import time
from collections.abc import Iterator, Sequence

import numpy as np

from app.engine.job import SamplingParams
from app.engine.offline import draw
from benchmarks.device.engine import Digits, Engine, open_digits, open_engine
from benchmarks.device.findings import Findings, Row, Setting
from benchmarks.device.loop import Made, crowd, plain_loop, requests
from benchmarks.device.names import BUCKETS, OFF, PIXELS
from benchmarks.device.place import on_device
from benchmarks.device.precision import PRECISIONS, Precision
from benchmarks.device.timing import reserved_gib
from models.library import find

_SLOTS, _MORE_SLOTS = 11, 64  # two crowds of other sizes
_NEEDS = 8.0  # seconds for one precision
_FEW = 4  # requests that the plain loop draws on the GPU as well


@on_device
def measure(findings: Findings, setting: Setting) -> None:
    reference, wanted = Digits.open(find("digits")), requests(setting, 4 if setting.small else 16)
    expected = [plain_loop(reference, params) for params in wanted]
    for precision in PRECISIONS:
        labels: Row = {"precision": precision.name}
        given = findings, setting, precision, labels, wanted, expected
        findings.attempt(PIXELS, labels, _NEEDS, compare, *given)


def compare(
    findings: Findings,
    setting: Setting,
    precision: Precision,
    labels: Row,
    wanted: Sequence[SamplingParams],
    expected: Made,
) -> Iterator[Row]:
    """One precision: what is used, what it draws, and what noise that is not finite does."""
    began = time.perf_counter()
    engine = open_engine(setting, open_digits(setting, precision))
    taken = round(time.perf_counter() - began, 2)
    for bucket in engine.buckets:
        findings.add(BUCKETS, labels | bucket)
    info = engine.runner.info
    blocks = " and ".join(map(str, info.blocks))  # whose bits all have; of UNet and decoder
    opened: Row = {"s to open": taken, "exact": info.exact, "blocks": blocks}
    yield opened | pixels(engine, wanted, expected)
    findings.add("Noise that is not finite", labels | poisoned(engine, wanted))
    if setting.cuda:
        findings.add("Memory", labels | {"GiB reserved so far": reserved_gib(setting)})


def pixels(engine: Engine, wanted: Sequence[SamplingParams], expected: Made) -> Row:
    """The same requests together, alone, and in another crowd; and beside both plain loops."""
    together = crowd(engine.runner, wanted, _SLOTS)
    alone = [[made.data for made in draw(engine.runner, params)] for params in wanted]
    again = crowd(engine.runner, wanted[::-1], _MORE_SLOTS)[::-1]
    here = [plain_loop(engine.model, params) for params in wanted[:_FEW]]
    most, over = apart(together, expected)
    return {
        "in a crowd as alone": together == alone,
        "as in another crowd": together == again,
        OFF: most,
        "pixels off by more than 1": f"{over:.4%}",
        "off the loop here, at most": apart(together[:_FEW], here)[0],
    }


def poisoned(engine: Engine, wanted: Sequence[SamplingParams]) -> Row:
    """The first request and the last have noise that is not finite; nobody else notices."""
    whole, bad = crowd(engine.runner, wanted, _SLOTS), {0, len(wanted) - 1}
    model = engine.model
    assert isinstance(model, Digits)
    model.bad = frozenset(wanted[k].seed_of(image) for k in bad for image in range(wanted[k].n))
    made = crowd(engine.runner, wanted, _SLOTS)
    return {
        "fails": not any(isinstance(image, bytes) for k in bad for image in made[k]),
        "neighbours as without it": all(
            made[k] == whole[k] for k in range(len(wanted)) if k not in bad
        ),
    }


def apart(ours: Made, theirs: Made) -> tuple[int, float]:
    """How far pictures are from each other: the most of any pixel, of 255, and the share over 1."""
    most, over, count = 0, 0, 0
    pairs = zip(itertools.chain(*ours), itertools.chain(*theirs), strict=True)
    for a, b in pairs:
        if not (isinstance(a, bytes) and isinstance(b, bytes)):
            raise ValueError(
                f"an image was not made: {[x for x in (a, b) if not isinstance(x, bytes)]}"
            )
        left, right = (np.frombuffer(data, np.uint8).astype(int) for data in (a, b))
        difference = np.abs(left - right)
        most, over = max(most, int(difference.max())), over + int((difference > 1).sum())
        count += difference.size
    return most, over / count
