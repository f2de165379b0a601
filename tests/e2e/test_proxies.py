"""Who a client is: the address it comes from, unless a proxy says so that is named."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.live import serving, wait_until

pytestmark = pytest.mark.server
VICTIM, PROXY, OTHER = "127.0.0.9", "127.0.0.1", "127.0.0.5"


def test_nobody_is_believed_who_claims_anothers_address(url: str) -> None:
    assert not can_end_anothers(url, PROXY)
    assert redirected(url, PROXY).startswith("http://")


def test_proxies_that_are_named_are_believed(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")  # uvicorn's own variable means nothing here
    settings = {"models": f"digits={tiny_folder}", "backend": "eager"}
    with serving(trusted_proxies="10.0.0.1,127.0.0.0/30", **settings) as (url, _):
        assert not can_end_anothers(url, OTHER)
        assert redirected(url, OTHER).startswith("http://")
        assert can_end_anothers(url, PROXY)
        assert redirected(url, PROXY).startswith("https://")


def client_at(address: str, **headers: str) -> httpx.Client:
    transport = httpx.HTTPTransport(local_address=address)
    return httpx.Client(transport=transport, headers=headers, timeout=300)


def can_end_anothers(url: str, address: str) -> bool:
    """Whether who says it comes from there sees and ends what is drawn for another's address."""

    def state(client: httpx.Client) -> Any:
        return client.get(f"{url}/sdapi/v1/progress").json()["state"]

    wanted = {"prompt": "3", "steps": 1000, "batch_size": 16}
    forging = client_at(address, **{"x-forwarded-for": VICTIM})
    with ThreadPoolExecutor(1) as pool, client_at(VICTIM) as victim, forging as forger:
        drawing = pool.submit(victim.post, f"{url}/sdapi/v1/txt2img", json=wanted)
        wait_until(lambda: state(victim)["sampling_steps"])
        seen = state(forger)["sampling_steps"] > 0
        forger.post(f"{url}/sdapi/v1/interrupt")
        ended = drawing.done() or state(victim)["interrupted"] or not state(victim)["job_count"]
        victim.post(f"{url}/sdapi/v1/interrupt")
        drawing.result()
    assert seen == bool(ended)
    return seen


def redirected(url: str, address: str) -> str:
    """Where a path with a slash too many leads, by a proxy that speaks TLS."""
    with client_at(address, **{"x-forwarded-proto": "https"}) as client:
        return client.get(f"{url}/models/").headers["location"]
