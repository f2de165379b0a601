"""A runner without a network, and a worker in a thread, for tests of policy and of the loop."""

import contextlib
import dataclasses
import math
import socket
import subprocess
import threading
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from app.engine.costs import Bucket, Costs, is_long
from app.engine.errors import OutOfMemory
from app.engine.job import Image, Job, Request, SamplingParams
from app.engine.model_info import ModelInfo
from app.engine.model_runner import ModelRunner
from app.engine.process import Process, WorkerProcess
from app.engine.results import Pixels
from app.engine.turnstile import Turn
from app.engine.wire import Load
from app.engine.worker import Worker
from models.conditioning import Classes, Condition, Prompts
from models.sizes import Sizes

COSTS = Costs(tuple(Bucket(rows, 0.001 * (2 + rows / 2)) for rows in (1, 2, 4, 8)))
INFO = ModelInfo(
    name="fake",
    classes=Classes(("a", "b"), 2),
    sizes=Sizes(1, 1),
    max_steps=1000,
    guidance_scale=1.0,
    digest="0" * 10,
    backend="fake",
    device="none",
    dtype="float32",
    exact=True,
    costs=COSTS,
)
TEXT = dataclasses.replace(  # takes prompts of six words
    INFO,
    name="text",
    classes=Classes(),
    prompts=Prompts(tokens=8, clip_skip=2),
    sizes=Sizes(8, 8, step=8, least=8, most=32, pixels=512),
    guidance_scale=7.5,
    digest="12" * 32,
)
LOAD = Load(
    models={"fake": ""},
    device="cpu",
    dtype="float32",
    backend="auto",
    compile=False,
    slots=4,
    rows=None,
)


