"""Jobs over HTTP: accepted, followed, cancelled, listed; over a runner without a network."""

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from fastapi.testclient import TestClient

from app.engine.ledger import Limits
from tests.e2e.live import wait_until
from tests.engine import served
from tests.fakes import FakeRunner
from tests.jobs.conftest import DATABASES
from tests.jobs.helpers import ASYNC, accept, finished
from tests.postgres import Postgres


@pytest.fixture
def runner() -> FakeRunner:
    return FakeRunner()


@pytest.fixture
def http(runner: FakeRunner, request: pytest.FixtureRequest) -> Iterator[TestClient]:
    """A server, on SQLite where a test does not ask for another database."""
    settings = {}
    if getattr(request, "param", "sqlite") == "postgresql":
        server: Postgres = request.getfixturevalue("postgres")
        settings["database"] = server.create().replace("+psycopg", "")
    with served(runner, **settings) as (client, _):
        yield client


on_both = pytest.mark.parametrize("http", DATABASES, indirect=True)


@on_both
def test_a_job_draws_what_a_request_does(http: TestClient) -> None:
    answer = accept(http, seed=5)
    assert answer.headers["preference-applied"] == "respond-async"
    assert int(answer.headers["retry-after"]) >= 1
    told = answer.json()
    assert answer.headers["location"] == f"/jobs/{told['id']}"
    assert (told["status"], told["seed"], told["result"]) == ("queued", 5, None)
    told = finished(http, answer.headers["location"])
    assert (told["status"], told["error"], told["progress"]) == ("succeeded", None, 1)
    assert told["created_at"] <= told["started_at"] <= told["ended_at"]
    (image,) = told["result"]["images"]
    file = http.get(image["url"])
    same = http.post("/generate", json={"class": "a", "steps": 3, "seed": 5})
    assert file.content == same.content
    assert file.headers["content-type"] == "image/png" == image["media_type"]
    assert image["sha256"] == hashlib.sha256(file.content).hexdigest()


@on_both
def test_a_job_is_cancelled_at_once_and_stays_so(http: TestClient, runner: FakeRunner) -> None:
    runner.gate.hold()
    path = accept(http, seed=1).headers["location"]
    wait_until(lambda: runner.started)
    assert http.get(path).json()["status"] == "running"
    cancelled = http.delete(path)
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "canceled")
    assert http.delete(path).json() == http.get(path).json() == cancelled.json()
    runner.gate.open()
    wait_until(lambda: http.get("/engine").json()["cancelled"] == 1)
    done = accept(http, seed=2).headers["location"]
    assert finished(http, done)["status"] == "succeeded"
    assert http.delete(done).json()["status"] == "succeeded"


@on_both
def test_jobs_are_listed_newest_first_in_pages(http: TestClient, runner: FakeRunner) -> None:
    paths = [accept(http, seed=k).headers["location"] for k in range(5)]
    ids = [finished(http, path)["id"] for path in paths][::-1]
    page = http.get("/jobs", params={"limit": 2}).json()
    seen = [job["id"] for job in page["jobs"]]
    assert len(seen) == 2
    while page["next"]:
        page = http.get(page["next"]).json()
        seen += [job["id"] for job in page["jobs"]]
    assert seen == ids
    runner.gate.hold()
    waiting = accept(http, seed=9).json()["id"]
    listed = http.get("/jobs", params=[("status", "queued"), ("status", "running")]).json()
    assert [job["id"] for job in listed["jobs"]] == [waiting]
    assert http.get("/jobs", params={"status": "failed"}).json() == {"jobs": [], "next": None}
    assert http.get("/jobs", params={"status": "lost"}).status_code == 422
    assert http.get("/jobs", params={"limit": 0}).status_code == 422


