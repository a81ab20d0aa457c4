# SPDX-License-Identifier: Apache-2.0
"""A site's maps as metrics: counters, gauges and histograms as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, generate_latest

from homebound.kernel import siteplan
from homebound.watcher import siteprobes
from homebound.watcher.siteprobes import Collector, Source

TEXT = """
[[metric]]
map = "again"
name = "again_total"
help = "Sent again."
labels = { what = ["segment", "timeout"] }
[[metric]]
map = "waits"
name = "wait_seconds"
help = "Waiting."
type = "histogram"
unit = 1e-6
slots = 4
[[metric]]
map = "depth"
name = "depth"
help = "Depth."
type = "gauge"
"""


def scrape(values: dict[int, Sequence[int]]) -> tuple[str, int]:
    """The page, and how often a map could not be read."""
    metrics = siteplan.parse("lines", TEXT).metrics
    failures: list[int] = []
    registry = CollectorRegistry()

    def read(fd: int, count: int) -> Sequence[int]:
        found = values[fd]
        assert len(found) == count
        return found

    sources = [Source(metric, fd) for fd, metric in enumerate(metrics, 7)]
    registry.register(Collector(sources, lambda: failures.append(1), read))
    return generate_latest(registry).decode(), len(failures)


def test_the_page() -> None:
    page, failures = scrape({7: [23, 5], 8: [1, 0, 2, 4, 4023], 9: [3]})
    assert failures == 0
    assert 'homebound_site_again_total{what="segment"} 23.0' in page
    assert 'homebound_site_again_total{what="timeout"} 5.0' in page
    assert "homebound_site_depth 3.0" in page
    buckets = [line.split() for line in page.splitlines() if "wait_seconds_bucket" in line]
    assert buckets == [
        ['homebound_site_wait_seconds_bucket{le="1e-06"}', "1.0"],
        ['homebound_site_wait_seconds_bucket{le="2e-06"}', "1.0"],
        ['homebound_site_wait_seconds_bucket{le="4e-06"}', "3.0"],
        ['homebound_site_wait_seconds_bucket{le="+Inf"}', "7.0"],
    ]
    assert "homebound_site_wait_seconds_count 7.0" in page
    assert "homebound_site_wait_seconds_sum 0.004023" in page


def test_a_map_that_cannot_be_read_leaves_a_gap() -> None:
    page, failures = scrape({7: [23, 5], 9: [3]})
    assert failures == 1
    assert "wait_seconds" not in page
    assert "homebound_site_depth 3.0" in page


def test_series_are_as_many_as_were_counted() -> None:
    """The ceiling counts what a scrape shows."""
    page, _ = scrape({7: [0, 0], 8: [0] * 5, 9: [0]})
    series = [line for line in page.splitlines() if not line.startswith("#")]
    assert len(series) == sum(metric.series() for metric in siteplan.parse("lines", TEXT).metrics)


def test_sources_are_told_by_the_supervisor() -> None:
    entry = {"map": 7, "name": "homebound_site_x_total", "type": "counter", "help": "h", "unit": 1.0}
    entry |= {"slots": 0, "labels": [["what", ["a", "b"]]]}
    (source,) = siteprobes.sources({"metrics": [entry]})
    assert (source.fd, source.metric.elements()) == (7, 2)
    assert siteprobes.sources({}) == []
