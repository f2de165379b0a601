"""The playground in a real browser, as a newcomer uses it."""

import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.conftest import KEY
from tests.e2e.live import wait_until, web

pytest.importorskip("selenium")
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.keys import Keys

from tests.e2e.browser import CHROMIUM, DRIVER, requested, run
from tests.e2e.playground import PICTURE, PRINT, Page, forget, kept

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="Chromium is not installed")

_WATCH = """
    const [picture] = document.querySelectorAll(arguments[0]);
    window.shown = [];
    const watch = new MutationObserver(() => window.shown.push(picture.src));
    watch.observe(picture, {attributeFilter: ['src']});
"""
_CLIPBOARD = ["clipboardReadWrite", "clipboardSanitizedWrite"]


def test_a_picture_develops_from_noise(page: Page) -> None:
    page.choose("7")
    page.type("steps", 250)
    seed = page.seed
    page.one("#develop").send_keys(Keys.ENTER)
    page.driver.execute_script(_WATCH, PICTURE)
    page.finished(1)
    *previews, last = page.driver.execute_script("return shown")
    assert len(set(previews)) >= 3
    assert all(each.startswith("data:image/jpeg;base64,") for each in previews)
    assert last.startswith(f"{page.url}/jobs/")
    assert page.one(PICTURE).get_attribute("alt") == (
        f"class 7, by digits, seed {seed}, 250 steps, guidance 1.1"
    )
    end = r"Class 7 is done\. \d+ previews came: .+ no evaluations"
    wait_until(lambda: re.match(end, page.one("#said").text))


def test_the_picture_is_that_of_the_same_request(page: Page) -> None:
    page.choose("3")
    seed = page.seed
    page.develop(steps=5)
    page.finished(1)
    asked = {"class": "3", "steps": 5, "seed": seed}
    file = web.post(f"{page.url}/generate", json=asked).content
    assert web.get(page.one(PICTURE).get_attribute("src")).content == file


def test_a_locked_seed_gives_the_same_picture_and_a_free_one_another(page: Page) -> None:
    page.one("[data-act=lock]").click()
    for count in (1, 2):
        page.develop(steps=5)
        page.finished(count)
    assert page.pixels(1) == page.pixels(2)
    page.one("[data-act=lock]").click()
    page.develop()
    page.finished(3)
    assert page.pixels(1) != page.pixels(2)


def test_the_seed_that_is_shown_is_drawn(page: Page) -> None:
    """A typed one for all next pictures; a rolled one, and then the next is shown."""
    page.develop(steps=2, seed=42, n=2)
    page.develop(n=1)
    page.finished(3)
    lock = lambda: page.one("[data-act=lock]").get_attribute("aria-pressed")  # noqa: E731
    assert lock() == "true"
    page.open()
    assert (page.seed, lock()) == (42, "true")
    page.one("[data-act=lock]").click()
    assert lock() == "false"
    page.one("[data-act=dice]").click()
    rolled = page.seed
    page.develop()
    page.finished(4)
    following = page.seed
    page.open()
    assert (page.seed, lock()) == (following, "false")
    page.develop()
    page.finished(5)
    asked = [job["request"]["seed"] for job in web.get(f"{page.url}/jobs?limit=4").json()["jobs"]]
    assert asked == [following, rolled, 42, 42]
    assert len({*asked, page.seed}) == 4


def test_without_a_class_there_is_no_guidance(page: Page) -> None:
    """The form says so, and a print tells what was used."""
    how = lambda: page.one(f"{PRINT} .how").text  # noqa: E731
    page.choose("7")
    page.develop(steps=2, guidance_scale=3)
    page.finished(1)
    assert how() == "2 steps · DDIM\nguidance 3"
    page.choose("")
    assert "needs a class" in page.one("[data-field=guidance_scale]").text
    assert page.one("#field-guidance_scale").get_attribute("readonly")
    page.develop()
    page.finished(2)
    assert how() == "2 steps · DDIM\nguidance 1"
    assert ", guidance 1" in page.one(PICTURE).get_attribute("alt")
    page.choose("7")
    assert not page.one("#field-guidance_scale").get_attribute("readonly")
    assert page.one("#field-guidance_scale").get_attribute("value") == "3"


