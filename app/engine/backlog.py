"""What is to be done, summed up: images and rows of the unfinished requests, by kind."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from app.engine.costs import Ahead
from app.engine.job import Request
from app.engine.model_info import LaneId
from app.engine.pending import Pending


class _Kind(NamedTuple):
    """Requests that count as one for those that wait behind them."""

    client: str
    lane: LaneId
    priority: int
    long: bool


@dataclass
class _Sum:
    """Images of some requests, and their rows still to be run."""

    images: int = 0
    rows: int = 0

    def add(self, images: int, rows: int) -> None:
        """Add the images and rows of more requests."""
        self.images += images
        self.rows += rows


class Backlog:
    """Sums by kind; there are few kinds, however many requests there are."""

    def __init__(self) -> None:
        self._sums: dict[_Kind, _Sum] = defaultdict(_Sum)

    def add(self, pending: Pending, images: int, rows: int) -> None:
        """Add images and rows of a request; fewer, where they are negative."""
        request = pending.request
        kind = _Kind(pending.client, pending.params.lane, request.priority, pending.long)
        held = self._sums[kind]
        held.add(images, rows)
        if not held.images:
            del self._sums[kind]

    def ahead(self, request: Request, *, long: bool) -> Ahead:
        """What lies before a new request: its client's images, and as many of every other client.

        Long requests do not lie before a short one, nor do those of lower priority.
        """
        params, client = request.params, request.asker.client
        own, others = _Sum(params.n, params.work), defaultdict[str, _Sum](_Sum)
        for kind, held in self._sums.items():
            if kind.lane != params.lane or kind.priority < request.priority:
                continue
            if kind.long and not long:
                continue
            whose = own if kind.client == client else others[kind.client]
            whose.add(held.images, held.rows)
        images = sum(min(other.images, own.images) for other in others.values())
        rows = sum(min(other.rows, own.rows) for other in others.values())
        return Ahead(own.images - params.n + images, own.rows - params.work + rows)

    def beside(self, lane: LaneId) -> Mapping[LaneId, Ahead]:
        """What every other lane has to do."""
        sums = defaultdict[LaneId, _Sum](_Sum)
        for kind, held in self._sums.items():
            if kind.lane != lane:
                sums[kind.lane].add(held.images, held.rows)
        return {other: Ahead(held.images, held.rows) for other, held in sums.items()}
