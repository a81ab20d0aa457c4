# SPDX-License-Identifier: Apache-2.0
"""The daemon's own page: the state of one device at a glance, HTML without scripts or outside resources.

Pure: takes the samples that /metrics shows, the last tasks and the last refused attempts. Neither address nor
port of an attempt is shown: an app chooses them, and who may read this page is not known here.
May import: books.accounts (Task), view.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from homebound.books.accounts import Task
from homebound.view import duration, size

ROLES = ("supervisor", "watcher", "trainer", "guard", "gateway")
ROUNDS, ATTEMPTS = 8, 12
REFRESH_SECONDS = 10
HEADERS = (
    ("Content-Type", "text/html; charset=utf-8"),
    ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'"),
    ("X-Content-Type-Options", "nosniff"),
    ("Cache-Control", "no-store"),
)
STYLE = """
:root{color-scheme:light dark;--line:#8884;--good:#1a7f37;--warn:#9a6700;--bad:#cf222e;--soft:#8881}
@media(prefers-color-scheme:dark){:root{--good:#4ac26b;--warn:#d4a72c;--bad:#ff8182}}
*{box-sizing:border-box}
body{font:16px/1.45 system-ui,sans-serif;margin:0 auto;max-width:62rem;padding:1rem}
h1{font-size:1.4rem;margin:0}h2{font-size:1rem;margin:1.6rem 0 .4rem}
p{margin:.3rem 0}small,footer{opacity:.75}
.good{color:var(--good)}.warn{color:var(--warn)}.bad{color:var(--bad)}.good,.warn,.bad{font-weight:600}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(9.5rem,1fr));gap:.5rem;margin:1rem 0}
dl div{background:var(--soft);border:1px solid var(--line);border-radius:.5rem;padding:.5rem .7rem}
dt{font-size:.8rem;opacity:.75}dd{margin:0;font-size:1.05rem}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{border-bottom:1px solid var(--line);padding:.3rem .6rem .3rem 0;text-align:left;white-space:nowrap}
th{font-size:.8rem;opacity:.75;font-weight:400}.n{text-align:right}
ul{display:flex;flex-wrap:wrap;gap:.4rem;list-style:none;margin:0;padding:0}
li{border:1px solid var(--line);border-radius:1rem;padding:.1rem .7rem}
footer{margin-top:2rem;font-size:.85rem}
"""


@dataclass(frozen=True)
class Glance:
    """What the samples do not say. ``recent``: refused attempts as the watcher tells them, oldest first."""

    name: str
    tasks: Sequence[Task] = ()
    recent: Sequence[Mapping[str, Any]] = ()


class Samples:
    """Values by name and labels."""

    def __init__(self, families: Iterable[Any]) -> None:
        self._found = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
        }

    def get(self, name: str, **labels: str) -> float | None:
        """One value; None if nobody knows it."""
        return self._found.get((f"homebound_{name}", tuple(sorted(labels.items()))))

    def sum(self, name: str, **labels: str) -> float:
        """All values with these labels."""
        return sum(self.each(name, **labels).values())

    def each(self, name: str, **labels: str) -> dict[tuple[tuple[str, str], ...], float]:
        """Labels -> value, for those with these labels."""
        return {
            found: value
            for (metric, found), value in self._found.items()
            if metric == f"homebound_{name}" and labels.items() <= dict(found).items()
        }


def render(samples: Samples, glance: Glance, now: float) -> bytes:
    """The page. ``now`` in seconds since the epoch."""
    name = escape(glance.name)
    body = [
        f"<header><h1>homebound: {name}</h1><p>{_verdict(samples)}</p></header>",
        _facts(samples, now),
        "<h2>Roles</h2>", _roles(samples),
        "<h2>Walls, as last tried</h2>", _walls(samples),
        "<h2>Last rounds</h2>", _rounds(glance.tasks),
        "<h2>Last refused attempts</h2>", _attempts(glance.recent),
        f"<footer><p>Version {escape(_version(samples))}. In numbers: <a href=/metrics>/metrics</a>. "
        f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(now))} UTC, anew every {REFRESH_SECONDS} s.</p>",
        "</footer>",
    ]  # fmt: skip
    head = (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width">'
        f"<meta http-equiv=refresh content={REFRESH_SECONDS}><title>homebound: {name}</title>"
        f"<style>{STYLE}</style></head><body>"
    )
    return (head + "".join(body) + "</body></html>\n").encode()


def _verdict(samples: Samples) -> str:
    violations = samples.sum("violations_total")
    if samples.get("training_stopped"):
        return _mark("bad", "Nothing trains until the daemon is started again; its status says why.")
    if violations:
        return _mark("bad", f"{violations:.0f} violations since the watcher started.")
    if not samples.get("enforce"):
        return _mark("warn", "Mode observe: what the BPF programs would deny is only counted.")
    return _mark("good", "Every wall that was tried holds, and every byte is accounted for.")


def _facts(samples: Samples, now: float) -> str:
    tried = samples.get("canary_timestamp_seconds") or 0.0
    late = now - tried > 3 * (samples.get("canary_interval_seconds") or 300.0)
    unaccounted = samples.get("transmit_unaccounted_bytes_total") or 0.0
    violations = samples.sum("violations_total")
    taken = samples.get("round_last_success_timestamp_seconds") or 0.0
    released, refused = samples.get("update_bytes_count") or 0.0, samples.sum("updates_rejected_total")
    facts = {
        "mode": _mark("good", "enforce") if samples.get("enforce") else _mark("warn", "observe"),
        "training": _mark("bad", "stopped") if samples.get("training_stopped") else _mark("good", "allowed"),
        "federation": _mark("good", "connected")
        if samples.get("federation_connected")
        else _mark("warn", "away"),
        "walls tried": _mark(
            "bad" if late else "good", f"{duration(now - tried)} ago" if tried else "not yet"
        ),
        "violations": _mark("bad" if violations else "good", f"{violations:.0f}"),
        "unaccounted": _mark("bad" if unaccounted else "good", size(unaccounted)),
        "released": f"{released:.0f}, {size(samples.get('update_bytes_sum') or 0.0)}",
        "refused": f"{refused:.0f}",
        "last update taken": f"{duration(now - taken)} ago" if taken else "not yet",
        "privacy budget": _budget(samples),
        "events lost": f"{samples.sum('events_lost_total'):.0f}",
    }
    return (
        "<dl>"
        + "".join(f"<div><dt>{term}</dt><dd>{text}</dd></div>" for term, text in facts.items())
        + "</dl>"
    )


def _budget(samples: Samples) -> str:
    spent = samples.get("privacy_epsilon_spent", scope="all")
    limit = samples.get("privacy_epsilon_limit", scope="all")
    if spent is None or not limit:
        return "not known"
    return f"ε {spent:.4g} of {limit:.4g}".replace("inf", "∞")


def _roles(samples: Samples) -> str:
    rows = []
    for role in ROLES:
        up = samples.get("role_up", role=role)
        sent = samples.get("transmit_bytes_total", role=role)
        violations = samples.sum("violations_total", role=role)
        leaked = bool(sent) and role in ("trainer", "guard")
        state = "" if up is None else _mark("good", "runs") if up else _mark("warn", "rests")
        rows.append((
            role, state if role != "supervisor" else _mark("good", "runs"),
            _mark("bad", size(sent)) if leaked else size(sent),
            size(samples.get("receive_bytes_total", role=role)),
            _mark("bad", f"{violations:.0f}") if violations else "0",
            duration(samples.get("cpu_seconds_total", role=role)),
            size(samples.get("memory_bytes", role=role)),
        ))  # fmt: skip
    return _table(("role", "", ">sent", ">received", ">violations", ">processor", ">memory"), rows)


def _walls(samples: Samples) -> str:
    marks = {labels[0][1]: held for labels, held in samples.each("wall_active").items()}
    items = [
        "<li>"
        + (_mark("good", f"✓ {escape(wall)}") if held else _mark("warn", f"✗ {escape(wall)}"))
        + "</li>"
        for wall, held in marks.items()
    ]
    return f"<ul>{''.join(items)}</ul>"


def _rounds(tasks: Sequence[Task]) -> str:
    rows = [
        (
            str(task.round), escape(task.kind),
            _mark("good" if task.state in ("released", "acknowledged") else "warn", escape(task.state)),
            escape(task.code), size(task.payload_bytes), size(task.pushed_bytes),
        )
        for task in reversed([task for task in tasks if task.task][-ROUNDS:])
    ]  # fmt: skip
    return _table((">round", "kind", "", "code", ">released", ">sent for it"), rows)


def _attempts(recent: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            time.strftime("%H:%M:%S", time.gmtime(float(event["time"]))), escape(str(event["role"])),
            escape(str(event["rule"])), escape(str(event["program"])), str(int(event["pid"])),
        )
        for event in reversed(list(recent)[-ATTEMPTS:])
    ]  # fmt: skip
    note = "<small>The canary tries on purpose; a role that starts asks in vain for a name service.</small>"
    return _table(("UTC", "role", "rule", "seen by", ">process"), rows) + note


def _version(samples: Samples) -> str:
    return next((dict(labels)["version"] for labels in samples.each("build_info")), "")


def _mark(kind: str, text: str) -> str:
    return f'<span class="{kind}">{text}</span>'


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already. A column that starts with ``>`` is of numbers."""
    if not rows:
        return "<p>None yet.</p>"
    sides = [" class=n" if column.startswith(">") else "" for column in columns]
    head = "".join(
        f"<th{side}>{column.lstrip('>')}</th>" for side, column in zip(sides, columns, strict=True)
    )
    lines = [
        "<tr>" + "".join(f"<td{side}>{cell}</td>" for side, cell in zip(sides, row, strict=True)) + "</tr>"
        for row in rows
    ]
    return f"<div class=wide><table><tr>{head}</tr>{''.join(lines)}</table></div>"
