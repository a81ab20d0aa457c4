# SPDX-License-Identifier: Apache-2.0
"""The declared metrics (metrics.py) on a registry of our own, and the application that serves it.

Kernel counters and usage are read at scrape through collect(); there is no second copy of them to drift.
What happened in this process is counted as it happens. A source that cannot be read leaves a gap and an
error count, never a made-up zero. May import: metrics.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    make_wsgi_app,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family

from homebound.metrics import BY_NAME, METRICS, Combination, Metric, Reader, Readings, Source

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

OWN = frozenset({"process_start_time_seconds", "process_resident_memory_bytes"})


class Metrics:
    """The metrics of one watcher on ``registry``. ``readers``: one for each source that is read at scrape."""

    def __init__(
        self,
        registry: CollectorRegistry,
        readers: Mapping[Source, Reader],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        # client_python adds a _created sample to each counter; it doubles the series and tells nothing.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._readers = readers
        self._clock = clock
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        registry.register(self)  # before the counters: an error in this scrape shows in this scrape
        for metric in METRICS:
            if metric.source == "counted":
                self._declare(metric, registry)

    def add(self, name: str, *labels: str, by: float = 1) -> None:
        """Count. Raises KeyError for a combination that is not declared."""
        self._check(name, labels)
        counter = self._counters[name]
        (counter.labels(*labels) if labels else counter).inc(by)

    def set(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge. Raises KeyError for a combination that is not declared."""
        self._check(name, labels)
        gauge = self._gauges[name]
        (gauge.labels(*labels) if labels else gauge).set(value)

    def observe(self, name: str, value: float) -> None:
        """Put a value into a histogram."""
        self._histograms[name].observe(value)

    def collect(self) -> Iterator[Family]:
        """What the readers find now; called by the registry at each scrape."""
        began = self._clock()
        for source, reader in self._readers.items():
            try:
                readings = reader()
            except (OSError, ValueError, LookupError):
                self.add("homebound_collect_errors_total")
                continue
            yield from (
                _histogram(metric, readings)
                if metric.type == "histogram"
                else _family(metric, readings.get(metric.name, {}))
                for metric in METRICS
                if metric.source == source
            )
        took: Mapping[Combination, float] = {(): self._clock() - began}
        yield _family(BY_NAME["homebound_collect_seconds"], took)

    def _declare(self, metric: Metric, registry: CollectorRegistry) -> None:
        text, labels = metric.help, metric.labels
        if metric.type == "histogram":
            self._histograms[metric.name] = Histogram(
                metric.name, text, registry=registry, buckets=metric.buckets
            )
            return
        made: Counter | Gauge
        if metric.type == "counter":
            made = self._counters[metric.name] = Counter(metric.name, text, labels, registry=registry)
        else:
            made = self._gauges[metric.name] = Gauge(metric.name, text, labels, registry=registry)
        for combination in metric.values:
            if combination:
                made.labels(*combination)

    def _check(self, name: str, labels: Combination) -> None:
        metric = BY_NAME[name]
        if metric.values and labels not in metric.values:
            raise KeyError(f"{name} has no labels {labels}")


def application(registry: CollectorRegistry) -> WSGIApplication:
    """The WSGI application that serves ``registry``, with this process's own figures beside ours."""
    registry.register(_OwnFigures(ProcessCollector(registry=None)))
    return make_wsgi_app(registry)


@dataclass(frozen=True)
class _OwnFigures:
    """Of this process: what alerts and dashboards ask for. The rest is among the figures of the roles."""

    found: ProcessCollector

    def collect(self) -> Iterator[Family]:
        """At each scrape."""
        return (family for family in self.found.collect() if family.name in OWN)


def _histogram(metric: Metric, readings: Readings) -> Family:
    """Out of NAME_bucket, whose last label is the bound and which holds them in order, and NAME_sum."""
    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    buckets = readings.get(f"{metric.name}_bucket", {})
    for labels, total in readings.get(f"{metric.name}_sum", {}).items():
        mine = [(key[-1], count or 0.0) for key, count in buckets.items() if key[:-1] == labels]
        family.add_metric(labels, mine, sum_value=total)
    return family


def _family(metric: Metric, reading: Mapping[Combination, float | None]) -> Family:
    """All declared combinations, 0 where the reading has none; one outside of them only if it is not 0."""
    kind = CounterMetricFamily if metric.type == "counter" else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    beyond = {labels: value for labels, value in reading.items() if value and labels not in metric.values}
    for labels, value in {**dict.fromkeys(metric.values, 0.0), **beyond}.items():
        found = reading.get(labels, value)
        if found is not None:
            family.add_metric(labels, found)
    return family
