"""What the marks of tests do; pyproject.toml says what each means."""

import os
from collections.abc import Generator
from typing import TypeVar

import pytest

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)
Reporting = Generator[None, Report, Report]
_SERVERS = {"url", "keyed_url", "stable_url"}  # fixtures
HEAVY = {"server", "training", "slow"}  # what `make check` leaves out


def pytest_itemcollected(item: pytest.Item) -> None:
    """Whoever uses one of the shared servers needs a server."""
    if isinstance(item, pytest.Function) and not _SERVERS.isdisjoint(item.fixturenames):
        item.add_marker("server")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long goes first: at the end one process would wait for the other."""
    items.sort(key=lambda item: HEAVY.isdisjoint(mark.name for mark in item.iter_markers()))


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
