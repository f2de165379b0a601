"""What the playground holds and does stays bounded, however many pictures there are."""

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("selenium")
from selenium.webdriver import Chrome

from tests.e2e.browser import CHROMIUM, DRIVER
from tests.e2e.modules import blank_page, calling

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="Chromium is not installed")

SETTINGS: dict[str, Any] = {
    "model": "digits",
    "class": "7",
    "steps": 4,
    "sampler": "ddim",
    "guidance_scale": 2,
    "n": 1,
}
_BODY = """const text = await (await fetch('/index.html')).text();
document.body.replaceWith(new DOMParser().parseFromString(text, 'text/html').body);"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with blank_page(tmp_path_factory.mktemp("chromium")) as driver:
        calling(driver, "history.js", _BODY)
        yield driver


def test_the_line_keeps_the_newest_prints_and_no_picture_of_others(page: Chrome) -> None:
    script = """const { Job } = await import('/js/jobs.js');
    const canvas = new OffscreenCanvas(8, 8);
    canvas.getContext('2d');
    const picture = await canvas.convertToBlob();
    const alive = new Set();
    const api = {
        picture: async () => {
            const address = URL.createObjectURL(picture);
            alive.add(address);
            return address;
        },
    };
    const revoke = URL.revokeObjectURL;
    URL.revokeObjectURL = address => (alive.delete(address), revoke.call(URL, address));
    const line = document.querySelector('#line');
    const prints = new it.Prints(line, document.querySelector('#empty'), api, () => undefined);
    const counts = [];
    for (let k = 0; k < 150; k += 1) {
        const job = new Job({ key: `job-${k}`, settings: { ...args[0], seed: k }, created: k });
        prints.add(job);
        const finished = new Promise(resolve => {
            prints.addEventListener('finished', resolve, { once: true });
        });
        Object.assign(job, { status: 'succeeded', id: k, result: { images: [{ id: 'x' }] } });
        prints.follow(job);
        await finished;
        counts.push([line.children.length, alive.size]);
    }
    URL.revokeObjectURL = revoke;
    const shown = [...line.children].map(each => each.querySelector('img').src);
    return { counts, ids: [...line.children].map(each => each.dataset.id),
        held: shown.every(address => alive.has(address)) };"""
    found = calling(page, "prints.js", script, SETTINGS)
    assert all(prints == pictures for prints, pictures in found["counts"])
    assert found["held"]
    assert found["counts"][100] == found["counts"][-1]
    assert found["ids"] == [f"job-{k}-0" for k in range(149, 149 - len(found["ids"]), -1)]
