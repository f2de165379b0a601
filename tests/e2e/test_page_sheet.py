"""Contact sheets of the playground: what they draw, keep, say and give as a file."""

import io
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.e2e.live import wait_until, web

pytest.importorskip("selenium")
from selenium.webdriver import Chrome
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from tests.e2e.browser import CHROMIUM, DRIVER, run
from tests.e2e.modules import blank_page, calling
from tests.e2e.playground import PIXELS, PRINT, Page, kept

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="Chromium is not installed")

TIMES = "\N{MULTIPLICATION SIGN}"
WAYS = ("col", "row")
FRAME = "#sheet-film .cell"
STATES = f"return [...document.querySelectorAll('{FRAME}')].map(each => each.dataset.state)"
LABELS = "return [...document.querySelectorAll(arguments[0])].map(each => each.textContent)"
MODEL = {
    "limits": {"steps": 1000, "guidance_scale": 30, "seed": 2**63},
    "defaults": {"steps": 50, "sampler": "ddim", "guidance_scale": 1.1},
    "classes": ["0", "1", "2"],
    "prompts": None,
    "samplers": [
        {"name": "ddim", "title": "DDIM", "spacings": ["default"], "eta": True},
        {"name": "euler", "title": "Euler", "spacings": ["default", "karras"], "eta": False},
    ],
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with blank_page(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


def fill(page: Page, **axes: tuple[str, str]) -> None:
    """Choose what varies, `across` and `down`, and type its values."""
    page.one("[data-view=sheet]").click()
    for way, (name, values) in axes.items():
        Select(page.one(f"#field-{way}")).select_by_value(name)
        if values:
            page.type(f"{way}-values", values)


def start(page: Page) -> None:
    page.one("#sheet-start").send_keys(Keys.ENTER)  # a click may miss what still moves


def states(page: Page) -> list[str]:
    found: list[str] = page.driver.execute_script(STATES)
    return found


def told(page: Page) -> str:
    text: str = page.one("#sheet-progress").text
    return text


def finished(page: Page, count: int) -> None:
    wait_until(lambda: states(page) == ["finished"] * count)


def drawn(page: Page, seeds: range) -> list[tuple[int, int]]:
    """Steps and seed of each request of these seeds that the service drew, with repetitions."""
    jobs = web.get(f"{page.url}/jobs?status=succeeded&limit=100").json()["jobs"]
    asked = [job["request"] for job in jobs if job["request"].get("seed") in seeds]
    return sorted((each["steps"], each["seed"]) for each in asked)


def picture(page: Page, **settings: object) -> Image.Image:
    """What the service draws for the same settings by themselves."""
    answer = web.post(f"{page.url}/generate", json=settings)
    return Image.open(io.BytesIO(answer.content))


def test_each_picture_is_that_of_its_request(page: Page) -> None:
    page.choose("3")
    page.type("seed", 11)
    fill(page, across=("guidance_scale", "1, 2.5, 4"), down=("steps", "2-4"))
    assert page.one("#sheet-cost").text.startswith("9 pictures, 27 evaluations")
    start(page)
    finished(page, 9)
    labels = [page.driver.execute_script(LABELS, f"#sheet-film th[scope={way}]") for way in WAYS]
    assert labels == [
        ["Guidance 1", "Guidance 2.5", "Guidance 4"],
        ["Steps 2", "Steps 3", "Steps 4"],
    ]
    for nth, (steps, scale) in enumerate(product((2, 3, 4), (1, 2.5, 4))):
        asked = {"class": "3", "seed": 11, "steps": steps, "guidance_scale": scale}
        cell = f"#sheet-film tbody tr:nth-child({nth // 3 + 1}) td:nth-of-type({nth % 3 + 1})"
        pixels = run(page.driver, PIXELS, f"{cell} img")
        expected = picture(page, **asked).convert("RGBA").tobytes()
        assert pixels == ",".join(map(str, expected)), asked
        name = page.one(f"{cell} .cell").get_attribute("aria-label")
        assert name == f"class 3, by digits, seed 11, {steps} steps, guidance {scale}"
    wait_until(lambda: len(kept(page)) == 9)
    page.one("[data-view=prints]").click()
    assert not page.all(PRINT)
    page.open()
    assert not page.all(PRINT), "a reload hangs none of them on the line either"


def test_labels_say_what_was_really_used(page: Page) -> None:
    fill(page, across=("guidance_scale", "1, 3"), down=("steps", "2"))
    start(page)
    finished(page, 2)
    labels = page.driver.execute_script(LABELS, "#sheet-film th[scope=col]")
    assert labels == ["Guidance 1", "Guidance 1 (asked for 3)"], "no class, so no guidance"
    page.open()
    page.one("[data-view=sheet]").click()
    finished(page, 2)
    assert page.driver.execute_script(LABELS, "#sheet-film th[scope=col]") == labels


def test_a_picture_opens_among_the_others_and_restores_its_settings(page: Page) -> None:
    page.choose("5")
    page.type("seed", 3)
    fill(page, across=("steps", "2, 3"), down=("", ""))
    start(page)
    finished(page, 2)
    page.choose("6")
    wait_until(lambda: len(kept(page)) == 2)
    page.all(FRAME)[0].click()
    assert page.one("#viewer").is_displayed()
    page.one("#viewer [data-act=next]").click()
    page.one("#viewer [data-act=restore]").click()
    assert page.one("#field-steps").get_attribute("value") == "3"
    assert page.one("#field-seed").get_attribute("value") == "3"
    assert page.one("input[name=class][value='5']").is_selected()
    page.all(FRAME)[0].click()
    page.one("#viewer [data-act=delete]").click()
    page.one("#viewer [data-act=close]").click()
    assert states(page) == ["deleted", "finished"]
    page.one("#sheet-go-on").click()
    finished(page, 2)


def test_people_read_titles_of_samplers(page: Page) -> None:
    samplers = web.get(f"{page.url}/models").json()["models"][0]["samplers"]
    titles = [each["title"] for each in samplers]
    page.one("[data-view=sheet]").click()
    Select(page.one("#field-down")).select_by_value("")
    Select(page.one("#field-across")).select_by_value("sampler")
    assert page.driver.execute_script(LABELS, "#sheet-form .choices label") == titles
    page.type("steps", 2)
    start(page)
    finished(page, len(titles))
    labels = page.driver.execute_script(LABELS, "#sheet-film th[scope=col]")
    assert labels == [f"Sampler {title}" for title in titles]
    page.all(FRAME)[-1].click()
    assert titles[-1] in page.one("#viewer-facts").text.splitlines()


def test_the_form_beside_draws_the_sheet_and_says_what_varies(page: Page) -> None:
    fill(page, across=("steps", "2, 3"), down=("", ""))
    assert not page.one("#develop").is_displayed()
    assert not page.one("#field-n").is_displayed()
    word = "return getComputedStyle(document.querySelector(arguments[0]), '::after').content"
    said = [page.driver.execute_script(word, f"[for=field-{name}]") for name in ("steps", "eta")]
    assert said == ['"varies"', "none"]
    page.one("#field-seed").send_keys(Keys.ENTER)
    finished(page, 2)
    page.one("[data-view=prints]").click()
    assert page.one("#develop").is_displayed()
    assert not page.all(PRINT)


def test_ten_columns_fit_beside_long_seeds(page: Page) -> None:
    size = {"width": 1280, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.type("steps", 1)
        fill(page, across=("class", ""), down=("seed", "4294967295"))
        start(page)
        finished(page, 10)
        wide = """const box = document.querySelector("#sheet-film");
            return box.scrollWidth - box.clientWidth"""
        assert page.driver.execute_script(wide) == 0
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_file_has_every_picture_where_it_belongs(page: Page, tmp_path: Path) -> None:
    where = {"behavior": "allow", "downloadPath": str(tmp_path)}
    page.driver.execute_cdp_cmd("Browser.setDownloadBehavior", where)
    page.choose("8")
    page.type("seed", 5)
    fill(page, across=("seed", "1, 2"), down=("steps", "2, 3"))
    start(page)
    finished(page, 4)
    Select(page.one("#sheet-scale")).select_by_value("2")
    page.one("#sheet-download").click()
    path = tmp_path / "contact-sheet-digits.png"
    wait_until(path.exists)
    sheet = Image.open(path).convert("L")
    width, height = (f"{side:,}" for side in sheet.size)
    assert page.one("#sheet-note").text == f"Saved: {width} {TIMES} {height} pixels."
    found = {}
    for row, column in product(range(2), range(2)):
        asked = {"class": "8", "seed": column + 1, "steps": row + 2}
        one = np.asarray(picture(page, **asked).convert("L")).repeat(2, 0).repeat(2, 1)
        found[row, column] = places(np.asarray(sheet), one)
        assert len(found[row, column]) == 1, asked
    (left, top), (right, also_top) = found[0, 0][0], found[0, 1][0]
    assert top == also_top
    assert right - left >= 64
    assert found[1, 0][0][0] == left
    assert found[1, 1][0] == (right, found[1, 0][0][1])


def places(sheet: "np.ndarray[Any, Any]", one: "np.ndarray[Any, Any]") -> list[tuple[int, int]]:
    """Left and top of each part of a sheet that equals a picture, pixel by pixel."""
    windows = np.lib.stride_tricks.sliding_window_view(sheet, one.shape)
    middle = one.shape[0] // 2
    rows = np.nonzero((windows[:, :, middle] == one[middle]).all(axis=-1))
    return [
        (x, y)
        for y, x in zip(*map(np.ndarray.tolist, rows), strict=True)
        if (windows[y, x] == one).all()
    ]


def test_what_is_cancelled_goes_on_and_nothing_is_drawn_twice(page: Page) -> None:
    seeds = range(7001, 7005)
    fill(page, across=("steps", "2, 150"), down=("seed", "7001-7004"))
    start(page)
    wait_until(lambda: states(page) == ["finished", "open"] * 4)
    page.one("#sheet-cancel").click()
    wait_until(lambda: states(page) == ["finished", "canceled"] * 4)
    wait_until(lambda: told(page) == "4 of 8, 4 cancelled")
    page.one("#sheet-go-on").click()
    finished(page, 8)
    assert not page.one("#sheet-go-on").is_displayed()
    assert drawn(page, seeds) == sorted(product((2, 150), seeds))


def test_cancelled_in_one_tab_it_sends_nothing_more_in_another(page: Page) -> None:
    """Not even what the service has not taken yet, so that it cannot tell the other tab."""
    driver, first = page.driver, page.driver.current_window_handle
    cut = "window.fetch = () => Promise.reject(new TypeError('no network'))"
    driver.switch_to.new_window("tab")
    second = driver.current_window_handle
    page.open()
    driver.execute_script(cut)
    driver.switch_to.window(first)
    driver.execute_script(cut)
    fill(page, across=("steps", "2, 3"), down=("", ""))
    start(page)
    driver.switch_to.window(second)
    page.one("[data-view=sheet]").click()
    wait_until(lambda: states(page) == ["open"] * 2)
    page.one("#sheet-cancel").send_keys(Keys.ENTER)
    wait_until(lambda: states(page) == ["canceled"] * 2)
    driver.close()
    driver.switch_to.window(first)
    wait_until(lambda: states(page) == ["canceled"] * 2)


def test_a_reload_loses_nothing_of_a_sheet(page: Page) -> None:
    seeds = range(8001, 8010)
    fill(page, across=("steps", "2, 120"), down=("seed", "8001-8009"))
    start(page)
    wait_until(lambda: states(page) == ["finished", "open"] * 8 + ["waiting"] * 2)
    page.open()
    page.one("[data-view=sheet]").click()
    wait_until(lambda: states(page) == ["finished"] * 16 + ["waiting"] * 2)
    assert told(page) == "16 of 18"
    page.one("#sheet-go-on").click()
    finished(page, 18)
    assert drawn(page, seeds) == sorted(product((2, 120), seeds))
    wait_until(lambda: len(kept(page)) == 18)


def test_what_is_wrong_is_said_and_nothing_is_sent(page: Page) -> None:
    nothing = ("", "")
    newest = f"{page.url}/jobs?limit=1"
    before = web.get(newest).json()
    for across, down, field, words in (
        (("steps", "1001"), nothing, "across-values", "from 1 to 1000"),
        (("steps", "5, 5"), nothing, "across-values", "5 is there twice"),
        (("steps", "5"), ("steps", "6"), "down", "Columns and rows both vary Steps"),
        (nothing, ("seed", " , "), "down-values", "There is no value"),
        (nothing, nothing, "across", "Choose what varies"),
        (("steps", "1-11"), ("seed", "1-10"), "across-values", f"11 {TIMES} 10 are 110 pictures"),
    ):
        fill(page, across=across, down=down)
        start(page)
        assert words in page.one(f"#wrong-{field}").text
        assert page.driver.switch_to.active_element.get_attribute("name") == field
    assert not page.one("#sheet-result").is_displayed()
    assert web.get(newest).json() == before


def test_a_file_that_is_too_large_is_refused_and_another_scale_offered(page: Page) -> None:
    page.type("steps", 1)
    fill(page, across=("", ""), down=("seed", "1-100"))
    start(page)
    wait_until(lambda: "finished" in states(page))
    page.one("#sheet-cancel").click()
    Select(page.one("#sheet-scale")).select_by_value("8")
    page.one("#sheet-download").click()
    note = page.one("#sheet-note").text
    assert "16,384 pixels a side and 64 megapixels" in note
    smaller = page.one("#sheet-scale").get_attribute("value")
    assert f"{smaller} {TIMES} fits, and is chosen now" in note
    assert int(smaller) < 8


def test_long_labels_are_cut_between_letters_and_measured_a_few_times(parts: Chrome) -> None:
    script = """let measured = 0;
    const { prototype } = CanvasRenderingContext2D;
    const { measureText } = prototype;
    prototype.measureText = function (text) { measured += 1; return measureText.call(this, text) };
    const [columns, rows] = [['\\u{1f43b}'.repeat(2000)], ['\\u719a'.repeat(4000)]];
    const sizes = {title: '', caption: '', width: 64, height: 64, notes: ['']};
    const layout = it.layoutOf({...sizes, columns, rows}, 1);
    prototype.measureText = measureText;
    return [layout.columns[0].join(), layout.rows[0].join(), measured];"""
    bears, characters, measured = calling(parts, "sheet_file.js", script)
    assert set(bears) == {"\N{BEAR FACE}", "\N{HORIZONTAL ELLIPSIS}"}
    assert set(characters) == {"\u719a", "\N{HORIZONTAL ELLIPSIS}"}
    assert measured < 40


@pytest.mark.parametrize(
    ("name", "typed", "values"),
    [
        ("steps", "10, 20,50", [10, 20, 50]),
        ("steps", "1-4; 9", [1, 2, 3, 4, 9]),
        ("steps", "10-50 (+20)", [10, 30, 50]),
        ("steps", "5-3", [5, 4, 3]),
        ("steps", "9-1 (-4)", [9, 5, 1]),
        ("steps", "1 - 10 [4]", [1, 4, 7, 10]),
        ("guidance_scale", "0-0.3(+0.1)", [0, 0.1, 0.2, 0.3]),
        ("guidance_scale", "1-2 [3], .5", [1, 1.5, 2, 0.5]),
        ("seed", "9007199254740990-9007199254740991", [2**53 - 2, 2**53 - 1]),
        ("class", ["2", "0", "gone"], ["0", "2"]),
        ("steps", "0", "0 is not allowed. Steps: whole numbers from 1 to 1000."),
        ("steps", "1.5", "1.5 is not allowed. Steps: whole numbers from 1 to 1000."),
        ("guidance_scale", "many", "many is not allowed. Guidance: numbers from 0 to 30."),
        ("steps", "1-1000", "These are 1000 values; a sheet has at most 100 pictures."),
        ("steps", "1-5 [1000000000]", "These are 1000000000 values; a sheet has at most"),
        ("steps", "1-5 (-1)", "1-5 (-1) never gets from 1 to 5."),
        ("steps", "1-5 (+0)", "1-5 (+0) never gets from 1 to 5."),
        ("steps", "2-4, 3", "3 is there twice."),
        ("class", [], "Nothing is chosen."),
    ],
)
def test_values_of_an_axis(parts: Chrome, name: str, typed: object, values: object) -> None:
    script = """
        const { axesOf } = await import('/js/axes.js');
        const axis = axesOf(args[0]).find(each => each.name === args[1]);
        try { return it.valuesOf(axis, args[2]); } catch (error) { return error.message; }
    """
    found = calling(parts, "values.js", script, MODEL, name, typed)
    assert found.startswith(values) if isinstance(values, str) else found == values


@pytest.mark.parametrize(
    ("varied", "impossible", "left_out"),
    [
        ({"sampler": "euler"}, "", {"eta"}),
        ({"sampler": "ddim"}, "", {"spacing"}),
        ({"sampler": "euler", "eta": 0}, "", {"eta"}),
        ({"sampler": "euler", "eta": 0.5}, "Euler has no eta 0.5", {"eta"}),
        ({"sampler": "ddim", "spacing": "karras"}, "DDIM has no spacing karras", {"spacing"}),
    ],
)
def test_a_cell_asks_for_what_its_sampler_takes(
    parts: Chrome, varied: dict[str, Any], impossible: str, left_out: set[str]
) -> None:
    settings = {"steps": 5, "sampler": "ddim", "spacing": "karras", "eta": 1, "n": 4}
    found = calling(parts, "sheet_plan.js", "return it.cellOf(...args)", MODEL, settings, varied)
    assert found["impossible"] == impossible
    expected = {**settings, **varied, "n": 1}
    assert found["settings"] == {k: v for k, v in expected.items() if k not in left_out}
