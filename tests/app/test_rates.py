"""How much a client may ask for: in a time, at once, in one request; and what it is told of it."""

import asyncio
import contextlib
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.access.admission import Permit
from app.access.allowance import Allowance, Rate, read_rate
from app.access.limits import RequestLimits
from app.access.rates import Meter, Rates
from app.access.streams import Streams
from app.engine.errors import EngineError
from app.engine.job import Request
from app.engine.results import Moved, Queued, Update
from app.errors import InvalidRequest, LimitExceeded
from app.generation import Studio
from app.settings import Settings
from models.sampling import SAMPLERS
from tests.engine import asynchronous, running, served, until
from tests.fakes import TEXT, FakeRunner, params

KEY = "dk_" + "abcdefghij" * 4


class Clock:
    """What `limits` takes for the time; it starts where a window of any length does."""

    def __init__(self) -> None:
        self.now = 86400.0 * 366

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    from limits.storage import memory

    from app.access import windows

    clock = Clock()
    for module in (memory, windows):
        monkeypatch.setattr(module, "time", clock)
    return clock


def meter(client: str = "a", *, rates: Rates | None = None, **allowance: Any) -> Meter:
    return Meter(rates or Rates(), client, Allowance(**allowance))


def take(meter: Meter, work: int) -> None:
    with meter.counted(work):
        pass


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("20000/minute", Rate(20000, 60)),
        ("1 per second", Rate(1, 1)),
        ("500/10 seconds", Rate(500, 10)),
        ("5/HOUR", Rate(5, 3600)),
        ("none", None),
    ],
)
def test_a_rate_is_read_as_people_write_it(text: str, rate: Rate | None) -> None:
    assert read_rate(text) == rate
    assert Settings(rate=text).allowance.rate == rate  # type: ignore[arg-type]


@pytest.mark.parametrize("wait_for", [1, 30, 60, 100])
@pytest.mark.parametrize("before", [0, 40, 100])
@pytest.mark.parametrize("elapsed", [0.0, 17.0, 59.0])
def test_what_is_told_to_wait_is_enough_and_no_more(
    clock: Clock, before: int, elapsed: float, wait_for: int
) -> None:
    """By trying every second: the first one at which it is taken is the one that was told."""
    tried = meter(rate=Rate(100, 60))
    if before:
        take(tried, before)
    clock.now += 60 + elapsed
    with contextlib.suppress(LimitExceeded):
        take(tried, 70)
    began = clock.now
    try:
        take(tried, wait_for)
    except LimitExceeded as error:
        refused = error
    else:
        return
    told = int(refused.headers["RateLimit"].rpartition("t=")[2])
    assert refused.retry_after == min(told, 120)
    while True:
        clock.now += 1
        with contextlib.suppress(LimitExceeded):
            take(tried, wait_for)
            break
    assert clock.now - began == told


def test_a_rate_counts_evaluations_by_client_and_forgets_them(clock: Clock) -> None:
    rates = Rates()
    first, second = (meter(name, rates=rates, rate=Rate(100, 60)) for name in "ab")
    for _ in range(10):
        take(first, 10)
    with pytest.raises(LimitExceeded, match="asks for 1 evaluations, and 0 are left; allowed: 100"):
        take(first, 1)
    take(second, 100)
    clock.now += 120
    take(first, 100)


@pytest.mark.parametrize("limit", [{"rate": Rate(100, 60)}, {"concurrency": 100}])
def test_what_never_fits_is_wrong_and_not_early(limit: dict[str, Any]) -> None:
    (name,) = limit
    told = f"asks for 101 .*allowed: 100, the whole {name}"
    with pytest.raises(InvalidRequest, match=told), meter(**limit).charged(101):
        pass