def test_several_at_once_and_one_of_them_cancelled(page: Page) -> None:
    page.develop(steps=1000, n=4)
    page.develop(steps=10, n=2)
    wait_until(lambda: page.states()[:2] == ["finished"] * 2)
    assert page.states()[2:] == ["developing"] * 4
    page.all("[data-act=cancel]:not([hidden])")[-1].click()
    wait_until(lambda: page.states()[2:] == ["cancelled"] * 4)
    statuses = [job["status"] for job in web.get(f"{page.url}/jobs?limit=2").json()["jobs"]]
    assert statuses == ["succeeded", "canceled"]
    assert len([each for each in requested(page.driver) if each.endswith("/jobs/events")]) == 1


def test_a_reload_loses_nothing(page: Page) -> None:
    page.choose("4")
    page.develop(steps=250, n=2)
    wait_until(lambda: "Step" in page.one(".state").text)
    page.type("steps", 77)
    page.open()
    assert page.one("#field-steps").get_attribute("value") == "77"
    assert page.one("input[name=class][value='4']").is_selected()
    assert page.states() == ["developing"] * 2
    page.finished(2)
    assert "250 steps" in page.one(".how").text
    assert web.get(f"{page.url}/jobs?limit=1").json()["jobs"][0]["request"]["steps"] == 250


def test_what_is_wrong_is_said_beside_the_field(page: Page) -> None:
    page.develop(n=17)
    assert page.one("#wrong-n").is_displayed()
    assert page.driver.switch_to.active_element.get_attribute("id") == "field-n"
    page.driver.execute_script("document.querySelector('#field-n').max = 99")
    page.one("#develop").send_keys(Keys.ENTER)
    wait_until(lambda: "from 1 to 16" in page.one("#wrong-n").text)
    assert not page.all(PRINT)
    page.driver.get_log("browser")  # Chromium tells of every answer of 422
    page.develop(n=1, steps=3)
    page.finished(1)
    assert not page.one("#wrong-n").is_displayed()


def test_by_keyboard_alone(page: Page) -> None:
    keyboard = partial(ActionChains, page.driver)
    focused = partial(page.driver.execute_script, "return document.activeElement.id")
    page.type("steps", 5)
    page.one("input[name=class]").send_keys(Keys.ARROW_RIGHT * 8)
    assert page.one("input[name=class][value='7']").is_selected()
    for _ in range(30):
        if focused() == "develop":
            break
        keyboard().send_keys(Keys.TAB).perform()
    keyboard().send_keys(Keys.ENTER).perform()
    page.finished(1)
    keyboard().key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(Keys.CONTROL).perform()
    page.finished(2)
    keyboard().send_keys("o").perform()
    assert page.one("#viewer").is_displayed()
    first = page.one("#viewer-facts").text
    keyboard().send_keys(Keys.ARROW_RIGHT).perform()
    assert page.one("#viewer-facts").text != first
    keyboard().send_keys(Keys.ESCAPE).perform()
    assert not page.one("#viewer").is_displayed()
    keyboard().send_keys("?").perform()
    assert "Another seed" in page.one("#hotkeys").text


def test_a_picture_is_opened_large_starred_reused_and_deleted(page: Page) -> None:
    page.choose("2")
    seed = page.seed
    page.develop(steps=6, n=2)
    page.finished(2)
    page.choose("5")
    page.one(f"{PRINT}:nth-child(2) [data-act=open]").click()
    large = page.one("#viewer-picture")
    wait_until(lambda: large.size["width"] % 32 == 28)  # 14 of border on each side
    act = lambda name: page.one(f"#viewer [data-act={name}]")  # noqa: E731
    act("star").click()
    assert act("star").get_attribute("aria-pressed") == "true"
    act("restore").click()
    assert page.one("input[name=class][value='2']").is_selected()
    assert page.seed == seed + 1
    assert page.one("[data-act=lock]").get_attribute("aria-pressed") == "true"
    page.one(f"{PRINT} [data-act=delete]").click()
    assert page.states() == ["finished"]


