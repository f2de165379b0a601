"""What the result of a job tells of its pictures: how each is drawn again, and by what."""

import contextlib
import dataclasses
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.engine import served
from tests.fakes import INFO, TEXT, FakeRunner
from tests.jobs.helpers import accept, finished

CLASSES = dataclasses.replace(INFO, digest="ab" * 32)
LAST_SEEDS = {"seed": 2**63 - 2, "n": 3}
PROMPTS = {"prompt": "a fox", "negative_prompt": "fog", "clip_skip": 1, "sampler": "heun"}
OWN: dict[str, Any] = {"class": None, "seed": 7}  # in place of the class that `accept` asks for


@pytest.mark.parametrize(
    ("runner", "wanted"),
    [
        (FakeRunner(CLASSES), {"class": "b", "eta": 0.5, "guidance_scale": 2.5} | LAST_SEEDS),
        (FakeRunner(TEXT), OWN | PROMPTS),
        (FakeRunner(TEXT), OWN | {"prompt": "a fox", "width": 16, "height": 24}),
    ],
)
def test_a_result_says_what_the_same_request_does(
    runner: FakeRunner, wanted: dict[str, Any]
) -> None:
    with served(runner) as (http, _):
        told = finished(http, accept(http, **wanted).headers["location"])
        result, asked = told["result"], {"steps": 3} | wanted
        same = http.post("/generate", json=asked, headers={"accept": "application/json"}).json()
        images = same.pop("images")
        assert result["parameters"] == same
        assert [each["id"] for each in result["images"]] == [each["id"] for each in images]
        for image in result["images"]:
            again = http.get(f"/images/{image['id']}.png")
            assert again.content == http.get(image["url"]).content
        assert http.get("/jobs").json()["jobs"] == [told]


def test_prompts_that_are_too_long_have_no_id_and_parameters_all_the_same() -> None:
    long: dict[str, Any] = OWN | {"prompt": "fox " * 1000}
    with served(FakeRunner(TEXT)) as (http, _):
        result = finished(http, accept(http, **long).headers["location"])["result"]
        assert result["images"][0]["id"] is None
        assert result["parameters"]["prompt"] == long["prompt"]


def test_a_result_of_an_earlier_version_has_no_id_and_no_parameters(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"database": f"sqlite:///{tmp_path / 'jobs.db'}"}
    with served(FakeRunner(CLASSES), **settings) as (http, _):
        path = accept(http, seed=5).headers["location"]
        finished(http, path)
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.db")) as database, database:
        (packed,) = database.execute("SELECT work FROM jobs").fetchone()
        work = msgspec.msgpack.decode(packed)
        del work["class_name"], work["own_size"]
        database.execute("UPDATE jobs SET work = ?", (msgspec.msgpack.encode(work),))
    with served(FakeRunner(CLASSES), **settings) as (http, _):
        result = finished(http, path)["result"]
        (image,) = result["images"]
        assert (image["seed"], image["id"], result["parameters"]) == (5, None, None)
        assert http.get(image["url"]).status_code == 200
