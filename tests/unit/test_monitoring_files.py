"""Alert rules and the Grafana dashboard name only metrics and labels that exist."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from promql_parser import VectorSelector
from ruamel.yaml import YAML
from support.metrics import full_page, series
from support.promtool import promtool

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "docs" / "prometheus"
#: Alerts of the specification whose metric no version has yet.
LATER = {"NotifierFailing", "RolloutPaused"}
ALERTS = {
    *("FleetBlind", "AccountsShouldRun", "AccountFailed", "AccountUnknown", "AccountUnhealthy"),
    *("RestartStorm", "AccountFlapping", "HostLost", "ClockSkew", "EquityDrop", "MarginLow", "ConfigHeld"),
}


def read(name: str) -> Any:
    return YAML(typ="safe").load((PROMETHEUS / name).read_text())


RULES = read("rules.yml")["groups"][0]["rules"]
DASHBOARD = json.loads((ROOT / "docs" / "grafana" / "worker-manager.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
PANEL_EXPRESSIONS = [
    (panel["title"], target["expr"].replace("$__rate_interval", "1m"))
    for panel in PANELS
    for target in panel["targets"]
]
EXPRESSIONS = [*((rule["alert"], rule["expr"]) for rule in RULES), *PANEL_EXPRESSIONS]


def labels_of_metrics() -> dict[str, set[str]]:
    """Return the name of every series → the labels that it can have."""
    found: dict[str, set[str]] = {}
    for name, labels in series(full_page()):
        found.setdefault(name, set()).update(key for key, _ in labels)
    return found


KNOWN = labels_of_metrics()


def selectors(expression: Any) -> Iterator[VectorSelector]:
    """Yield every selector in a parsed expression."""
    if isinstance(expression, VectorSelector):
        yield expression
        return
    for name in ("lhs", "rhs", "expr", "vector_selector", "param"):
        child = getattr(expression, name, None)
        if child is not None:
            yield from selectors(child)
    for argument in getattr(expression, "args", None) or ():
        yield from selectors(argument)


def require_known(expression: str) -> None:
    found = list(selectors(promql_parser.parse(expression)))
    assert found, f"{expression} names no metric"
    assert {one.name for one in found} == set(re.findall(r"\bmanager_\w+", expression))
    for one in found:
        assert one.name in KNOWN, f"no page can have {one.name}"
        matched = {matcher.name for matcher in one.matchers.matchers}
        assert matched <= KNOWN[one.name], f"{one.name} has no label {matched - KNOWN[one.name]}"


@pytest.mark.parametrize(("title", "expression"), EXPRESSIONS, ids=lambda text: text[:40])
def test_an_expression_names_only_metrics_and_labels_that_exist(title: str, expression: str) -> None:
    del title
    require_known(expression)


@pytest.mark.parametrize(
    "wrong", ["manager_nothing", "sum(rate(manager_nothing[5m]))", 'manager_host_up{account="a"}', "1 + 1"]
)
def test_an_expression_with_an_unknown_name_is_found(wrong: str) -> None:
    with pytest.raises(AssertionError):
        require_known(wrong)


def test_every_metric_is_on_the_dashboard() -> None:
    text = " ".join(expression for _, expression in PANEL_EXPRESSIONS)
    shown = set(re.findall(r"\bmanager_\w+", text))
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in KNOWN}
    missing = families - {re.sub(r"_bucket$", "", name) for name in shown}
    assert missing == {"manager_build_info"}


def test_the_rules_are_those_of_the_specification() -> None:
    assert {rule["alert"] for rule in RULES} == ALERTS
    page = (ROOT / "docs" / "howto" / "metrics.md").read_text()
    assert {name for name in ALERTS | LATER if name not in page} == set()
    for rule in RULES:
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert set(rule["annotations"]) == {"summary", "action"}


def test_every_alert_has_a_scenario_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    fires: set[str] = set()
    silent: set[str] = set()
    for scenario in read("rules_test.yml")["tests"]:
        for check in scenario["alert_rule_test"]:
            (fires if check["exp_alerts"] else silent).add(check["alertname"])
    assert fires == silent == ALERTS


def test_prometheus_sends_the_token_from_a_file_and_loads_the_rules() -> None:
    config = read("prometheus.yml")
    (scrape,) = config["scrape_configs"]
    assert set(scrape["authorization"]) == {"type", "credentials_file"}
    assert scrape["metrics_path"] == "/metrics"
    assert [(PROMETHEUS / name).exists() for name in config["rule_files"]] == [True]


def test_the_dashboard_is_one_that_grafana_can_load() -> None:
    assert DASHBOARD["uid"] == "worker-manager"
    assert DASHBOARD["schemaVersion"] >= 39
    assert list(VARIABLES) == ["datasource", "environment", "group", "host", "account"]
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Now", "Money", "Health", "Hosts", "Commands", "One account"]
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    for panel in PANELS:
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
    used = set(re.findall(r"\$(\w+)", json.dumps([panel["targets"] for panel in PANELS]))) - {
        "__rate_interval"
    }
    assert used == set(VARIABLES) - {"datasource"}


def test_no_two_panels_lie_on_each_other() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        own = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not own & cells, panel["title"]
        cells |= own


@pytest.mark.parametrize("name", ["environment", "group", "host", "account"])
def test_a_variable_asks_for_a_label_that_exists(name: str) -> None:
    match = re.fullmatch(r"label_values\((.+), (\w+)\)", VARIABLES[name]["definition"])
    assert match is not None
    require_known(match[1])
    metric = re.match(r"\w+", match[1])
    assert metric is not None
    assert match[2] in KNOWN[metric[0]]


needs_promtool = pytest.mark.skipif(
    promtool() is None, reason="no promtool; .ci/promtool prints one for PROMTOOL"
)


@needs_promtool
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "rules.yml"),
        ("test", "rules", "rules_test.yml"),
        ("check", "config", "--syntax-only", "prometheus.yml"),
    ],
    ids=" ".join,
)
def test_promtool_accepts_the_files(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [str(promtool()), *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_accepts_a_page() -> None:
    done = subprocess.run(
        [str(promtool()), "check", "metrics"], input=full_page(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
