"""The log: one line for each request that draws or is refused, which nobody can forge."""

import json
import logging
import logging.config
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.engine.lines import plain
from app.engine.worker import log_as
from app.http import logs
from app.http.logs import ServerLines, WithRequest
from app.telemetry.lines import shortened
from tests.engine import served
from tests.fakes import FakeRunner
from tests.telemetry.traffic import SECRET, SEED, asked, busy

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Any:
    """The fields of the lines about requests, so far."""
    caplog.set_level(logging.INFO, "app.requests")

    def found() -> list[dict[str, Any]]:
        return [vars(each)["fields"] for each in caplog.records if each.name == "app.requests"]

    return found


def test_a_request_that_draws_has_one_line_with_what_it_was(lines: Any) -> None:
    with busy() as (http, _):
        before = len(lines())
        headers = {"X-Request-Id": "mine", "traceparent": f"00-{TRACE}-{'1' * 16}-01"}
        answer = http.post("/generate", json=asked(n=2, width=16), headers=headers)
        (line,) = lines()[before:]
    told = {name: value for name, value in line.items() if not name.endswith("_s")}
    assert told == {
        "request_id": "mine",
        "trace_id": TRACE,
        "method": "POST",
        "route": "/generate",
        "status": 200,
        "client": "testclient",
        "model": "fake",
        "size": "16x8",
        "steps": 2,
        "evaluations": 2,
        "sampler": "ddim",
        "seed": SEED,
        "n": 2,
        "bytes": len(answer.content),
    }
    stages = line["queue_s"] + line["denoise_s"] + line["decode_s"] + line["encode_s"]
    assert 0 < stages <= line["duration_s"] + 0.001  # rounded


def test_refusals_and_failures_have_a_line_and_all_else_has_none(lines: Any) -> None:
    with served(FakeRunner(poison=[7])) as (http, _):
        for path in ("/livez", "/readyz", "/metrics", "/models", "/docs"):
            assert http.get(path).status_code == 200
        assert lines() == []
        http.post("/generate", json={"steps": 0, "class": "a"})
        http.post("/generate", json={"steps": 1, "class": "a", "seed": 7})
        http.get("/nowhere")
        http.get("/models", headers={"Origin": "https://evil.example"})
        http.post("/v1/images/generations", json={"prompt": "a", "model": "b"})
    told = [(line.get("route"), line["status"], line["reason"]) for line in lines()]
    assert told == [
        ("/generate", 422, "invalid"),
        ("/generate", 500, "failed"),
        (None, 404, "not_found"),
        (None, 403, "forbidden"),
        ("/v1/images/generations", 404, "unknown_model"),
    ]


def test_prompts_are_in_lines_on_demand_alone(lines: Any, caplog: pytest.LogCaptureFixture) -> None:
    with busy():
        pass
    assert SECRET not in caplog.text
    with busy(log_prompts=True):
        pass
    assert lines()[-3]["prompt"] == SECRET


def test_a_setting_leaves_the_lines_out(lines: Any) -> None:
    with busy(log_requests=False):
        pass
    assert lines() == []


@pytest.fixture
def stream() -> Iterator[StringIO]:
    """A logger `app.tried` that writes here; the test says how."""
    written, log = StringIO(), logging.getLogger("app.tried")
    handler = logging.StreamHandler(written)
    handler.addFilter(WithRequest())
    log.addHandler(handler)
    log.propagate = False
    log.setLevel(logging.INFO)
    yield written
    log.removeHandler(handler)
    log.propagate = True


FORGED = "a\nINFO:     [x] all is well\r\n\x1b[2J\u2028{}\x85"


def test_nobody_forges_a_line_of_text(stream: StringIO) -> None:
    log = logging.getLogger("app.tried")
    log.handlers[0].setFormatter(ServerLines("%(levelprefix)s %(request)s%(message)s"))
    log.warning("it said %s", FORGED)
    (line,) = stream.getvalue().splitlines()
    assert line == r"WARNING:  it said a\nINFO:     [x] all is well\r\n\x1b[2J\u2028{}\x85"
    try:
        raise ValueError(FORGED)
    except ValueError:
        log.exception("broken")
    first, *trace = stream.getvalue().splitlines()[1:]
    assert first == "ERROR:    broken"
    assert all(part.startswith("    ") for part in trace)
    assert any("all is well" in part for part in trace)


def test_a_line_of_json_is_one_object_whatever_it_holds(stream: StringIO) -> None:
    logs.request_id.set("mine")
    log = logging.getLogger("app.tried")
    log.handlers[0].setFormatter(_formatter("json"))
    try:
        raise ValueError(FORGED)
    except ValueError:
        log.exception("it said %s", FORGED)
    log.info("", extra={"fields": {"seed": 1, "prompt": FORGED}})
    log.warning("x" * 100_000)
    logs.request_id.set("")
    first, second, third = map(json.loads, stream.getvalue().splitlines())
    assert first["message"] == f"it said {FORGED}"
    assert FORGED in first["exception"]
    assert (first["level"], first["request_id"], first["logger"]) == ("error", "mine", "app.tried")
    assert first["ts"].endswith("+00:00")
    assert (second["seed"], second["prompt"]) == (1, FORGED)
    assert len(third["message"]) < 10_000


def _formatter(form: Any) -> logging.Formatter:
    config = logs.config(form)
    assert config["handlers"]["stderr"]["formatter"] == form
    made: logging.Formatter = config["formatters"][form]["()"]()
    return made


def test_the_worker_writes_as_the_server_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    log_as("json")
    logging.getLogger().warning("%s", FORGED)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    log_as("text")
    logging.getLogger().warning("%s", FORGED)
    first, second = capsys.readouterr().err.splitlines()
    assert json.loads(first)["message"] == FORGED
    assert second.startswith(r"WARNING:  engine: a\nINFO:")


@pytest.mark.parametrize(
    ("client", "told"),
    [
        ("203.0.113.77", "203.0.113.0/24"),
        ("2001:db8:1:2::/64", "2001:db8:1::/48"),
        ("127.0.0.1", "127.0.0.1"),
        ("key:alice", "key:alice"),
        ("", ""),
    ],
)
def test_of_an_address_only_the_network_is_told(client: str, told: str) -> None:
    assert shortened(client) == told


def test_what_is_long_is_cut() -> None:
    assert plain("x" * 10_000) == "x" * 8192 + "..."
    assert plain("Grüße, 世界") == "Grüße, 世界"


def test_a_bug_has_a_line_with_its_reason(lines: Any) -> None:
    with served(FakeRunner()) as (http, _):

        async def broken(_: object) -> None:
            raise RuntimeError("a secret of ours")

        http.app.add_route("/broken", broken)  # type: ignore[attr-defined]
        careless = TestClient(http.app, base_url="http://localhost", raise_server_exceptions=False)
        assert careless.get("/broken").status_code == 500
    (line,) = lines()
    assert (line["route"], line["status"], line["reason"]) == ("page", 500, "bug")