def test_jobs_of_others_are_not_there(runner: FakeRunner) -> None:
    with served(runner, client="10.0.0.1") as (http, _):
        path = accept(http).headers["location"]
        finished(http, path)
        other = TestClient(http.app, base_url="http://localhost", client=("10.0.0.2", 1))
        for answer in (other.get(path), other.delete(path), other.get(f"{path}/images/0")):
            assert answer.status_code == 404
            assert answer.headers["content-type"] == "application/problem+json"
        assert other.get("/jobs").json()["jobs"] == []
        assert http.get(f"{path}/images/0").status_code == 200


def test_a_request_is_refused_as_if_it_were_not_to_be_a_job(http: TestClient) -> None:
    for body, accept_ in (
        ({"class": "c"}, "*/*"),
        ({"class": "a", "stepz": 1}, "*/*"),
        ({"class": "a", "model": "other"}, "*/*"),
        ({"class": "a"}, "text/html"),
        ({"class": "a", "steps": 900, "timeout": 0.001}, "*/*"),
    ):
        headers = {"accept": accept_}
        refused = http.post("/generate", json=body, headers=headers | ASYNC)
        same = http.post("/generate", json=body, headers=headers)
        assert refused.status_code == same.status_code >= 400
        assert refused.json()["title"] == same.json()["title"]
    assert http.get("/jobs").json()["jobs"] == []


@pytest.mark.parametrize("prefer", ["respond-async", "wait=5, Respond-Async", "respond-async; x=1"])
def test_a_preference_is_read_as_rfc_7240_says(http: TestClient, prefer: str) -> None:
    answer = http.post("/generate", json={"class": "a"}, headers={"prefer": prefer})
    assert answer.status_code == 202


def test_other_preferences_change_nothing(http: TestClient) -> None:
    for prefer in ("wait=5", "return=minimal", "respond-asynchronously", "x=respond-async"):
        answer = http.post("/generate", json={"class": "a"}, headers={"prefer": prefer})
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("accept_", "kind"),
    [
        ("image/webp", "image/webp"),
        ("image/jpeg", "image/jpeg"),
        ("application/json", "image/png"),
        ("text/event-stream", "image/png"),
        ("application/zip", "image/png"),
    ],
)
def test_files_are_of_the_format_that_was_asked_for(
    http: TestClient, accept_: str, kind: str
) -> None:
    told = finished(http, accept(http, accept_, seed=3, n=2).headers["location"])
    assert [image["seed"] for image in told["result"]["images"]] == [3, 4]
    for image in told["result"]["images"]:
        file = http.get(image["url"])
        assert file.headers["content-type"] == kind == image["media_type"]
        alone = {"class": "a", "steps": 3, "seed": image["seed"]}
        same = http.post("/generate", json=alone, headers={"accept": kind})
        assert file.content == same.content


@on_both
def test_a_file_is_kept_by_caches_for_good(http: TestClient) -> None:
    path = finished(http, accept(http).headers["location"])["result"]["images"][0]["url"]
    file = http.get(path)
    assert "immutable" in file.headers["cache-control"]
    tag = file.headers["etag"]
    for given in (tag, f'"x", W/{tag}', "*"):
        answer = http.get(path, headers={"if-none-match": given})
        assert (answer.status_code, answer.content) == (304, b"")
    assert http.get(path, headers={"if-none-match": '"x"'}).status_code == 200
    assert http.head(path).headers["etag"] == tag
    assert http.get(path[:-1] + "1").status_code == 404


def test_a_job_that_fails_says_why() -> None:
    with served(FakeRunner(poison=[7])) as (http, _):
        told = finished(http, accept(http, seed=7).headers["location"])
        assert told["status"] == "failed"
        assert told["error"]
        assert told["result"] is None


def test_a_deadline_counts_from_the_acceptance(http: TestClient, runner: FakeRunner) -> None:
    runner.gate.hold()
    told = finished(http, accept(http, timeout=0.3).headers["location"])
    assert (told["status"], told["error"]) == ("failed", "not done within 0.3 seconds")