def test_what_was_cancelled_leaves_at_once_and_the_focus_stays(page: Page) -> None:
    focused = partial(page.driver.execute_script, "return document.activeElement.dataset.act")
    page.develop(steps=3)
    page.finished(1)
    page.develop(steps=1000, n=3)
    page.one(f"{PRINT} [data-act=cancel]").send_keys(Keys.ENTER)
    wait_until(lambda: page.states() == [*["cancelled"] * 3, "finished"])
    wait_until(lambda: page.one("#said").text.startswith("3 pictures of any class were"))
    assert focused() == "restore"
    page.one(f"{PRINT} [data-act=clear]").send_keys(Keys.ENTER)
    assert page.states() == ["finished"]
    assert focused() == "open"


def test_a_deleted_picture_comes_back_where_it_was(page: Page) -> None:
    undo = "[data-undo]:not([hidden])"
    page.develop(steps=3, n=3)
    page.finished(3)
    page.one(f"{PRINT}:nth-child(2) [data-act=star]").click()
    wait_until(lambda: len(kept(page)) == 3 and kept(page)[1]["starred"])
    before, seen = kept(page), [page.pixels(nth) for nth in (1, 2, 3)]
    page.one(f"{PRINT}:nth-child(2) [data-act=delete]").send_keys(Keys.ENTER)
    wait_until(lambda: len(kept(page)) == 2 and page.all(f".corner {undo}"))
    page.one(f".corner {undo}").send_keys(Keys.ENTER)
    wait_until(lambda: kept(page) == before)
    assert [page.pixels(nth) for nth in (1, 2, 3)] == seen
    page.one(f"{PRINT}:nth-child(2) [data-act=open]").click()
    facts = page.one("#viewer-facts").text
    page.one("#viewer [data-act=delete]").send_keys(Keys.ENTER)
    wait_until(lambda: page.all(f"#viewer {undo}"))
    assert page.one("#viewer-facts").text != facts
    page.one(f"#viewer {undo}").send_keys(Keys.ENTER)
    wait_until(lambda: page.one("#viewer-facts").text == facts)
    assert page.one("#viewer [data-act=star]").get_attribute("aria-pressed") == "true"
    wait_until(lambda: kept(page) == before)
    assert not page.all(undo)
    assert len(page.states()) == 3


def test_the_history_is_there_after_a_reload(page: Page) -> None:
    page.choose("2")
    page.develop(steps=6, n=2)
    page.finished(2)
    page.choose("5")
    page.develop(steps=7, n=1)
    page.finished(3)
    seen = [page.pixels(nth) for nth in (1, 2, 3)]
    page.one(f"{PRINT} [data-act=star]").click()
    wait_until(lambda: len(kept(page)) == 3 and kept(page)[0]["starred"])
    page.open()
    page.finished(3)
    assert [page.pixels(nth) for nth in (1, 2, 3)] == seen
    page.one("[data-view=history]").click()
    texts = "return [...document.querySelectorAll('#album li')].map(each => each.textContent)"
    names = partial(page.driver.execute_script, texts)
    wait_until(lambda: len(names()) == 3)
    assert names()[0].startswith("★ 5")
    seed = kept(page)[2]["settings"]["seed"]
    page.one("#history-words").send_keys(str(seed))
    wait_until(lambda: names() == [f"2 · {seed}"])
    page.one("#history-words").send_keys(Keys.BACKSPACE * 20)
    page.one("#history-starred").click()
    wait_until(lambda: [name[0] for name in names()] == ["★"])
    page.driver.execute_script("document.querySelector('#album button').click()")
    picture = web.get(f"{page.url}/{kept(page)[0]['url']}")
    assert picture.headers["content-type"] == "image/png"
    assert "/images/" in page.one("#viewer-picture").get_attribute("src")
    page.one("#viewer [data-act=delete]").click()
    wait_until(lambda: not names())
    assert len(kept(page)) == 2


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_picture_from_outside_brings_its_settings(page: Page, way: str) -> None:
    asked = {"class": "6", "steps": 9, "seed": 123, "guidance_scale": 2.5, "sampler": "heun"}
    png = web.post(f"{page.url}/generate", json=asked).content
    page.bring(png, way)
    wait_until(lambda: page.one("#found").is_displayed())
    page.one("#found [data-act=look]").click()
    assert page.one("#viewer").is_displayed()
    page.one("#viewer [data-act=close]").click()
    assert page.one("#field-steps").get_attribute("value") == "50", "only looked at"
    page.bring(png, way)
    wait_until(lambda: page.one("#found").is_displayed())
    page.one("#found [data-act=apply]").click()
    wait_until(lambda: page.one("#field-steps").get_attribute("value") == "9")
    page.develop()
    page.finished(1)
    assert web.get(page.one(PICTURE).get_attribute("src")).content == png


