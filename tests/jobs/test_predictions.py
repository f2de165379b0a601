"""Replicate's predictions as jobs: created, polled, cancelled, listed; without a network."""

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from standardwebhooks.webhooks import Webhook

from app.routes.replicate import predictions, telling
from tests.e2e.live import wait_until
from tests.engine import served
from tests.fakes import FakeRunner
from tests.jobs.test_following import SECRETS, receiver

CREATE = "/v1/models/me/fake/predictions"
ENDED = ("succeeded", "failed", "canceled")


@pytest.fixture
def runner() -> FakeRunner:
    return FakeRunner()


@pytest.fixture
def http(runner: FakeRunner) -> Iterator[TestClient]:
    with served(runner) as (client, _):
        yield client


def create(
    http: TestClient, prefer: str | None = None, headers: dict[str, str] | None = None, **more: Any
) -> httpx.Response:
    wanted = {"prompt": "a", "num_inference_steps": 3, "seed": 5} | more.pop("input", {})
    sent = (headers or {}) | ({} if prefer is None else {"prefer": prefer})
    return http.post(CREATE, json={"input": wanted} | more, headers=sent)


def ended(http: TestClient, answer: httpx.Response) -> dict[str, Any]:
    """A prediction, polled to its end."""
    told: dict[str, Any] = {}

    def over() -> bool:
        told.update(http.get(answer.json()["urls"]["get"]).json())
        return told["status"] in ENDED

    wait_until(over)
    return told


def files(told: dict[str, Any]) -> list[bytes]:
    return [base64.b64decode(uri.partition(";base64,")[2]) for uri in told["output"]]


def native(http: TestClient, **more: Any) -> bytes:
    return http.post("/generate", json={"class": "a", "steps": 3, "seed": 5} | more).content


@pytest.mark.parametrize(
    ("prefer", "status", "applied"),
    [
        (None, 201, None),
        ("respond-async", 202, "respond-async"),
        ("return=minimal", 201, None),
        ("wait=0", 201, None),
        ("wait=soon", 201, None),
    ],
)
def test_who_does_not_wait_polls(
    http: TestClient, runner: FakeRunner, prefer: str | None, status: int, applied: str | None
) -> None:
    runner.gate.hold()
    answer = create(http, prefer, input={"num_outputs": 2})
    told = answer.json()
    assert answer.status_code == status
    assert answer.headers.get("preference-applied") == applied
    assert answer.headers["location"] == told["urls"]["get"]
    assert answer.headers["location"] == f"http://localhost/v1/predictions/{told['id']}"
    assert answer.headers["x-seed"] == "5"
    assert (told["status"], told["output"], told["error"]) == ("starting", None, None)
    assert (told["started_at"], told["completed_at"], told["metrics"]) == (None, None, {})
    wait_until(lambda: http.get(told["urls"]["get"]).json()["status"] == "processing")
    runner.gate.open()
    assert files(ended(http, answer)) == [native(http), native(http, seed=6)]


@pytest.mark.parametrize(
    ("prefer", "applied"),
    [
        ("wait", "wait=60"),
        ("wait=7", "wait=7"),
        ("wait=600", "wait=60"),
        ("respond-async, wait=9", "respond-async, wait=9"),
    ],
)
def test_who_waits_is_answered_with_the_end(http: TestClient, prefer: str, applied: str) -> None:
    answer = create(http, prefer)
    told = answer.json()
    assert (answer.status_code, told["status"]) == (201, "succeeded")
    assert answer.headers["preference-applied"] == applied
    assert files(told) == [native(http)]
    assert http.get(told["urls"]["get"]).json() == told
    assert http.get(f"/jobs/{told['id']}").json()["request"] == {
        "model": "me/fake",
        "input": told["input"],
        "base_url": "http://localhost/",
    }


