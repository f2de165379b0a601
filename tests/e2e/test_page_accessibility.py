"""The playground in its states, by axe-core: WCAG 2.0, 2.1 and 2.2 up to AA, and best practices."""

from collections.abc import Iterator
from importlib.resources import files
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from tests.e2e.live import wait_until, web

pytest.importorskip("selenium")
pytest.importorskip("selenium_axe_python")
from selenium.webdriver.common.keys import Keys

from tests.e2e.browser import CHROMIUM, DRIVER, run
from tests.e2e.playground import PRINT, Page

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="Chromium is not installed")

AXE = files("selenium_axe_python").joinpath("axe-core/axe.min.js").read_text(encoding="utf-8")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
ALL = {"runOnly": RULES, "rules": {"target-size": {"enabled": True}}}
COLOURS = {"runOnly": ["color-contrast"]}
_CLOSE = "for (const dialog of document.querySelectorAll('dialog[open]')) dialog.close()"
# Axe judges no text over a gradient or a pseudo-element; the glow and the wire hold none.
_FLAT = """
    const flat = new CSSStyleSheet();
    flat.replaceSync(`* { background-image: none !important; }
        *::before, *::after { content: none !important; }`);
    document.adoptedStyleSheets.push(flat);
"""
# What is wrong, and colours that axe did not judge, except where it never does: single letters, and
# a text that scrolls.
_FOUND = """async (part, rules) => {
    const { violations, incomplete } = await axe.run(part, rules);
    const beyond = ({any, html}) =>
        html.startsWith('<textarea') || any[0]?.data?.messageKey === 'shortTextContent';
    for (const rule of incomplete) rule.nodes = rule.nodes.filter(node => !beyond(node));
    return [...violations, ...incomplete.filter(({nodes}) => nodes.length)];
}"""


def states(page: Page) -> Iterator[tuple[str, str]]:
    """Brings the page from state to state; the name of each, and the part that is looked at.

    A new view is looked at whole, and a dialog by itself: what lies behind it is inert.
    """
    yield "the empty line", "html"
    page.develop(n=17)
    yield "a wrong field", "#form"
    page.develop(n=2, steps=3)
    page.finished(2)
    press(page, f"{PRINT} [data-act=compare]")
    page.develop(n=1, steps=1000)
    wait_until(lambda: "Step" in page.one(".state").text)
    yield "prints, of which one develops and one is held for a comparison", "html"
    press(page, f"{PRINT} [data-act=cancel]")
    wait_until(lambda: page.states()[0] == "cancelled")
    yield "a cancelled print", "#line"
    press(page, f"{PRINT}:nth-child(3) [data-act=compare]")
    wait_until(lambda: "pixels" in page.one("#compare-pixels").text)
    yield "a comparison", "#compare"
    page.driver.execute_script(_CLOSE)
    press(page, f"{PRINT}:nth-child(2) [data-act=open]")
    yield "the viewer", "#viewer"
    page.driver.execute_script(_CLOSE)
    press(page, "#code")
    yield "programs", "#programs"
    page.driver.execute_script(_CLOSE)
    press(page, "#help")
    yield "keyboard shortcuts", "#hotkeys"
    page.driver.execute_script(_CLOSE)
    asked = {"class": "6", "steps": 3, "seed": 2**63 - 1}
    png = web.post(f"{page.url}/generate", json=asked).content
    page.bring(png)
    wait_until(lambda: page.one("#found-note").text)
    yield "a picture from outside", "#found"
    page.driver.execute_script(_CLOSE)
    page.driver.execute_script("document.querySelector('#keys').showModal()")
    yield "the question for a key", "#keys"
    page.driver.execute_script(_CLOSE)
    press(page, "[data-view=sheet]")
    yield "the form of a contact sheet", "html"
    page.type("steps", 3)
    press(page, "#sheet-start")
    wait_until(lambda: page.one("#sheet-progress").text == "9 of 9")
    yield "a contact sheet", "html"
    press(page, "[data-view=history]")
    wait_until(lambda: page.all("#album li"))
    yield "the history", "html"


def press(page: Page, selector: str) -> None:
    page.one(selector).send_keys(Keys.ENTER)


def found(page: Page, part: str, rules: dict[str, Any]) -> Iterator[str]:
    """What axe finds wrong in a part of the page, for people."""
    for rule in run(page.driver, _FOUND, part, rules):
        yield f"{rule['id']} ({rule['impact']}): {rule['help']}, {rule['helpUrl']}"
        for node in rule["nodes"]:
            yield f"    {node['html']}\n        {node['failureSummary']}"


def show(page: Page, scheme: str, **wanted: str) -> None:
    """The page in the dark or by daylight, with nothing that moves."""
    wanted |= {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
    features = [{"name": name, "value": value} for name, value in wanted.items()]
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def test_axe_finds_nothing_wrong(page: Page, url: str) -> None:
    """All rules in the dark; by daylight only colours are different."""
    page.driver.execute_script(AXE)
    page.driver.execute_script(_FLAT)
    wrong = []
    try:
        show(page, "dark")
        for state, part in states(page):
            for scheme, rules in (("light", COLOURS), ("dark", ALL)):
                show(page, scheme)
                wrong += [f"{state}, {scheme}: {each}" for each in found(page, part, rules)]
    finally:
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert not wrong, "\n".join(wrong)


def test_states_are_seen_in_colours_that_the_system_forces(page: Page) -> None:
    """What is chosen or moved does not look as before, and what can be pressed has a shape."""
    looks: dict[str, bytes] = {}

    def changed(selector: str) -> bool:
        before = looks.get(selector)
        looks[selector] = page.one(selector).screenshot_as_png
        return before != looks[selector]

    chosen, slider = ".class:has([value='7'])", "[data-field=steps] [type=range]"
    parts = (chosen, slider, "[data-act=lock]", "[data-view=history]", "#develop")
    try:
        for scheme in ("dark", "light"):
            show(page, scheme, **{"forced-colors": "active"})
            page.open()
            page.type("steps", 1)
            assert all(map(changed, parts))
            page.choose("7")
            page.type("steps", 900)
            page.one("[data-act=lock]").click()
            page.one("[data-view=history]").click()
            page.driver.execute_script("document.querySelector('#develop').textContent = ''")
            page.one("h1").click()
            assert [part for part in parts if not changed(part)] == []
            with Image.open(BytesIO(looks["#develop"])) as button:
                assert len(button.convert("RGB").getcolors() or []) > 1
            page.driver.execute_script("localStorage.clear()")
    finally:
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_picture_is_seen_whole_and_first_where_the_page_is_enlarged(page: Page) -> None:
    """A window of 1280 x 800 at 200 %."""
    zoomed = {"width": 640, "height": 400, "deviceScaleFactor": 2, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", zoomed)
    try:
        page.develop(steps=2)
        page.finished(1)
        press(page, f"{PRINT} [data-act=open]")
        seen = "const {x, y, right, bottom} = arguments[0].getBoundingClientRect();"
        seen += "return [x > 0, y > 0, right < innerWidth, bottom < innerHeight]"
        picture = page.one("#viewer-picture")
        assert page.driver.execute_script(seen, picture) == [True] * 4
        assert picture.size["width"] == picture.size["height"]
        page.driver.execute_script(_CLOSE)
        press(page, "#help")
        assert page.driver.execute_script(seen, page.one("#hotkeys h2")) == [True] * 4
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
