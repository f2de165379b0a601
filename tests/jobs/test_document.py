"""How the OpenAPI document tells of jobs, and that requests are taken as it says."""

import re
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.http.body import FORMS
from tests.engine import served
from tests.fakes import FakeRunner
from tests.jobs.desk import SECRETS

ASYNC = {"prefer": "respond-async"}


def generate_of(http: TestClient) -> dict[str, Any]:
    operation: dict[str, Any] = http.get("/openapi.json").json()["paths"]["/generate"]["post"]
    return operation


def test_the_document_tells_how_to_ask_for_a_job() -> None:
    with served(FakeRunner()) as (http, _):
        operation = generate_of(http)
        headers = {each["name"]: each for each in operation["parameters"]}
        assert set(headers) == {"Prefer", "Idempotency-Key"}
        assert {each["in"] for each in headers.values()} == {"header"}
        assert not any(each.get("required") for each in headers.values())
        accepted = operation["responses"]["202"]
        assert accepted["content"]["application/json"]["schema"]["$ref"].endswith("/JobOut")
        told = {"Location", "Preference-Applied", "Retry-After"}
        assert told <= set(accepted["headers"])
        answer = http.post("/generate", json={"class": "a"}, headers=ASYNC)
        assert answer.status_code == 202
        assert {name.lower() for name in accepted["headers"]} <= set(answer.headers)
        for status in (400, 409, 422):
            assert "Idempotency-Key" in operation["responses"][str(status)]["description"]


@pytest.mark.parametrize(
    ("key", "right"),
    [
        ('"8e03978e-40d5-43dd"', True),
        ('"a b"', True),
        (r'"a \"quoted\" \\ text"', True),
        (f'"{"x" * 255}"', True),
        ("bare", False),
        ('""', False),
        ('"a', False),
        (f'"{"x" * 256}"', False),
        (r'"\n"', False),
    ],
)
def test_keys_are_taken_as_the_document_says(key: str, right: bool) -> None:
    with served(FakeRunner()) as (http, _):
        (_, described) = generate_of(http)["parameters"]
        assert bool(re.search(described["schema"]["pattern"], key)) == right
        answer = http.post("/generate", json={"class": "a"}, headers={"idempotency-key": key})
        assert answer.status_code == (200 if right else 400)


@pytest.mark.parametrize("secrets", ["", SECRETS[0]])
def test_the_document_offers_webhooks_where_there_are_any(secrets: str) -> None:
    more = {"webhook_secrets": secrets} if secrets else {}
    with served(FakeRunner(), **more) as (http, _):
        document = http.get("/openapi.json").json()
        as_json = document["components"]["schemas"]["GenerateRequest"]["properties"]
        bodies = document["paths"]["/generate"]["post"]["requestBody"]["content"]
        for fields in (as_json, *(bodies[form]["schema"]["properties"] for form in FORMS)):
            for name in ("webhook", "webhook_events"):
                assert fields[name]["description"]
                assert len(fields[name].get("anyOf", ())) == (2 if secrets else 0)
        if not secrets:
            assert as_json["webhook"]["type"] == as_json["webhook_events"]["type"] == "null"
        else:
            names = as_json["webhook_events"]["anyOf"][0]["items"]["enum"]
            assert names == ["started", "succeeded", "failed", "canceled"]
            asked = {"webhook": "https://example.com/", "webhook_events": names}
            answer = http.post("/generate", json={"class": "a", **asked}, headers=ASYNC)
            assert answer.json()["webhook"]["events"] == names


@pytest.mark.parametrize("headers", [{}, ASYNC])
def test_a_webhook_may_be_left_empty(headers: dict[str, str]) -> None:
    empty = {"class": "a", "webhook": None, "webhook_events": None}
    with served(FakeRunner()) as (http, _):
        assert http.post("/generate", json=empty, headers=headers).is_success
        form = {"class": "a", "webhook": "", "webhook_events": ""}
        assert http.post("/generate", data=form, headers=headers).is_success


def test_a_webhook_of_no_job_is_refused_with_the_way_to_have_one() -> None:
    with served(FakeRunner(), webhook_secrets=SECRETS[0]) as (http, _):
        for more in ({"webhook": "https://example.com/"}, {"webhook_events": ["failed"]}):
            answer = http.post("/generate", json={"class": "a", **more})
            assert answer.status_code == 422
            (error,) = answer.json()["errors"]
            assert error["pointer"] == f"#/{next(iter(more))}"
            assert "Prefer: respond-async" in error["detail"]
