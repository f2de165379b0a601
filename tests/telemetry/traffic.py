"""A server over a runner without a network, and requests that give every metric a value."""

import contextlib
import dataclasses
from collections.abc import Iterator

from fastapi.testclient import TestClient
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from app.engine.client import EngineClient
from tests.engine import served
from tests.fakes import TEXT, FakeRunner

SECRET = "a wombat in a red coat"  # a prompt that nothing may tell
SEED = 987_654_321


@contextlib.contextmanager
def busy(**settings: object) -> Iterator[tuple[TestClient, EngineClient]]:
    """A server that has drawn at two sizes, has refused, and was asked for what is not there."""
    with served(FakeRunner(dataclasses.replace(TEXT, name="fake")), **settings) as (http, engine):
        for width in (8, 16):
            drawn = http.post("/generate", json=asked(width=width, height=8))
            assert drawn.status_code == 200, drawn.text
        assert http.post("/generate", json=asked(steps=0)).status_code == 422
        assert http.get(f"/{SECRET}").status_code == 404
        yield http, engine


def asked(**other: object) -> dict[str, object]:
    return {"model": "fake", "prompt": SECRET, "seed": SEED, "steps": 2, **other}


def families(http: TestClient) -> dict[str, Metric]:
    """The page as Prometheus' own parser reads it, by name."""
    page = http.get("/metrics")
    assert page.status_code == 200, page.text
    return {family.name: family for family in text_string_to_metric_families(page.text)}


def value(http: TestClient, name: str, **labels: str) -> float | None:
    """The sum of the samples of a name that have these labels; None where there is none."""
    found = [
        sample.value
        for family in families(http).values()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return sum(found) if found else None


class WithJobs:
    """Jobs as the service has them, and webhooks."""

    def __init__(self) -> None:
        self.hub, self.dropped, self.counts_of = self, 7, {"queued": 3}

    def counts(self) -> dict[str, int]:
        return self.counts_of


class Hooks:
    def __init__(self) -> None:
        self.counts = {"delivered": 2}
