# SPDX-License-Identifier: Apache-2.0
"""page.py: says what the metrics say, in valid HTML, without scripts and without anything an app chose."""

from __future__ import annotations

import html.parser
import re
from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry

from homebound.books.accounts import Task
from homebound.metrics import Readings, Source
from homebound.watcher import page
from homebound.watcher.recording import Metrics

NOW = 1_800_000_000.0
SOURCES: tuple[Source, ...] = ("traffic", "denied", "programs", "usage")
VOID = frozenset({"meta", "br", "link"})
EVENT: Mapping[str, Any] = {
    "time": NOW - 5, "role": "trainer", "rule": "connect4", "program": "hb_connect4", "pid": 4711,
    "tid": 4711, "family": 2, "protocol": 6, "address": "203.0.113.99", "port": 31337, "syscall": 42,
    "result": -1, "detail": 0,
}  # fmt: skip


class Tree(html.parser.HTMLParser):
    """Raises for a tag that is not closed in order; keeps tags, attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data + " "


def made(readings: Readings | None = None) -> tuple[CollectorRegistry, Metrics]:
    registry = CollectorRegistry()
    metrics = Metrics(registry, dict.fromkeys(SOURCES, lambda: readings or {}))
    metrics.set("homebound_build_info", 1, "0.1.0", "abc")
    metrics.set("homebound_enforce", 1)
    metrics.set("homebound_canary_interval_seconds", 300)
    metrics.set("homebound_canary_timestamp_seconds", NOW - 23)
    metrics.set("homebound_federation_connected", 1)
    return registry, metrics


def draw(registry: CollectorRegistry, glance: page.Glance | None = None) -> Tree:
    text = page.render(page.Samples(registry.collect()), glance or page.Glance("ward-3"), NOW).decode()
    tree = Tree()
    tree.feed(text)
    tree.close()
    assert tree.open == []
    return tree


def test_all_is_well() -> None:
    registry, _ = made()
    tree = draw(registry)
    for words in (
        "homebound: ward-3",
        "every byte is accounted for",
        "enforce",
        "23 s ago",
        "connected",
        "0.1.0",
    ):
        assert words in tree.text, words
    assert "None yet." in tree.text


def test_what_is_wrong_is_said_first() -> None:
    registry, metrics = made()
    metrics.set("homebound_enforce", 0)
    assert "Mode observe" in draw(registry).text
    metrics.add("homebound_violations_total", "trainer", "connect", by=23)
    assert "23 violations" in draw(registry).text
    metrics.set("homebound_training_stopped", 1)
    assert "Nothing trains" in draw(registry).text
    metrics.set("homebound_canary_timestamp_seconds", NOW - 1000)
    registry_text = page.render(page.Samples(registry.collect()), page.Glance("ward-3"), NOW).decode()
    assert '<span class="bad">16 min 40 s ago</span>' in registry_text


def test_bytes_of_a_role_that_must_send_none_stand_out() -> None:
    registry, _ = made({"homebound_transmit_bytes_total": {("trainer",): 61.0, ("gateway",): 62.0}})
    text = page.render(page.Samples(registry.collect()), page.Glance("ward-3"), NOW).decode()
    assert '<span class="bad">61 B</span>' in text
    assert ">62 B<" in text
    assert '<span class="bad">62 B</span>' not in text


def test_rounds_and_attempts_newest_first() -> None:
    registry, _ = made()
    tasks = [Task(f"t{n}", n, "train", "acknowledged", payload_bytes=5000 + n) for n in range(1, 24)]
    recent = [{**EVENT, "pid": n} for n in range(100, 123)]
    tree = draw(registry, page.Glance("ward-3", tasks, recent))
    rounds = re.findall(r"\b(\d+)\s+train\b", tree.text)
    assert rounds == [str(n) for n in range(23, 23 - page.ROUNDS, -1)]
    pids = re.findall(r"hb_connect4\s+(\d+)", tree.text)
    assert pids == [str(n) for n in range(122, 122 - page.ATTEMPTS, -1)]


def test_nothing_that_an_app_chose_is_shown() -> None:
    registry, _ = made()
    hostile = Task("t", 1, "<script>alert(1)</script>", "released", "<b>")
    tree = draw(registry, page.Glance("<i>ward</i>", [hostile], [EVENT]))
    assert not {"script", "b", "i"} & set(tree.tags)
    assert "<script>alert(1)</script>" in tree.text  # as text
    assert "203.0.113.99" not in tree.text
    assert "31337" not in tree.text


def test_no_script_and_nothing_from_outside() -> None:
    registry, _ = made()
    tree = draw(registry, page.Glance("ward-3", [Task("t", 1, "train", "released")], [EVENT]))
    assert not {"script", "img", "link", "iframe", "object", "svg"} & set(tree.tags)
    assert [value for name, value in tree.attributes if name in ("src", "href", "action")] == ["/metrics"]
    assert not [name for name, _ in tree.attributes if name.startswith("on")]
    assert "url(" not in page.STYLE
    assert "@import" not in page.STYLE
    assert "default-src 'none'" in dict(page.HEADERS)["Content-Security-Policy"]
    size = len(page.render(page.Samples(registry.collect()), page.Glance("ward-3"), NOW))
    print(f"{size} bytes")
    assert size < 16384


def test_unknown_values_are_no_zeros() -> None:
    registry, _ = made({"homebound_memory_bytes": {("trainer",): None}})
    row = re.search(r"trainer .*?guard", draw(registry).text)
    assert row is not None
    assert " - " in row[0]
