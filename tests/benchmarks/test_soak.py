"""benchmarks/soak.py: what is wrong is seen, whatever the dialect, and so is what grows."""

import base64
import json
import os
import random
import subprocess
from pathlib import Path

import pytest

from benchmarks.mixed import DIALECTS, picture_of_events, random_ask
from benchmarks.soaking import Counts
from benchmarks.watching import Sample, Watch

PICTURE = b"\x89PNG"
DATA = base64.b64encode(PICTURE).decode()
COMPLETED = f"event: completed\ndata: {json.dumps({'images': [{'data': DATA}]})}\n\n"
ERROR = 'event: error\ndata: {"status": 500}\n\n'
PREVIEW = f'event: preview\ndata: {{"data": "{DATA}"}}\n\n'


def test_a_stream_has_one_end_and_that_is_its_last_event() -> None:
    for good in (COMPLETED, PREVIEW + ": keep-alive\n\n" + COMPLETED):
        assert picture_of_events(good.encode()) == PICTURE
    for bad in ("", PREVIEW, ERROR, COMPLETED * 2, COMPLETED + ERROR, COMPLETED + PREVIEW):
        with pytest.raises((ValueError, IndexError)):
            picture_of_events(bad.encode())


@pytest.mark.parametrize(
    ("dialect", "answer"),
    [
        ("native", PICTURE),
        ("native, events", COMPLETED.encode()),
        ("Hugging Face", PICTURE),
        ("OpenAI", json.dumps({"data": [{"b64_json": DATA}]}).encode()),
        ("AUTOMATIC1111", json.dumps({"images": [DATA]}).encode()),
        ("Replicate", json.dumps({"output": [f"data:image/png;base64,{DATA}"]}).encode()),
    ],
)
def test_every_dialect_s_picture_is_found(dialect: str, answer: bytes) -> None:
    *_, picture = DIALECTS[dialect](random_ask(random.Random(0), 0))
    assert picture(answer) == PICTURE


def test_requests_differ_and_every_dialect_has_its_turn() -> None:
    chance = random.Random(0)
    asks = [random_ask(chance, number) for number in range(60)]
    assert len(set(asks)) == 60
    assert {ask.dialect for ask in asks} == set(DIALECTS)


def test_what_is_not_as_it_should_be_is_counted_as_wrong() -> None:
    counts, ask = Counts(), random_ask(random.Random(0), 0)
    for status, picture in ((200, b"twin"), (429, b""), (200, b"other"), (503, b""), (500, b"")):
        counts.sent["native"] += 1
        counts.compare("native", status, picture, ask, b"twin")
    assert counts.rows() == [("native", "5", "1", "1", "0")]
    assert len(counts.wrong) == 3


@pytest.mark.parametrize(
    ("which", "by", "told"),
    [
        ("server", 1 << 20, "server, MiB"),
        ("worker", 1 << 20, "a worker, MiB"),
        ("descriptors", 1, "descriptors of the server, without clients' connections"),
        ("of_worker", 1, "descriptors of a worker"),
    ],
)
def test_growth_after_the_first_minute_is_told(which: str, by: int, told: str) -> None:
    """By a MiB or a descriptor every two seconds, for ten minutes, or for the first alone."""
    flat = Sample(0, 75 << 20, 475 << 20, 30, 20)
    for last, grown in ((300, [told]), (30, [])):
        watch = Watch(os.getpid())
        for number in range(300):
            value = getattr(flat, which) + by * min(number, last)
            watch.samples.append(flat._replace(seconds=number * 2.0, **{which: value}))
        rows, grew = watch.growth()
        assert len(rows) == 4
        assert [each.rpartition(": ")[0] for each in grew] == grown


def test_a_sample_is_of_a_process_and_its_workers() -> None:
    """This one has none: it is not called as they are."""
    with subprocess.Popen(
        ["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"\n")
        assert process.stdout.read(1) == b"\n"  # it runs, and has its memory
        watch = Watch(process.pid)
        watch.sample()
        there = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
        process.terminate()
    (sample,) = watch.samples
    assert sample.server > 1 << 16
    assert sample.worker is None
    assert 0 < sample.descriptors <= there
