"""/metrics: what it counts is what was asked, and what it says of labels, names and types holds."""

import asyncio
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from app.engine.client import EngineClient
from app.engine.job import Request
from app.engine.model_info import LaneId
from app.engine.observer import Drawing
from app.engine.results import Result
from app.errors import REASONS, STATUS, Fault
from app.telemetry.account import Account
from app.telemetry.metrics import Metrics
from tests.engine import served, until
from tests.fakes import FakeRunner, params
from tests.telemetry.traffic import SECRET, SEED, Hooks, WithJobs, busy, families, value

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
OPEN = "application/openmetrics-text"


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[TestClient, EngineClient]]:
    with busy() as found:
        yield found


def test_it_counts_what_was_asked(server: tuple[TestClient, EngineClient]) -> None:
    http, _ = server
    assert value(http, "darkroom_images_total", model="fake", lane="8x8") == 1
    assert value(http, "darkroom_images_total", model="fake", lane="16x8") == 1
    assert value(http, "darkroom_evaluations_total", model="fake") == 4
    drawn = value(http, "darkroom_requests_total", endpoint="/generate", status="200")
    assert drawn == value(http, "darkroom_request_duration_seconds_count") == 2
    assert value(http, "darkroom_requests_total", endpoint="/generate", status="422") == 1
    assert value(http, "darkroom_requests_total", endpoint="none", status="404") == 1
    assert value(http, "darkroom_requests_rejected_total", reason="invalid") == 1
    assert value(http, "darkroom_requests_rejected_total", reason="not_found") == 1
    assert value(http, "darkroom_requests_rejected_total") == 2
    for stage in ("queue", "denoise", "vae_decode", "image_encode"):
        assert value(http, "darkroom_stage_duration_seconds_count", stage=stage) == 2
    assert value(http, "darkroom_ready") == 1
    assert value(http, "darkroom_requests_running", model="fake") == 0


def test_ticks_are_those_of_the_engine(server: tuple[TestClient, EngineClient]) -> None:
    http, engine = server
    asyncio.run(until(lambda: http.get("/engine").json()["ticks"] == 4))
    assert value(http, "darkroom_rows_total") == engine.stats.rows == 8  # two guided images
    assert value(http, "darkroom_tick_rows_sum") == 8
    assert value(http, "darkroom_tick_rows_count") == value(http, "darkroom_tick_seconds_count")
    assert value(http, "darkroom_tick_seconds_count") == 4
    for lane, stats in engine.stats.lanes.items():
        labels = {"model": lane.model, "lane": f"{lane.width}x{lane.height}"}
        assert stats.costs
        best = stats.costs.best.rate
        assert value(http, "darkroom_best_rows_per_second", **labels) == best
        efficiency = value(http, "darkroom_efficiency", **labels)
        assert efficiency == pytest.approx(stats.rows / best / stats.seconds, rel=0.01)


def test_nothing_that_a_client_wrote_is_on_the_page(
    server: tuple[TestClient, EngineClient],
) -> None:
    page = server[0].get("/metrics").text
    for secret in (SECRET, SECRET.replace(" ", "%20"), str(SEED), "testclient"):
        assert secret not in page


def test_both_formats_say_the_same(server: tuple[TestClient, EngineClient]) -> None:
    http, _ = server
    answer = http.get(
        "/metrics", headers={"Accept": f"{OPEN};version=1.0.0;q=0.9,text/plain;q=0.5"}
    )
    assert answer.headers["content-type"] == f"{OPEN}; version=1.0.0; charset=utf-8"
    assert answer.text.endswith("# EOF\n")
    opened = {family.name: family for family in text_string_to_metric_families(answer.text)}
    told = {name.removesuffix("_total") for name in families(http)}
    infos = {"darkroom_build"}  # a type that the older format does not have
    assert set(opened) - infos == {name for name in told if name != "darkroom_build_info"}


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (None, "text/plain"),
        ("*/*", "text/plain"),
        ("text/html,*/*;q=0.8", "text/plain"),
        (f'{OPEN};version=x;escaping="', OPEN),
        (f"{OPEN};version=0.0.1,text/plain;version=0.0.4;q=0.5", OPEN),
    ],
)
def test_the_format_is_what_accept_asks_for(
    server: tuple[TestClient, EngineClient], accept: str | None, media_type: str
) -> None:
    answer = server[0].get("/metrics", headers={"Accept": accept} if accept else {})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(f"{media_type}; version=")
    assert "Accept" in answer.headers["vary"]


