# SPDX-License-Identifier: Apache-2.0
"""How the demo looks on a terminal: a live table while it learns, then tables of what was seen.

Draws documents, decides nothing. May import: rich, demo.outcome.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from homebound.demo.outcome import Books, Round, Seen
from homebound.leaktest.judge import Outcome

WIDTH = 79
# What an operator would look at first, of all that Prometheus gets.
SAMPLES = (
    "homebound_denied_total",
    "homebound_violations_total",
    "homebound_transmit_bytes_total",
    "homebound_transmit_unaccounted_bytes_total",
    "homebound_updates_total",
    "homebound_wall_active",
)


def console() -> Console:
    """At most 79 columns; rich itself heeds NO_COLOR and a missing terminal."""
    made = Console(highlight=False)
    return Console(highlight=False, width=min(made.width, WIDTH))


def learning(
    rounds: Sequence[Round], statuses: Mapping[str, Mapping[str, Any]], doing: str
) -> RenderableType:
    """The live view: rounds so far, and what left each device."""
    table = Table(title="learning", title_justify="left", box=None, padding=(0, 1))
    for name in ("round", "accuracy", "released"):
        table.add_column(name, justify="right")
    for entry in rounds:
        table.add_row(str(entry.round), f"{entry.accuracy:.3f}", f"{entry.released_bytes} B")
    devices = Table(box=None, padding=(0, 1))
    for name in ("device", "state", "released", "kernel counted", "declared", "trainer sent"):
        devices.add_column(name, justify="left" if name in ("device", "state") else "right")
    for name, status in statuses.items():
        devices.add_row(
            name,
            str(status["state"]),
            f"{status['released']['payload_bytes']} B",
            f"{status['kernel_stream_bytes']} B",
            f"{status['declared_stream_bytes']} B",
            f"{status['roles']['trainer']['transmit_bytes']} B",
        )
    return Group(table, Text(), devices, Text(doing, style="dim"))


def books(entries: Sequence[Books]) -> Table:
    """Bytes at rest: kernel against declaration, releases against ledger."""
    table = Table(title="bytes that left, to the byte", title_justify="left", box=None, padding=(0, 1))
    for name in ("device", "kernel", "declared", "unaccounted", "released", "in ledger"):
        table.add_column(name, justify="left" if name == "device" else "right")
    for entry in entries:
        table.add_row(
            entry.name,
            *(f"{number}" for number in (entry.kernel_stream_bytes, entry.declared_stream_bytes)),
            _good(str(entry.unaccounted_bytes), entry.unaccounted_bytes == 0),
            str(entry.released_bytes),
            _good(str(entry.ledger_bytes), entry.ledger_bytes == entry.released_bytes),
        )
    return table


def channels(outcomes: Sequence[Outcome]) -> Table:
    """The leaky app's ways out."""
    table = Table(title="a leaky app tries to get out", title_justify="left", box=None, padding=(0, 1))
    for name in ("channel", "blocked", "wall that held", "counted by"):
        table.add_column(name)
    for outcome in outcomes:
        word = "yes" if outcome.blocked else "OUT" if outcome.out else "not tried here"
        table.add_row(outcome.name, _good(word, outcome.blocked), outcome.wall or "-", outcome.counted or "-")
    return table


def metrics(text: str, port: int) -> RenderableType:
    """The lines that matter of a real scrape."""
    lines = [
        line
        for line in text.splitlines()
        if line.startswith(SAMPLES)
        and (not line.endswith(" 0.0") or line.startswith("homebound_transmit_unaccounted"))
    ]
    head = Text(
        f"what Prometheus sees of that device (127.0.0.1:{port}/metrics, zeros left out)", style="italic"
    )
    return Group(head, *(Text("  " + line) for line in lines))


def verdict(seen: Seen) -> Text:
    """The last word."""
    if seen.good:
        return Text(
            f"Nothing got out, nothing is unaccounted. {seen.seconds:.0f} s in all.", style="bold green"
        )
    return Text("Something got out, is unclear, or does not add up: see the tables.", style="bold red")


def _good(word: str, is_good: bool) -> Text:
    return Text(word, style="green" if is_good else "bold red")
