"""Real pages in a real browser: those of a foreign origin get nothing, those of this machine all.

Every attack is run from both, so that one which fails for another reason than its origin shows.
"""

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.live import engine, wait_until, web

pytest.importorskip("selenium")
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from tests.e2e import browser
from tests.e2e.browser import CHROMIUM, DRIVER, FOREIGN, requested, run

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="Chromium is not installed")

_ELEMENT = """async (url) => new Promise(resolve => {
    const element = document.createElement('%s');
    element.onload = element.onerror = () => resolve('over');
    Object.assign(element, {%s: url + '/generate?class=7&steps=1', rel: 'stylesheet'});
    document.body.append(element);
})"""
_FORM = """async (url, path, enctype) => new Promise(resolve => {
    const frame = document.createElement('iframe');
    frame.name = 'frame' + Math.random();
    document.body.append(frame);
    const form = document.createElement('form');
    Object.assign(form, {method: 'post', action: url + path, target: frame.name, enctype});
    for (const [name, value] of [['class', '7'], ['steps', '1']]) {
        const field = document.createElement('input');
        Object.assign(field, {name, value});
        form.append(field);
    }
    document.body.append(form);
    frame.onload = () => resolve('over');
    form.submit();
})"""
DRAWS = {
    "fetch-json": """async (url) => {
        const headers = {'content-type': 'application/json'};
        const body = '{"class": "7", "steps": 1}';
        await fetch(url + '/generate', {method: 'POST', headers, body});
    }""",
    "fetch-form": """async (url) => {
        const body = new URLSearchParams({class: '7', steps: '1'});
        await fetch(url + '/generate', {method: 'POST', body});
    }""",
    "fetch-get": "async (url) => { await fetch(url + '/generate?class=7&steps=1'); }",
    "no-cors-get": """async (url) => {
        await fetch(url + '/generate?class=7&steps=1', {mode: 'no-cors'});
    }""",
    "no-cors-post": """async (url) => {
        const body = new URLSearchParams({class: '7', steps: '1'});
        await fetch(url + '/generate', {method: 'POST', mode: 'no-cors', body});
    }""",
    "openai": """async (url) => {
        const headers = {'content-type': 'application/json'};
        const body = '{"prompt": "7", "num_inference_steps": 1}';
        await fetch(url + '/v1/images/generations', {method: 'POST', headers, body});
    }""",
    "beacon": """async (url) => {
        const body = new URLSearchParams({class: '7', steps: '1'});
        navigator.sendBeacon(url + '/generate', body);
    }""",
    "events": """async (url) => new Promise(resolve => {
        const events = new EventSource(url + '/generate?class=7&steps=1');
        events.onerror = () => { events.close(); resolve('over'); };
    })""",
    "image": _ELEMENT % ("img", "src"),
    "script": _ELEMENT % ("script", "src"),
    "stylesheet": _ELEMENT % ("link", "href"),
    "frame": _ELEMENT % ("iframe", "src"),
    "object": _ELEMENT % ("object", "data"),
}
FORMS = ["application/x-www-form-urlencoded", "multipart/form-data"]
READS = ["/models", "/engine", "/sdapi/v1/progress", "/openapi.json", "/generate?class=7&steps=1"]
_READ = "async (url) => (await fetch(url)).text()"
_HUNDRED = """async (count) => {
    const told = {}, pictures = {};
    const events = new EventSource('/jobs/events');
    for (const name of ['queued', 'progress', 'preview', 'succeeded', 'failed', 'canceled'])
        events.addEventListener(name, event => {
            const data = JSON.parse(event.data);
            (told[data.id] ??= []).push(name);
            if (name == 'succeeded') pictures[data.id] = data.result.images[0].url;
        });
    await new Promise(resolve => events.addEventListener('snapshot', resolve, {once: true}));
    const headers = {'content-type': 'application/json', prefer: 'respond-async'};
    const accepted = await Promise.all(Array.from({length: count}, async (_, seed) => {
        const body = JSON.stringify({class: '7', steps: 30, guidance_scale: 1, seed, previews: 4});
        const answer = await fetch('/generate', {method: 'POST', headers, body});
        return (await answer.json()).id;
    }));
    while (accepted.some(id => !['succeeded', 'failed', 'canceled'].includes(told[id]?.at(-1))))
        await new Promise(resolve => setTimeout(resolve, 50));
    events.close();
    const shown = await Promise.all(accepted.map(async id => {
        const image = new Image();
        image.src = pictures[id];
        await image.decode();
        return image.naturalWidth;
    }));
    return {told: accepted.map(id => told[id]), shown};
}"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with browser.chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of a server whose pages are not the service's."""
    with browser.pages() as port:
        yield port