def test_what_cannot_be_made_is_refused_as_anywhere(
    server: tuple[TestClient, EngineClient],
) -> None:
    answer = server[0].get("/metrics", headers={"Accept": "image/png"})
    assert answer.status_code == 406
    assert answer.json()["status"] == 406


def test_head_has_the_headers_alone(server: tuple[TestClient, EngineClient]) -> None:
    answer = server[0].head("/metrics")
    assert (answer.status_code, answer.headers["content-type"][:10]) == (200, "text/plain")


def test_foreign_pages_may_not_read_it(server: tuple[TestClient, EngineClient]) -> None:
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert server[0].get("/metrics", headers=headers).status_code == 403


def test_a_setting_turns_it_off_or_asks_for_a_key() -> None:
    with served(FakeRunner(), metrics="off") as (http, _):
        assert http.get("/metrics").status_code == 404
        assert "/metrics" not in http.get("/openapi.json").json()["paths"]
        assert http.post("/generate", json={"steps": 1}).status_code == 200
    with served(FakeRunner(), metrics="key") as (http, _):
        assert http.get("/metrics").status_code in (401, 403)


def test_two_servers_in_one_process_count_for_themselves() -> None:
    with served(FakeRunner()) as (first, _), served(FakeRunner()) as (second, _):
        first.post("/generate", json={"steps": 1})
        assert value(first, "darkroom_images_total") == 1
        assert value(second, "darkroom_images_total") is None


def test_requests_that_run_and_wait_are_told_apart() -> None:
    runner = FakeRunner()
    runner.gate.hold()
    with served(runner) as (http, engine):
        portal = http.portal
        assert portal
        want = [Request(params(seed=seed)) for seed in range(6)]

        def told() -> tuple[float | None, float | None]:
            running = value(http, "darkroom_requests_running", model="fake")
            return running, value(http, "darkroom_requests_waiting", model="fake", lane="1x1")

        tasks = [portal.start_task_soon(engine.generate, want[0])]
        asyncio.run(until(lambda: told() == (1, 0)))  # its step waits at the gate
        tasks += [portal.start_task_soon(engine.generate, each) for each in want[1:]]
        asyncio.run(until(lambda: told() == (1, 5)))
        runner.gate.open()
        for task in tasks:
            task.result(10)
        assert told() == (0, 0)


def test_what_fails_and_what_is_cancelled_is_counted() -> None:
    runner = FakeRunner(poison=[7])
    with served(runner) as (http, _):
        assert http.post("/generate", json={"steps": 1, "seed": 7}).status_code == 500
        assert value(http, "darkroom_requests_rejected_total", reason="failed") == 1
        streamed = http.post(
            "/generate", json={"steps": 1, "seed": 7}, headers={"Accept": "text/event-stream"}
        )
        assert (streamed.status_code, "event: error" in streamed.text) == (200, True)
        assert value(http, "darkroom_requests_rejected_total", reason="failed") == 2
        assert value(http, "darkroom_images_total") == 0


def test_a_dead_worker_is_counted() -> None:
    with served(FakeRunner()) as (http, engine):
        before = value(http, "darkroom_worker_restarts_total")
        worker = next(iter(engine.fleet.workers.values()))
        assert worker
        worker.process.kill()
        asyncio.run(until(lambda: value(http, "darkroom_worker_restarts_total") == 1))
        assert before == 0


