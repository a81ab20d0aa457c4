# SPDX-License-Identifier: Apache-2.0
"""The pages in docs/ that are made from declarations: metrics.md, settings.md, the table in alerts.md."""

from __future__ import annotations

from pathlib import Path

import yaml

from homebound.config import reference as declared
from homebound.metrics import METRICS, Metric
from homebound.settings import sections

RULES = Path(__file__).parent / "rules" / "homebound.rules.yml"
BEGIN, END = "<!-- made by make dashboards -->\n", "<!-- end -->"
SETTINGS_COLUMNS = "| setting | default | wanted | meaning |\n|---|---|---|---|\n"
SETTINGS_HEAD = """# Settings

Made from [settings.py](../daemon/homebound/settings.py) by `make dashboards`; do not edit.
[configure.md](configure.md) says where settings are written and what to look at first.

"""

HEAD = """# Metrics

Made from [metrics.py](../daemon/homebound/metrics.py) by `make dashboards`; do not edit. The daemon serves
them at `/metrics` on `metrics.address` and `metrics.port` (127.0.0.1:10977 unless set otherwise).

- Every label has a closed set of values, and every combination is there from the start with 0, so that an
  alert can count on the series. What cannot be read is left out, never made up. All in all there are under
  300 series a device.
- Of a violation of watcher, guard or gateway `rule` is the kind of wall: `network`, `sandbox` or `cgroup`;
  of the trainer it is the rule. `homebound status` and the journal have the rule of each.
- Process numbers, addresses, paths, names of files and tensors are in no label. `homebound status` and the
  journal have the process and the address of a refused attempt.
- Counters of the kernel are read at each scrape. They begin at 0 when the daemon starts.
- `process_*` are the watcher's own, by the client library.

"""


def settings() -> str:
    """The whole page of settings: a table for each table."""
    parts, tables, section = [SETTINGS_HEAD], sections(), "none"
    for entry in declared.declarations():
        if entry.section != section:
            section = entry.section
            about = " ".join((tables[section].__doc__ or "").split()) if section else "Above the first table."
            title = f"## [{section}]" if section else "## Top level"
            parts.append(
                f"\n{title}\n\n{about}\n\n| setting | default | wanted | meaning |\n|---|---|---|---|\n"
            )
        default = "required" if entry.required else f"`{_cell(declared.toml(entry.default))}`"
        unit = f", in {entry.unit}" if entry.unit else ""
        wanted = _cell(declared.form(entry.annotation)) + unit
        parts.append(f"| `{entry.name}` | {default} | {wanted} | {_cell(entry.help)} |\n")
    return "".join(parts).replace("\n\n\n", "\n\n")


def with_alerts(text: str) -> str:
    """The page of alerts with its table made anew."""
    head, _, rest = text.partition(BEGIN)
    return head + BEGIN + _alerts() + END + rest.partition(END)[2]


def _alerts() -> str:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    rules = {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}
    lines = [
        f"| [{name}](runbooks.md#{name.lower()}) | {rule['labels']['severity']} "
        f"| {rule['annotations']['summary']} |\n"
        for name, rule in rules.items()
    ]
    return "| alert | severity | what it says |\n|---|---|---|\n" + "".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def metrics() -> str:
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
