"""The playground at a service that stops, starts again, is full and loads models."""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.live import draw, engine, free_port, serving, wait_until, web

pytest.importorskip("selenium")
from selenium.webdriver import Chrome
from selenium.webdriver.support.select import Select

from tests.e2e.browser import CHROMIUM, DRIVER
from tests.e2e.playground import PICTURE, PRINT, Page, forget, kept

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="Chromium is not installed"),
]


@dataclass
class Service:
    """A server with room for one job, which can be stopped and started at the same address."""

    model: Path
    folder: Path  # of models that are loaded when they are asked for
    state: Path
    port: int = field(default_factory=free_port)
    _running: ExitStack = field(default_factory=ExitStack)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def worker(self) -> int:
        return engine(self.url)["worker_pid"]

    def start(self) -> None:
        server = serving(
            port=self.port,
            models=self.model,
            model_folders=self.folder,
            backend="eager",
            state_folder=self.state,
            drain_seconds=1,
            jobs_per_client=1,
        )
        self._running.enter_context(server)

    def stop(self) -> None:
        self._running.close()


@pytest.fixture(scope="module")
def service(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("folder")
    for name in ("broken", "other"):
        shutil.copytree(tiny_folder, folder / name)
    config = folder / "broken/unet/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "in_channels": 7}))
    service = Service(tiny_folder, folder, tmp_path_factory.mktemp("state"))
    service.start()
    yield service
    service.stop()


@pytest.fixture
def page(driver: Chrome, service: Service) -> Iterator[Page]:
    """The page as a newcomer finds it; in the end its console has only failed requests."""
    forget(driver, service.url)
    page = Page(driver, service.url)
    page.open()
    yield page
    told = driver.get_log("browser")
    assert [each for each in told if each["source"] != "network"] == []


def state(page: Page, nth: int) -> str:
    text: str = page.one(f"{PRINT}:nth-child({nth}) .state").text
    return text


def held(page: Page, worker: int) -> None:
    """Ask for a picture, and hold the worker in the middle of it."""

    def begun() -> bool:
        """Whether the page shows a step; the worker goes on for a few until it does."""
        os.kill(worker, signal.SIGCONT)
        time.sleep(0.01)
        os.kill(worker, signal.SIGSTOP)
        return "Step" in state(page, 1)

    os.kill(worker, signal.SIGSTOP)
    page.develop(steps=60)
    wait_until(begun)
    assert web.get(f"{page.url}/jobs").json()["jobs"][0]["status"] == "running"


def assert_drawn_as_alone(page: Page, count: int) -> None:
    """The newest prints are those of the newest jobs, each drawn once, with its request's bytes."""
    jobs: list[dict[str, Any]] = web.get(f"{page.url}/jobs?limit={count}").json()["jobs"]
    assert [job["status"] for job in jobs] == ["succeeded"] * count
    shown = [each.get_attribute("src") for each in page.all(PICTURE)]
    for job, address in zip(jobs, shown, strict=True):
        assert address == f"{page.url}/jobs/{job['id']}/images/0"
        assert web.get(address).content == draw(page.url, job["result"]["parameters"])
    wait_until(lambda: len(kept(page)) == count)


def test_pictures_outlive_a_stop_of_the_service(page: Page, service: Service) -> None:
    """One that was being drawn, and one that was asked for while the service was away."""
    held(page, service.worker)
    service.stop()
    wait_until(lambda: page.one("#away").is_displayed())
    assert "goes on by itself" in page.one("#away").text
    assert page.one("#service").text == "Away"
    page.develop(steps=3)
    wait_until(lambda: "Asking again" in state(page, 1))
    assert page.states() == ["developing"] * 2
    service.start()
    page.finished(2)
    wait_until(lambda: page.one("#service").text.startswith("Ready"))
    assert not page.one("#away").is_displayed()
    assert_drawn_as_alone(page, 2)


def test_a_picture_that_does_not_arrive_is_asked_for_again(page: Page) -> None:
    """At the end of its job, after a reload, and in the viewer, which shows the small copy."""

    def block(*addresses: str) -> None:
        page.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": addresses})

    page.driver.execute_cdp_cmd("Network.enable", {})
    block("*/images/*")
    page.develop(steps=2)
    newest = f"{page.url}/jobs?limit=1"
    wait_until(lambda: web.get(newest).json()["jobs"][0]["status"] == "succeeded")
    wait_until(lambda: not page.one(f"{PRINT} [data-act=cancel]").is_displayed())
    assert page.states() == ["developing"]
    page.open()
    block()
    page.finished(1)
    assert_drawn_as_alone(page, 1)
    page.open()
    page.finished(1)
    block("*/images/*")
    page.one(f"{PRINT} .paper").click()
    wait_until(lambda: page.one("#viewer-note").text == "The service does not answer.")
    small = page.one("#viewer-picture").get_attribute("src")
    assert small == kept(page)[0]["thumbnail"]
    block()


def test_a_full_service_is_asked_again(page: Page, service: Service) -> None:
    worker = service.worker
    held(page, worker)
    page.develop(steps=3)
    wait_until(lambda: "Asking again" in state(page, 1))
    assert state(page, 1).startswith("The service takes no more just now.")
    assert not page.one("#away").is_displayed()
    os.kill(worker, signal.SIGCONT)
    page.finished(2)
    assert_drawn_as_alone(page, 2)


def test_a_model_is_loaded_when_it_is_chosen(page: Page) -> None:
    chosen = Select(page.one("#field-model"))
    assert [each.text for each in chosen.options] == [
        "tiny",
        "broken (not loaded)",
        "other (not loaded)",
    ]
    chosen.select_by_value("broken")
    wait_until(lambda: "broken does not load: " in page.one("#said").text)
    assert "in_channels" in page.one("#said").text
    model = partial(page.driver.execute_script, "return document.forms.form.elements.model.value")
    assert model() == "tiny"
    Select(page.one("#field-model")).select_by_value("other")
    wait_until(lambda: model() == "other")  # the form is made anew
    page.develop(steps=3)
    page.finished(1)
    assert_drawn_as_alone(page, 1)
    assert kept(page)[0]["settings"]["model"] == "other"
