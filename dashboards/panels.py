# SPDX-License-Identifier: Apache-2.0
"""Panels as both dashboards use them: each has a title, a description, a unit and queries on one data source.

Built on grafana-foundation-sdk 0.0.21, which writes the classic JSON (schema 42) that Grafana 10 to 13 read.
Only panel types that every Grafana has built in: time series, stat, bar gauge, table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models.common import (
    BarGaugeDisplayMode,
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    DataSourceRef,
    GraphDrawStyle,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    DataTransformerConfig,
    DynamicConfigValue,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = DataSourceRef("prometheus", "${datasource}")
# What every selector has: the devices that were picked at the top of the page.
HERE = 'job=~"$job", instance=~"$instance"'

# The time that is shown, and the shortest time over which a rate has enough scrapes.
RANGE, RATE = "$__range", "$__rate_interval"

Words = Mapping[str, tuple[str, str]]  # value -> text, colour
YES_NO: Words = {"1": ("yes", "green"), "0": ("no", "red")}
# A role has one colour in all panels, whatever its place in the legend.
ROLE_COLOURS: Mapping[str, str] = {
    "trainer": "red", "guard": "orange", "gateway": "blue", "watcher": "green", "supervisor": "purple",
    "canary": "yellow", "none": "text",
}  # fmt: skip
BAD_FROM_ONE = ((None, "green"), (1.0, "red"))


@dataclass(frozen=True)
class Query:
    """One query. ``unit``, ``words``, ``steps``, ``decimals``, ``link``: how its values are shown, where they
    differ."""

    expr: str
    legend: str
    unit: str = ""
    words: Words | None = None
    steps: tuple[tuple[float | None, str], ...] = ()
    decimals: int | None = None
    link: str = ""


@dataclass(frozen=True)
class Panel:
    """What all panels have. ``width`` in 24ths of the page, ``height`` in lines of 30 pixels."""

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    width: int = 8
    height: int = 8


def grown(counter: str, by: str = "", window: str = RATE, more: str = "") -> str:
    """How much a counter grew, summed by labels; ``more``: another matcher."""
    return _summed("increase", counter, by, window, more)


def speed(counter: str, by: str = "", window: str = RATE, more: str = "") -> str:
    """How much a counter grew each second, summed by labels."""
    return _summed("rate", counter, by, window, more)


def _summed(function: str, counter: str, by: str, window: str, more: str) -> str:
    here = f"{HERE}, {more}" if more else HERE
    return f"sum{f' by ({by})' if by else ''} ({function}({counter}{{{here}}}[{window}]))"


def lines(panel: Panel, *, stacked: bool = False, least: float | None = 0) -> timeseries.Panel:
    """Values over time, a line each; as bars on top of one another with ``stacked``."""
    made = (
        timeseries.Panel()
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
        .line_width(1)
        .fill_opacity(60 if stacked else 8)
    )
    if least is not None:
        made.min(least)
    if stacked:
        made.draw_style(GraphDrawStyle.BARS)
        made.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    _dress(made, panel)
    for query, ref in _named(panel):
        made.with_target(_target(query, ref).range())
    if any(query.legend == "{{role}}" for query in panel.queries):
        for role, colour in ROLE_COLOURS.items():
            made.override_by_name(
                role, [DynamicConfigValue("color", {"mode": "fixed", "fixedColor": colour})]
            )
    return made


def values(
    panel: Panel, *, steps: Sequence[tuple[float | None, str]] = (), words: Words | None = None
) -> stat.Panel:
    """The newest values, large."""
    made = (
        stat.Panel()
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .graph_mode(BigValueGraphMode.NONE)
        .color_mode(BigValueColorMode.VALUE)
        .text_mode(BigValueTextMode.VALUE_AND_NAME if len(panel.queries) > 1 else BigValueTextMode.VALUE)
        .orientation(VizOrientation.HORIZONTAL if len(panel.queries) > 1 else VizOrientation.AUTO)
        .thresholds(_thresholds(steps or ((None, "text"),)))
    )
    if words:
        made.mappings([_mapping(words)])
    if len(panel.queries) > 1:  # else each panel of a row of them would choose another size
        made.text(common.VizTextDisplayOptions().title_size(15).value_size(20))
    _dress(made, panel)
    _count(made, panel)
    for query, ref in _named(panel):
        made.with_target(_target(query, ref).instant())
        if properties := _properties(query):
            made.override_by_query(ref, properties)
    return made


def bars(panel: Panel, *, steps: Sequence[tuple[float | None, str]] = ()) -> bargauge.Panel:
    """The newest values, a bar each."""
    made = (
        bargauge.Panel()
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .orientation(VizOrientation.HORIZONTAL)
        .display_mode(BarGaugeDisplayMode.BASIC)
        .text(common.VizTextDisplayOptions().title_size(13).value_size(15))
        .max_viz_height(32)
        .min(0)
        .thresholds(_thresholds(steps or ((None, "blue"),)))
    )
    _dress(made, panel)
    _count(made, panel)
    for query, ref in _named(panel):
        made.with_target(_target(query, ref).instant())
    return made


def rows(
    panel: Panel,
    *,
    key: str,
    columns: Mapping[str, str],
    worst: str,
    looks: Mapping[str, Query],
    least_first: bool = False,
) -> table.Panel:
    """A table: the queries' answers joined by the label ``key``. ``columns`` names and orders what is shown,
    ``worst`` is the column that it is sorted by, most first unless ``least_first``, ``looks`` how a column is
    shown."""
    order = {name: place for place, name in enumerate(columns)}
    made = (
        table.Panel()
        .thresholds(_thresholds(((None, "text"),)))
        .min_width(70)
        .sort_by([common.TableSortByFieldState().display_name(worst).desc(not least_first)])
    )
    if len(panel.queries) > 1:
        made.with_transformation(
            DataTransformerConfig("joinByField", options={"byField": key, "mode": "outer"})
        )
    made.with_transformation(
        DataTransformerConfig(
            "organize",
            options={
                "indexByName": order,
                "renameByName": {name: text for name, text in columns.items() if text != name},
                "includeByName": dict.fromkeys(columns, True),
                "excludeByName": {},
            },
        )
    )
    _dress(made, panel)
    _count(made, panel)
    for query, ref in _named(panel):
        made.with_target(_target(query, ref).instant().format(PromQueryFormat.TABLE))
    for name, query in looks.items():
        made.override_by_name(name, _properties(query) + _coloured(query))
    return made


def board(uid: str, title: str, description: str, other: tuple[str, str]) -> dashboard.Dashboard:
    """An empty dashboard with our variables, our alerts as marks, and a link to the ``other`` one."""
    job = _variable("job", "Job", "label_values(homebound_build_info, job)")
    instance = _variable("instance", "Instance", 'label_values(homebound_build_info{job=~"$job"}, instance)')
    marks = (
        dashboard.AnnotationQuery()
        .name("Alerts")
        .datasource(SOURCE)
        .enable(True)
        .icon_color("red")
        .expr(f'ALERTS{{alertstate="firing", alertname=~"Homebound.+", {HERE}}}')
        .title_format("{{ alertname }}")
        .text_format("{{ instance }} {{ role }} {{ rule }}")
        .tag_keys("severity")
    )
    link = dashboard.DashboardLink(other[0]).url(f"/d/{other[1]}").include_vars(True).keep_time(True)
    return (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["homebound"])
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .readonly()
        .link(link)
        .annotation(marks)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(job)
        .with_variable(instance)
    )


def _variable(name: str, label: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".+")
    )


def _dress(made: Any, panel: Panel) -> None:
    made.title(panel.title).description(panel.description).unit(panel.unit).datasource(SOURCE)
    made.span(panel.width).height(panel.height)


def _count(made: Any, panel: Panel) -> None:
    """increase() reckons beyond the scrapes that it has and gives 23.2 for 23; a count has no fractions."""
    if panel.unit == "short":
        made.decimals(0)


def _coloured(query: Query) -> list[DynamicConfigValue]:
    """A table colours text only where it is told to."""
    if not query.words and not query.steps:
        return []
    return [DynamicConfigValue("custom.cellOptions", {"type": "color-text"})]


def _named(panel: Panel) -> list[tuple[Query, str]]:
    return [(query, chr(ord("A") + number)) for number, query in enumerate(panel.queries)]


def _target(query: Query, ref: str) -> prometheus.Dataquery:
    made = prometheus.Dataquery().expr(query.expr).ref_id(ref).datasource(SOURCE)
    return made.legend_format(query.legend)


def _thresholds(steps: Sequence[tuple[float | None, str]]) -> dashboard.ThresholdsConfig:
    made = [Threshold(value=value, color=colour) for value, colour in steps]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(made)


def _mapping(words: Words) -> ValueMap:
    return ValueMap({
        value: ValueMappingResult(text=text, color=colour, index=place)
        for place, (value, (text, colour)) in enumerate(words.items())
    })  # fmt: skip


def _properties(query: Query) -> list[DynamicConfigValue]:
    found: list[DynamicConfigValue] = []
    if query.unit:
        found.append(DynamicConfigValue("unit", query.unit))
    if query.decimals is not None:
        found.append(DynamicConfigValue("decimals", query.decimals))
    if query.link:
        found.append(DynamicConfigValue("links", [{"title": "Open", "url": query.link}]))
    if query.words:
        found.append(DynamicConfigValue("mappings", [_mapping(query.words)]))
    if query.steps:
        steps = [Threshold(value=value, color=colour) for value, colour in query.steps]
        found.append(DynamicConfigValue("thresholds", {"mode": "absolute", "steps": steps}))
        found.append(DynamicConfigValue("color", {"mode": "thresholds"}))
    return found
