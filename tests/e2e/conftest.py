"""The browser that tests of the playground share."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.e2e.live import web

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

    from tests.e2e.playground import Page


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Chrome"]:
    from tests.e2e import browser

    with browser.chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture
def page(driver: "Chrome", url: str) -> Iterator["Page"]:
    """The page as a newcomer finds it; in the end it has said nothing and asked nobody else."""
    from tests.e2e.playground import Page, forget

    forget(driver, url)
    page = Page(driver, url)
    page.open()
    yield page
    page.said_nothing()
    driver.get("about:blank")  # a page that nobody looks at takes time from other tests
    for job in web.get(f"{url}/jobs?status=queued&status=running").json()["jobs"]:
        web.delete(f"{url}/jobs/{job['id']}")
