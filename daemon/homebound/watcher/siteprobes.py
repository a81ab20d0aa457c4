# SPDX-License-Identifier: Apache-2.0
"""Metrics of the site's own probes: read from their maps at scrape, by names that the site gave.

These alone are not declared in metrics.py; their names all begin with homebound_site_, and the supervisor
has bounded how many series they are. May import: kernel.maps, kernel.siteplan.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family

from homebound.kernel import maps
from homebound.kernel.siteplan import SiteMetric, metric_from

# Descriptor of a map and how many elements -> their values.
Read = Callable[[int, int], Sequence[int]]


@dataclass(frozen=True)
class Source:
    """One metric and the descriptor of its map."""

    metric: SiteMetric
    fd: int


class Collector:
    """Asked by the registry at each scrape. ``failed`` is called for a map that cannot be read."""

    def __init__(
        self, sources: Sequence[Source], failed: Callable[[], None], read: Read = maps.read_counts
    ) -> None:
        self._sources, self._failed, self._read = sources, failed, read

    def describe(self) -> list[Family]:
        """Nothing: the names are read at scrape."""
        return []

    def collect(self) -> Iterator[Family]:
        """One family a metric."""
        for source in self._sources:
            try:
                values = self._read(source.fd, source.metric.elements())
            except (OSError, LookupError):
                self._failed()
                continue
            yield family(source.metric, values)


def sources(document: Mapping[str, Any]) -> list[Source]:
    """What the supervisor told of metrics, each with its map's descriptor in place of the map's name."""
    return [Source(metric_from(entry), entry["map"]) for entry in document.get("metrics", ())]


def family(metric: SiteMetric, values: Sequence[int]) -> Family:
    """The metric with a sample for each combination of labels."""
    labels = [label for label, _ in metric.labels]
    if metric.type == "histogram":
        return _histogram(metric, labels, values)
    kind = CounterMetricFamily if metric.type == "counter" else GaugeMetricFamily
    found = kind(metric.name, metric.help, labels=labels)
    for combination, value in zip(metric.combinations(), values, strict=True):
        found.add_metric(combination, value * metric.unit)
    return found


def _histogram(metric: SiteMetric, labels: list[str], values: Sequence[int]) -> Family:
    """Slot i holds what is at most 2**i units, the last one all that is more; then comes the sum."""
    found = HistogramMetricFamily(metric.name, metric.help, labels=labels)
    width = metric.slots + 1
    for index, combination in enumerate(metric.combinations()):
        *slots, total = values[index * width : (index + 1) * width]
        bounds = [f"{metric.unit * 2**slot:.12g}" for slot in range(metric.slots - 1)]
        running = list(itertools.accumulate(slots))
        buckets = [*zip(bounds, running, strict=False), ("+Inf", running[-1])]
        found.add_metric(combination, buckets, sum_value=total * metric.unit)
    return found
