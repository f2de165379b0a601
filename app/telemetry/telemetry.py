"""All that is told of requests, put together: metrics, spans and lines of the log."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from app.engine.job import Request
from app.engine.observer import Drawing, Observer
from app.errors import fault_of
from app.telemetry.account import Account, begin, current, trace_of
from app.telemetry.lines import RequestLines
from app.telemetry.metrics import Metrics
from app.telemetry.spans import Spans

if TYPE_CHECKING:
    from opentelemetry.trace import Span

_JOB = "job"  # the route of what is drawn for no request that is being served


class Telemetry(Observer):
    """Told of every request as it begins and ends; each part may be missing."""

    def __init__(
        self, metrics: Metrics | None, spans: Spans | None, lines: RequestLines | None
    ) -> None:
        self.metrics, self.spans, self._lines = metrics, spans, lines

    def begin(self, account: Account, headers: Mapping[str, str]) -> "Span | None":
        """Note that a request is being served; its span, if there are any."""
        begin(account)
        if self.spans:
            return self.spans.begin(account, headers)
        account.trace_id = trace_of(headers.get("traceparent", ""))
        return None

    def end(self, account: Account, span: "Span | None") -> None:
        """Note that it is over, whichever way."""
        if self.metrics:
            self.metrics.answered(account)
        if self.spans and span:
            self.spans.end(span, account)
        if self._lines:
            self._lines.write(account)

    def drawn(self, drawing: Drawing) -> None:
        """Note what was drawn for the request that is being served, or for a job."""
        if self.metrics:
            self.metrics.drawn(drawing)
        cancelled = isinstance(drawing.error, asyncio.CancelledError)
        failed = isinstance(drawing.error, Exception) and not cancelled
        reason = fault_of(drawing.error).reason if failed else ""  # type: ignore[arg-type]
        if account := current():
            account.add(drawing)
            account.reason = reason
            return
        asker, account = drawing.request.asker, Account("", route=_JOB)
        account.request_id, account.client = asker.request_id, asker.client
        account.began, account.ended = drawing.began, drawing.ended
        account.reason, account.left = reason, cancelled
        account.add(drawing)
        if self.metrics and reason:
            self.metrics.rejected.labels(reason).inc()
        if self.spans:
            self.spans.draw(drawing)
        if self._lines:
            self._lines.write(account)

    def encoded(self, request: Request, seconds: float) -> None:
        """Note what writing the files of a request took."""
        if self.metrics:
            self.metrics.encoded(request.params.lane, seconds)
        if account := current():
            for drawing in account.drawings:
                if drawing.request is request:
                    drawing.encode += seconds

    async def close(self) -> None:
        """Export what is left."""
        if self.spans:
            await self.spans.close()