def test_jobs_and_webhooks_are_read_where_there_are_any() -> None:
    with served(FakeRunner()) as (http, _):
        assert value(http, "darkroom_jobs", status="queued") == 0
        http.app.state.jobs, http.app.state.webhooks = WithJobs(), Hooks()  # type: ignore[attr-defined]
        assert value(http, "darkroom_jobs", status="queued") == 3
        assert value(http, "darkroom_jobs", status="failed") == 0
        assert value(http, "darkroom_previews_dropped_total") == 7
        assert value(http, "darkroom_webhook_deliveries_total", outcome="delivered") == 2


def drawing(width: int, model: str = "fake") -> Drawing:
    want = dataclasses.replace(params(model=model), width=width)
    request = Request(want)
    return Drawing(request, ended=1e9, result=Result((), 0.1, 0.2, 0.3))


def test_the_series_of_a_lane_go_a_while_after_it() -> None:
    now = [0.0]
    metrics = Metrics(lambda: now[0])
    metrics.drawn(drawing(1))
    metrics.drawn(drawing(2))
    sample = metrics.registry.get_sample_value

    def images(width: int) -> float | None:
        return sample("darkroom_images_total", {"model": "fake", "lane": f"{width}x1"})

    metrics.forget({LaneId("fake", 1, 1)})
    assert images(2) == 1  # its last request is still to be read
    now[0] = 100.0
    metrics.forget({LaneId("fake", 1, 1)})
    assert (images(1), images(2)) == (1, None)
    left = [s for family in metrics.registry.collect() for s in family.samples]
    assert not [s for s in left if s.labels.get("lane") == "2x1"]


def test_clients_that_ask_for_many_sizes_make_no_more_series() -> None:
    metrics = Metrics()
    for width in range(1, 300):
        metrics.drawn(drawing(width))
    lanes = {
        s.labels["lane"]
        for f in metrics.registry.collect()
        for s in f.samples
        if "lane" in s.labels
    }
    assert len(lanes) == 64
    assert "299x1" in lanes


def test_endpoints_are_templates_and_methods_are_no_labels() -> None:
    with served(FakeRunner()) as (http, _):
        for k in range(20):
            http.get(f"/images/{k}")
            http.request(f"METHOD{k}", "/generate")
        endpoints = {s.labels["endpoint"] for s in families(http)["darkroom_requests"].samples}
        assert endpoints == {"/images/{name}", "/generate"}


def test_probes_are_not_counted() -> None:
    with served(FakeRunner()) as (http, _):
        for path in ("/livez", "/readyz", "/health", "/metrics"):
            http.get(path)
        assert families(http)["darkroom_requests"].samples == []


def test_every_error_has_a_reason_and_every_reason_is_described() -> None:
    for kind, (status, title) in STATUS.items():
        reason = Fault(status, title, "", kind=kind).reason
        assert reason in REASONS
        assert reason != "other", kind
    text = DOCS.read_text(encoding="utf-8").split("### Reasons")[1].split("\n## ")[0]
    assert sorted(re.findall(r"^\| `(\w+)`", text, re.MULTILINE)) == list(REASONS)


def test_every_metric_is_described_as_it_is() -> None:
    """Names, types and labels, of the page and of docs/metrics.md."""
    rows = re.findall(
        r"^\| `((?:darkroom|process)_\w+)` \| (\w+) \|([^|]*)\|",
        DOCS.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    described = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    with busy() as (http, _):
        http.app.state.jobs, http.app.state.webhooks = WithJobs(), Hooks()  # type: ignore[attr-defined]
        page = families(http)
    there = {}
    for family in page.values():
        labels = set().union(*(s.labels.keys() for s in family.samples)) - {"le"}
        name = f"{family.name}_total" if family.type == "counter" else family.name
        there[name] = (family.type, labels)
    there.setdefault("darkroom_model_load_seconds", ("gauge", {"model"}))
    assert described == there


def test_an_account_without_a_status_is_a_client_that_left() -> None:
    metrics = Metrics()
    metrics.answered(Account("POST", route="/generate", status=200, left=True))
    labels = {"endpoint": "/generate", "status": "499"}
    assert metrics.registry.get_sample_value("darkroom_requests_total", labels) == 1