def test_no_more_jobs_are_taken_than_there_is_room_for(runner: FakeRunner) -> None:
    runner.gate.hold()
    with served(runner, jobs_per_client=3, jobs_evaluations_per_client=30) as (http, _):
        accept(http, steps=25)
        full = http.post("/generate", json={"class": "a", "steps": 6}, headers=ASYNC)
        assert full.status_code == 429
        assert int(full.headers["retry-after"]) >= 1
        assert "the limits are 3 and 30" in full.json()["detail"]
        accept(http, steps=1)
        accept(http, steps=1)
        full = http.post("/generate", json={"class": "a", "steps": 1}, headers=ASYNC)
        assert full.status_code == 429


def test_jobs_wait_for_room_in_the_engine(runner: FakeRunner) -> None:
    """More of them than it takes of one client: none is refused, all are drawn."""
    with served(runner, limits=Limits(jobs=2, work=10**6, seconds=60)) as (http, _):
        paths = [accept(http, seed=k).headers["location"] for k in range(8)]
        assert {finished(http, path)["status"] for path in paths} == {"succeeded"}


def test_places_count_what_comes_before(runner: FakeRunner) -> None:
    runner.gate.hold()
    with served(runner, slots=1, max_priority=1) as (http, _):
        first = accept(http, n=4).headers["location"]
        wait_until(lambda: http.get(first).json()["status"] == "running")
        waiting = [accept(http).json() for _ in range(3)]
        assert [job["queue_position"] for job in waiting] == [0, 1, 2]
        assert waiting[0]["eta"] < waiting[2]["eta"]
        assert accept(http, priority=1).json()["queue_position"] == 0
        assert http.get(f"/jobs/{waiting[0]['id']}").json()["queue_position"] == 1
        runner.gate.open()


def test_what_was_accepted_is_drawn_by_the_next_server() -> None:
    with served(FakeRunner()) as (http, _):
        http.app.state.jobs.drain(60)  # it claims nothing any more
        paths = [accept(http, seed=k, eta=0.5).headers["location"] for k in range(4)]
        seeds = [http.get(path).json()["seed"] for path in paths]
        random = accept(http)
    with served(FakeRunner()) as (http, _):
        for path, seed in zip(paths, seeds, strict=True):
            (image,) = finished(http, path)["result"]["images"]
            body = {"class": "a", "steps": 3, "eta": 0.5, "seed": seed}
            assert http.get(image["url"]).content == http.post("/generate", json=body).content
        assert finished(http, random.headers["location"])["seed"] == random.json()["seed"]


@pytest.mark.parametrize("path", ["/generate", "/v1/models/x/fake/predictions"])
def test_a_job_that_another_version_stored_fails_and_harms_no_other(
    path: str, tmp_path: Path
) -> None:
    """It is told of everywhere, by its webhook and in lists as well."""
    settings = {
        "database": f"sqlite:///{tmp_path / 'jobs.db'}",
        "webhook_unsigned": True,
        "webhook_allow": "127.0.0.1",
        "jobs_lease_seconds": 1,
    }
    hook = {"webhook": "http://127.0.0.1:9/"}
    body = {"class": "a"} if path == "/generate" else {"input": {"prompt": "a"}}
    with served(FakeRunner(), **settings) as (http, _):
        http.app.state.jobs.drain(60)  # type: ignore[attr-defined]
        answer = http.post(path, json=body | hook, headers=ASYNC)
        assert answer.status_code == 202, answer.text
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.db")) as database, database:
        database.execute("UPDATE jobs SET work = ?", (msgspec.msgpack.encode({"older": 1}),))
    with served(FakeRunner(), **settings) as (http, _):
        other = accept(http).headers["location"]
        told = finished(http, f"/jobs/{answer.json()['id']}")
        assert told["status"] == "failed"
        assert "another version of the server stored it" in told["error"]
        assert told["webhook"]["calls"][-1]["event"] in ("failed", "completed")
        assert finished(http, other)["status"] == "succeeded"
        assert len(http.get("/jobs").json()["jobs"]) == 2
        if path != "/generate":
            (listed,) = http.get("/v1/predictions").json()["results"]
            assert listed["status"] == "failed"
