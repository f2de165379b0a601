"""Spans: who is whose parent, when each began and ended, what they tell, and what they never do."""

import asyncio
import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from app.telemetry.account import trace_of
from app.telemetry.spans import Spans, exporters_of
from tests.engine import served
from tests.fakes import FakeRunner
from tests.telemetry.traffic import SECRET, SEED, asked, busy

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


class Kept:
    """Spans that stay in memory."""

    def __init__(self, *, capture: bool = False) -> None:
        provider, self._exporter = TracerProvider(), InMemorySpanExporter()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.spans = Spans(provider, capture=capture)

    @property
    def all(self) -> Sequence[ReadableSpan]:
        return self._exporter.get_finished_spans()

    def named(self, name: str) -> ReadableSpan:
        (found,) = (span for span in self.all if span.name == name)
        return found


@contextmanager
def traced(
    *, capture: bool = False, runner: FakeRunner | None = None
) -> Iterator[tuple[TestClient, Kept]]:
    kept = Kept(capture=capture)
    with served(runner) if runner else busy() as (http, engine):
        engine.observer.spans = kept.spans  # type: ignore[attr-defined]
        yield http, kept


def test_a_request_is_a_span_of_the_caller_s_trace_with_its_stages_below() -> None:
    with traced() as (http, kept):
        headers = {"traceparent": TRACEPARENT, "X-Request-Id": "mine"}
        assert http.post("/generate", json=asked(n=2), headers=headers).status_code == 200
        server, drawn = kept.named("POST /generate"), kept.named("generate_content fake")
        assert server.kind is SpanKind.SERVER
        assert server.parent
        assert f"{server.context.trace_id:032x}" == TRACE
        assert f"{server.parent.span_id:016x}" == PARENT
        assert drawn.parent == server.context
        stages = [kept.named(name) for name in ("queue", "denoise", "decode", "encode")]
        at = drawn.start_time
        for stage in stages:  # one after the other, from the beginning on
            assert stage.parent == drawn.context
            assert stage.start_time == at
            assert stage.end_time
            at = stage.end_time
        assert in_order(server.start_time, drawn.start_time, at, drawn.end_time)
        assert server.attributes == {
            "http.request.method": "POST",
            "http.route": "/generate",
            "http.response.status_code": 200,
            "darkroom.request_id": "mine",
        }
        assert drawn.attributes
        told = dict(drawn.attributes)
        assert told["gen_ai.operation.name"] == "generate_content"
        assert told["gen_ai.output.type"] == "image"
        assert told["gen_ai.request.model"] == "fake"
        assert told["gen_ai.request.seed"] == SEED
        assert told["gen_ai.request.choice.count"] == 2
        assert (told["darkroom.steps"], told["darkroom.evaluations"]) == (2, 2)


def in_order(*times: int | None) -> bool:
    known = [time for time in times if time is not None]
    return len(known) == len(times) and known == sorted(known)


def test_prompts_and_paths_are_in_no_span_unless_asked_for() -> None:
    with traced() as (http, kept):
        drawn = http.post("/generate", json=asked(width=16))
        assert http.get(drawn.headers["content-location"]).status_code == 200
        assert http.get(f"/images/{SECRET}").status_code == 404
        told = "".join(span.to_json() for span in kept.all)
        assert SECRET not in told
        assert drawn.headers["x-image-id"] not in told
        assert {"GET /images/{name}"} <= {span.name for span in kept.all}
    with traced(capture=True) as (http, kept):
        http.post("/generate", json=asked(negative_prompt="a lamp"))
        attributes = kept.named("generate_content fake").attributes
        assert attributes
        (message,) = json.loads(str(attributes["gen_ai.input.messages"]))
        assert message == {"role": "user", "parts": [{"type": "text", "content": SECRET}]}


