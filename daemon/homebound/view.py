# SPDX-License-Identifier: Apache-2.0
"""Documents as a person reads them: lines of facts and tables, each under 80 columns.

Pure: takes the documents that --json prints and returns text in cells; the command line draws it.
May import: books.spending.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from homebound.books import spending

WIDTH = 79
ORIGIN_COLUMN = 40


@dataclass(frozen=True)
class Table:
    """``columns`` are headings; one that starts with ``>`` is of numbers and set to the right."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def size(count: float | None) -> str:
    """Bytes in decimal units; ``-`` when nobody knows."""
    if count is None:
        return "-"
    number = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(number) < 1000:
            return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def duration(seconds: float | None) -> str:
    """Seconds in the one or two units that matter; ``-`` when nobody knows."""
    if seconds is None:
        return "-"
    whole = int(seconds)
    if whole < 60:
        return f"{seconds:.0f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def moment(value: float | None) -> str:
    """Seconds since 1970 as the local date and time."""
    if not value:
        return "-"
    return dt.datetime.fromtimestamp(value, tz=dt.UTC).astimezone().isoformat(" ", timespec="seconds")


def status(document: Mapping[str, Any], now: float) -> list[Table]:
    """The status document, most important first."""
    tables = [Table("", ("", ""), tuple(_facts(document, now))), _roles(document["roles"])]
    walls = document["walls"]
    if walls:
        rows: tuple[tuple[str, ...], ...] = tuple(
            (name, _standing(wall), wall["detail"]) for name, wall in walls.items()
        )
        tables.append(Table("walls, as tried", ("wall", "", "tried"), rows))
    if document["violations"]:
        rows = tuple(
            (entry["rule"], entry["role"], str(entry["count"]), moment(entry["last"]))
            for entry in document["violations"]
        )
        tables.append(Table("violations", ("rule", "role", ">count", "last"), rows))
    return tables


def _limits(limits: Mapping[str, Mapping[str, Any]]) -> str:
    tasks, memory = limits["tasks"], limits["memory"]
    held = f"{size(memory['max'])} of memory by {memory['by']}" if memory["max"] else "memory without limit"
    cpu = limits["cpu"]
    spent = f"; {cpu['max']} % of a processor by {cpu['by']}" if cpu["max"] else ""
    return f"{tasks['max']} tasks by {tasks['by']}; {held}{spent}"


def _facts(document: Mapping[str, Any], now: float) -> list[tuple[str, str]]:
    facts = [
        ("device", f"{document['name']}, mode {document['mode']}, version {document['version']}"),
        ("state", f"{document['state']}, up for {duration(now - document['since'])}"),
        *((("programs", f"loaded by {document['loader']}"),) if document.get("loader") else ()),
        *((("problem", document["problem"]),) if document.get("problem") else ()),
        ("round", _round(document)),
        ("federation", _federation(document["federation"])),
        (
            "released",
            f"{document['released']['updates']} updates, {size(document['released']['payload_bytes'])}",
        ),
    ]
    if document.get("privacy"):
        facts.append(("privacy", spending.words(document["privacy"])))
    if document.get("ledger"):
        facts.append(("ledger", _ledger_line(document["ledger"])))
    if document.get("limits"):
        facts.append(("limits", _limits(document["limits"])))
    if document["refused"]:
        codes = ", ".join(f"{code} {count}" for code, count in document["refused"].items())
        facts.append(("refused", codes))
    facts.append(
        (
            "sent",
            f"{size(document['kernel_stream_bytes'])} counted by the kernel, "
            f"{size(document['declared_stream_bytes'])} declared, "
            f"{document['unaccounted_bytes']} B unaccounted",
        )
    )
    if lacking := [program for program in document.get("programs", ()) if _is_lacking(program)]:
        words = "; ".join(f"{program['name']}: {program['reason']}" for program in lacking)
        facts.append(("not attached", words))
    if lacking := [state for state in document.get("site_probes", ()) if state["reason"]]:
        facts.append(("site probes", "; ".join(f"{state['name']}: {state['reason']}" for state in lacking)))
    canary = document["canary"]
    if canary["tried"]:
        facts.append(
            ("canary", f"{canary['out']} of {canary['tried']} got out, {duration(canary['age_seconds'])} ago")
        )
    else:
        facts.append(("canary", "not yet tried"))
    return facts


def _ledger_line(found: Mapping[str, Any]) -> str:
    line = f"{found['entries']} entries, verified {moment(found['verified'])[:19]}"
    return f"{line}; {found['trouble']}" if found["trouble"] else line


def _round(document: Mapping[str, Any]) -> str:
    completed = f"{document['rounds_completed']} completed"
    current = document["round"]
    return (
        f"{current['number']} ({current['kind']}, {current['state']}), {completed}" if current else completed
    )


def _federation(link: Mapping[str, Any]) -> str:
    if link["connected"]:
        return f"connected to {link['address']}"
    why = f": {link['reason']}" if link.get("reason") else ""
    hint = f"; {link['hint']}" if link.get("hint") else ""
    return f"not connected to {link['address']}{why}{hint}"


def _roles(roles: Mapping[str, Mapping[str, Any]]) -> Table:
    columns = ("role", "state", ">pid", ">sent", ">received", ">denied", ">memory", ">cpu")
    rows = tuple(
        (
            name,
            _state(role),
            str(role["pid"] or "-"),
            size(role["transmit_bytes"]),
            size(role["receive_bytes"]),
            str(role["denied"]),
            size(role["memory_bytes"]),
            duration(role["cpu_seconds"]),
        )
        for name, role in roles.items()
    )
    return Table("roles", columns, rows)


def _state(role: Mapping[str, Any]) -> str:
    count = role["restarts"]
    return f"{role['state']}, {count} restart{'s' if count > 1 else ''}" if count else str(role["state"])


