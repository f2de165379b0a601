"""`GET /models/{name}/classes.png`: the file of the model's folder, as it is."""

import dataclasses
import hashlib

from fastapi.testclient import TestClient

from tests.engine import served
from tests.fakes import INFO, FakeRunner

SHEET = b"what the worker read from the folder"
PATH = "/models/fake/classes.png"


def test_the_sheet_is_served_as_it_is_and_kept_by_its_digest() -> None:
    with served(FakeRunner(dataclasses.replace(INFO, sheet=SHEET))) as (http, _):
        (model,) = http.get("/models").json()["models"]
        assert model["class_sheet"] is True
        answer = http.get(PATH)
        assert (answer.status_code, answer.content) == (200, SHEET)
        assert answer.headers["content-type"] == "image/png"
        tag = answer.headers["etag"]
        assert tag == f'"{hashlib.sha256(SHEET).hexdigest()}"'
        assert answer.headers["cache-control"] == "private, no-cache"
        for given in (tag, f'"other", W/{tag}', "*"):
            again = http.get(PATH, headers={"if-none-match": given})
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["etag"] == tag
        assert http.get(PATH, headers={"if-none-match": '"other"'}).content == SHEET
        head = http.head(PATH)
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(SHEET)))
        assert http.get(PATH, headers={"origin": "https://evil.test"}).status_code == 403
        foreign = {"sec-fetch-site": "cross-site", "sec-fetch-dest": "image"}
        assert http.get(PATH, headers=foreign).status_code == 403


def test_a_model_without_a_sheet_and_no_model_are_404(server: TestClient) -> None:
    (model,) = server.get("/models").json()["models"]
    assert model["class_sheet"] is False
    for name, told in (("tiny", "no class sheet"), ("nobody", "unknown model")):
        answer = server.get(f"/models/{name}/classes.png")
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
        assert told in answer.json()["detail"]
