"""What deploy/ asks Prometheus for is there to be had; every file is what its reader takes."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Metric

from app.settings import Settings
from tests.telemetry.promql import Expression, parse
from tests.telemetry.traffic import Hooks, WithJobs, busy, families

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
BOARD = json.loads((DEPLOY / "grafana/dashboards/darkroom.json").read_text(encoding="utf-8"))
RULES = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text(encoding="utf-8"))
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]
TARGETS = [target for panel in BOARD["panels"] for target in panel["targets"]]
OF_THE_TARGET = {"job", "instance", "namespace", "pod"}  # labels that Prometheus adds
OF_PROMETHEUS = {"up"}


@pytest.fixture(scope="module")
def known() -> Iterator[dict[str, set[str]]]:
    """The labels of every sample on the page, by its name."""
    with busy() as (http, _):
        http.app.state.jobs = WithJobs()  # type: ignore[attr-defined]
        http.app.state.webhooks = Hooks()  # type: ignore[attr-defined]
        yield labels_of(families(http))


def labels_of(page: dict[str, Metric]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for family in page.values():
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def check(expression: Expression, known: dict[str, set[str]]) -> None:
    for selector in expression.selectors:
        if selector.metric not in OF_PROMETHEUS:
            assert selector.metric in known, selector.metric
            assert selector.labels <= known[selector.metric] | OF_THE_TARGET, selector
    for labels, selectors in expression.groups:
        for selector in selectors:
            assert labels <= known[selector.metric] | OF_THE_TARGET, (labels, selector)


def test_every_query_of_the_dashboard_asks_for_what_there_is(known: dict[str, set[str]]) -> None:
    assert len(TARGETS) > 20
    for target in TARGETS:
        expression = parse(target["expr"])
        assert expression.selectors
        check(expression, known)
        told = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        there = expression.labels
        if there is None:
            there = frozenset(known[expression.selectors[0].metric]) | OF_THE_TARGET
        assert told <= there, target["expr"]


def test_every_alert_asks_for_what_there_is(known: dict[str, set[str]]) -> None:
    for rule in ALERTS:
        expression = parse(rule["expr"])
        assert expression.selectors
        check(expression, known)
        assert rule["labels"]["severity"] in ("critical", "warning")
        told = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        there = expression.labels
        if there is None:
            there = frozenset(known.get(expression.selectors[0].metric, ())) | OF_THE_TARGET
        assert told <= there, rule


def test_the_autoscaler_goes_by_a_number_that_is_there(known: dict[str, set[str]]) -> None:
    text = (DEPLOY / "kubernetes/hpa.yaml").read_text(encoding="utf-8")
    scaler = yaml.safe_load(text)
    (metric,) = scaler["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert name in known
    assert f"seriesQuery: '{name}" in text
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment()["metadata"]["name"]


@pytest.mark.parametrize(
    "wrong",
    [
        "rate(a_total)",
        "sum by (x (a)",
        "histogram_quantile(0.5, sum by (x) (rate(a_bucket[5m])))",
        'a{b="c}',
        "a b",
        "rate(a[five])",
        "1 +",
    ],
)
def test_the_parser_refuses_what_prometheus_does(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"is|needs|takes|begins"):
        parse(wrong)


def test_the_parser_sees_names_labels_and_groups() -> None:
    found = parse('sum by (a, b) (rate(x_total{c="d", e=~"f.*"}[5m])) / 2 > on (a) y')
    assert [(s.metric, set(s.labels)) for s in found.selectors] == [
        ("x_total", {"c", "e"}),
        ("y", set()),
    ]
    assert [set(labels) for labels, _ in found.groups] == [{"a", "b"}]


def test_the_dashboard_is_one_that_any_grafana_imports() -> None:
    numbers = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    titles = [(panel["type"], panel["title"]) for panel in BOARD["panels"]]
    assert len(set(titles)) == len(titles)
    variables = {each["name"] for each in BOARD["templating"]["list"]}
    assert {"datasource", "model"} <= variables
    for panel in BOARD["panels"]:
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)
        for part in (panel, *panel["targets"]):
            assert part["datasource"]["uid"] == "${datasource}"
        used = set(re.findall(r"\$(\w+)", "".join(target["expr"] for target in panel["targets"])))
        assert used <= variables | {"__rate_interval"}


def test_panels_do_not_overlap() -> None:
    taken = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, panel["title"]
                taken.add((x, y))


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("*.y*ml")), ids=lambda path: path.name)
def test_every_file_is_yaml(path: Path) -> None:
    assert all(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def test_compose_mounts_what_is_there_and_pins_what_it_runs() -> None:
    for name in ("prometheus", "grafana"):
        service = COMPOSE["services"][name]
        assert service["profiles"] == ["metrics"]
        assert re.fullmatch(r"[\w/]+:v?\d+\.\d+\.\d+", service["image"])
        assert service["read_only"] is True
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).is_dir()
                assert volume.endswith(":ro")
            else:
                assert source in COMPOSE["volumes"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    (job, _) = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    host, port = job["static_configs"][0]["targets"][0].split(":")
    assert port == "8000"
    allowed = COMPOSE["services"][host]["environment"]["DARKROOM_ALLOWED_HOSTS"]
    assert f",{host}" in allowed


def deployment() -> dict[str, Any]:
    text = (DEPLOY / "kubernetes/darkroom.yaml").read_text(encoding="utf-8")
    (found,) = (each for each in yaml.safe_load_all(text) if each["kind"] == "Deployment")
    assert isinstance(found, dict)
    return found


def test_the_pod_has_time_to_drain_and_may_do_nothing_else() -> None:
    pod = deployment()["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    given = {each["name"]: each["value"] for each in container["env"]}
    ours = {name.removeprefix("DARKROOM_").lower() for name in given if name.startswith("DARK")}
    assert ours <= set(Settings.model_fields)
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    margin = pod["terminationGracePeriodSeconds"] - pause - int(given["DARKROOM_DRAIN_SECONDS"])
    assert margin >= 5
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    probe = container["startupProbe"]
    load_seconds = Settings.model_fields["load_seconds"].default
    assert probe["periodSeconds"] * probe["failureThreshold"] >= load_seconds
    folders = {each["mountPath"] for each in container["volumeMounts"]}
    assert {given["DARKROOM_STATE_FOLDER"], "/tmp"} == folders
    mounted = {each["name"] for each in container["volumeMounts"]}
    assert mounted == {each["name"] for each in pod["volumes"]}
