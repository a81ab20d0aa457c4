# SPDX-License-Identifier: Apache-2.0
"""What Grafana's dashboard linter asks of a dashboard, rule by rule, on the JSON; and a few rules of ours.

A rule is a function from a dashboard to the problems found. What is excused stands in EXCUSED with a reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import promql_parser as promql

from dashboards.promtext import matchers, selectors, unknown
from homebound.metrics import BY_NAME

Board = Mapping[str, Any]
# (rule, panel) -> why.
EXCUSED: Mapping[tuple[str, str], str] = {}
VARIABLES = {"$__rate_interval": "5m", "$__range": "1h", "$job": "homebound", "$instance": ".+"}
PANELS = ("timeseries", "stat", "bargauge", "table")


def panels(board: Board) -> Iterator[dict[str, Any]]:
    """All panels but rows."""
    yield from (panel for panel in board["panels"] if panel["type"] != "row")


def targets(board: Board) -> Iterator[tuple[str, str]]:
    """Panel title and PromQL of every query."""
    for panel in panels(board):
        yield from ((panel["title"], target["expr"]) for target in panel.get("targets", ()))


def plain(expr: str) -> str:
    """PromQL with Grafana's variables filled in."""
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    return expr


def variable(board: Board, name: str) -> dict[str, Any]:
    return next((entry for entry in board["templating"]["list"] if entry["name"] == name), {})


def template_datasource(board: Board) -> Iterator[str]:
    found = [entry for entry in board["templating"]["list"] if entry["type"] == "datasource"]
    if [(entry["name"], entry["query"]) for entry in found] != [("datasource", "prometheus")]:
        yield "there must be one variable datasource of type prometheus"


def _template(board: Board, name: str) -> Iterator[str]:
    wanted = {"type": "query", "multi": True, "includeAll": True, "allValue": ".+", "refresh": 2}
    found = variable(board, name)
    for key, value in wanted.items():
        if found.get(key) != value:
            yield f"variable {name}: {key} is {found.get(key)}, not {value}"
    if found.get("label") != name.title():
        yield f"variable {name}: label is {found.get('label')}"
    if found.get("datasource", {}).get("uid") != "${datasource}":
        yield f"variable {name} does not use the data source variable"


def template_job(board: Board) -> Iterator[str]:
    yield from _template(board, "job")


def template_instance(board: Board) -> Iterator[str]:
    yield from _template(board, "instance")


def panel_datasource(board: Board) -> Iterator[str]:
    for panel in panels(board):
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        if any(source["uid"] != "${datasource}" for source in sources):
            yield f"{panel['title']}: a fixed data source"


def panel_title_description(board: Board) -> Iterator[str]:
    for panel in panels(board):
        if not panel.get("title") or not panel.get("description", "").endswith("."):
            yield f"{panel.get('title')}: no title, or a description that is no sentence"


def panel_units(board: Board) -> Iterator[str]:
    for panel in panels(board):
        if not panel["fieldConfig"]["defaults"].get("unit"):
            yield f"{panel['title']}: no unit"


def panel_no_targets(board: Board) -> Iterator[str]:
    for panel in panels(board):
        if not panel.get("targets"):
            yield f"{panel['title']}: no query"


def target_promql(board: Board) -> Iterator[str]:
    for title, expr in targets(board):
        try:
            promql.parse(plain(expr))
        except ValueError as error:
            yield f"{title}: {error}"


def target_rate_interval(board: Board) -> Iterator[str]:
    for title, expr in targets(board):
        for window in re.findall(r"\[([^\]]+)\]", expr):
            if window not in ("$__rate_interval", "$__range"):
                yield f"{title}: a fixed window {window}"


def _target_matches(board: Board, label: str) -> Iterator[str]:
    for title, expr in targets(board):
        for found in selectors(expr.replace("$__rate_interval", "5m").replace("$__range", "1h")):
            operators = {entry.name: str(entry.op) for entry in found.matchers.matchers}
            is_regular = operators.get(label, "").endswith("Re")
            if matchers(found).get(label) != f"${label}" or not is_regular:
                yield f'{title}: {found.name} has no {label}=~"${label}"'


def target_job(board: Board) -> Iterator[str]:
    yield from _target_matches(board, "job")


def target_instance(board: Board) -> Iterator[str]:
    yield from _target_matches(board, "instance")


def target_counter_agg(board: Board) -> Iterator[str]:
    for title, expr in targets(board):
        bare = re.sub(r"(rate|increase)\(homebound_\w+", "", expr)
        for name in re.findall(r"homebound_\w+", bare):
            metric = BY_NAME.get(re.sub(r"_(bucket|sum|count)$", "", name)) or BY_NAME.get(name)
            if metric is not None and metric.type != "gauge":
                yield f"{title}: the counter {name} is used without rate() or increase()"


def target_metrics_known(board: Board) -> Iterator[str]:
    for title, expr in targets(board):
        yield from (f"{title}: nobody exports {name}" for name in unknown(plain(expr)))


def target_legend(board: Board) -> Iterator[str]:
    for panel in panels(board):
        if panel["type"] != "table" and not all(target.get("legendFormat") for target in panel["targets"]):
            yield f"{panel['title']}: a query without a legend"


def board_form(board: Board) -> Iterator[str]:
    """Accepted everywhere: a fixed uid, no id, built-in panels only, nothing of one site."""
    if board.get("id") is not None or "__inputs" in board or not board.get("uid"):
        yield "id or __inputs are set, or uid is not"
    if board["schemaVersion"] not in (41, 42) or board.get("editable") is not False:
        yield "schema or editable"
    if board["tags"] != ["homebound"] or not board.get("refresh") or not board.get("time"):
        yield "tags, refresh or time"
    for panel in panels(board):
        if panel["type"] not in PANELS or "libraryPanel" in panel:
            yield f"{panel['title']}: not a panel that every Grafana has"


def board_grid(board: Board) -> Iterator[str]:
    """No two panels on one spot, none beyond the page."""
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        spots = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        if spots & taken or place["x"] + place["w"] > 24:
            yield f"{panel['title']}: lies on another panel, or beyond the page"
        taken |= spots


Rule = Callable[[Board], Iterator[str]]
RULES: tuple[Rule, ...] = (
    template_datasource, template_job, template_instance, panel_datasource, panel_title_description,
    panel_units, panel_no_targets, target_promql, target_rate_interval, target_job, target_instance,
    target_counter_agg, target_metrics_known, target_legend, board_form, board_grid,
)  # fmt: skip


def problems(rule: Rule, board: Board) -> list[str]:
    """What a rule finds and nobody excused."""
    return [text for text in rule(board) if (rule.__name__, text.split(":")[0]) not in EXCUSED]