@asynchronous
async def test_what_does_not_begin_is_given_back() -> None:
    """Refused, or cancelled while it waits; what ran stays counted, however it ended."""
    runner = FakeRunner(poison=[9])
    async with running(runner, slots=1) as client:
        counted = meter(rate=Rate(100, 3600), concurrency=60)
        studio = Studio(client, marked=True, permit=Permit(meter=counted))

        def left() -> int:
            return int(re.search(r"r=(\d+)", counted.headers()["RateLimit"])[1])  # type: ignore[index]

        def draw(seed: int, **more: Any) -> "asyncio.Task[Any]":
            wanted = Request(params(seed, steps=20), **more)
            return asyncio.create_task(studio.generation(wanted).draw())

        await draw(1)
        assert left() == 80
        runner.gate.hold()
        first, second = draw(2), draw(3)
        await until(lambda: client.jobs == 2)
        assert left() == 40
        third = draw(4)
        await until(lambda: client.jobs == 3)
        assert left() == 20
        with pytest.raises(LimitExceeded, match="60 evaluations of this client are under way"):
            await draw(5)
        second.cancel()
        await asyncio.wait([second])
        assert left() == 40
        runner.gate.open()
        await asyncio.gather(first, third)
        with pytest.raises(EngineError):  # it takes longer, even alone
            await draw(6, timeout=1e-9)
        assert left() == 40
        assert not counted._rates.running


def test_what_has_begun_stays_counted_however_it_ends(clock: Clock) -> None:
    counted = meter(rate=Rate(100, 60))
    told: list[Update] = []

    def fail_after(update: Update) -> None:
        with counted.charged(30) as charge:
            charge.watching(told.append)(update)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_after(Queued(0, 1.0))
    assert counted.headers()["RateLimit"].startswith('"default";r=100;')
    with pytest.raises(ZeroDivisionError):
        fail_after(Moved(1, 30, 1.0))
    assert counted.headers()["RateLimit"].startswith('"default";r=70;')
    assert [type(update) for update in told] == [Queued, Moved]
    clock.now += 120
    assert counted.headers()["RateLimit"] == '"default";r=100;t=0'


@pytest.fixture(scope="module")
def limited() -> Iterator[TestClient]:
    with served(FakeRunner(), rate="100/hour") as (client, _):
        yield client


def test_every_dialect_counts_and_tells(clock: Clock) -> None:
    drawing: list[tuple[str, dict[str, Any]]] = [
        ("/generate", {"class": "a", "steps": 10}),
        ("/generate", {"inputs": "a", "parameters": {"num_inference_steps": 10}}),
        ("/models/fake", {"inputs": "a", "parameters": {"num_inference_steps": 10}}),
        ("/v1/images/generations", {"prompt": "a", "num_inference_steps": 10}),
        (
            "/v1/predictions",
            {"version": "x/fake", "input": {"prompt": "a", "num_inference_steps": 10}},
        ),
        ("/sdapi/v1/txt2img", {"prompt": "a", "steps": 10, "cfg_scale": 1}),
    ]
    with served(FakeRunner(), rate="100/hour") as (client, _):
        for number, (path, body) in enumerate(drawing, 1):
            answer = client.post(path, json=body)
            assert answer.status_code < 300, answer.text
            assert answer.headers["ratelimit-policy"] == '"default";q=100;w=3600;qu="evaluations"'
            used = int(re.match(r'"default";r=(\d+);t=\d+$', answer.headers["ratelimit"])[1])  # type: ignore[index]
            assert 100 - used in (10 * number, 10 * number - 10)  # headers go before what is drawn
        assert client.post("/generate", json={"steps": 40}).status_code == 200
        for path, body in drawing:
            text = str(body).replace("10", "20").replace("'", '"')
            answer = client.post(path, content=text, headers={"content-type": "application/json"})
            assert answer.status_code == 429, answer.text
            assert 1 <= int(answer.headers["retry-after"]) <= 120
            assert re.fullmatch(r'"default";r=0;t=\d+', answer.headers["ratelimit"])
            assert len(answer.headers.get_list("ratelimit")) == 1
            told = client.post(path, content=text.replace("20", "200"))
        openai = client.post("/v1/images/generations", json={"prompt": "a"})
        assert openai.json()["error"]["type"] == "rate_limit_error"
        assert openai.json()["error"]["code"] == "rate_limit_exceeded"
        assert told.status_code in (400, 415, 422)
        assert client.get("/models").status_code == 200
        assert "ratelimit" not in client.get("/livez").headers


