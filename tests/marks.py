"""What the marks of tests do; pyproject.toml says what each means."""

import functools
import os
import re
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from xdist.scheduler import LoadFileScheduling

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)
Reporting = Generator[None, Report, Report]
_SERVERS = {"url", "keyed_url", "stable_url"}  # fixtures
HEAVY = {"server", "training", "slow"}  # what `make check` leaves out
# A test that takes one of these, or the page in the browser, in the text of its file.
_SHARING = re.compile(
    rf"^def test_\w+\([^)]*\b({'|'.join(sorted(_SERVERS))}|page(?=: Page)): ", re.MULTILINE
)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Whoever uses one of the shared servers needs a server."""
    if isinstance(item, pytest.Function) and not _SERVERS.isdisjoint(item.fixturenames):
        item.add_marker("server")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long goes first: at the end one process would wait for the other."""
    items.sort(key=lambda item: HEAVY.isdisjoint(mark.name for mark in item.iter_markers()))


@functools.cache
def process_of(file: Path) -> str:
    """Files that get the same text run in one process: a shared server or browser starts once."""
    shared = _SHARING.search(file.read_text(encoding="utf-8")) if file.is_file() else None
    return shared[1] if shared else str(file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> "LoadFileScheduling | None":
    """As `--dist loadfile`, except that files with a shared server stay together."""
    from xdist.scheduler import LoadFileScheduling

    class ByServer(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return process_of(config.rootpath / super()._split_scope(nodeid))

    return ByServer(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Reporting[pytest.TestReport]:
    return _complete_in_ci(item, (yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Reporting[pytest.CollectReport]:
    return _complete_in_ci(collector, (yield))


def _complete_in_ci(node: pytest.Collector | pytest.Item, report: Report) -> Report:
    """In CI what is skipped fails, or a proof would be missing; unless the system is why."""
    expected = hasattr(report, "wasxfail") or node.get_closest_marker("platform")
    if report.skipped and os.environ.get("CI") and not expected:
        report.outcome, report.longrepr = "failed", f"skipped, which CI may not: {report.longrepr}"
    return report