@pytest.mark.parametrize(("prefer", "status"), [("wait=1", 201), ("respond-async,wait=1", 202)])
def test_a_wait_may_end_before_the_prediction(
    http: TestClient, runner: FakeRunner, prefer: str, status: int
) -> None:
    """It is running, but `starting`: the clients take all else for an end."""
    runner.gate.hold()
    answer = create(http, prefer)
    assert (answer.status_code, answer.json()["status"]) == (status, "starting")
    assert http.get(answer.headers["location"]).json()["status"] == "processing"
    runner.gate.open()
    assert files(ended(http, answer)) == [native(http)]


def test_it_is_cancelled_at_once_and_stays_so(http: TestClient, runner: FakeRunner) -> None:
    runner.gate.hold()
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(create, http, "wait")
        wait_until(lambda: runner.started)
        (running,) = http.get("/v1/predictions").json()["results"]
        cancelled = http.post(running["urls"]["cancel"])
        assert (cancelled.status_code, cancelled.json()["status"]) == (200, "canceled")
        assert waits.result(10).json() == cancelled.json()
    assert cancelled.json()["output"] is None
    assert http.get(running["urls"]["get"]).json() == cancelled.json()
    runner.gate.open()
    done = create(http, "wait")
    assert http.post(done.json()["urls"]["cancel"]).json() == done.json()


def test_predictions_of_others_are_not_there(runner: FakeRunner) -> None:
    with served(runner, client="10.0.0.1") as (http, _):
        path = create(http, "wait").headers["location"]
        other = TestClient(http.app, base_url="http://localhost", client=("10.0.0.2", 1))
        job = http.post("/generate", json={"class": "a"}, headers={"prefer": "respond-async"})
        foreign = [other.get(path), other.post(f"{path}/cancel")]
        of_another_api = f"/v1/predictions/{job.json()['id']}"
        foreign += [http.get(of_another_api), http.post(f"{of_another_api}/cancel")]
        for answer in foreign:
            assert answer.status_code == 404
            assert answer.headers["content-type"] == "application/problem+json"
        for none in ("x", "x" * 999, "%00", "%C3%A9", "a.b"):
            answer = http.get(f"/v1/predictions/{none}")
            assert answer.status_code == 404
            assert len(answer.json()["detail"]) < 100
        assert other.get("/v1/predictions").json()["results"] == []
        assert http.get(path).status_code == 200
        assert http.head(path).status_code == 200


def test_they_are_listed_newest_first_in_pages(
    http: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictions, "_PAGE", 2)
    assert http.get("/v1/predictions").json() == {"previous": None, "next": None, "results": []}
    made = [create(http, "wait", input={"seed": k}).json() for k in range(5)]
    http.post("/generate", json={"class": "a"}, headers={"prefer": "respond-async"})
    ids = [prediction["id"] for prediction in reversed(made)]
    page = http.get("/v1/predictions").json()
    assert page["previous"] is None
    pages = [page]
    while page["next"]:
        page = http.get(page["next"]).json()
        pages.append(page)
    assert [[each["id"] for each in page["results"]] for page in pages] == [
        ids[:2],
        ids[2:4],
        ids[4:],
    ]
    assert http.get(pages[2]["previous"]).json() == pages[1] | {"next": pages[1]["next"]}
    newest = http.get(pages[1]["previous"]).json()
    assert newest == pages[0]
    (address,) = pages[0]["results"][0]["output"]
    assert http.get(address).content == native(http, seed=4)
    for wrong in ("x", "before.", "before.a b", f"beside.{ids[0]}"):
        answer = http.get("/v1/predictions", params={"cursor": wrong})
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"


def test_it_is_canceled_when_its_lifetime_is_over(http: TestClient, runner: FakeRunner) -> None:
    runner.gate.hold()
    told = create(http, "wait", {"cancel-after": "1s"}).json()
    assert (told["status"], told["error"]) == ("canceled", "not done within 1 seconds")
    assert told["output"] is None


