# SPDX-License-Identifier: Apache-2.0
"""What a site says of a probe of its own, NAME.toml beside NAME.c: which map becomes which metric. Pure,
but for the look into a folder.

Only arrays become metrics, because only of them is the number of series known before anything runs: element
i has the i-th combination of label values. A histogram's elements are, for each combination, slots in powers
of two and then the sum of all values. May import: errors. docs/probes.md tells it to operators.
"""

from __future__ import annotations

import itertools
import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from homebound.errors import HomeboundError

Kind = Literal["counter", "gauge", "histogram"]
KINDS: tuple[Kind, ...] = ("counter", "gauge", "histogram")
PREFIX = "homebound_site_"
NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")
LABEL_VALUE = re.compile(r"[ -~]{1,48}")
ROLES = ("supervisor", "watcher", "trainer", "guard", "gateway")
SLOTS_MAX = 40
# Of all probes of a device together; what is beyond is cut and counted.
SERIES_MAX = 100
PROBES_MAX = 16
# Ours, of the same beginning.
RESERVED = frozenset({"probe_loaded", "series_cut"})
TOP_KEYS = frozenset({"cgroup", "metric"})
METRIC_KEYS = frozenset({"map", "name", "type", "help", "unit", "slots", "labels"})


class SiteProbeError(HomeboundError):
    """A probe of the site is refused, does not compile or does not load."""


@dataclass(frozen=True)
class SiteMetric:
    """One metric. ``unit``: what 1 in the map is in the metric's unit. ``slots``: of a histogram."""

    map: str
    name: str
    type: Kind
    help: str
    unit: float
    slots: int
    labels: tuple[tuple[str, tuple[str, ...]], ...]

    def combinations(self) -> list[tuple[str, ...]]:
        """Label values, in the order of the map's elements."""
        return list(itertools.product(*(values for _, values in self.labels)))

    def elements(self) -> int:
        """How long the map must be."""
        return len(self.combinations()) * (self.slots + 1 if self.type == "histogram" else 1)

    def series(self) -> int:
        """How many series this is for Prometheus: a histogram has a sum and a count besides."""
        return len(self.combinations()) * (self.slots + 2 if self.type == "histogram" else 1)


@dataclass(frozen=True)
class Plan:
    """A probe's file. ``cgroup``: the role whose cgroup its programs for cgroups hang on, "" for all."""

    name: str
    cgroup: str
    metrics: tuple[SiteMetric, ...]


def parse(name: str, text: str) -> Plan:
    """Raises SiteProbeError with the first fault."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _fault(name, str(error)) from None
    if unknown := sorted(set(document) - TOP_KEYS):
        raise _fault(name, f"{unknown[0]} is not a key")
    cgroup = document.get("cgroup", "")
    if cgroup not in ("", *ROLES):
        raise _fault(name, f"cgroup is none of {', '.join(ROLES)}")
    entries = document.get("metric", [])
    if not isinstance(entries, list) or not entries:
        raise _fault(name, "there is no [[metric]]")
    metrics = tuple(_metric(name, entry) for entry in entries)
    names = [metric.name for metric in metrics]
    if len(set(names)) < len(names):
        raise _fault(name, "two metrics have the same name")
    return Plan(name, cgroup, metrics)


def names(folder: Path) -> list[str]:
    """Probes of a folder, in the order of their names: whatever has a .c or a .toml."""
    try:
        found = {path.stem for path in folder.iterdir() if path.suffix in (".c", ".toml")}
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(found)[:PROBES_MAX]


def from_document(document: Iterable[Mapping[str, Any]]) -> Iterator[Plan]:
    """Plans that were written as JSON."""
    for entry in document:
        yield Plan(entry["name"], entry["cgroup"], tuple(metric_from(metric) for metric in entry["metrics"]))


def metric_from(document: Mapping[str, Any]) -> SiteMetric:
    """A metric that was written as JSON."""
    labels = tuple((label, tuple(values)) for label, values in document["labels"])
    return SiteMetric(**{**document, "labels": labels})


def cut(plans: tuple[Plan, ...], limit: int = SERIES_MAX) -> tuple[tuple[Plan, ...], int]:
    """The plans without the metrics that go beyond the ceiling, and how many series those would be."""
    left, lost, kept = limit, 0, []
    for plan in plans:
        metrics = []
        for metric in plan.metrics:
            if metric.series() <= left:
                left -= metric.series()
                metrics.append(metric)
            else:
                lost += metric.series()
        kept.append(Plan(plan.name, plan.cgroup, tuple(metrics)))
    return tuple(kept), lost


def _metric(probe: str, entry: Any) -> SiteMetric:
    if not isinstance(entry, dict):
        raise _fault(probe, "a [[metric]] is a table")
    if unknown := sorted(set(entry) - METRIC_KEYS):
        raise _fault(probe, f"metric.{unknown[0]} is not a key")
    text = {key: entry.get(key, "") for key in ("map", "name", "help")}
    for key, value in text.items():
        pattern = LABEL_VALUE if key == "help" else NAME
        if not isinstance(value, str) or not (pattern.fullmatch(value) or (key == "help" and value)):
            raise _fault(probe, f"metric.{key} is missing or no such text")
    kind = entry.get("type", "counter")
    if kind not in KINDS:
        raise _fault(probe, f"metric.type is none of {', '.join(KINDS)}")
    if text["name"] in RESERVED or (kind == "counter") != text["name"].endswith("_total"):
        raise _fault(probe, "metric.name is taken, or a counter without _total, or no counter and with it")
    unit = entry.get("unit", 1.0)
    if isinstance(unit, bool) or not isinstance(unit, int | float) or not (math.isfinite(unit) and unit > 0):
        raise _fault(probe, "metric.unit is no number above 0")
    slots = entry.get("slots", 0)
    if isinstance(slots, bool) or not isinstance(slots, int):
        raise _fault(probe, "metric.slots is no whole number")
    if not (1 <= slots <= SLOTS_MAX if kind == "histogram" else slots == 0):
        raise _fault(probe, f"metric.slots is for a histogram, from 1 to {SLOTS_MAX}")
    full = f"{PREFIX}{text['name']}"
    return SiteMetric(text["map"], full, kind, text["help"], float(unit), slots, _labels(probe, entry))


def _labels(probe: str, entry: Mapping[str, Any]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    found = []
    labels = entry.get("labels", {})
    if not isinstance(labels, dict):
        raise _fault(probe, "metric.labels is a table of lists")
    for label, values in labels.items():
        if not NAME.fullmatch(label) or label in ("le", "quantile", "job", "instance"):
            raise _fault(probe, f"{label} cannot be a label")
        if not isinstance(values, list) or not values or len(set(map(str, values))) < len(values):
            raise _fault(probe, f"label {label} wants a list of different values")
        if not all(isinstance(value, str) and LABEL_VALUE.fullmatch(value) for value in values):
            raise _fault(probe, f"label {label} has a value that is no short text")
        found.append((label, tuple(values)))
    return tuple(found)


def _fault(probe: str, what: str) -> SiteProbeError:
    return SiteProbeError(f"{probe}.toml: {what}", "docs/probes.md says what may stand there")