def setting(line: str, origin: str) -> str:
    """A line of TOML and, behind or below it, where it comes from."""
    comment = f"# {origin}"
    fits = max(len(line), ORIGIN_COLUMN) + 2 + len(comment) <= WIDTH
    return f"{line:<{ORIGIN_COLUMN}}  {comment}" if fits else f"{line}\n    {comment}"


def leaks(rows: Sequence[tuple[str, ...]]) -> Table:
    """Each way out: what became of it, by which wall, seen by which counter."""
    return Table("", (">", "way out", "", "wall", "counted by"), tuple(rows))


def not_applicable(rows: Sequence[tuple[str, ...]]) -> Table:
    """The ways out that this host does not have, and why."""
    return Table("not applicable here", (">", "way out", "because"), tuple(rows))


def elsewhere(rows: Sequence[tuple[str, ...]]) -> Table:
    """The ways out that cannot be tried from inside, and what holds each."""
    return Table("held elsewhere", (">", "way out", "by"), tuple(rows))


def ledger(entries: Sequence[Mapping[str, Any]]) -> Table:
    """What left, and what was refused."""
    rows = tuple(
        (
            str(entry["number"]),
            moment(entry["time"])[:19],
            entry["kind"],
            str(entry["round"]),
            size(entry["payload_bytes"]),
            f"{entry['norm']:.3g}",
            "yes" if entry["clipped"] else "no",
            entry["hash"][:12],
        )
        for entry in entries
    )
    return Table("", (">", "time", "kind", ">round", ">bytes", ">norm", "clipped", "hash"), rows)


def preview(document: Mapping[str, Any]) -> list[Table]:
    """What would leave for an update."""
    if document["refused"]:
        return []
    arrays: tuple[tuple[str, ...], ...] = tuple(
        (
            entry["name"],
            " x ".join(map(str, entry["shape"])) or "one number",
            entry["dtype"],
            str(entry["bytes"]),
            "noised" if entry["noised"] else "as it is",
        )
        for entry in document["arrays"]
    )
    metrics: tuple[tuple[str, ...], ...] = tuple(
        (entry["name"], f"{entry['given']:g}", f"{entry['leaves']:g}", f"{entry['bits']:g}")
        for entry in document["metrics"]
    )
    facts = (
        ("payload", f"{document['payload_bytes']} bytes"),
        ("norm", f"{document['norm']:.4g}, times {document['clip_factor']:.4g} to stay within "
                 f"{document['clip_norm']:g}"),
        ("noise", f"deviation {document['noise']:g}, then rounded to steps of {document['step']:.4g}"),
        ("epsilon", f"{_bound(document['epsilon_alone'])} by itself at delta {document['delta']:g}"),
    )  # fmt: skip
    return [
        Table("", ("", ""), facts),
        Table("arrays", ("name", "shape", "dtype", ">bytes", ""), arrays),
        Table("metrics", ("name", ">given", ">leaves", ">bits"), metrics),
        _bits(document["bits"]),
    ]


def released(document: Mapping[str, Any]) -> list[Table]:
    """A release as the ledger has it."""
    details = document["details"]
    facts = (
        ("entry", f"{document['number']}, {moment(document['time'])}"),
        ("round", f"{document['round']}, run {details.get('run', '-')}, {details.get('message_type', '-')}"),
        ("payload", f"{document['payload_bytes']} bytes, SHA-256 {document['payload_sha256'][:32]}..."),
        ("norm", f"{document['norm']:.4g}, {'shortened' if document['clipped'] else 'kept'}"),
        ("noise", f"deviation {details.get('noise', 0):g}"),
    )
    metrics = tuple((name, f"{value:g}") for name, value in details.get("metrics", {}).items())
    return [
        Table("", ("", ""), facts), Table("metrics", ("name", ">left as"), metrics),
        _bits(details.get("bits", {})),
    ]  # fmt: skip


def _bits(bits: Mapping[str, float | None]) -> Table:
    rows = tuple((way, _bound(count)) for way, count in bits.items())
    return Table("bits that an app can have chosen, at the most", ("way", ">bits"), rows)


def _bound(value: float | None) -> str:
    return "no bound" if value is None else f"{value:.4g}"


def checks(found: Sequence[Mapping[str, Any]]) -> list[Table]:
    """What `homebound doctor` found: a line each, required ones first."""
    marks = {"good": "ok", "bad": "NO", "unknown": "??"}
    tables = []
    for need in ("required", "wanted"):
        rows = []
        for check in found:
            if check["need"] == need:
                advice = f"\n-> {check['advice']}" if check["advice"] and check["result"] != "good" else ""
                rows.append((marks[check["result"]], check["name"], f"{check['fact']}{advice}"))
        tables.append(Table(need, ("", "check", "found"), tuple(rows)))
    return tables


def programs(found: Sequence[Mapping[str, Any]]) -> Table:
    """What loading the kernel programs gave."""
    rows = tuple((entry["name"], entry["need"], _attachment(entry), entry["reason"]) for entry in found)
    return Table("kernel programs", ("program", "", "", "reason"), rows)


def _standing(wall: Mapping[str, Any]) -> str:
    if wall["active"]:
        return "holds"
    return "-" if wall["detail"].startswith("not here:") else "OPEN"


def _is_lacking(program: Mapping[str, Any]) -> bool:
    # Those on security hooks are a wall, and its line says why.
    if program["name"].startswith("hb_lsm_"):
        return False
    return program["need"] != "off" and not program["attached"]


def _attachment(program: Mapping[str, Any]) -> str:
    if program["attached"]:
        return "attached"
    return "NOT ATTACHED" if program["need"] == "required" else "not attached"