def drawn(url: str) -> int:
    """UNet rows so far, once nothing is under way."""
    wait_until(lambda: engine(url)["jobs"] == 0)
    return engine(url)["rows"]


def draws(url: str, before: int) -> bool:
    """Whether rows are added to those before, if not at once: a beacon comes when it likes."""
    end = time.monotonic() + 5
    while drawn(url) == before and time.monotonic() < end:
        time.sleep(0.02)
    return drawn(url) > before


def draws_nothing(url: str, before: int) -> bool:
    """Whether no rows are added, nor in a while."""
    time.sleep(0.3)
    return drawn(url) == before


@pytest.mark.parametrize("way", DRAWS)
def test_a_foreign_page_draws_nothing(driver: Chrome, port: int, url: str, way: str) -> None:
    before = drawn(url)
    driver.get(f"http://{FOREIGN}:{port}/")
    run(driver, DRAWS[way], url)
    assert draws_nothing(url, before)
    driver.get(f"http://localhost:{port}/")
    run(driver, DRAWS[way], url)
    assert draws(url, before), "the same of a page of this machine draws"


@pytest.mark.parametrize("enctype", [*FORMS, "text/plain"])
def test_a_foreign_form_draws_nothing(driver: Chrome, port: int, url: str, enctype: str) -> None:
    before = drawn(url)
    driver.get(f"http://{FOREIGN}:{port}/")
    run(driver, _FORM, url, "/generate", enctype)
    assert draws_nothing(url, before)
    driver.get(f"http://localhost:{port}/")
    run(driver, _FORM, url, "/generate", enctype)
    assert enctype not in FORMS or draws(url, before)


def test_a_foreign_link_or_window_draws_nothing(driver: Chrome, port: int, url: str) -> None:
    """Though it is no page that gets the answer."""
    before = drawn(url)
    for open_it in ("location.href = arguments[0]", "window.open(arguments[0])"):
        driver.get(f"http://{FOREIGN}:{port}/")
        driver.execute_script(open_it, f"{url}/generate?class=7&steps=1")
        assert draws_nothing(url, before)
    driver.get(f"http://{FOREIGN}:{port}/")
    driver.execute_script("location.href = arguments[0]", f"{url}/docs")
    wait_until(lambda: driver.title == "Darkroom - Swagger UI")


@pytest.mark.parametrize("path", READS)
def test_a_foreign_page_reads_nothing(driver: Chrome, port: int, url: str, path: str) -> None:
    driver.get(f"http://{FOREIGN}:{port}/")
    assert "failed: TypeError" in run(driver, _READ, url + path)
    driver.get(f"http://localhost:{port}/")
    assert not run(driver, _READ, url + path).startswith("failed: ")


