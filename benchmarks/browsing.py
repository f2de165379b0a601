"""A Chromium in which the tasks of a page, its memory and its requests are counted."""

import json
import shutil
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import httpx
import websocket  # which selenium needs
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

LONG = 50.0  # ms; what browsers call a long task
_PATIENCE = 120  # seconds for a script
_PARTS_SHOWN = 3  # of a task
_CATEGORIES = ["devtools.timeline", "disabled-by-default-devtools.timeline"]
_TASKS = {"RunTask", "ThreadControllerImpl::RunTask"}
_OPTIONS = (
    "--headless",
    "--no-sandbox",  # which root cannot have
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--window-size=1280,800",
)
# Runs before the page's own scripts. Other numbers come from the browser itself.
_PROBE = """
const seen = { tasks: [], blobs: 0, came: 0, shown: 0 };
window.seen = seen;
seen.observer = new PerformanceObserver(list => seen.tasks.push(...list.getEntries()));
seen.observer.observe({ type: "longtask", buffered: true });
const { createObjectURL, revokeObjectURL } = URL;
URL.createObjectURL = what => (seen.blobs += 1, createObjectURL.call(URL, what));
URL.revokeObjectURL = url => (seen.blobs -= 1, revokeObjectURL.call(URL, url));
const { dispatchEvent } = EventTarget.prototype;
EventTarget.prototype.dispatchEvent = function (event) {
  if (event.type === "preview") seen.came += 1;
  return dispatchEvent.call(this, event);
};
document.addEventListener("DOMContentLoaded", () => {
  const line = document.querySelector("#line");
  const count = list => {
    for (const { target } of list) seen.shown += target.src.startsWith("data:image/jpeg");
  };
  new MutationObserver(count).observe(line, { subtree: true, attributeFilter: ["src"] });
});
"""
_UNTIL = """async (act, ready) => {
  const began = performance.now();
  const frame = () => new Promise(requestAnimationFrame);
  const last = await act();
  while (!(await ready())) await frame();
  await frame();
  return (performance.now() - (last ?? began)) / 1000;
}"""


@dataclass(frozen=True)
class Task:
    """One task of a page's main thread, in milliseconds."""

    wall: float
    cpu: float  # of its thread; what it waited for a processor is not in it
    parts: dict[str, float] = field(default_factory=dict)  # what was done -> of `wall`

    @property
    def words(self) -> str:
        """What took most of it."""
        most = sorted(self.parts.items(), key=lambda part: -part[1])[:_PARTS_SHOWN]
        return ", ".join(f"{name} {wall:.0f}" for name, wall in most if wall >= 1)


@dataclass
class Step:
    """What the main thread did meanwhile."""

    name: str
    seconds: float = 0.0
    long: list[float] = field(default_factory=list)  # ms of each, as PerformanceObserver tells
    tasks: list[Task] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    received: int = 0  # bytes, with headers

    @classmethod
    def joined(cls, name: str, steps: Sequence["Step"]) -> "Step":
        """One after the other, as one."""
        return cls(
            name,
            sum(step.seconds for step in steps),
            [each for step in steps for each in step.long],
            [each for step in steps for each in step.tasks],
            [each for step in steps for each in step.requests],
            sum(step.received for step in steps),
        )

    @property
    def longest(self) -> float:
        """By the clock; of the trace if none was long."""
        return max(self.long, default=max((task.wall for task in self.tasks), default=0.0))

    @property
    def hardest(self) -> Task:
        """The task that took most of the processor."""
        return max(self.tasks, key=lambda task: task.cpu, default=Task(0.0, 0.0))


@dataclass(frozen=True)
class Memory:
    """What a page holds after garbage was collected."""

    heap: int  # bytes, of JavaScript
    nodes: int
    blobs: int  # addresses of blobs that were not revoked