def test_huggingface_hub_reads_what_is_left(limited: TestClient) -> None:
    http: Any = pytest.importorskip("huggingface_hub.utils._http")
    headers = limited.get("/models").headers
    found = http.parse_ratelimit_headers(headers)
    assert (found.limit, found.window_seconds, found.remaining) == (100, 3600, 100)


def test_a_server_without_rates_tells_of_none(server: TestClient) -> None:
    assert "ratelimit" not in server.get("/models").headers


def test_a_request_larger_than_the_rate_is_wrong(limited: TestClient) -> None:
    native = limited.post("/generate", json={"steps": 101})
    assert native.status_code == 422
    assert "asks for 101 evaluations" in native.json()["detail"]
    assert "retry-after" not in native.headers
    openai = limited.post(
        "/v1/images/generations", json={"prompt": "a", "num_inference_steps": 101}
    )
    assert openai.status_code == 400
    assert "asks for 101 evaluations" in openai.json()["error"]["message"]


def test_a_key_has_a_rate_of_its_own() -> None:
    keys = f"alice: {KEY} rate=20/hour, bob: {KEY}x rate=none"
    with served(FakeRunner(), api_keys=keys, rate="10/hour") as (client, _):
        for secret, answers in [(KEY, [200, 200, 429]), (KEY + "x", [200] * 3)]:
            headers = {"x-api-key": secret}
            told = [client.post("/generate", json={"steps": 10}, headers=headers) for _ in answers]
            assert [answer.status_code for answer in told] == answers
            assert ("ratelimit" in told[0].headers) is (secret == KEY)


@pytest.mark.parametrize(
    ("setting", "asked", "told"),
    [
        ({"max_images": 2}, {"n": 3}, "n: must be at most 2 here (DARKROOM_MAX_IMAGES)"),
        ({"max_steps": 20}, {"steps": 21}, "steps: must be at most 20 here (DARKROOM_MAX_STEPS)"),
        (
            {"max_evaluations": 20},
            {"steps": 11, "n": 2},
            "asks for 22 evaluations (images times steps, twice where guided); allowed: 20 here"
            " (DARKROOM_MAX_EVALUATIONS)",
        ),
    ],
)
def test_limits_of_a_request_are_told_by_their_settings(
    setting: dict[str, int], asked: dict[str, int], told: str
) -> None:
    with served(FakeRunner(), **setting) as (client, _):
        refused = client.post("/generate", json=asked)
        assert refused.status_code == 422
        assert told in refused.json()["detail"]
        fewer = {name: value - 1 for name, value in asked.items()}
        drawn = client.post("/generate", json=fewer, headers={"accept": "application/json"})
        assert drawn.status_code == 200, drawn.text
        names = {"n": "num_outputs", "steps": "num_inference_steps"}
        wanted = {names[name]: value for name, value in asked.items()} | {"prompt": "a"}
        refused = client.post("/v1/predictions", json={"version": "x/fake", "input": wanted})
        assert refused.status_code == 422
        assert told.partition("must")[2] in refused.json()["detail"]
        if len(asked) == 1:
            assert names[next(iter(asked))] in refused.json()["detail"]


def test_pixels_have_a_limit_whatever_the_model_can() -> None:
    with served(FakeRunner(TEXT), max_pixels=256) as (client, _):
        wanted = {"prompt": "a", "steps": 1, "width": 16, "height": 16}
        assert client.post("/generate", json=wanted).status_code == 200
        refused = client.post("/generate", json=wanted | {"width": 24})
        assert refused.status_code == 422
        assert "24x16 is too large; allowed: 256 pixels" in refused.json()["detail"]
        assert refused.json()["errors"][0]["pointer"] == "#/width"