@pytest.mark.parametrize("after", ["30", "5m", "1h", "59m59s", " 90s "])
def test_a_lifetime_may_have_units(http: TestClient, after: str) -> None:
    assert create(http, "wait", {"cancel-after": after}).json()["status"] == "succeeded"


@pytest.mark.parametrize("after", ["", "0", "0s", "-1", "1.5", "2h", "1d", "s", "1s1m", "9" * 99])
def test_a_lifetime_that_is_none_is_refused(http: TestClient, after: str) -> None:
    answer = create(http, "wait", {"cancel-after": after})
    assert answer.status_code == 400
    assert "Cancel-After must be a time of 1 to 3600 seconds" in answer.json()["detail"]
    assert http.get("/v1/predictions").json()["results"] == []


def test_one_that_fails_says_why() -> None:
    with served(FakeRunner(poison=[5])) as (http, _):
        answer = create(http, "wait")
        told = answer.json()
        assert (answer.status_code, told["status"], told["output"]) == (201, "failed", None)
        assert told["error"]


def test_a_key_is_one_prediction(http: TestClient, runner: FakeRunner) -> None:
    """Whether its request waits or not; bytes are repeated, and another request is refused."""
    key = {"idempotency-key": '"a"'}
    runner.gate.hold()
    first = create(http, None, key)
    again = create(http, None, key)
    assert (again.status_code, again.content) == (first.status_code, first.content)
    runner.gate.open()
    ends = [create(http, "wait", key) for _ in range(2)]
    assert ends[0].content == ends[1].content
    assert files(ends[0].json()) == [native(http)]
    assert ends[0].json()["id"] == first.json()["id"]
    for other in ({"input": {"seed": 6}}, {"headers": key | {"cancel-after": "9s"}}):
        refused = create(http, **{"headers": key} | other)  # type: ignore[arg-type]
        assert refused.status_code == 422
        assert "Idempotency-Key" in refused.json()["detail"]
    assert len(http.get("/v1/predictions").json()["results"]) == 1
    assert create(http, None, {"idempotency-key": "bare"}).status_code == 400


def test_what_was_created_is_finished_by_the_next_server() -> None:
    with served(FakeRunner()) as (http, _):
        http.app.state.jobs.drain(60)  # it claims nothing any more
        answers = [create(http, prefer, input={"seed": 9}) for prefer in (None, "wait")]
        assert [answer.json()["status"] for answer in answers] == ["starting"] * 2
    with served(FakeRunner()) as (http, _):
        for answer in answers:
            assert files(ended(http, answer)) == [native(http, seed=9)]


def test_whoever_waits_for_what_a_stopping_server_does_not_draw_is_answered(
    runner: FakeRunner,
) -> None:
    runner.gate.hold()
    with ThreadPoolExecutor(2) as pool, served(runner, slots=1) as (http, _):
        running = pool.submit(create, http, "wait", input={"num_outputs": 4})
        wait_until(lambda: runner.started)
        queued = pool.submit(create, http, "wait")
        wait_until(lambda: len(http.get("/v1/predictions").json()["results"]) == 2)
        http.portal.call(http.app.state.jobs.drain, 60)  # type: ignore[union-attr]
        assert queued.result(10).json()["status"] == "starting"
        runner.gate.open()
        assert running.result(10).json()["status"] == "succeeded"


def test_files_that_are_no_longer_kept_are_told_so(runner: FakeRunner) -> None:
    with served(runner, results_bytes=1) as (http, _):
        path = create(http, "wait").headers["location"]
        http.portal.call(http.app.state.jobs._keeping.tidy)  # type: ignore[union-attr]
        told = http.get(path).json()
        assert (told["status"], told["output"], told["data_removed"]) == ("succeeded", None, True)
        assert told["logs"] == "the output is no longer kept"
        (listed,) = http.get("/v1/predictions").json()["results"]
        assert listed == told


