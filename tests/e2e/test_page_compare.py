"""Two pictures side by side in the playground; the oracles are their files, by Pillow."""

import io
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.e2e.live import wait_until, web

pytest.importorskip("selenium")
from PIL import Image, ImageChops
from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.e2e.browser import CHROMIUM, DRIVER
from tests.e2e.playground import PICTURE, PRINT, Page

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="Chromium is not installed")

NAMES = {"class": "Class", "steps": "Steps", "guidance_scale": "Guidance", "seed": "Seed"}
_COUNT_BLOBS = """window.blobs = new Set();
    const {createObjectURL, revokeObjectURL} = URL;
    URL.createObjectURL = blob => {
        const address = createObjectURL(blob);
        blobs.add(address);
        return address;
    };
    URL.revokeObjectURL = address => { blobs.delete(address); revokeObjectURL(address); }"""


def pictures(page: Page) -> list[Image.Image]:
    """The pictures on the line, as the service has them."""
    addresses = [each.get_attribute("src") for each in page.all(PICTURE)]
    return [Image.open(io.BytesIO(web.get(each).content)).convert("RGB") for each in addresses]


def framed(page: Page, size: tuple[int, int]) -> Image.Image:
    """What the frame shows: the colours in the middle of each of so many pixels."""
    frame = page.one("#compare-frame")
    page.driver.execute_script("arguments[0].scrollIntoView()", frame)
    shot = Image.open(io.BytesIO(frame.screenshot_as_png)).convert("RGB")
    return shot.resize(size, Image.Resampling.NEAREST)


def shows(page: Page, left: Image.Image, right: Image.Image, columns: int) -> None:
    """The frame shows so many columns of the left picture, and then the right one."""
    expected = right.copy()
    expected.paste(left.crop((0, 0, columns, left.height)))
    found = framed(page, left.size)
    assert ImageChops.difference(found, expected).getbbox() is None, columns


def rows(page: Page) -> list[list[str]]:
    """The table of settings that differ."""
    found: list[list[str]] = page.driver.execute_script(
        "return [...document.querySelector('#compare-rows').rows]"
        ".map(row => [...row.cells].map(cell => cell.textContent))"
    )
    return found


def measured(page: Page) -> str:
    """What is said of the pixels."""
    said = page.one("#compare-pixels")
    wait_until(lambda: said.text and "Loading" not in said.text)
    return str(said.text)


def in_words(left: Image.Image, right: Image.Image) -> str:
    """What should be said of the pixels of two pictures that are not equal."""
    difference = np.asarray(ImageChops.difference(left, right)).max(axis=2)
    some, most = np.count_nonzero(difference), difference.max()
    return f"{some:,} of {difference.size:,} pixels differ, by at most {most} of 255 in a channel."