class Browser:
    """A page, and what it costs."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        self.version: str = driver.capabilities["browserVersion"]
        driver.set_script_timeout(_PATIENCE)
        self.cdp("Page.addScriptToEvaluateOnNewDocument", source=_PROBE)
        self.cdp("Performance.enable")

    def cdp(self, command: str, **parameters: object) -> dict[str, Any]:
        found: dict[str, Any] = self.driver.execute_cdp_cmd(command, parameters)
        return found

    def go(self, url: str, ready: str) -> float:
        """Milliseconds from the start of a navigation until `ready`, JavaScript, holds."""
        self.driver.get(url)
        self.until("", ready)
        return float(self.driver.execute_script("return performance.now()"))

    def run(self, script: str, *arguments: object) -> Any:
        """What an asynchronous function gives, run in the page.

        Raises:
            click.ClickException: it failed.
        """
        found = self.driver.execute_async_script(
            f"const done = arguments[arguments.length - 1]; ({script})(...arguments)"
            ".then(value => done([true, value]), error => done([false, String(error)]))",
            *arguments,
        )
        if not found[0]:
            raise click.ClickException(f"the page: {found[1]}")
        return found[1]

    def until(self, act: str, ready: str) -> float:
        """Seconds from `act` until `ready` holds and the page is painted; both are JavaScript.

        `act` may return the `performance.now()` from which to count.
        """
        return float(self.run(f"() => ({_UNTIL})(async () => {{ {act} }}, async () => {ready})"))

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Watch the page meanwhile. `seconds` is of all of it, unless it is set."""
        step = Step(name)
        self.driver.get_log("performance")
        self.driver.execute_script("if (window.seen) seen.tasks.length = 0")
        began = time.perf_counter()
        with self._traced() as events:
            yield step
            step.seconds = step.seconds or time.perf_counter() - began
            # the observer is late
            self.run("() => new Promise(resolve => setTimeout(resolve, 100))")
        step.tasks = tasks_of(events)
        step.long = self.driver.execute_script("return seen.tasks.map(each => each.duration)")
        by_method = defaultdict(list)
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            by_method[message["method"]].append(message["params"])
        step.requests = [each["request"]["url"] for each in by_method["Network.requestWillBeSent"]]
        step.received = sum(
            int(each["encodedDataLength"]) for each in by_method["Network.loadingFinished"]
        )

    @contextmanager
    def _traced(self) -> Iterator[list[dict[str, Any]]]:
        """The events of a trace of the whole browser, once it has ended.

        The driver's own traces are of one page, and lose what comes after a navigation.
        """
        address = self.driver.capabilities["goog:chromeOptions"]["debuggerAddress"]
        told = httpx.get(f"http://{address}/json/version").json()
        socket = websocket.create_connection(
            told["webSocketDebuggerUrl"], suppress_origin=True, timeout=_PATIENCE
        )

        def send(number: int, method: str, **parameters: object) -> None:
            socket.send(json.dumps({"id": number, "method": method, "params": parameters}))

        events: list[dict[str, Any]] = []
        try:
            send(1, "Tracing.start", traceConfig={"includedCategories": _CATEGORIES})
            while json.loads(socket.recv()).get("id") != 1:
                pass
            yield events
            send(2, "Tracing.end")
            while (message := json.loads(socket.recv())).get("method") != "Tracing.tracingComplete":
                events += message.get("params", {}).get("value", [])
        finally:
            socket.close()

    def memory(self) -> Memory:
        """What is held now."""
        for _ in range(2):  # what the first collection lets go is collected by the second
            self.cdp("HeapProfiler.collectGarbage")
        metrics = self.cdp("Performance.getMetrics")["metrics"]
        by_name = {each["name"]: int(each["value"]) for each in metrics}
        blobs = self.driver.execute_script("return seen.blobs")
        return Memory(by_name["JSHeapUsedSize"], by_name["Nodes"], blobs)


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """A browser without a network but this machine's.

    Raises:
        click.ClickException: Chromium or its driver is not installed.
    """
    program = shutil.which("chromium") or shutil.which("google-chrome")
    service = shutil.which("chromedriver")
    if not (program and service):
        raise click.ClickException("Chromium and chromedriver are needed")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for option in (*_OPTIONS, f"--user-data-dir={profile}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(service))
    try:
        yield Browser(driver)
    finally:
        driver.quit()


def tasks_of(events: Iterable[dict[str, Any]]) -> list[Task]:
    """The tasks of pages' main threads in a trace, as Chromium writes it (times in µs)."""
    events = list(events)
    mains = {
        (each["pid"], each["tid"])
        for each in events
        if each["name"] == "thread_name" and each["args"]["name"] == "CrRendererMain"
    }
    tasks = []
    for main in mains:
        spans = [
            each for each in events if each["ph"] == "X" and (each["pid"], each["tid"]) == main
        ]
        spans.sort(key=lambda each: (each["ts"], -each["dur"]))
        task: dict[str, Any] | None = None
        within: list[dict[str, Any]] = []
        for span in spans:
            if task and span["ts"] < task["ts"] + task["dur"]:
                within.append(span)
            elif span["name"] in _TASKS:
                if task:
                    tasks.append(_task(task, within))
                task, within = span, []
        if task:
            tasks.append(_task(task, within))
    return tasks


def _task(task: dict[str, Any], within: list[dict[str, Any]]) -> Task:
    """What each kind of span took by itself, without those inside of it."""
    parts: dict[str, float] = defaultdict(float)
    open_spans = [task]
    for span in within:
        while span["ts"] >= open_spans[-1]["ts"] + open_spans[-1]["dur"]:
            open_spans.pop()
        parts[_label(open_spans[-1])] -= span["dur"] / 1000
        parts[_label(span)] += span["dur"] / 1000
        open_spans.append(span)
    parts[_label(task)] += task["dur"] / 1000
    return Task(task["dur"] / 1000, task.get("tdur", 0) / 1000, dict(parts))


def _label(span: dict[str, Any]) -> str:
    data = span.get("args", {}).get("data", {})
    if span["name"] in _TASKS:
        return "the task itself"
    if span["name"] == "FunctionCall" and data.get("url"):
        file = str(data["url"]).rpartition("/")[2] or "page"
        return f"{data.get('functionName') or 'function'} ({file}:{data.get('lineNumber')})"
    return str(span["name"])
