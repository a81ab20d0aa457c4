# SPDX-License-Identifier: Apache-2.0
"""The rules: Prometheus takes them, each alert fires, stays silent and clears, and each has its runbook."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import ROOT
from dashboards.promtext import (
    DASHBOARDS,
    RULE_TESTS,
    RULES,
    alerts,
    exported,
    heading,
    matchers,
    records,
    rules,
    run,
    selectors,
    unknown,
)
from homebound.metrics import BY_NAME

RUNBOOKS = (ROOT / "docs/runbooks.md").read_text()
RUNBOOK_BASE = "https://homebound.example/runbooks"
GRAFANA_BASE = "https://homebound.example/grafana"
PARTS = ("Meaning", "First look", "Likely cause", "What to do", "What it cannot tell")
ALERTS = alerts()
KEYS = [(rule["alert"], rule["labels"].get("reason", "")) for rule in ALERTS]


def ids(key: tuple[str, str]) -> str:
    return "-".join(filter(None, key))


def test_promtool_takes_the_rules() -> None:
    status, text = run("promtool", "check", "rules", RULES)
    assert status == 0, text
    assert f"{len(rules())} rules found" in text


def test_promtool_sees_a_planted_fault(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yml"
    bad.write_text(RULES.read_text().replace("== 0\n", "== \n", 1))
    assert run("promtool", "check", "rules", bad)[0] != 0


@pytest.mark.parametrize("file", RULE_TESTS, ids=lambda path: path.stem)
def test_rule_tests(file: Path) -> None:
    status, text = run("promtool", "test", "rules", file)
    assert status == 0, text


def test_a_rule_that_never_fires_fails_its_test(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / RULES.name).write_text(RULES.read_text().replace("training_stopped{", "training_stop{"))
    case = tmp_path / "tests" / "critical.yml"
    case.write_text((RULES.parent / "tests" / "critical.yml").read_text())
    status, text = run("promtool", "test", "rules", case)
    assert status != 0
    assert "HomeboundTrainingStopped" in text


def expectations(file: Path) -> list[list[dict[str, Any]]]:
    """The alert checks of each test of a file, in order of time."""
    return [test["alert_rule_test"] for test in yaml.safe_load(file.read_text())["tests"]]


def made_up_labels(text: str) -> list[str]:
    """The series of a rule test whose labels no device has."""
    found = []
    for name, told in re.findall(r"(homebound_[a-z_]+){(.*)}", text):
        metric = BY_NAME.get(name)
        labels = dict(re.findall(r'([a-z_]+)="([^"]*)"', told))
        if metric and metric.values and tuple(map(labels.get, metric.labels)) not in metric.values:
            found.append(f"{name} {labels}")
    return found


@pytest.mark.parametrize("file", RULE_TESTS, ids=lambda path: path.stem)
def test_rule_tests_speak_of_series_that_there_are(file: Path) -> None:
    texts = [
        series["series"]
        for test in yaml.safe_load(file.read_text())["tests"]
        for series in test["input_series"]
    ]
    assert [fault for text in texts for fault in made_up_labels(text)] == []


def test_a_planted_label_is_made_up() -> None:
    told = 'homebound_violations_total{{job="homebound", role="{}", rule="connect"}}'
    assert made_up_labels(told.format("trainer")) == []
    assert made_up_labels(told.format("guard")) != []


@pytest.mark.parametrize("key", KEYS, ids=ids)
def test_each_alert_fires_is_silent_before_and_clears(key: tuple[str, str]) -> None:
    alert, reason = key
    courses = []
    for checks in (checks for file in RULE_TESTS for checks in expectations(file)):
        fired = (
            any(reason in ("", expected["exp_labels"].get("reason")) for expected in check["exp_alerts"])
            for check in checks
            if check["alertname"] == alert
        )
        courses.append("".join("01"[is_on] for is_on in fired))
    assert any("010" in re.sub(r"(.)\1+", r"\1", course) for course in courses), courses


def test_a_healthy_device_is_asked_for_every_alert() -> None:
    (checks,) = expectations(RULES.parent / "tests" / "healthy.yml")
    assert {check["alertname"] for check in checks} == {alert for alert, _ in KEYS}
    assert not any(check["exp_alerts"] for check in checks)


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("record") or rule["alert"])
def test_each_metric_is_known_and_selected_by_job(rule: dict[str, Any]) -> None:
    assert unknown(rule["expr"]) == []
    for selector in selectors(rule["expr"]):
        if selector.name not in records():
            assert matchers(selector).get("job") == "homebound", selector.name


def test_a_planted_metric_is_unknown() -> None:
    assert unknown('sum(rate(homebound_made_up_total{job="homebound"}[5m]))') == ["homebound_made_up_total"]
    assert unknown('increase(homebound_denied_total{job="homebound"}[10m] offset 5m) > 0') == []
    assert "homebound_denied_total" in exported()


def test_recording_rules_are_named_and_used() -> None:
    text = "".join(path.read_text() for path in [RULES, *DASHBOARDS.glob("*.json")])
    for name in records():
        assert re.fullmatch(r"[a-z_]+:homebound_[a-z_]+:[a-z0-9]+", name), name
        assert text.count(name) > 1, f"{name} is recorded and not used"


@pytest.mark.parametrize("rule", ALERTS, ids=[ids(key) for key in KEYS])
def test_what_an_alert_says(rule: dict[str, Any]) -> None:
    said = rule["annotations"]
    assert re.fullmatch(r"Homebound[A-Z][A-Za-z]+", rule["alert"])
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert set(said) == {"summary", "description", "runbook_url", "dashboard_url"}
    assert said["summary"].endswith(".")
    assert "{{" not in said["summary"], "the summary is the same for all instances"
    assert said["description"].endswith(".")
    assert said["runbook_url"] == f"{RUNBOOK_BASE}#{heading(rule['alert'])}"
    assert said["dashboard_url"].startswith(f"{GRAFANA_BASE}/d/homebound-")


def test_alerts_and_runbooks_are_one_list() -> None:
    headings = re.findall(r"^## (\w+)$", RUNBOOKS, re.MULTILINE)
    assert len(headings) == len(set(headings))
    assert headings == list(dict.fromkeys(alert for alert, _ in KEYS))


@pytest.mark.parametrize("alert", dict.fromkeys(alert for alert, _ in KEYS))
def test_a_runbook_has_all_its_parts(alert: str) -> None:
    page = RUNBOOKS.split(f"## {alert}\n", 1)[1].split("\n## ", 1)[0]
    severity = next(rule["labels"]["severity"] for rule in ALERTS if rule["alert"] == alert)
    assert f"Severity: {severity}." in page
    assert re.findall(r"^\*\*(.+?)\.\*\*", page, re.MULTILINE) == list(PARTS)
    reasons = {reason for name, reason in KEYS if name == alert and reason}
    assert all(f"`{reason}`" in page for reason in reasons)


def test_amtool_takes_the_example(tmp_path: Path) -> None:
    example = DASHBOARDS / "alertmanager.example.yml"
    status, text = run("amtool", "check-config", example)
    assert status == 0, text
    bad = tmp_path / "bad.yml"
    bad.write_text(example.read_text().replace("receiver: homebound-now", "receiver: nobody"))
    assert run("amtool", "check-config", bad)[0] != 0


@pytest.mark.parametrize(
    ("severity", "receiver"),
    [("critical", "homebound-now"), ("warning", "homebound-day"), ("info", "homebound-week")],
)
def test_the_example_routes_by_severity(severity: str, receiver: str) -> None:
    config = f"--config.file={DASHBOARDS / 'alertmanager.example.yml'}"
    status, text = run("amtool", "config", "routes", "test", config, f"severity={severity}", "alertname=X")
    assert (status, text.splitlines()[0]) == (0, receiver)


def test_the_example_inhibits_only_alerts_that_are_there() -> None:
    document = yaml.safe_load((DASHBOARDS / "alertmanager.example.yml").read_text())
    named = set(re.findall(r"Homebound\w+", str(document["inhibit_rules"])))
    assert named
    assert named <= {alert for alert, _ in KEYS}


def test_promtool_takes_the_example_config() -> None:
    example = DASHBOARDS / "prometheus.example.yml"
    status, text = run("promtool", "check", "config", "--syntax-only", example)
    assert status == 0, text
    for entry in yaml.safe_load(example.read_text())["scrape_configs"]:
        labels = [group["labels"] for group in entry["static_configs"]]
        assert {group.get("job", entry["job_name"]) for group in labels} == {"homebound"}
        assert all(group["instance"] for group in labels)