def test_failures_and_refusals_say_why() -> None:
    with traced(runner=FakeRunner(poison=[7])) as (http, kept):
        http.post("/generate", json={"steps": 1, "seed": 7, "class": "a"})
        http.post("/generate", json={"steps": 0, "class": "a"})
        failed, refused = (span for span in kept.all if span.name == "POST /generate")
        drawn = kept.named("generate_content fake")
        for span, code in ((failed, StatusCode.ERROR), (refused, StatusCode.UNSET)):
            assert span.status.status_code is code
        why = [dict(span.attributes or {})["error.type"] for span in (failed, drawn, refused)]
        assert why == ["failed", "failed", "invalid"]


def test_probes_have_no_spans() -> None:
    with traced() as (http, kept):
        for path in ("/livez", "/readyz", "/metrics"):
            http.get(path)
        assert kept.all == ()


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({}, ()),
        ({"OTEL_SERVICE_NAME": "x"}, ()),
        ({ENDPOINT: "http://a:4318"}, ("otlp",)),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://a/v1/traces"}, ("otlp",)),
        ({ENDPOINT: "http://a", "OTEL_SDK_DISABLED": "TRUE"}, ()),
        ({ENDPOINT: "http://a", "OTEL_TRACES_EXPORTER": "none"}, ()),
        ({ENDPOINT: ""}, ()),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, ("otlp",)),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, ("console", "otlp")),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, ()),
    ],
)
def test_opentelemetry_s_variables_say_what_is_exported(
    environment: dict[str, str], names: tuple[str, ...]
) -> None:
    assert exporters_of(environment) == names
    if not names:
        assert Spans.configured(environment, "1") is None


def test_what_cannot_be_exported_is_said(caplog: pytest.LogCaptureFixture) -> None:
    exporters_of({"OTEL_TRACES_EXPORTER": "zipkin\nforged"})
    exporters_of({ENDPOINT: "http://a", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
    assert "allowed: otlp, console, none" in caplog.text
    assert "http/protobuf" in caplog.text
    assert "\nforged" not in caplog.text


def test_without_the_variables_nothing_of_the_sdk_is_loaded() -> None:
    code = (
        "import sys; from app.main import create_app; from app.settings import Settings;"
        "create_app(Settings());"
        "assert not [m for m in sys.modules if m.startswith('opentelemetry.sdk.trace.export')"
        " or m.startswith('opentelemetry.exporter')]"
    )
    root = Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, "-c", code], cwd=root, check=True, env={"PYTHONPATH": str(root)}
    )


def test_spans_go_to_the_collector_that_the_variables_name(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[tuple[str, ExportTraceServiceRequest]] = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            got.append((self.path, ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        monkeypatch.setenv(ENDPOINT, f"http://127.0.0.1:{collector.server_port}")
        with served(FakeRunner()) as (client, _):
            client.post("/generate", json={"steps": 1, "class": "a"})
        collector.shutdown()
    ((path, sent),) = got
    assert path == "/v1/traces"
    (resource,) = sent.resource_spans
    attributes = {each.key: each.value.string_value for each in resource.resource.attributes}
    assert attributes["service.name"] == "darkroom"
    names = {span.name for scope in resource.scope_spans for span in scope.spans}
    assert names == {
        "POST /generate",
        "generate_content fake",
        "queue",
        "denoise",
        "decode",
        "encode",
    }


def test_a_collector_that_never_answers_holds_nobody_up() -> None:
    stuck = threading.Event()

    class Provider(TracerProvider):
        def shutdown(self) -> None:
            stuck.wait()

    try:
        asyncio.run(asyncio.wait_for(Spans(Provider(shutdown_on_exit=False)).close(0.01), 5))
    finally:
        stuck.set()


@pytest.mark.parametrize(
    ("header", "trace"),
    [
        (TRACEPARENT, TRACE),
        (f"cc-{TRACE}-{PARENT}-01-what-comes-later", TRACE),
        (f"ff-{TRACE}-{PARENT}-01", ""),
        (f"00-{'0' * 32}-{PARENT}-01", ""),
        (f"00-{TRACE}-{'0' * 16}-01", ""),
        (TRACEPARENT.upper(), ""),
        (f"{TRACEPARENT}\n", ""),
        ("", ""),
    ],
)
def test_a_trace_is_read_as_the_w3c_writes_it(header: str, trace: str) -> None:
    assert trace_of(header) == trace
