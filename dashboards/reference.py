# SPDX-License-Identifier: Apache-2.0
"""docs/metrics.md, out of the declarations in metrics.py: name, type, labels with their values, help."""

from __future__ import annotations

from homebound.metrics import METRICS, Metric

HEAD = """# Metrics

Made from [metrics.py](../daemon/homebound/metrics.py) by `make dashboards`; do not edit. The daemon serves
them at `/metrics` on `metrics.address` and `metrics.port` (127.0.0.1:10977 unless set otherwise).

- Every label has a closed set of values, and every combination is there from the start with 0, so that an
  alert can count on the series. What cannot be read is left out, never made up. All in all there are under
  300 series a device.
- Process numbers, addresses, paths, names of files and tensors are in no label. `homebound status` and the
  journal have the process and the address of a refused attempt.
- Counters of the kernel are read at each scrape. They begin at 0 when the daemon starts.
- `process_*` are the watcher's own, by the client library.

"""


def page() -> str:
    """The whole page."""
    lines = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{metric.name}` | {metric.type} | {_labels(metric)} | {metric.help} |" for metric in METRICS
    ]
    sets: dict[str, list[str]] = {}
    for metric in METRICS:
        for label, found in _values(metric).items():
            sets.setdefault(label, [])
            sets[label] += [value for value in found if value not in sets[label]]
    lines += ["", "## Values of the labels", ""]
    lines += [f"- `{label}`: {_listed(found)}" for label, found in sorted(sets.items())]
    return HEAD + "\n".join(lines) + "\n"


def _values(metric: Metric) -> dict[str, list[str]]:
    """Label -> its values; none for a label that is a fact of the host."""
    return {
        label: list(dict.fromkeys(combination[place] for combination in metric.values))
        for place, label in enumerate(metric.labels)
    }


def _labels(metric: Metric) -> str:
    return ", ".join(f"`{label}`" for label in metric.labels) or "-"


def _listed(found: list[str]) -> str:
    return ", ".join(f"`{value}`" for value in found) or "a fact of the host or of the build"
