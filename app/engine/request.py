"""A request as the server keeps it, from its arrival to its end."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from app.engine.job import LONG, Asker, Params, Update
from app.engine.wire import Done

_SUSPECT = 2  # deaths in a row that it was in flight at

Watch = Callable[[Update], None]


@dataclass(eq=False)
class Request:
    """One request to the worker, shared by all `waiters` that asked for it.

    It counts against the share of the first client that asked.
    """

    id: int
    asker: Asker
    params: Params
    work: int  # UNet evaluations, all in all
    priority: int
    previews: int
    answer: "asyncio.Future[Done]"
    waiters: int = 0
    watches: list[Watch] = field(default_factory=list)
    sent: bool = False
    riding: bool = False
    began: float = 0.0  # when its first step did; time.monotonic()
    deaths: int = 0
    steps: int = 0  # made so far, by all images together
    place: int = -1  # in the queue, as told last
    placed: float = -math.inf  # when that was; time.monotonic()
    told: int = 0  # the most of them that was told, in this life of the worker or another
    shown: dict[int, int] = field(default_factory=dict)  # by image, the last step it was shown at
    counted: int = 0  # of its rows, those that its client's share is charged with

    @property
    def client(self) -> str:
        """The client whose share it counts against."""
        return self.asker.client

    @property
    def rows_left(self) -> int:
        """About how many UNet evaluations are still to be made."""
        return self.work - self.work * self.steps // self.all_steps

    @property
    def all_steps(self) -> int:
        """Steps of all images together."""
        return self.params.steps * self.params.n

    @property
    def suspect(self) -> bool:
        """Whether it may be what kills workers."""
        return self.deaths >= _SUSPECT

    @property
    def long(self) -> bool:
        """Whether it gives way to short ones."""
        return self.params.steps > LONG

    def tell(self, update: Update) -> None:
        """Tell all clients that follow it."""
        for watch in self.watches:
            watch(update)
