# SPDX-License-Identifier: Apache-2.0
"""A site's NAME.toml: what it may say, the first fault of what it may not, and the ceiling of series."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from homebound.kernel import siteplan
from homebound.kernel.siteplan import Plan, SiteProbeError

GOOD = """
cgroup = "gateway"
[[metric]]
map = "again"
name = "again_total"
help = "What was sent again."
labels = { what = ["segment", "timeout"], family = ["4", "6"] }
[[metric]]
map = "waits"
name = "wait_seconds"
help = "Waiting."
type = "histogram"
unit = 1e-6
slots = 24
"""
HEAD = '[[metric]]\nmap = "m"\nhelp = "h"\n'
COUNTER = f'{HEAD}name = "x_total"\n'
FAULTS = [
    ("metric = 3", "no [[metric]]"),
    ("a b", "Expected"),
    ("colour = 1\n" + COUNTER, "colour is not a key"),
    ('cgroup = "init"\n' + COUNTER, "cgroup is none of"),
    ("metric = [3]", "a [[metric]] is a table"),
    (COUNTER + "colour = 1", "metric.colour is not a key"),
    ('[[metric]]\nmap = "m"\nname = "x_total"', "metric.help is missing"),
    (f'{HEAD}name = "X_total"', "metric.name is missing"),
    (f'{HEAD}name = "x"', "counter without _total"),
    (f'{HEAD}name = "x_total"\ntype = "gauge"', "no counter and with it"),
    (f'{HEAD}name = "series_cut"\ntype = "gauge"', "is taken"),
    (COUNTER + 'type = "summary"', "metric.type is none of"),
    (COUNTER + "unit = 0", "metric.unit"),
    (COUNTER + "unit = nan", "metric.unit"),
    (COUNTER + "unit = true", "metric.unit"),
    (COUNTER + "slots = 3", "metric.slots is for a histogram"),
    (f'{HEAD}name = "x"\ntype = "histogram"\nslots = 41', "from 1 to 40"),
    (f'{HEAD}name = "x"\ntype = "histogram"\nslots = true', "no whole number"),
    (COUNTER + "labels = 3", "metric.labels"),
    (COUNTER + 'labels = { le = ["1"] }', "le cannot be a label"),
    (COUNTER + "labels = { what = [] }", "wants a list"),
    (COUNTER + 'labels = { what = ["a", "a"] }', "different values"),
    (COUNTER + 'labels = { what = ["\\n"] }', "no short text"),
    (COUNTER + COUNTER, "same name"),
]


def test_good() -> None:
    plan = siteplan.parse("lines", GOOD)
    again, waits = plan.metrics
    assert (plan.cgroup, again.name, waits.name) == (
        "gateway", "homebound_site_again_total", "homebound_site_wait_seconds",
    )  # fmt: skip
    assert again.combinations() == [("segment", "4"), ("segment", "6"), ("timeout", "4"), ("timeout", "6")]
    assert (again.elements(), again.series()) == (4, 4)
    assert (waits.elements(), waits.series()) == (25, 26)


@pytest.mark.parametrize(("text", "fault"), FAULTS)
def test_faults(text: str, fault: str) -> None:
    with pytest.raises(SiteProbeError) as caught:
        siteplan.parse("lines", text)
    assert fault in caught.value.message
    assert caught.value.message.startswith("lines.toml: ")
    assert "\n" not in str(caught.value)


def test_what_is_beyond_the_ceiling_is_cut_and_counted() -> None:
    """A metric at a time, so that no histogram loses a slot; a smaller one after it may still fit."""
    plan = siteplan.parse("lines", GOOD)
    assert siteplan.cut((plan, plan), 60) == ((plan, plan), 0)
    kept, lost = siteplan.cut((plan, plan), 40)
    assert [[metric.name[-7:] for metric in one.metrics] for one in kept] == [
        ["n_total", "seconds"],
        ["n_total"],
    ]
    assert lost == 26
    assert siteplan.cut((plan,), 3) == ((Plan("lines", "gateway", ()),), 30)


def test_json_and_back() -> None:
    plan = siteplan.parse("lines", GOOD)
    assert list(siteplan.from_document(json.loads(json.dumps([dataclasses.asdict(plan)])))) == [plan]


def test_names(tmp_path: Path) -> None:
    """Whatever has one of the two files, so that the other can be missed."""
    for name in ("b.c", "b.toml", "a.toml", "README", ".c"):
        (tmp_path / name).touch()
    assert siteplan.names(tmp_path) == ["a", "b"]
    assert siteplan.names(tmp_path / "none") == []
