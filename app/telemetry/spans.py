"""OpenTelemetry: a span for each request, and for each stage of what it draws.

What is exported, how and where to is said by the standard variables `OTEL_*`, which OpenTelemetry
reads itself. Nothing of it is imported where they ask for no traces.

Names are those of the conventions for HTTP and for generative AI where they have one
(https://opentelemetry.io/docs/specs/semconv/), and `darkroom.*` elsewhere. Spans hold no paths:
the address of an image holds its prompt.
"""

import asyncio
import json
import logging
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from app.engine.observer import Drawing
from app.errors import fault_of
from app.telemetry.account import Account

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

log = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_EXPORTERS, _DISABLED = "OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED"
_CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_SPOKEN = "http/protobuf"
_CLOSE_SECONDS = 2.0  # for what is still to be exported when the server ends
_NANO = 1_000_000_000


def exporters_of(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The names of the exporters that `OTEL_*` ask for: otlp, console, both, or none."""
    if environment.get(_DISABLED, "").strip().lower() == "true":
        return ()
    implied = "otlp" if any(environment.get(name) for name in _ENDPOINTS) else ""
    asked = environment.get(_EXPORTERS, "").strip() or implied
    names = dict.fromkeys(part.strip().lower() for part in asked.split(",") if part.strip())
    known = tuple(name for name in names if name in ("otlp", "console"))
    for name in names.keys() - {*known, "none"}:
        log.warning("%s: %.40r is not available; allowed: otlp, console, none", _EXPORTERS, name)
    protocol = next((environment[name] for name in _PROTOCOLS if environment.get(name)), _SPOKEN)
    if "otlp" in known and protocol != _SPOKEN:
        log.warning("%s: %.40r is not available; %s is used", _PROTOCOLS[1], protocol, _SPOKEN)
    return known


class Spans:
    """Makes the spans of requests; `provider` exports them."""

    def __init__(self, provider: "TracerProvider", *, capture: bool = False) -> None:
        from opentelemetry import propagate, trace

        self._trace, self._extract = trace, propagate.extract
        self._provider, self._capture = provider, capture
        self._tracer = provider.get_tracer("darkroom")

    @classmethod
    def configured(cls, environment: Mapping[str, str], version: str) -> "Spans | None":
        """What the variables ask for; None where that is nothing."""
        names = exporters_of(environment)
        if not names:
            return None
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        own = {"service.version": version}
        if not environment.get("OTEL_SERVICE_NAME"):
            own["service.name"] = "darkroom"
        named = "service.name=" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
        if named:
            own.pop("service.name", None)
        # `shutdown_on_exit` would wait for a collector that is gone; `close` waits a little.
        provider = TracerProvider(resource=Resource.create(own), shutdown_on_exit=False)
        for name in names:
            provider.add_span_processor(BatchSpanProcessor(_exporter(name)))
        asked = environment.get(_CAPTURE, "").strip().lower()
        return cls(provider, capture=asked in ("true", "span_only", "span_and_event"))

    def begin(self, account: Account, headers: Mapping[str, str]) -> "Span":
        """The span of a request, in the trace that its caller names, or in a new one."""
        parent = self._extract(headers)
        span = self._tracer.start_span(
            account.method,
            context=parent,
            kind=self._trace.SpanKind.SERVER,
            start_time=account.began_ns,
        )
        account.trace_id = f"{span.get_span_context().trace_id:032x}"
        return span

    def end(self, span: "Span", account: Account) -> None:
        """End the span of a request, with those of what it drew."""
        if not span.is_recording():
            return
        if account.route:
            span.update_name(f"{account.method} {account.route}")
            span.set_attribute("http.route", account.route)
        span.set_attributes(
            {"http.request.method": account.method, "darkroom.request_id": account.request_id}
        )
        if account.status:
            span.set_attribute("http.response.status_code", account.status)
        if account.left:
            span.set_attribute("darkroom.cancelled", True)
        if account.reason:
            span.set_attribute("error.type", account.reason)
        if account.status >= 500:
            span.set_status(self._trace.StatusCode.ERROR)
        context = self._trace.set_span_in_context(span)
        for drawing in account.drawings:
            self.draw(drawing, context)
        span.end(account.began_ns + int(account.seconds * _NANO))

    def draw(self, drawing: Drawing, context: "Context | None" = None) -> None:
        """The span of one request to the engine, and those of its stages."""
        params, result = drawing.request.params, drawing.result
        span = self._tracer.start_span(
            f"generate_content {params.model}",
            context=context,
            start_time=drawing.began_ns,
            attributes=self._asked(drawing),
        )
        if drawing.error is not None:
            self._fail(span, drawing.error)
        inside = self._trace.set_span_in_context(span, context)
        at = drawing.began_ns
        if result is not None:
            stages = {
                "queue": result.queue,
                "denoise": result.denoise,
                "decode": result.decode,
                "encode": drawing.encode,
            }
            for name, seconds in stages.items():
                until = at + int(seconds * _NANO)
                self._tracer.start_span(name, context=inside, start_time=at).end(until)
                at = until
        span.end(max(at, drawing.began_ns + int(drawing.seconds * _NANO)))

    async def close(self, seconds: float = _CLOSE_SECONDS) -> None:
        """Export what is left, for a short while; a collector that does not answer is left."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def shut() -> None:
            self._provider.shutdown()
            if not loop.is_closed():
                loop.call_soon_threadsafe(done.set)

        threading.Thread(target=shut, name="spans", daemon=True).start()
        try:
            async with asyncio.timeout(seconds):
                await done.wait()
        except TimeoutError:
            log.warning("spans were not exported within %g s; they are lost", seconds)

    def _asked(self, drawing: Drawing) -> dict[str, Any]:
        """Attributes that say what was asked for."""
        params = drawing.request.params
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": "generate_content",
            "gen_ai.provider.name": "darkroom",
            "gen_ai.output.type": "image",
            "gen_ai.request.model": params.model,
            "gen_ai.request.seed": params.seed,
            "gen_ai.request.choice.count": params.n,
            "darkroom.image.width": params.width,
            "darkroom.image.height": params.height,
            "darkroom.steps": params.steps,
            "darkroom.evaluations": params.evaluations,
            "darkroom.sampler": params.sampler,
            "darkroom.guidance_scale": params.guidance_scale,
            "darkroom.request_id": drawing.request.asker.request_id,
        }
        if self._capture and (prompt := params.condition.prompt):
            said = [{"role": "user", "parts": [{"type": "text", "content": prompt.text}]}]
            attributes["gen_ai.input.messages"] = json.dumps(said)
            attributes["darkroom.negative_prompt"] = prompt.negative
        return attributes

    def _fail(self, span: "Span", error: BaseException) -> None:
        if isinstance(error, asyncio.CancelledError):
            span.set_attribute("darkroom.cancelled", True)
        elif isinstance(error, Exception):
            span.set_attribute("error.type", fault_of(error).reason)
            span.set_status(self._trace.StatusCode.ERROR)


def _exporter(name: str) -> "SpanExporter":
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()
