"""What ticks cost, learned from those that run. Policy alone: standard library only.

The table that is measured at warm-up is a prior: the moment may have been noisy, and then it would
decide the bucket for the life of the process. Every bucket keeps a few times of its own ticks, the
prior among them at first. Noise makes ticks longer and hardly ever shorter, so a low one of them
counts.

A bucket that looks too dear is never chosen and would never be measured again. So the bucket that
was seen least recently is tried now and then, in three ticks, where there is enough to do to fill
it. Trials take at most one and a half percent of the time.

Which buckets there are is a matter of bits (backends/measure.py) and never changes here.
"""

import itertools
import math
from collections import deque

from app.engine.costs import Bucket, Costs

_KEPT = 8  # times per bucket; the second lowest of eight counts, the lowest of up to four
_APART = 1.5  # seconds between two that are kept, so that noise of ten seconds fills no memory
_TRIALS = 0.015  # of the time
_TICKS = 3  # of a trial: the second is measured, between two of its own kind
_OFFERS = 200  # ticks that may pass before a trial is made; then another bucket has its turn


class Learning:
    """The costs of one lane as they are known by now. Time is the device's, in seconds."""

    def __init__(self, prior: Costs) -> None:
        self.costs = prior
        self._times = {b.rows: deque([b.seconds], maxlen=_KEPT) for b in prior.buckets}
        self._kept = dict.fromkeys(self._times, -math.inf)  # when a time was kept last
        self._seen = dict(self._kept)  # when one was kept, or a trial ended
        self._clock = self._budget = 0.0
        self._trying, self._left = 0, 0  # a bucket, and ticks of its trial still to be made
        self._offers = 0  # ticks since it was chosen

    def ran(self, rows: int) -> None:
        """Note that a tick of a bucket was begun."""
        seconds = self.costs.holding(rows).seconds
        self._clock += seconds
        if rows != self._trying:
            dearest = _TICKS * self.costs.buckets[-1].seconds
            self._budget = min(self._budget + _TRIALS * seconds, dearest)
            return
        self._budget -= seconds
        self._left -= 1
        if not self._left:
            self._end_trial()

    def learn(self, rows: int, seconds: float) -> bool:
        """Note what a tick of a bucket took, with nothing beside it; whether `costs` changed.

        A tick that took no time tells nothing.
        """
        if seconds <= 0 or self._clock - self._kept[rows] < _APART:
            return False
        self._kept[rows] = self._seen[rows] = self._clock
        self._times[rows].append(seconds)
        before, self.costs = self.costs, self._consistent()
        return self.costs != before

    def trial(self, wanted: int, most: int | None) -> int:
        """A bucket to try in the next tick, if so many rows are wanted; 0 if there is none.

        `most` bounds the rows. It is not always taken: nobody should be held up by it.
        """
        self._offers += 1
        if self._trying and self._offers > _OFFERS:
            self._end_trial()
        if not self._trying:
            others = [
                bucket
                for bucket in self.costs.buckets
                if bucket.rows <= min(wanted, most or wanted) and bucket is not self.costs.best
            ]
            oldest = min(others, key=lambda b: (self._seen[b.rows], -b.rows), default=None)
            if oldest is not None and self._budget >= _TICKS * oldest.seconds:
                self._trying, self._left, self._offers = oldest.rows, _TICKS, 0
        return self._trying if self._trying <= wanted else 0

    def _end_trial(self) -> None:
        self._seen[self._trying] = self._clock
        self._trying = 0

    def _consistent(self) -> Costs:
        """The table, in which a tick of fewer rows never takes longer than one of more rows.

        What was measured since warm-up gives way only to what was measured since as well.
        """
        rows, seconds = list(self._times), [_low(times) for times in self._times.values()]
        bound = measured_bound = math.inf
        for k in reversed(range(len(rows))):
            measured = self._kept[rows[k]] > -math.inf
            seconds[k] = min(seconds[k], measured_bound if measured else bound)
            bound = min(bound, seconds[k])
            if measured:
                measured_bound = seconds[k]
        lifted = itertools.accumulate(seconds, max)
        return Costs(tuple(map(Bucket, rows, lifted)))


def _low(times: deque[float]) -> float:
    """A low one of these times: the lowest of up to four, the second lowest of up to eight."""
    return sorted(times)[(len(times) - 1) // 4]