def test_seeds_that_a_browser_rounds_are_refused(page: Page) -> None:
    """Whichever way they come, the page says up to which seed it can go."""
    most, larger = str(2**53 - 1), 2**63 - 1
    before = page.seed
    png = web.post(f"{page.url}/generate", json={"class": "6", "steps": 3, "seed": larger}).content
    page.bring(png)
    wait_until(lambda: most in page.one("#found-note").text)
    assert "Seed" not in page.one("#found-facts").text
    page.one("#found [data-act=apply]").click()
    assert page.one("input[name=class][value='6']").is_selected()
    page.driver.get(f"{page.url}/?class=9&seed={larger}")
    wait_until(lambda: most in page.one("#said").text)
    assert page.one("input[name=class][value='9']").is_selected()
    assert page.seed == before
    for seed, n in ((larger, 1), (most, 2)):
        page.type("n", n)
        page.type("seed", seed)
        for button in ("develop", "link", "code"):
            page.one(f"#{button}").send_keys(Keys.ENTER)
            assert most in page.one("#wrong-seed").text
            assert not page.one("#programs").is_displayed()
    page.develop(n=1, steps=3)
    page.finished(1)
    same = web.post(f"{page.url}/generate", json={"class": "9", "steps": 3, "seed": int(most)})
    assert web.get(page.one(PICTURE).get_attribute("src")).content == same.content


def test_a_link_fills_the_form_and_draws_nothing(page: Page) -> None:
    page.choose("9")
    page.type("steps", 21)
    page.driver.execute_cdp_cmd("Browser.grantPermissions", {"permissions": _CLIPBOARD})
    page.one("#link").click()
    wait_until(lambda: "copied" in page.one("#said").text)
    link = run(page.driver, "async () => navigator.clipboard.readText()")
    before = web.get(f"{page.url}/engine").json()["rows"]
    page.type("steps", 22)
    page.driver.get(link)
    wait_until(lambda: page.one("#develop").is_enabled())
    assert page.one("#field-steps").get_attribute("value") == "21"
    assert page.one("input[name=class][value='9']").is_selected()
    assert page.driver.current_url == f"{page.url}/"
    assert "linked picture" in page.one("#form-note").text
    assert not page.all(PRINT)
    assert web.get(f"{page.url}/engine").json()["rows"] == before


@pytest.mark.parametrize(
    ("name", "running"), [("curl", ["sh", "-c"]), ("Python", [sys.executable, "-c"])]
)
def test_a_copied_program_draws_the_picture_that_is_shown(
    page: Page, tmp_path: Path, name: str, running: list[str]
) -> None:
    page.choose("1")
    page.develop(steps=8)
    page.finished(1)
    page.one(f"{PRINT} [data-act=open]").click()
    page.one("#viewer [data-act=code]").click()
    next(each for each in page.all("#programs-names button") if each.text == name).click()
    text = page.one("#programs-text").get_attribute("value")
    subprocess.run([*running, text], cwd=tmp_path, check=True, capture_output=True)
    shown = web.get(page.one(PICTURE).get_attribute("src")).content
    assert (tmp_path / "picture.png").read_bytes() == shown


