"""What the playground costs the browser: long tasks, memory, requests and the first paint.

    python -m benchmarks.page
    python -m benchmarks.page --only history --entries 200 --out runs/bench

A headless Chromium uses the page of a server that draws with the shipped model on the same cores.
Needs Chromium, chromedriver and what `make check` installs. Writes page.md. All of it takes about
four minutes.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from benchmarks.browsing import LONG, Browser, Memory, Step, chromium
from benchmarks.report import table
from benchmarks.servers import OURS, SERVERS, running
from benchmarks.serving import about

PARTS = {
    "paint": "The first paint",
    "history": "A long history",
    "drawing": "Drawing",
    "keyed": "Drawing with an API key",
    "sheet": "A contact sheet",
}
_MOST_MS, _MOST_GROWTH = 200, 1.5  # of a task; of memory between the two counts of pictures
_VISITS = 5
_PAGE = 60  # entries of the history
_FEW, _AT_ONCE, _STEPS = 50, 16, 4  # pictures, pictures per request, and their steps
_LONG_STEPS = 300
_SIDE = 10  # pictures, of a contact sheet
_KEY = f"dk_page_{'0123456789' * 4}"
_RESULTS = Path(__file__).parent / "results"
_STEP_HEADS = (
    "", "seconds", "longest task, ms", f"tasks over {LONG:g} ms", "longest CPU, ms",
    f"CPU over {LONG:g} ms", "CPU of all tasks, s", "the longest CPU is mostly, ms",
)  # fmt: skip
_MEMORY_HEADS = ("heap, MB", "DOM nodes", "blob addresses")
_READY = "document.querySelector('#develop:enabled')"
_HUNG = "document.querySelectorAll('#line > [data-state=finished]').length >= 24"
# When, and how many bytes had been received completely until then, with their heads.
_PAINTED = """async () => {
  const at = performance.getEntriesByName("first-contentful-paint")[0].startTime;
  const all = ["navigation", "resource"].flatMap((type) => performance.getEntriesByType(type));
  const before = all.filter((each) => each.responseEnd <= at);
  return [at, before.reduce((sum, each) => sum + each.transferSize, 0)];
}"""
# Entries as finished pictures leave them. The shipped model's pictures are enlarged and get grain,
# so that thumbnails are as large as those of Stable Diffusion.
_FILL = """async (count) => {
  const main = document.querySelector("script[type=module]").src;
  const { History } = await import(new URL("history.js", main));
  const { thumbnail } = await import(new URL("pictures.js", main));
  const history = await History.open();
  const thumbnails = [];
  for (let seed = 0; seed < 50; seed += 1) {
    const answer = await fetch(`generate?class=${seed % 10}&seed=${seed}&steps=4`);
    const canvas = new OffscreenCanvas(512, 512);
    const context = canvas.getContext("2d");
    context.drawImage(await createImageBitmap(await answer.blob()), 0, 0, 512, 512);
    const pixels = context.getImageData(0, 0, 512, 512);
    for (let at = 0; at < pixels.data.length; at += 1) {
      if (at % 4 < 3) pixels.data[at] += 99 * Math.random();
    }
    context.putImageData(pixels, 0, 0);
    const image = new Image();
    image.src = URL.createObjectURL(await canvas.convertToBlob());
    await image.decode();
    thumbnails.push(await thumbnail(image));
  }
  const shared = { model: "digits", steps: 4, sampler: "ddim", guidance_scale: 2, n: 1 };
  for (let at = 0; at < count; at += 1) {
    await history.put({
      id: `entry-${at}`,
      created: 1e12 + at,
      settings: { ...shared, class: String(at % 10), seed: 100000 + at },
      starred: at % 20 === 0,
      thumbnail: thumbnails[at % 50],
      ...{ image: 0, url: null, seconds: 1, width: 512, height: 512, status: "succeeded" },
    });
  }
  return thumbnails.reduce((sum, each) => sum + (each.size ?? each.length), 0) / 50;
}"""
_TYPE = """
  const field = document.querySelector("#history-words");
  const put = text => {
    field.value = text;
    field.dispatchEvent(new Event("input", { bubbles: true }));
    return new Promise(resolve => setTimeout(resolve, 60));
  };
  for (let length = 1; length < words.length; length += 1) await put(words.slice(0, length));
  const last = performance.now();
  put(words);
  return last;
