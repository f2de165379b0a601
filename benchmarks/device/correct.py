"""Whether the engine draws on the GPU what the plain loop draws on the CPU, alone or in a crowd."""

import itertools
import time
from collections.abc import Iterator

import numpy as np
import torch

from app.engine.offline import draw
from benchmarks.device.engine import Digits, Engine, open_engine, prepare
from benchmarks.device.findings import Findings, Row, Setting
from benchmarks.device.loop import Made, crowd, plain_loop, requests
from benchmarks.device.names import BUCKETS, PIXELS
from benchmarks.device.precision import PRECISIONS, Precision
from benchmarks.device.timing import reserved_gib
from models.library import find

_SLOTS, _MORE_SLOTS = 11, 64  # two crowds of other sizes
_POISONED = 6  # requests, of which the second and the last have noise that is not finite


@torch.inference_mode()
def measure(findings: Findings, setting: Setting) -> None:
    prepare(setting)
    reference, wanted = Digits.open(find("digits")), requests(setting, 4 if setting.small else 16)
    expected = [plain_loop(reference, params) for params in wanted]
    for precision in PRECISIONS:
        labels: Row = {"precision": precision.name}

        def compare(precision: Precision = precision, labels: Row = labels) -> Iterator[Row]:
            began = time.perf_counter()
            engine = open_engine(setting, precision)
            taken = round(time.perf_counter() - began, 2)
            info = engine.runner.info
            for bucket in engine.buckets:
                findings.add(BUCKETS, labels | bucket)
            yield {"s to open": taken, "exact": info.exact} | pixels(engine, wanted, expected)

        findings.attempt(PIXELS, labels, compare, needs=8)
        findings.attempt(
            "Noise that is not finite", labels, lambda p=precision: poisoned(setting, p), needs=8
        )
        if setting.cuda:
            findings.add("Memory", labels | {"GiB reserved so far": reserved_gib(setting)})


def pixels(engine: Engine, wanted: list, expected: Made) -> Row:  # type: ignore[type-arg]
    """The same requests together, alone, and in another crowd; and beside both plain loops."""
    together = crowd(engine.runner, wanted, _SLOTS)
    alone = [[made.data for made in draw(engine.runner, params)] for params in wanted]
    again = crowd(engine.runner, wanted[::-1], _MORE_SLOTS)[::-1]
    here = [plain_loop(engine.model, params) for params in wanted[:4]]
    most, over = apart(together, expected)
    return {
        "in a crowd as alone": together == alone,
        "as in another crowd": together == again,
        "off the CPU's loop, at most, of 255": most,
        "pixels off by more than 1": f"{over:.4%}",
        "off the loop here, at most": apart(together[:4], here)[0],
    }


def poisoned(setting: Setting, precision: Precision) -> Iterator[Row]:
    """A request whose noise is not finite fails, and its neighbours do not notice."""
    engine, wanted = open_engine(setting, precision), requests(setting, _POISONED)
    whole = crowd(engine.runner, wanted, _SLOTS)
    bad = {1, _POISONED - 1}
    model = engine.model
    assert isinstance(model, Digits)
    model.bad = frozenset(wanted[k].seed_of(image) for k in bad for image in range(wanted[k].n))
    made = crowd(engine.runner, wanted, _SLOTS)
    yield {
        "fails": not any(isinstance(image, bytes) for k in bad for image in made[k]),
        "neighbours as without it": all(
            made[k] == whole[k] for k in range(_POISONED) if k not in bad
        ),
    }


def apart(ours: Made, theirs: Made) -> tuple[int, float]:
    """How far pictures are from each other: the most of any pixel, of 255, and the share over 1."""
    most, over, count = 0, 0, 0
    pairs = zip(itertools.chain(*ours), itertools.chain(*theirs), strict=True)
    for a, b in pairs:
        if not (isinstance(a, bytes) and isinstance(b, bytes)):
            raise ValueError(f"an image was not made: {a if not isinstance(a, bytes) else b}")
        left, right = (np.frombuffer(data, np.uint8).astype(int) for data in (a, b))
        difference = np.abs(left - right)
        most, over = max(most, int(difference.max())), over + int((difference > 1).sum())
        count += difference.size
    return most, over / count