def test_a_foreign_page_interrupts_nobody(driver: Chrome, port: int, url: str) -> None:
    def state() -> Any:
        return web.get(f"{url}/sdapi/v1/progress").json()["state"]

    wanted = {"prompt": "7", "steps": 1000, "batch_size": 16}
    with ThreadPoolExecutor(1) as pool:
        for name, ends in ((FOREIGN, False), ("localhost", True)):
            driver.get(f"http://{name}:{port}/")
            drawing = pool.submit(web.post, f"{url}/sdapi/v1/txt2img", json=wanted, timeout=300)
            wait_until(lambda: state()["sampling_steps"])
            run(driver, _FORM, url, "/sdapi/v1/interrupt", FORMS[0])
            run(driver, "async (url) => fetch(url, {method: 'POST'})", f"{url}/sdapi/v1/skip")
            if ends:
                assert drawing.result().json()["images"] == []
            else:
                assert not drawing.done()
                assert not state()["interrupted"]
                web.post(f"{url}/sdapi/v1/interrupt")
                drawing.result()


def test_a_name_that_leads_here_is_not_ours(driver: Chrome, url: str) -> None:
    """DNS rebinding: for the browser it is one origin, page and service."""
    before = drawn(url)
    rebound = f"http://{FOREIGN}:{httpx.URL(url).port}"
    driver.get(f"{rebound}/docs")
    assert "does not answer to this Host" in driver.page_source
    for path in (*READS, "/livez"):
        assert '"status":403' in run(driver, _READ, rebound + path)
    for way in ("fetch-json", "fetch-form", "fetch-get", "image"):
        run(driver, DRAWS[way], rebound)
    assert draws_nothing(url, before)


@pytest.mark.parametrize(
    ("path", "shows"), [("/docs", ".opblock-summary"), ("/redoc", "[data-section-id]")]
)
def test_the_documentation_asks_nobody_else(
    driver: Chrome, url: str, path: str, shows: str
) -> None:
    driver.get("about:blank")
    for log in ("browser", "performance"):
        driver.get_log(log)
    driver.get(url + path)
    wait_until(lambda: driver.find_elements(By.CSS_SELECTOR, shows))
    time.sleep(1)  # for what comes after
    assert not driver.get_log("browser"), "the policy lets it run"
    asked = requested(driver)
    assert f"{url}/openapi.json" in asked
    for address in re.findall(r'(?:src|href)="(.+?)"', web.get(url + path).text):
        assert web.get(httpx.URL(url + path).join(address)).status_code == 200
    ours = (f"{url}/", "data:", f"blob:{url}/")
    assert not [address for address in asked if not address.startswith(ours)]


def test_a_page_of_the_service_draws(driver: Chrome, url: str) -> None:
    """By hand: an operation is opened, tried, executed, and its picture is shown."""
    before = drawn(url)
    driver.get(f"{url}/docs")
    operation = "#operations-generate-generateByQuery"
    for press in (".opblock-summary-control", ".try-out__btn", ".execute"):
        button = (By.CSS_SELECTOR, f"{operation} {press}")
        wait_until(partial(driver.find_elements, *button))
        driver.execute_script("arguments[0].click()", driver.find_element(*button))
    picture = f"{operation} .live-responses-table img"
    width = f"const image = document.querySelector('{picture}'); return image && image.naturalWidth"
    wait_until(lambda: driver.execute_script(width))
    assert draws(url, before)


def test_a_page_draws_a_hundred_pictures_over_one_stream(url: str, tmp_path: Path) -> None:
    """It posts over the five connections that are left, and asks after no job."""
    with browser.chromium(tmp_path) as driver:  # a new one, whose connections are all free
        driver.get(f"{url}/livez")
        requested(driver)
        found = run(driver, _HUNDRED, 100)
        asked = requested(driver)
    assert not isinstance(found, str), found
    assert found["shown"] == [32] * 100
    for told in found["told"]:
        assert told[-1] == "succeeded"
        assert told.count("succeeded") == 1
        assert {"progress", "preview"} <= set(told)
    paths = [address.removeprefix(url) for address in asked]
    assert sorted(set(paths) - {path for path in paths if "/images/" in path}) == [
        "/generate",
        "/jobs/events",
    ]
    assert paths.count("/jobs/events") == 1