def test_an_image_s_id_is_bound_by_limits_too() -> None:
    with served(FakeRunner(TEXT)) as (client, _):
        name = client.post("/generate", json={"steps": 30, "seed": 1}).headers["x-image-id"]
        assert client.get(f"/images/{name}.png").status_code == 200
    with served(FakeRunner(TEXT), max_steps=20) as (client, _):
        refused = client.get(f"/images/{name}.png")
        assert refused.status_code == 422
        assert "DARKROOM_MAX_STEPS" in refused.json()["detail"]


def test_forms_can_be_built_from_limits() -> None:
    with served(FakeRunner(), max_steps=20, max_images=3, max_streams=7) as (client, _):
        model = client.get("/models").json()["models"][0]
        assert model["limits"] | {"seed": 0, "guidance_scale": 0} == {
            "steps": 20,
            "n": 3,
            "pixels": 2048**2,
            "evaluations": 64000,
            "streams": 7,
            "seed": 0,
            "guidance_scale": 0,
        }
        assert model["defaults"]["steps"] == 20
        document = client.get("/openapi.json").json()
        fields = document["components"]["schemas"]["GenerateRequest"]["properties"]
        assert (fields["steps"]["maximum"], fields["steps"]["default"]) == (20, 20)
        assert fields["n"]["maximum"] == 3
        query = {
            each["name"]: each["schema"]
            for each in document["paths"]["/generate"]["get"]["parameters"]
        }
        assert query["steps"]["anyOf"][0]["maximum"] == 20
        assert (
            client.post("/generate", json={"seed": 1})
            .headers["x-generation-parameters"]
            .count('"steps":20')
        )


def test_by_default_nothing_is_refused_that_could_be_asked_for() -> None:
    limits = Settings().request_limits
    assert limits == RequestLimits()
    most = params(steps=1000, n=16, scale=2.0)
    for sampler in SAMPLERS:
        limits.check(replace(most, sampler=sampler, width=2048, height=2048))


@asynchronous
async def test_streams_are_counted_and_their_ends_are_seen() -> None:
    streams = Streams(2)

    async def events() -> Any:
        try:
            while True:
                yield b"event"
        finally:
            closed.append(True)

    closed: list[bool] = []
    opened = [streams.hold("a", events()) for _ in range(2)]
    for each in opened:
        assert await anext(each) == b"event"
    with pytest.raises(LimitExceeded, match=r"2 event streams .*\(DARKROOM_MAX_STREAMS\)"):
        await anext(streams.hold("a", events()))
    other = streams.hold("b", events())
    assert await anext(other) == b"event"
    with pytest.raises(LimitExceeded, match="1 event streams"):
        await anext(streams.hold("b", events()))  # in all there are three
    for each in (*opened, other):
        await each.aclose()
    assert streams.shares.taken == 0
    assert len(closed) == 3


def test_one_stream_too_many_is_refused_and_the_next_one_is_taken() -> None:
    runner = FakeRunner()
    with served(runner, max_streams=1) as (client, _):
        runner.gate.hold()
        admission = client.app.state.admission  # type: ignore[attr-defined]
        admission.streams.shares.take("testclient")
        for path, body in [
            ("/generate", {"steps": 1}),
            ("/v1/images/generations", {"prompt": "a", "stream": True}),
        ]:
            answer = client.post(path, json=body, headers={"accept": "text/event-stream"})
            assert answer.status_code == 429
            assert answer.headers["retry-after"] == "5"
        admission.streams.shares.take("testclient", -1)
        runner.gate.open()
        stream = client.post(
            "/generate", json={"steps": 1}, headers={"accept": "text/event-stream"}
        )
        assert "event: completed" in stream.text
        assert admission.streams.shares.taken == 0
