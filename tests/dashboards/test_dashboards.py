# SPDX-License-Identifier: Apache-2.0
"""The committed dashboards: as build.py makes them, clean by the linter's rules, each metric exported."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import ROOT
from dashboards import lint
from dashboards.promtext import DASHBOARDS
from homebound.metrics import METRICS

NAMES = ("host", "fleet")


def load(name: str) -> dict[str, Any]:
    board: dict[str, Any] = json.loads((DASHBOARDS / f"{name}.json").read_text())
    return board


def test_what_is_committed_is_what_build_makes(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "dashboards.build", str(tmp_path)]
    subprocess.run(words, cwd=ROOT, check=True)
    for name in NAMES:
        made = (tmp_path / f"{name}.json").read_text()
        assert made == (DASHBOARDS / f"{name}.json").read_text(), "run make dashboards"
    for name in ("metrics.md", "settings.md", "alerts.md"):
        page = (tmp_path / name).read_text()
        assert page == (ROOT / "docs" / name).read_text(), "run make dashboards"
    page = (tmp_path / "metrics.md").read_text()
    for metric in METRICS:
        assert f"| `{metric.name}` | {metric.type} |" in page
        assert metric.help in page


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rule", lint.RULES, ids=lambda rule: rule.__name__)
def test_rule(rule: lint.Rule, name: str) -> None:
    assert lint.problems(rule, load(name)) == []


def _first(board: dict[str, Any]) -> dict[str, Any]:
    panel: dict[str, Any] = next(panel for panel in board["panels"] if panel["type"] == "timeseries")
    return panel


def _query(board: dict[str, Any], expr: str) -> None:
    _first(board)["targets"][0]["expr"] = expr


HERE = 'job=~"$job", instance=~"$instance"'
PLANTED: dict[str, Callable[[dict[str, Any]], object]] = {
    "template_datasource": lambda board: board["templating"]["list"].pop(0),
    "template_job": lambda board: board["templating"]["list"][1].update(multi=False),
    "template_instance": lambda board: board["templating"]["list"][2].update(allValue=""),
    "panel_datasource": lambda board: _first(board)["datasource"].update(uid="abc"),
    "panel_title_description": lambda board: _first(board).update(description=""),
    "panel_units": lambda board: _first(board)["fieldConfig"]["defaults"].pop("unit"),
    "panel_no_targets": lambda board: _first(board).update(targets=[]),
    "target_promql": lambda board: _query(board, "sum(("),
    "target_rate_interval": lambda board: _query(board, f"rate(homebound_events_total{{{HERE}}}[5m])"),
    "target_job": lambda board: _query(board, 'homebound_enforce{instance=~"$instance"}'),
    "target_instance": lambda board: _query(board, 'homebound_enforce{job=~"$job", instance="$instance"}'),
    "target_counter_agg": lambda board: _query(board, f"sum(homebound_events_total{{{HERE}}})"),
    "target_metrics_known": lambda board: _query(board, f"homebound_made_up{{{HERE}}}"),
    "target_legend": lambda board: _first(board)["targets"][0].update(legendFormat=""),
    "board_form": lambda board: board.update(id=23),
    "board_grid": lambda board: _first(board)["gridPos"].update(y=0),
}


@pytest.mark.parametrize("rule", lint.RULES, ids=lambda rule: rule.__name__)
def test_rule_sees_a_planted_fault(rule: lint.Rule) -> None:
    board = copy.deepcopy(load("host"))
    PLANTED[rule.__name__](board)
    assert lint.problems(rule, board)


def test_every_metric_is_looked_at_somewhere() -> None:
    """What no panel and no alert uses is a series for nothing."""
    texts = [(DASHBOARDS / f"{name}.json").read_text() for name in NAMES]
    texts.append((DASHBOARDS / "rules" / "homebound.rules.yml").read_text())
    used = set(re.findall(r"homebound_[a-z_]+", "".join(texts)))
    unused = {
        metric.name
        for metric in METRICS
        if not {metric.name, *(f"{metric.name}_{part}" for part in ("bucket", "sum", "count"))} & used
    }
    # Facts for a person who looks into one device, not for a screen.
    assert unused == {"homebound_kernel_feature", "homebound_reports_malformed_total"}


def test_the_two_dashboards_link_to_each_other() -> None:
    host, fleet = load("host"), load("fleet")
    assert [link["url"] for link in host["links"]] == [f"/d/{fleet['uid']}"]
    assert [link["url"] for link in fleet["links"]] == [f"/d/{host['uid']}"]
    for board in (host, fleet):
        marks = [entry for entry in board["annotations"]["list"] if "ALERTS" in str(entry.get("expr"))]
        assert len(marks) == 1


def test_provisioning_and_compose_fit_together() -> None:
    providers = yaml.safe_load((DASHBOARDS / "provisioning/dashboards/homebound.yml").read_text())
    sources = yaml.safe_load((DASHBOARDS / "provisioning/datasources/homebound.yml").read_text())
    compose = yaml.safe_load((DASHBOARDS / "compose.yml").read_text())
    volumes = [volume for service in compose["services"].values() for volume in service["volumes"]]
    paths = {volume.split(":")[0]: volume.split(":")[1] for volume in volumes}
    folder = providers["providers"][0]["options"]["path"]
    assert {paths["./host.json"], paths["./fleet.json"]} == {f"{folder}/{name}.json" for name in NAMES}
    assert all((DASHBOARDS / path).exists() for path in paths if path.startswith("./"))
    assert sources["datasources"][0]["type"] == "prometheus"
    for service in compose["services"].values():
        assert re.fullmatch(r"[a-z]+/[a-z]+:v?\d+\.\d+\.\d+", service["image"])
        assert any(
            "127.0.0.1" in str(word) for word in [*service.get("command", ()), service.get("environment")]
        )
