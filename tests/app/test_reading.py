"""Bodies that say a thing twice, or in ways that cost more than they are worth."""

import json

import pytest
from fastapi.testclient import TestClient

JSON = {"content-type": "application/json"}
FORM = {"content-type": "application/x-www-form-urlencoded"}
ROUTES = (
    "/generate",
    "/models/tiny",
    "/v1/images/generations",
    "/v1/models/x/tiny/predictions",
    "/sdapi/v1/txt2img",
    "/sdapi/v1/png-info",
    "/sdapi/v1/options",
)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "body",
    [
        '{"seed": 1, "seed": 2}',
        '{"a": 1, "seed": 1, "b": {}, "seed": 1}',
        '{"a": {"seed": 1, "seed": 1}}',
        '{"a": [[{"b": 1}, {"c": {"seed": null, "seed": null}}]]}',
        '{"seed": 1, "se\\u0065d": 2}',
    ],
)
def test_a_key_that_comes_twice_is_refused_at_any_depth(
    server: TestClient, route: str, body: str
) -> None:
    for headers in (JSON, FORM):  # curl calls everything a form
        answer = server.post(route, content=body, headers=headers)
        assert answer.status_code == 400
        assert "'seed' comes twice" in answer.text


def test_a_key_that_comes_twice_is_told_in_short(server: TestClient) -> None:
    name = json.dumps("\x1b\n\ud800" * 1000)
    answer = server.post("/generate", content=f"{{{name}: 1, {name}: 2}}", headers=JSON)
    assert answer.status_code == 400
    assert len(answer.content) < 2000


def test_a_field_that_comes_twice_is_refused_in_forms_and_queries(server: TestClient) -> None:
    parts = "".join(
        f'--x\r\ncontent-disposition: form-data; name="seed"\r\n\r\n{seed}\r\n' for seed in (1, 2)
    )
    multipart = {"content-type": "multipart/form-data; boundary=x"}
    answers = [
        server.post("/generate", content="seed=1&seed=2", headers=FORM),
        server.post("/generate", content=parts + "--x--\r\n", headers=multipart),
        server.get("/generate?seed=1&seed=2"),
        server.post("/generate", content="steps=1&num_inference_steps=1", headers=FORM),
        server.post("/generate", json={"steps": 1, "num_inference_steps": 1}),
    ]
    for answer in answers:
        assert answer.status_code == 422
        assert "seed: must be" in answer.text or "'steps' is given twice" in answer.text


def multipart(server: TestClient, content_type: str, value: bytes = b"bird") -> int:
    body = b'--x\r\nContent-Disposition: form-data; name="class"\r\n\r\n' + value + b"\r\n--x--\r\n"
    headers = {"content-type": content_type}
    return server.post("/generate", content=body, headers=headers).status_code


def test_a_form_is_utf_8_and_nothing_else(server: TestClient) -> None:
    """punycode takes quadratic time, `undefined` always fails, zip is no encoding of text."""
    plain = "multipart/form-data; boundary=x"
    for charset in ("", "; charset=utf-8", '; charset="UTF-8"', "; charset=utf8"):
        assert multipart(server, plain + charset) == 422, "read, and no class of this model"
    for charset in ("punycode", "undefined", "idna", "utf-16", "zip", "latin-1", "x" * 100, ""):
        for value in (b"bird", b"9" * 9_000):
            assert multipart(server, f"{plain}; charset={charset}", value) == 415
    for value in (b"\xff\xfe", b"caf\xe9"):
        assert multipart(server, plain, value) == 422


def test_a_content_type_has_an_end(server: TestClient) -> None:
    for kind in ("application/json", "multipart/form-data; boundary=x", FORM["content-type"]):
        for more in ("; a=" + "x" * 300, '; a="' + ";" * 60_000, ";" * 60_000):
            assert multipart(server, kind + more) == 415


def test_a_form_is_short(server: TestClient) -> None:
    """A form is taken apart in Python: 64 KiB of semicolons took 43 ms."""
    long = "class=cat&steps=1&seed=" + "1" * (1 << 14)
    assert server.post("/generate", content=long[: 1 << 14], headers=FORM).status_code == 422
    answer = server.post("/generate", content=long[: (1 << 14) + 1], headers=FORM)
    assert answer.status_code == 413
    assert "the form is too large; allowed: 16384 bytes" in answer.text
    many = server.post("/generate", content="a&" * 1001, headers=FORM)
    assert (many.status_code, "1000" in many.text) == (400, True)


def test_an_address_has_an_end(server: TestClient) -> None:
    base = "/generate?class=cat&steps=1&seed=1"
    assert server.get(base + "&" * (8192 - len(base) + 1)).status_code == 200
    for path in (base + "&" * 8192, "/livez?" + "a&" * 5000, "/images/" + "a" * 9000):
        answer = server.get(path)
        assert answer.status_code == 414
        assert answer.headers["content-type"] == "application/problem+json"
        assert "allowed: 8192 bytes" in answer.text


def test_only_what_is_told_is_guessed(server: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """`difflib` took 0.1 ms for each of thousands of fields; sixteen are told."""
    asked: list[str] = []
    monkeypatch.setattr(
        "app.schemas.requests.difflib.get_close_matches", lambda name, *_: asked.append(name) or []
    )
    body = {f"guidance_scal{k}": 1 for k in range(3000)}
    answer = server.post("/generate", json=body)
    assert "; and 2984 more" in answer.json()["detail"]
    assert asked == list(body)[:16]
    asked.clear()
    server.post("/generate", json={"guidance_scale" * 5: 1, "x" * 65: 1, "": 1})
    assert asked == []
