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
    script = """const { Job } = await import('/js/job.js');
    const canvas = new OffscreenCanvas(8, 8);
    canvas.getContext('2d');
    const picture = await canvas.convertToBlob();
    const alive = new Set();
    const api = {
        showAtLast: async (_, show) => {
            const address = URL.createObjectURL(picture);
            alive.add(address);
            await show(address);
            return address;
        },
    };
    const revoke = URL.revokeObjectURL;
    URL.revokeObjectURL = address => (alive.delete(address), revoke.call(URL, address));
    const line = document.querySelector('#line');
    const empty = document.querySelector('#empty');
    const prints = new it.Prints(line, empty, api, () => undefined, () => undefined);
    const counts = [];
    for (let k = 0; k < 150; k += 1) {
        const job = new Job({ key: `job-${k}`, settings: { ...args[0], seed: k }, created: k });
        prints.add(job);
        const finished = new Promise(resolve => {
            prints.addEventListener('kept', resolve, { once: true });
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


def test_a_change_of_the_history_leaves_other_items_in_place(page: Chrome) -> None:
    script = """const { History } = await import('/js/history.js');
    const history = await History.open({ name: 'bounds' });
    const entry = seed => ({ id: `e${seed}`, created: seed, image: 0, thumbnail: null,
        settings: { ...args[0], seed }, starred: false });
    for (let seed = 1000; seed < 1130; seed += 1) await history.put(entry(seed));
    const root = document.querySelector('#view-history');
    const list = document.querySelector('#album');
    const album = new it.Album(root, history);
    const until = async (done) => {
        while (!done()) await new Promise(resolve => setTimeout(resolve, 5));
    };
    root.hidden = false;
    await album.show();
    document.querySelector('#history-more').click();
    await until(() => list.children.length === 120);
    const before = [...list.children];
    const button = before.at(-1).querySelector('button');
    button.focus();
    const moved = [];
    const observer = new MutationObserver(list => moved.push(...list));
    observer.observe(list, { childList: true });
    let searches = 0;
    const search = history.search;
    history.search = (...given) => (searches += 1, search.apply(history, given));
    await history.put(entry(1130));
    await history.delete('e1100');
    await history.star('e1050', true);
    for (let times = 0; times < 5; times += 1) album.refresh();
    await until(() => list.textContent.includes('1130') && !list.textContent.includes('1100'));
    const kept = new Set(before);
    const looked = searches;
    const file = JSON.parse(await (await history.export()).text());
    return { searches: looked, texts: [...list.children].map(each => each.textContent),
        kept: [...list.children].filter(each => kept.has(each)).length,
        moved: moved.length, focused: document.activeElement === button,
        exported: file.entries.map(each => each.created) };"""
    found = calling(page, "album.js", script, SETTINGS)
    seeds = [seed for seed in range(1130, 1000, -1) if seed != 1100][:120]
    expected = [f"{'★ ' if seed == 1050 else ''}7 · {seed}" for seed in seeds]
    assert found["texts"] == expected
    assert found["kept"] == 119, "one item is new"
    assert found["moved"] == 2, "one came and one went"
    assert found["focused"]
    assert found["searches"] == 1, "once for all changes"
    assert found["exported"] == [seed for seed in range(1130, 999, -1) if seed != 1100]
