"""The playground in a real browser, and what people do with it."""

import base64
from typing import Any

from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.e2e.browser import requested, run
from tests.e2e.live import wait_until

PRINT = "#line > .print"
PICTURE = f"{PRINT} img"
_BRING = """
    const [way, data] = arguments;
    const bytes = Uint8Array.from(atob(data), character => character.charCodeAt(0));
    const files = new DataTransfer();
    files.items.add(new File([bytes], 'picture.png', {type: 'image/png'}));
    const event = way === 'drop'
        ? new DragEvent('drop', {dataTransfer: files, bubbles: true, cancelable: true})
        : new ClipboardEvent('paste', {clipboardData: files, bubbles: true, cancelable: true});
    document.querySelector('main').dispatchEvent(event);
"""
PIXELS = """async (selector) => {
    const image = document.querySelector(selector);
    await image.decode();
    const canvas = document.createElement('canvas');
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    const context = canvas.getContext('2d');
    context.drawImage(image, 0, 0);
    return [...context.getImageData(0, 0, canvas.width, canvas.height).data].join();
}"""
_KEPT = """async () => new Promise((resolve, reject) => {
    const request = indexedDB.open('darkroom');
    request.onerror = () => reject(request.error);
    request.onsuccess = () => {
        const records = request.result.transaction('records').objectStore('records');
        const all = records.index('created').getAll();
        all.onsuccess = () => {
            request.result.close();
            resolve(all.result.map(record => record.entry).reverse());
        };
    };
})"""


def forget(driver: Chrome, url: str) -> None:
    """Leave nothing of an earlier visit."""
    driver.get(f"{url}/livez")  # small, and of the same origin
    driver.execute_script(
        "localStorage.clear(); sessionStorage.clear(); indexedDB.deleteDatabase('darkroom')"
    )
    driver.get("about:blank")
    for log in ("browser", "performance"):
        driver.get_log(log)


class Page:
    """What people do with the page."""

    def __init__(self, driver: Chrome, url: str) -> None:
        self.driver, self.url = driver, url

    def open(self) -> None:
        self.driver.get(f"{self.url}/")
        wait_until(lambda: self.one("#develop").is_enabled())

    def one(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def type(self, name: str, value: object) -> None:
        field = self.one(f"#field-{name}")
        field.clear()
        field.send_keys(str(value))

    @property
    def seed(self) -> int:
        """The seed that is shown: that of the next pictures."""
        return int(self.one("#field-seed").get_attribute("value"))

    def choose(self, name: str) -> None:
        self.one(f"input[name=class][value='{name}']").click()

    def develop(self, **settings: object) -> None:
        for name, value in settings.items():
            self.type(name, value)
        self.one("#develop").send_keys(Keys.ENTER)  # a click may miss what still moves

    def bring(self, png: bytes, way: str = "drop") -> None:
        """Drop a picture on the page, or paste it."""
        self.driver.execute_script(_BRING, way, base64.b64encode(png).decode())

    def states(self) -> list[str]:
        return [each.get_attribute("data-state") for each in self.all(PRINT)]

    def finished(self, count: int) -> None:
        wait_until(lambda: self.states() == ["finished"] * count, seen=self.seen)

    def seen(self) -> str:
        """What the page says of its prints, and of itself."""
        said = [each.text for each in self.all(f"{PRINT} .state, .wrong, #form-note, #said, #away")]
        return f"{self.states()} {[each for each in said if each]}"

    def said_nothing(self) -> None:
        """Nothing is on the console, and no other origin was asked."""
        assert not self.driver.get_log("browser")
        ours = (f"{self.url}/", "data:", f"blob:{self.url}/")
        assert not [each for each in requested(self.driver) if not each.startswith(ours)]

    def pixels(self, nth: int = 1) -> str:
        found: str = run(self.driver, PIXELS, f"{PRINT}:nth-child({nth}) img")
        return found


def kept(page: Page) -> list[dict[str, Any]]:
    """What the browser's history holds, the newest first."""
    found: list[dict[str, Any]] = run(page.driver, _KEPT)
    return found