"""
_TO_THE_END = """
  const more = document.querySelector("#history-more");
  const frame = () => new Promise(requestAnimationFrame);
  while (!more.hidden) {
    const before = album.children.length;
    more.scrollIntoView();
    await frame();
    more.click();
    while (album.children.length === before) await frame();
  }
  for (let at = 0; at < album.children.length; at += 8) {
    album.children[at].scrollIntoView();
    await frame();
  }
"""
_A_MOMENT = "new Promise(resolve => setTimeout(() => resolve(true), 500))"
_KEPT = """new Promise(resolve => {
  const opening = indexedDB.open("darkroom");
  opening.onsuccess = () => {
    const counting = opening.result.transaction("records").objectStore("records").count();
    counting.onsuccess = () => resolve(counting.result);
    opening.result.close();
  };
})"""


@click.command()
@click.option("--only", type=click.Choice(list(PARTS)), multiple=True, help="Repeat for several.")
@click.option("--entries", default=1000, show_default=True, help="Of the history.")
@click.option("--pictures", default=500, show_default=True, help="Drawn in all.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=_RESULTS)
def main(only: tuple[str, ...], entries: int, pictures: int, out: Path) -> None:
    """Measure all parts, or those asked for, and write the results."""
    measure: dict[str, Callable[[Page], list[str]]] = {
        "paint": _paint,
        "history": lambda page: _history(page, entries),
        "drawing": lambda page: _drawing(page, pictures),
        "keyed": lambda page: _drawing(page, pictures),
        "sheet": _sheet,
    }
    lines: list[str] = []
    for part in only or PARTS:
        with _page(_KEY if part == "keyed" else None) as page:
            lines = lines or _introduction(page.browser.version)
            section = ["", f"## {PARTS[part]}", "", *measure[part](page)]
        lines += section
        click.echo("\n".join(section))
        out.mkdir(parents=True, exist_ok=True)
        (out / "page.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Page:
    """The page of a server of its own, in a browser that was never there."""

    browser: Browser
    url: str

    def open(self, ready: str = _READY) -> float:
        """Milliseconds until `ready` holds: the form can be used, if nothing else is said."""
        return self.browser.go(f"{self.url}/", ready)

    def fill(self, name: str, value: object) -> None:
        """Put a value into a field."""
        self.browser.run(
            """async (name, value) => {
              const field = document.querySelector(`#field-${name}`);
              field.value = value;
              for (const type of ["input", "change"]) {
                field.dispatchEvent(new Event(type, { bubbles: true }));
              }
            }""",
            name,
            str(value),
        )


@contextmanager
def _page(key: str | None) -> Iterator[Page]:
    with TemporaryDirectory() as folder:
        settings = {"DARKROOM_STATE_FOLDER": f"{folder}/state", "DARKROOM_LOG_REQUESTS": "false"}
        if key:
            settings["DARKROOM_API_KEYS"] = f"page: {key}"
        with (
            running(replace(SERVERS[OURS], settings=settings)) as server,
            chromium(Path(folder) / "profile") as browser,
        ):
            server.wait(server.server.ready)
            if key:
                browser.driver.get(f"{server.url}/livez")
                browser.run(
                    "async key => sessionStorage.setItem('darkroom.key', JSON.stringify(key))", key
                )
            yield Page(browser, server.url)


def _introduction(chromium_version: str) -> list[str]:
    machine = about(0)
    del machine["each measurement under load"]
    return [
        "# The playground in the browser",
        "",
        f"Written by `python -m {__spec__.name}`.",
        "",
        *table(("", ""), {**machine, "Chromium": chromium_version}.items()),
        "",
        "Browser, server and worker share these cores. A task's time by the clock, as "
        "PerformanceObserver tells it, has its waits for a core in it. Its CPU time, by tracing, "
        f"has not: it is that of the page's main thread alone. Goal: no task over {_MOST_MS} ms.",
    ]


def _paint(page: Page) -> list[str]:
    """The first visit, and another one."""
    rows = []
    for name in ("first visit", "another visit"):
        steps, times = [], []
        for _ in range(_VISITS):
            if name == "first visit":
                page.browser.cdp("Network.clearBrowserCache")
            page.browser.driver.get("about:blank")
            with page.browser.step(name) as step:
                usable = page.open()
                times.append((*page.browser.run(_PAINTED), usable))
            steps.append(step)
        painted, before, usable = (statistics.median(each) for each in zip(*times, strict=True))
        received = statistics.median(step.received for step in steps)
        rows.append(
            (
                name,
                str(len(steps[-1].requests)),
                f"{received / 1000:.1f}",
                f"{before / 1000:.1f}",
                f"{painted:.0f}",
                f"{usable:.0f}",
                f"{max(step.longest for step in steps):.0f}",
                f"{max(step.hardest.cpu for step in steps):.0f}",
            )
        )
    head = ("", "requests", "kB received", "kB before the first paint",
            "first contentful paint, ms", "form usable, ms", "longest task, ms",
            "longest CPU, ms")  # fmt: skip
    return [
        f"Medians of {_VISITS} visits; the longest task is that of all.",
        "",
        *table(head, rows),
    ]


def _history(page: Page, entries: int) -> list[str]:
    """What people do with a history of so many entries."""
    browser, steps = page.browser, []
    page.open()
    thumbnail_bytes = browser.run(_FILL, entries)
    browser.driver.get("about:blank")
    with browser.step("open the page; 24 prints hang") as step:
        step.seconds = page.open(_HUNG) / 1000
    steps.append(step)

    def do(name: str, act: str, ready: str) -> None:
        with browser.step(name) as step:
            step.seconds = browser.until(act, ready)
        steps.append(step)

    def search(name: str, words: str, found: int) -> None:
        do(name, f"const words = '{words}'; {_TYPE}", f"album.children.length === {found}")

    first, one = min(entries, _PAGE), 100000 + entries - 50  # the seed is that of the 50th
    item = f"[...album.children].find(each => each.textContent.includes('· {one}'))"
    do(
        f"open the history; the first {first} are shown",
        "document.querySelector('[data-view=history]').click()",
        f"album.children.length === {first}",
    )
    search("search for a seed: the oldest entry", "100000", 1)
    search("search for what is not there", "nowhere", 0)
    search("no search any more", "", first)
    starred, stars = "document.querySelector('#history-starred').click()", (entries + 19) // 20
    do("starred only", starred, f"album.children.length === {min(stars, _PAGE)}")
    do("all again", starred, f"album.children.length === {first}")
    do("scroll, and Show more to the end", _TO_THE_END, f"album.children.length === {entries}")
    do("open one", f"{item}.querySelector('button').click()", "viewer.open")
    do(
        "give it a star",
        "viewer.querySelector('[data-act=star]').click()",
        f"{item}.textContent.startsWith('★')",
    )
    do("delete it", "viewer.querySelector('[data-act=delete]').click()", f"!{item}")
    do(
        "export",
        "viewer.close(); document.querySelector('#history-export').click()",
        "document.querySelector('#history-note').textContent.startsWith('Exported')",
    )
    page.fill("n", _AT_ONCE)
    page.fill("steps", _LONG_STEPS)
    click = "document.querySelector('{}').click();".format
    do(
        f"draw {_AT_ONCE}, scroll to the end meanwhile",
        click("#develop") + click("[data-view=history]") + _TO_THE_END,
        f"(await {_KEPT}) === {entries - 1 + _AT_ONCE} && {_A_MOMENT}",
    )
    return [
        f"{entries:,} entries with thumbnails of {thumbnail_bytes / 1000:.1f} kB. Seconds are from "
        "the last key or click until the result is painted.",
        "",
        *_table_of(steps),
    ]


def _drawing(page: Page, pictures: int) -> list[str]:
    """Draw a few pictures, then many."""
    browser = page.browser
    steps, memory = [], dict[int, Memory]()
    with browser.step("open the page") as step:
        page.open()
        page.fill("steps", _STEPS)
    steps.append(step)
    done = 0
    for goal in (_FEW, pictures):
        parts = []
        while done < goal:
            count = min(_AT_ONCE, goal - done)
            page.fill("n", count)
            done += count
            finished = (
                f"[...line.children].slice(0, {count}).every(each => "
                f"each.dataset.state === 'finished') && (await {_KEPT}) === {done}"
            )
            with browser.step("") as step:
                step.seconds = browser.until("document.querySelector('#develop').click()", finished)
            parts.append(step)
        steps.append(Step.joined(f"draw until there are {goal}", parts))
        memory[goal] = browser.memory()
    streams = sum(url.endswith("/jobs/events") for step in steps for url in step.requests)
    came, shown = browser.run("async () => [seen.came, seen.shown]")
    rows: list[tuple[str, ...]] = [
        (str(count), f"{each.heap / 1e6:.2f}", str(each.nodes), str(each.blobs))
        for count, each in memory.items()
    ]
    few, many = map(astuple, memory.values())
    ratios = (f"{b / a:.2f}" if a else "-" for a, b in zip(few, many, strict=True))
    rows.append(("ratio", *ratios))
    return [
        f"{_AT_ONCE} pictures at a time, {_STEPS} steps each.",
        "",
        *_table_of(steps),
        "",
        f"Requests for the stream of events: {streams} (goal 1). Previews: {came} came, {shown} "
        f"were shown. After garbage was collected (goal: a ratio of at most {_MOST_GROWTH}):",
        "",
        *table(("pictures", *_MEMORY_HEADS), rows),
    ]


def _sheet(page: Page) -> list[str]:
    """Fill a sheet of ten guidances and ten seeds."""
    browser = page.browser
    page.open()
    page.fill("steps", _STEPS)
    browser.until("document.querySelector('[data-view=sheet]').click()", "true")
    for way, axis, values in (
        ("across", "guidance_scale", [1 + number / 2 for number in range(_SIDE)]),
        ("down", "seed", range(_SIDE)),
    ):
        page.fill(way, axis)
        page.fill(f"{way}-values", ", ".join(map(str, values)))
    before = browser.memory()
    progress = "document.querySelector('#sheet-progress').textContent"
    with browser.step(f"fill {_SIDE} x {_SIDE}") as step:
        step.seconds = browser.until(
            "document.querySelector('#sheet-start').click()",
            f"{progress} === '{_SIDE**2} of {_SIDE**2}' && (await {_KEPT}) === {_SIDE**2}",
        )
    rows = [
        (name, f"{each.heap / 1e6:.2f}", str(each.nodes), str(each.blobs))
        for name, each in {"empty": before, "filled": browser.memory()}.items()
    ]
    return [
        f"{_STEPS} steps each.",
        "",
        *_table_of([step]),
        "",
        *table(("sheet", *_MEMORY_HEADS), rows),
    ]


def _table_of(steps: Sequence[Step]) -> list[str]:
    rows = [
        (
            step.name,
            f"{step.seconds:.2f}",
            f"{step.longest:.0f}",
            str(len(step.long)),
            f"{step.hardest.cpu:.0f}",
            str(sum(task.cpu > LONG for task in step.tasks)),
            f"{sum(task.cpu for task in step.tasks) / 1000:.2f}",
            step.hardest.words,
        )
        for step in steps
    ]
    return table(_STEP_HEADS, rows)


if __name__ == "__main__":
    main()
