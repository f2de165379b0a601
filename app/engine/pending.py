"""A request as the server keeps it, from its arrival to its end."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from app.engine.job import Asker, Request, SamplingParams
from app.engine.results import Update
from app.engine.wire import Done

_SUSPECT = 2  # deaths in a row that it was in flight at

Watch = Callable[[Update], None]


@dataclass(eq=False)
class Pending:
    """One request to the worker, shared by all `waiters` that asked for it.

    It counts against the share of the first client that asked.
    """

    id: int
    request: Request
    work: int  # rows, all in all
    answer: "asyncio.Future[Done]"
    waiters: int = 0
    watches: list[Watch] = field(default_factory=list)
    sent: bool = False
    riding: bool = False
    began: float = 0.0  # when its first step did; time.monotonic()
    deaths: int = 0
    evaluations: int = 0  # so far, of all images together
    place: int = -1  # in the queue, as told last
    placed: float = -math.inf  # when that was; time.monotonic()
    told: int = 0  # the most of them that was told, in this life of the worker or another
    shown: dict[int, int] = field(
        default_factory=dict
    )  # by image, the last evaluation it was shown at
    long: bool = False  # it gives way to shorter ones; the ledger decides it once
    cost: int = 0  # microseconds of the device, of all of its rows
    charged: int = 0  # of these, what its client's share is charged with
    counted: int = 0  # its rows still to be run, as they are summed up

    @property
    def params(self) -> SamplingParams:
        """What it draws."""
        return self.request.params

    @property
    def asker(self) -> Asker:
        """The first client that asked."""
        return self.request.asker

    @property
    def client(self) -> str:
        """The client whose share it counts against."""
        return self.asker.client

    @property
    def rows_left(self) -> int:
        """About how many rows are still to be run."""
        return self.work - self.work * self.evaluations // self.all_evaluations

    @property
    def all_evaluations(self) -> int:
        """Evaluations of all images together."""
        return self.params.evaluations * self.params.n

    @property
    def suspect(self) -> bool:
        """Whether it may be what kills workers."""
        return self.deaths >= _SUSPECT

    def tell(self, update: Update) -> None:
        """Tell all clients that follow it."""
        for watch in self.watches:
            watch(update)