def test_on_a_phone_nothing_is_cut_off(page: Page) -> None:
    metrics = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        page.develop(steps=3, n=4)
        page.finished(4)
        width = page.driver.execute_script("return document.documentElement.scrollWidth")
        assert width == 360
        develop = page.one("#develop").rect
        assert develop["height"] >= 44
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_darkroom_and_daylight(page: Page) -> None:
    room = "return getComputedStyle(document.body).backgroundColor"
    seen = []
    for scheme in ("dark", "light"):
        features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
        seen.append(page.driver.execute_script(room))
    page.one("#theme").click()
    assert page.driver.execute_script(room) == seen[0] != seen[1]
    page.open()
    assert page.driver.execute_script(room) == seen[0], "the choice is kept"


def test_a_key_is_asked_for(driver: Chrome, keyed_url: str) -> None:
    forget(driver, keyed_url)
    page = Page(driver, keyed_url)
    driver.get(f"{keyed_url}/")
    wait_until(lambda: page.one("#keys").is_displayed())
    assert page.one("#loading").is_displayed()
    assert not page.one("#empty").is_displayed()
    page.one("#keys [name=key]").send_keys(f"{KEY}\N{ZERO WIDTH SPACE}" + Keys.ENTER)
    page.one("#keys [name=key]").clear()  # no header can hold it, so it was not taken
    page.one("#keys [name=key]").send_keys("dk_" + "wrong" * 8 + Keys.ENTER)
    wait_until(lambda: page.one("#keys [data-role=detail]").text)
    page.one("#keys [name=key]").send_keys(KEY + Keys.ENTER)
    wait_until(lambda: page.one("#develop").is_enabled())
    wait_until(lambda: page.one("#empty").is_displayed())
    assert not page.one("#loading").is_displayed()
    page.develop(steps=3)
    page.finished(1)
    assert page.one(PICTURE).get_attribute("src").startswith(f"blob:{keyed_url}")
    page.open()
    assert not page.one("#keys").is_displayed(), "the tab keeps it"
    assert KEY not in str(requested(driver))


_REFUSE = """for (const name of ['localStorage', 'sessionStorage', 'indexedDB']) {
    const get = () => { throw new DOMException('not here', 'SecurityError'); };
    Object.defineProperty(window, name, {get});
}"""


def test_it_draws_where_the_browser_keeps_nothing(page: Page) -> None:
    driver = page.driver
    evaluate = "Page.addScriptToEvaluateOnNewDocument"
    refusal = driver.execute_cdp_cmd(evaluate, {"source": _REFUSE})
    try:
        page.open()
        page.develop(steps=2)
        page.finished(1)
    finally:
        driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", refusal)


def test_the_first_paint_is_light(url: str) -> None:
    """All that the page names and imports, as it is sent; 100 KB is what was promised."""
    names, sizes = ["/"], {}
    with httpx.Client(base_url=url) as client:
        while names:
            name = names.pop()
            with client.stream("GET", name) as answer:
                assert answer.status_code == 200, name
                sizes[name] = sum(len(each) for each in answer.iter_raw())
            text = client.get(name).text
            found = browser_names(text) if name == "/" else imports(name, text)
            names += [each for each in found if each not in sizes and each not in names]
    assert len(sizes) > 10
    assert sum(sizes.values()) < 100_000, sizes


def browser_names(html: str) -> list[str]:
    return [f"/{each}" for each in re.findall(r'(?:src|href)="(static/[^"]+)"', html)]


def imports(name: str, text: str) -> list[str]:
    if not name.endswith(".js"):
        return []
    folder = name.rpartition("/")[0]
    return [f"{folder}/{each}" for each in re.findall(r'from "\./([^"]+)"', text)]