class Gate:
    """Lets steps through: all of them, none, or so many."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._left = math.inf

    def open(self) -> None:
        self.let(math.inf)

    def hold(self) -> None:
        with self._changed:
            self._left = 0

    def let(self, count: float) -> None:
        with self._changed:
            self._left = count
            self._changed.notify_all()

    def passes(self, *, wait: bool = True) -> bool:
        with self._changed:
            if not self._changed.wait_for(lambda: self._left, 10 if wait else 0):
                return False
            self._left -= 1
            return True


class FakeRunner:
    """Counts what it is asked; each image is one pixel, its seed modulo 256.

    Where it takes prompts, a token is a word, and images are grey by all that fixes their pixels.

    `gate` holds steps, `shutter` decodings. A seed in `poison` makes a step raise, one in `stuck`
    hang; one in `unable` does not begin; one in `blank` makes an image that is not finite; steps of
    more than `memory` rows run out of it.
    """

    def __init__(
        self,
        info: ModelInfo = INFO,
        *,
        poison: Sequence[int] = (),
        blank: Sequence[int] = (),
        stuck: Sequence[int] = (),
        unable: Sequence[int] = (),
        memory: int = 10**6,
    ) -> None:
        self.info, self.begun = info, 0.0
        self.sizes: dict[tuple[int, int], FakeRunner] = {}  # the runners of other sizes, as made
        self.largest = 10**6  # pixels; there is no memory for more
        self.gate, self.shutter = Gate(), Gate()
        self.batches: list[list[int]] = []  # the seeds that rode each step
        self.started: list[int] = []  # seeds, in order
        self.expected: list[int] = []  # seeds of requests, in order
        self._poison, self._blank, self.memory = set(poison), set(blank), memory
        self._stuck, self._unable = set(stuck), set(unable)
        self._pixels = 1
        self._steps: dict[int, int] = {}  # by slot, as the runner counts them
        self._wanted: list[tuple[Image, int]] = []
        self._previews: list[tuple[Image, int]] = []
        self._finishing: list[Image] = []  # in the step that was begun last
        self._finished: list[Image] = []

    def at(self, width: int, height: int) -> "FakeRunner":
        sizes = dataclasses.replace(self.info.sizes, width=width, height=height)
        runner = FakeRunner(dataclasses.replace(self.info, sizes=sizes))
        runner.gate, runner.largest = self.gate, self.largest
        self.sizes[width, height] = runner
        runner._pixels = width * height
        return runner

    def warm_up(self, *, turn: Turn) -> None:
        if self._pixels > self.largest:
            raise ValueError("fake: out of memory even for the smallest tick") from OutOfMemory()

    def expect(self, params: SamplingParams) -> None:
        self.expected.append(params.seed)

    def start(self, image: Image) -> None:
        if seed_of(image) in self._unable:
            raise OutOfMemory
        self._steps[image.slot] = 0
        self.started.append(seed_of(image))
        if prompts := self.info.prompts:
            prompt = image.job.params.condition.prompt
            assert prompt is not None
            texts = (prompt.text, prompt.negative)
            first, second = (max(len(text.split()) + 2 - prompts.tokens, 0) for text in texts)
            image.job.cut = first, second

    def step(self, images: Sequence[Image], rows: int) -> None:
        seeds = [seed_of(image) for image in images]
        if self._stuck & set(seeds):
            self.gate.hold()
        assert self.gate.passes()
        self._settle()
        used = sum(image.rows for image in images)
        assert used <= rows
        assert len({image.slot for image in images}) == len(images), "a slot rides twice"
        if used > self.memory:
            raise OutOfMemory(f"{used} rows")
        if self._poison & set(seeds):
            raise RuntimeError("a bad row")
        for image in images:
            assert self._steps[image.slot] == image.evaluation, "the slot is another's"
            self._steps[image.slot] += 1
        self.batches.append(seeds)

    def settle(self) -> None:
        self._settle()

    def decode(self, images: Sequence[Image]) -> None:
        self._finishing += images

    def preview(self, images: Sequence[Image]) -> None:
        self._wanted += [(image, image.evaluation) for image in images]

    def previewed(self, *, wait: bool) -> list[tuple[Image, int, Pixels]]:
        previews, self._previews = self._previews, []
        return [(image, step, pixel(seed_of(image) + step)) for image, step in previews]

    def _settle(self) -> None:
        self._previews, self._wanted = self._previews + self._wanted, []
        self._finished += self._finishing
        self._finishing = []

    def decoded(self, *, wait: bool) -> list[tuple[Image, Pixels | str]]:
        self._settle()
        if not self._finished or not self.shutter.passes(wait=wait):
            return []
        finished, self._finished = self._finished, []
        return [(image, self._picture(image)) for image in finished]

    def _picture(self, image: Image) -> Pixels | str:
        seed = seed_of(image)
        if self.info.prompts:
            return grey(image.job.params, seed)
        return "an image is not finite" if seed in self._blank else pixel(seed)


class ThreadWorker(WorkerProcess):
    """A worker in a thread of the test: what it runs can be held, and looked at."""

    def __init__(self, load: Load, runners: Callable[[Load], list[ModelRunner]]) -> None:
        self._runners = runners
        super().__init__(load)

    def _spawn(
        self, _command: Sequence[str], connection: socket.socket, _turnstile: int | None
    ) -> Process:
        self.thread = _Thread(connection.dup(), self._runners)
        return self.thread

    @property
    def jobs(self) -> int:
        """Requests it has taken up and not ended."""
        return sum(len(lane.scheduler.jobs) for lane in self.thread.worker._lanes)

    @property
    def unread(self) -> int:
        """Commands that have come and were not taken up."""
        return self.thread.worker._inbox.qsize()


class _Thread:
    """A thread that looks like a process."""

    pid = -1

    def __init__(
        self, connection: socket.socket, runners: Callable[[Load], list[ModelRunner]]
    ) -> None:
        self._connection, self._killed = connection, threading.Event()
        self.worker = Worker(connection, runners, orphaned=lambda: self.worker.stop())
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with contextlib.suppress(SystemExit):  # a death that a test asks for
                self.worker.run()
        finally:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
            self._connection.close()

    def wait(self, timeout: float | None = None) -> int:
        if self._killed.is_set():  # it may be held for good, and is left to itself
            return -9
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise subprocess.TimeoutExpired("worker", timeout or 0)
        return 0

    def kill(self) -> None:
        self._killed.set()
        self.worker.leave()  # as the kernel would
        self.worker.stop()
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)


def seed_of(image: Image) -> int:
    return image.job.params.seed_of(image.index)


def pixel(seed: int) -> Pixels:
    return Pixels(1, 1, 1, bytes([seed % 256]))


def grey(params: SamplingParams, seed: int) -> Pixels:
    """An image of this seed, by a prompt."""
    told = repr(dataclasses.replace(params, seed=seed, n=1)).encode()
    size = params.width, params.height
    return Pixels(*size, 1, bytes([zlib.crc32(told) % 256]) * math.prod(size))


def params(
    seed: int = 0, *, steps: int = 3, n: int = 1, model: str = "fake", scale: float = 1.0
) -> SamplingParams:
    return drawn(model, 0, steps, scale, (0.0, 1.0), 0.0, seed, n)


def drawn(
    model: str,
    index: int | None,
    steps: int,
    scale: float,
    interval: tuple[float, float],
    eta: float,
    seed: int,
    n: int,
    **more: Any,
) -> SamplingParams:
    """What draws images of a class, of one pixel where `more` does not say."""
    size = {"width": 1, "height": 1} | more
    condition = Condition(index)
    return SamplingParams(model, condition, steps, scale, interval, eta, seed, n, **size)


def job_of(
    number: int, want: SamplingParams, priority: int = 0, *, costs: Costs = COSTS, **more: Any
) -> Job:
    """A job that asks for this, long or short by these costs."""
    long = is_long(costs, evaluations=want.evaluations, rows=want.work / want.n)
    return Job(number, Request(want, priority, **more), long)