def test_two_prints_are_compared_by_mouse(page: Page) -> None:
    page.choose("7")
    seed = page.seed
    page.develop(steps=3, n=2)
    page.finished(2)
    left, right = pictures(page)
    first, second = page.all(f"{PRINT} [data-act=compare]")
    show = lambda side: page.one(f"#compare [data-show={side}]").click()  # noqa: E731
    mouse = partial(ActionChains, page.driver)

    first.click()
    assert first.get_attribute("aria-pressed") == "true"
    assert page.one(f"{PRINT} .tag").is_displayed()
    wait_until(lambda: page.one("#said").text.startswith("Held. Choose another picture"))
    second.click()
    assert first.get_attribute("aria-pressed") == "false"
    assert measured(page) == in_words(left, right)
    assert rows(page) == [["Seed", f"{seed}", f"{seed + 1}"]]

    shows(page, left, right, 16)
    show("left")
    shows(page, left, right, 32)
    mouse().click_and_hold(page.one("#compare-flip")).perform()
    shows(page, left, right, 0)
    mouse().release().perform()
    shows(page, left, right, 32)
    show("right")
    shows(page, left, right, 0)
    frame = page.one("#compare-frame")
    mouse().click_and_hold(frame).move_by_offset(frame.size["width"] // 4, 0).release().perform()
    shows(page, left, right, 24)
    page.one("#compare [data-act=swap]").click()
    shows(page, right, left, 24)
    assert rows(page) == [["Seed", f"{seed + 1}", f"{seed}"]]
    page.one("#compare [data-act=left]").click()
    assert not page.one("#compare").is_displayed()
    assert page.seed == seed + 1


def test_two_requests_are_compared_by_keyboard(page: Page) -> None:
    page.choose("7")
    page.develop(steps=3, guidance_scale=2)
    page.finished(1)
    page.choose("4")
    page.develop(steps=4)
    page.finished(2)
    keyboard = partial(ActionChains, page.driver)
    focused = lambda: page.driver.switch_to.active_element  # noqa: E731
    right, left = pictures(page)

    compared, held = page.all(f"{PRINT} [data-act=compare]")
    held.send_keys(Keys.ENTER)
    keyboard().send_keys(Keys.ESCAPE).perform()
    assert held.get_attribute("aria-pressed") == "false"
    held.send_keys(Keys.SPACE)
    compared.send_keys(Keys.ENTER)
    assert measured(page) == in_words(left, right)
    now, before = (job["request"] for job in web.get(f"{page.url}/jobs?limit=2").json()["jobs"])
    differing = [[NAMES[k], f"{before[k]}", f"{now[k]}"] for k in NAMES if before[k] != now[k]]
    assert rows(page) == differing
    assert {"Class", "Steps", "Seed"} == {name for name, *_ in differing}
    same = "Everything else is the same: Model, Sampler, Guidance, Eta, Size."
    assert page.one("#compare-same").text == same

    shows(page, left, right, 16)
    keyboard().send_keys(Keys.HOME).perform()
    shows(page, left, right, 0)
    keyboard().send_keys(Keys.ARROW_RIGHT * 25).perform()
    shows(page, left, right, 8)
    keyboard().send_keys(Keys.TAB * 4).perform()
    for key in (Keys.SPACE, Keys.ENTER):
        keyboard().key_down(key).perform()
        shows(page, left, right, 32)
        keyboard().key_up(key).perform()
        shows(page, left, right, 8)
    keyboard().send_keys(Keys.ESCAPE).perform()
    assert not page.one("#compare").is_displayed()
    assert focused() == compared


def test_the_same_request_twice_has_the_same_pixels(page: Page) -> None:
    page.driver.execute_script(_COUNT_BLOBS)
    page.one("[data-act=lock]").click()
    for count in (1, 2):
        page.develop(steps=3)
        page.finished(count)
    act = lambda name: page.one(f"#viewer [data-act={name}]")  # noqa: E731
    page.one(f"{PRINT} [data-act=open]").click()
    act("compare").click()
    assert act("compare").get_attribute("aria-pressed") == "true"
    act("next").click()
    assert act("compare").text == "Compare with held"
    act("compare").click()
    assert measured(page) == "Same pixels: all 1,024 are equal."
    assert page.one("#compare-same").text == "The settings are the same."
    assert not page.one("#compare-table").is_displayed()
    assert len(page.driver.execute_script("return [...blobs]")) == 2
    page.one("#compare [data-act=close]").click()
    wait_until(lambda: page.driver.execute_script("return blobs.size") == 0)
    assert page.driver.switch_to.active_element == act("compare")


def test_on_a_phone_pictures_of_other_sizes_share_a_box(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "wide.png"
    Image.new("RGB", (64, 32), "teal").save(file)
    metrics: dict[str, Any] = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        page.develop(steps=3)
        page.finished(1)
        [drawn] = pictures(page)
        page.one(f"{PRINT} [data-act=compare]").send_keys(Keys.ENTER)
        page.one("#file").send_keys(str(file))
        wait_until(lambda: page.one("#found [data-act=look]").is_enabled())
        page.one("#found [data-act=look]").click()
        page.one("#viewer [data-act=compare]").send_keys(Keys.ENTER)
        assert "The sizes differ" in measured(page)
        assert ["Size", "32 \xd7 32", "64 \xd7 32"] in rows(page)
        assert not page.one("#compare [data-act=right]").is_enabled(), "it has no settings"
        page.one("#compare [data-show=left]").click()
        shown = framed(page, (64, 32)).crop((16, 0, 48, 32))
        assert ImageChops.difference(shown, drawn).getbbox() is None, "in the middle, as it is"
        fits = "const {scrollWidth, clientWidth} = document.querySelector('#compare');"
        assert page.driver.execute_script(f"{fits} return scrollWidth <= clientWidth")
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_service_is_away(page: Page) -> None:
    page.develop(steps=3, n=2)
    page.finished(2)
    page.driver.execute_script("window.fetch = async () => { throw new TypeError('away'); }")
    for button in page.all(f"{PRINT} [data-act=compare]"):
        button.click()
    assert measured(page) == (
        "The pixels are not compared. Left: The service does not answer."
        " Right: The service does not answer."
    )
    assert [name for name, *_ in rows(page)] == ["Seed"]
