"""Files of results in a folder and in a bucket: the same bytes, and gone when they are not kept."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from fastapi.testclient import TestClient
from moto.server import ThreadedMotoServer

from tests.e2e.live import wait_until
from tests.engine import served
from tests.fakes import FakeRunner
from tests.jobs.helpers import accept, finished

BUCKET = "results"


class Folder:
    """A place for results, and what lies in it."""

    def __init__(self, path: Path) -> None:
        self.url, self._path = f"file://{path}", path

    def files(self) -> dict[str, bytes]:
        found = (path for path in self._path.rglob("*") if path.is_file())
        return {str(path.relative_to(self._path)): path.read_bytes() for path in found}

    def remove(self, name: str) -> None:
        (self._path / name).unlink()

    def empty(self) -> bool:
        return not any(self._path.iterdir())


class Bucket:
    """The same in S3, below a prefix."""

    url = f"s3://{BUCKET}/some/where"

    def __init__(self) -> None:
        self._client = boto3.client("s3")
        self._client.create_bucket(Bucket=BUCKET)

    def objects(self) -> list[str]:
        listed = self._client.list_objects_v2(Bucket=BUCKET).get("Contents", [])
        return [one["Key"] for one in listed]

    def files(self) -> dict[str, bytes]:
        return {
            key.removeprefix("some/where/"): self._client.get_object(Bucket=BUCKET, Key=key)[
                "Body"
            ].read()
            for key in self.objects()
        }

    def remove(self, name: str) -> None:
        self._client.delete_object(Bucket=BUCKET, Key=f"some/where/{name}")

    def empty(self) -> bool:
        return not self.objects()


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    httpx.post(f"{s3}/moto-api/reset")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return Bucket()


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "folder":
        return Folder(tmp_path / "results")
    return request.getfixturevalue("bucket")


def drawn(http: TestClient, **wanted: Any) -> tuple[str, dict[str, Any]]:
    path = accept(http, **wanted).headers["location"]
    job = finished(http, path)
    assert (job["status"], job["error"]) == ("succeeded", None)
    return path, job


def test_files_are_in_the_place_and_are_served_from_there(place: Any) -> None:
    with served(FakeRunner(), results=place.url) as (http, _):
        path, job = drawn(http, seed=3, n=2)
        files = place.files()
        assert sorted(files) == [f"{job['id']}/1/{k}.png" for k in range(2)]
        for k, image in enumerate(job["result"]["images"]):
            file = http.get(image["url"])
            alone = http.post("/generate", json={"class": "a", "steps": 3, "seed": 3 + k})
            assert file.content == files[f"{job['id']}/1/{k}.png"] == alone.content
            assert file.headers["content-type"] == "image/png"
        place.remove(f"{job['id']}/1/1.png")
        gone = http.get(f"{path}/images/1")
        assert gone.status_code == 410
        assert gone.json()["title"] == "Result expired"
        assert http.get(f"{path}/images/0").status_code == 200
        assert http.get(f"{path}/images/2").status_code == 404


def test_files_go_when_they_are_too_old(place: Any) -> None:
    with served(FakeRunner(), results=place.url, results_seconds=1) as (http, _):
        path, job = drawn(http, n=2)
        address = job["result"]["images"][0]["url"]
        wait_until(lambda: http.get(address).status_code == 410)
        wait_until(place.empty)
        told = http.get(path).json()
        assert (told["status"], told["result"], told["expired"]) == ("succeeded", None, True)


def test_the_oldest_go_when_there_are_too_many(place: Any) -> None:
    with served(FakeRunner(), results=place.url, results_bytes=1, results_seconds=60) as (http, _):
        first, _ = drawn(http)
        wait_until(lambda: http.get(first).json()["expired"])
        second, _ = drawn(http)
        wait_until(lambda: http.get(second).json()["expired"])
        wait_until(place.empty)


def test_signed_addresses_are_of_the_bucket(bucket: Bucket, s3: str) -> None:
    with served(FakeRunner(), results=bucket.url, results_signed=True) as (http, _):
        path, job = drawn(http, seed=3)
        moved = http.get(f"{path}/images/0", follow_redirects=False)
        assert moved.status_code == 307
        assert moved.headers["location"].startswith(s3)
        assert moved.headers["cache-control"] == "no-store"
        file = httpx.get(moved.headers["location"])
        assert file.content == next(iter(bucket.files().values()))
        assert file.headers["content-type"] == "image/png"
        bucket.remove(f"{job['id']}/1/0.png")
        assert http.get(f"{path}/images/0", follow_redirects=False).status_code == 410


def test_a_place_that_cannot_be_written_delays_jobs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is drawn is kept until it can be."""
    (tmp_path / "results").write_bytes(b"no folder")
    with served(FakeRunner(), results=f"file://{tmp_path / 'results'}") as (http, _):
        path = accept(http, seed=3).headers["location"]
        wait_until(lambda: "cannot be reached" in caplog.text)
        assert http.get(path).json()["status"] == "running"
        (tmp_path / "results").unlink()
        assert finished(http, path)["status"] == "succeeded"
        assert caplog.text.count("cannot be reached") == 1
        assert http.get(f"{path}/images/0").status_code == 200


def test_what_was_written_for_a_cancelled_job_is_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The cancellation comes while its files are being written."""
    (tmp_path / "results").write_bytes(b"no folder")
    place = Folder(tmp_path / "results")
    runner = FakeRunner()
    with served(runner, results=place.url) as (http, _):
        path = accept(http, seed=3).headers["location"]
        wait_until(lambda: "cannot be reached" in caplog.text)
        assert http.delete(path).json()["status"] == "canceled"
        (tmp_path / "results").unlink()
        _, job = drawn(http)
        wait_until(lambda: [name[:22] for name in place.files()] == [job["id"]])
        assert http.get(path).json()["status"] == "canceled"


def test_results_are_found_where_they_were_put(tmp_path: Path) -> None:
    """A server that is told of no place any more says so, and still forgets what is old."""
    database = f"sqlite:///{tmp_path / 'jobs.db'}"
    place = Folder(tmp_path / "results")
    with served(FakeRunner(), database=database, results=place.url) as (http, _):
        path, _ = drawn(http)
    with served(FakeRunner(), database=database) as (http, _):
        elsewhere = http.get(f"{path}/images/0")
        assert elsewhere.status_code == 503
        assert "DARKROOM_RESULTS" in elsewhere.json()["detail"]
    with served(FakeRunner(), database=database, results_seconds=1) as (http, _):
        wait_until(lambda: http.get(f"{path}/images/0").status_code == 410)