def test_files_may_lie_in_a_folder(runner: FakeRunner, tmp_path: Path) -> None:
    with served(runner, results=f"file://{tmp_path}") as (http, _):
        answer = create(http, "wait")
        assert files(answer.json()) == [native(http)]
        for file in tmp_path.rglob("*.png"):
            file.unlink()
        told = http.get(answer.headers["location"]).json()
        assert (told["output"], told["data_removed"]) == (None, True)


def test_without_a_database_there_are_no_predictions(runner: FakeRunner, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with served(runner, database=f"sqlite:///{tmp_path}/file/jobs.db") as (http, _):
        for answer in (create(http, "wait"), create(http), http.get("/v1/predictions/x")):
            assert answer.status_code == 503
            assert answer.headers["content-type"] == "application/problem+json"
            assert int(answer.headers["retry-after"]) >= 1
        assert native(http)


def test_no_more_are_taken_than_there_is_room_for(runner: FakeRunner) -> None:
    runner.gate.hold()
    with served(runner, jobs_per_client=1) as (http, _):
        create(http)
        full = create(http, "wait")
        assert full.status_code == 429
        assert 1 <= int(full.headers["retry-after"]) <= 120


def calls(http: TestClient, job: str) -> list[str]:
    return [call["state"] for call in http.get(f"/jobs/{job}").json()["webhook"]["calls"]]


@pytest.mark.parametrize("large", [False, True])
def test_a_webhook_is_told_what_asking_tells(monkeypatch: pytest.MonkeyPatch, large: bool) -> None:
    """But for files of many bytes, of which it is told the addresses."""
    if large:
        monkeypatch.setattr(telling, "_MOST_IN_CALL", 1)
    settings = {"webhook_secrets": ",".join(SECRETS), "webhook_allow": "127.0.0.1"}
    with receiver() as (url, received), served(FakeRunner(), **settings) as (http, _):
        asked = {"webhook": url, "webhook_events_filter": ["start", "completed"]}
        answer = create(http, **asked)
        told = ended(http, answer)
        wait_until(lambda: calls(http, told["id"]) == ["delivered"] * 2)
        bodies = [Webhook(SECRETS[1]).verify(body, headers) for headers, body in received]
        start, completed = sorted(bodies, key=lambda body: body["status"])
        assert (start["status"], start["output"], start["urls"]) == (
            "processing",
            None,
            told["urls"],
        )
        if large:
            (address,) = completed["output"]
            assert http.get(address).content == files(told)[0]
            told["output"] = completed["output"]
        assert completed == told


@pytest.mark.parametrize(
    ("asked", "pointer"),
    [
        ({"webhook": "http://169.254.169.254/"}, "#/webhook"),
        ({"webhook": 7}, "#/webhook"),
        (
            {"webhook": "https://example.com/", "webhook_events_filter": ["end"]},
            "#/webhook_events_filter",
        ),
        ({"webhook_events_filter": ["start"]}, "#/webhook_events_filter"),
    ],
)
def test_a_webhook_that_is_not_called_is_refused(asked: dict[str, Any], pointer: str) -> None:
    with served(FakeRunner(), webhook_secrets=SECRETS[0]) as (http, _):
        answer = create(http, "wait", **asked)
        assert answer.status_code == 422
        assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
        assert http.get("/v1/predictions").json()["results"] == []


def test_an_end_on_another_server_is_found(runner: FakeRunner) -> None:
    """One has no room, and another takes from the same store what somebody waits for there."""
    runner.gate.hold()
    with ThreadPoolExecutor(1) as pool, served(runner, slots=1) as (http, _):
        create(http, input={"num_outputs": 4})
        wait_until(lambda: runner.started)
        waits = pool.submit(create, http, "wait")
        other = FakeRunner()
        with served(other) as (there, _):
            told = waits.result(20).json()
            assert other.started
            assert files(told) == [native(there)]
        assert not http.app.state.jobs.waiting._waits
        assert http.app.state.jobs.waiting._watching is None
