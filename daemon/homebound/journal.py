# SPDX-License-Identifier: Apache-2.0
"""Every line of ours in the journal: one MESSAGE_ID for each kind of happening, fixed words, a few fields.

Words of other roles are taken only from closed sets and numbers only as numbers, so no data can leave by
a log that is forwarded. units/homebound.catalog says more on each message. For the supervisor alone: a
role in its sandbox has no journal. Imports nothing of ours.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOCKET = Path("/run/systemd/journal/socket")
CRITICAL, WARNING, INFO, DEBUG = 2, 4, 6, 7  # syslog(3)
# Longest of our own error messages with its hint is about 250 characters.
TEXT_CHARACTERS = 400

ROLES = frozenset({"none", "supervisor", "watcher", "trainer", "guard", "gateway", "canary"})
ACTIONS = frozenset({"deny", "freeze", "kill", "none"})
# Why a task gave no update, and why the federation is away. Everything else is written as "other".
CODES = frozenset({
    "app_failed", "app_not_loaded", "timeout", "trainer_died", "malformed", "schema", "not_finite",
    "too_large", "metric_not_allowed", "too_few_examples", "imprint", "secagg_stage",
    "secagg_too_few", "secagg_threshold", "secagg_keys", "secagg_lists", "secagg_required", "not_approved",
    "budget", "ledger",
    "unreachable", "gone", "wall", "certificate", "protocol", "version", "clock", "key_busy", "key_unknown",
    "forgotten", "server_error", "run_over", "not_wanted", "name_not_resolved", "gateway_down", "stopped",
    "damaged", "outbox_full", "outbox_broken",
})  # fmt: skip
OTHER = "other"


@dataclass(frozen=True)
class Message:
    """One kind of happening. ``text`` takes the values that become the fields HOMEBOUND_NAME."""

    id: str
    priority: int
    text: str


STARTED = Message("6d8e67588fe54b55a53d0c84bd2f90fe", INFO, "{name} started; walls deny")
OBSERVING = Message(
    "65669c2a4e854b8fafa1151db122e9e2", WARNING, "{name} started in mode observe: nothing is denied"
)
STOPPED = Message("ca5bdb02dd354df3924d15e5298c33f4", INFO, "{name} stopped")
ROLE_FAILED = Message("e36b694df4a0443889d48731bf0ee3b9", WARNING, "the {role} failed: {why}")
TRAINING_STOPPED = Message(
    "1d39f10b69d946328cfaae38b379c3ad", CRITICAL, "nothing trains until homebound is started again: {why}"
)
RELEASED = Message(
    "1543629f7c264d409e1274fc06dfe335", INFO, "round {round}: {bytes} bytes were released to the federation"
)
REFUSED = Message("7887ac07ddeb4660b70a6438d100c030", WARNING, "round {round}: no update left: {code}")
LEDGER = Message("c47f3a251a0541da8c05af62c6af47dc", INFO, "the ledger has {entries} entries, head {head}")
DROPPED = Message("8267ea89bf394af58270977a0b00cb0e", WARNING, "a task or its update was given up: {code}")
OUTBOX = Message(
    "fcd207d025494c6c8b70818e69a1da92", WARNING, "released updates cannot be kept on disk: {code}"
)
CONNECTED = Message("803da6d8818749cc877fca54dcbbf9e0", INFO, "connected to the federation")
DISCONNECTED = Message("65212314e572454b8665db6e46487fef", WARNING, "the federation is away: {code}")
DENIED = Message(
    "df885648215a46a4b6564257865aa32c",
    CRITICAL,
    "violation: the {role} tried {rule} {count} times; action: {action}",
)
TRANSMITTED = Message(
    "260d9fd54840487cba849949640ae62b", CRITICAL, "violation: {bytes} bytes left the {role}; action: {action}"
)
UNACCOUNTED = Message(
    "0dffe6df114b4beaae660fcada4fac9e", CRITICAL, "violation: {bytes} bytes left the {role} unaccounted"
)
REPEATED = Message(
    "51a4b8d06ac14a7f9f6a1b7e0f3c92d5",
    CRITICAL,
    "violation goes on: {role}, {rule}: {more} more in {seconds} s, {count} in all; action: {action}",
)
SITE_PROBE_FAILED = Message(
    "257338d3f015461bb5082a6b497aa592", WARNING, "the site's probe {probe} is not loaded: {why}"
)
BALANCED = Message(
    "5c751236903e46a099d8d1e937c502b7", DEBUG,
    "books: {sent} bytes left the gateway, {declared} declared, {released} released, "
    "{unexplained} unexplained",
)  # fmt: skip
CLOSED = Message(
    "aec827f5058f455db8a7a45ee58352bd", INFO,
    "books closed: {sent} bytes left the gateway, {declared} declared, {released} released, "
    "{unexplained} unexplained",
)  # fmt: skip
RELOADED = Message(
    "dbe86f9c02e144c28c25d8471046aa81",
    INFO,
    "configuration read anew; new now: {applied}; after a restart: {fixed}",
)
RELOAD_REFUSED = Message(
    "2d2bbc71fce04f9c92b978a538e768db", WARNING, "the configuration is wrong; the old one stays ({status})"
)
CANARY_HELD = Message("8aa7a2b5abc847bf8303cf1ede37af10", DEBUG, "the walls held: {count} attempts refused")
CANARY_FAILED = Message(
    "d7860af8337840fdad9417e4a2632001", CRITICAL, "violation: {count} attempts of the canary got out"
)
MESSAGES: Mapping[str, Message] = {
    name: value for name, value in list(globals().items()) if isinstance(value, Message)
}

# Priority, text, fields without MESSAGE and PRIORITY.
Sink = Callable[[int, str, Mapping[str, str]], None]


def started(name: str, mode: str, sink: Sink | None = None) -> None:
    """The daemon is up."""
    write(STARTED if mode == "enforce" else OBSERVING, sink, name=name, mode=mode)


def stopped(name: str, sink: Sink | None = None) -> None:
    """The daemon ends."""
    write(STOPPED, sink, name=name)


def role_failed(role: str, why: str, sink: Sink | None = None) -> None:
    """A role ended, fell silent or did not start. ``why`` is a text of ours, never a role's."""
    write(ROLE_FAILED, sink, role=_one_of(role, ROLES), why=_line(why))


def site_probe_failed(probe: str, why: str, sink: Sink | None = None) -> None:
    """A probe of the site is left out. Both come from files of root's."""
    write(SITE_PROBE_FAILED, sink, probe=_line(probe), why=_line(why))


def training_stopped(why: str, sink: Sink | None = None) -> None:
    """The trainer will not run again before a restart. ``why`` is a text of ours, never a role's."""
    write(TRAINING_STOPPED, sink, why=_line(why))


def reloaded(applied: Sequence[str], fixed: Sequence[str], sink: Sink | None = None) -> None:
    """The configuration was read again. Both are keys of settings."""
    write(RELOADED, sink, applied=_line(", ".join(applied) or "-"), fixed=_line(", ".join(fixed) or "-"))


def reload_refused(status: int, sink: Sink | None = None) -> None:
    """It was read again and is wrong. ``status`` is how the reading process ended."""
    write(RELOAD_REFUSED, sink, status=status)


def report(message: Mapping[str, Any], sink: Sink | None = None) -> None:
    """A report of guard, gateway or the canary, if it is of a kind that belongs into the journal."""
    kind = message.get("type")
    if kind == "released":
        write(RELEASED, sink, round=_number(message, "round"), bytes=_number(message, "payload_bytes"))
    elif kind == "refused":
        write(REFUSED, sink, round=_number(message, "round"), code=_one_of(message.get("code"), CODES))
    elif kind == "ledger":
        write(LEDGER, sink, entries=_number(message, "entries"), head=_hash(message.get("hash")))
    elif kind == "dropped":
        write(DROPPED, sink, code=_one_of(message.get("reason"), CODES))
    elif kind == "warning":
        write(OUTBOX, sink, code=_one_of(message.get("code"), CODES))
    elif kind == "connected":
        write(CONNECTED, sink)
    elif kind == "disconnected":
        write(DISCONNECTED, sink, code=_one_of(message.get("reason"), CODES))
    elif kind == "canary" and _number(message, "out"):
        write(CANARY_FAILED, sink, role="canary", count=_number(message, "out"))
    elif kind == "canary":
        write(CANARY_HELD, sink, role="canary", count=_number(message, "tried"))


def verdict(message: Mapping[str, Any], sink: Sink | None = None) -> None:
    """A verdict of the watcher. The canary has its own line, from its own report."""
    role, rule = _one_of(message.get("role"), ROLES), _rule(message.get("rule"))
    # In mode observe the watcher says what it would have done.
    action = _one_of(message.get("action"), ACTIONS) if message.get("enforced") is True else "none"
    amount = _number(message, "count")
    if rule == "transmit":
        write(TRANSMITTED, sink, role=role, rule=rule, bytes=amount, action=action)
    elif rule == "unaccounted":
        write(UNACCOUNTED, sink, role=role, rule=rule, bytes=amount)
    elif rule != "canary":
        write(DENIED, sink, role=role, rule=rule, count=amount, action=action)


def repeated(message: Mapping[str, Any], more: int, seconds: float, sink: Sink | None = None) -> None:
    """The same verdict again and again, in one line: ``more`` attempts or bytes since the line before."""
    role, rule = _one_of(message.get("role"), ROLES), _rule(message.get("rule"))
    action = _one_of(message.get("action"), ACTIONS) if message.get("enforced") is True else "none"
    amounts = {"more": max(0, more), "seconds": round(seconds), "count": _number(message, "count")}
    if rule != "canary":
        write(REPEATED, sink, role=role, rule=rule, action=action, **amounts)


def reconciled(last: bool, sink: Sink | None = None, **sums: int) -> None:
    """Both sides of the books: bytes sent, declared, released, and those that nobody explains."""
    write(CLOSED if last else BALANCED, sink, **sums)


def write(message: Message, sink: Sink | None = None, **values: str | int) -> None:
    """One line. Each value becomes a field HOMEBOUND_KEY, whether the text names it or not."""
    text = message.text.format(**values)
    fields = {f"HOMEBOUND_{key.upper()}": str(value) for key, value in values.items()}
    (sink or choose())(message.priority, text, {"MESSAGE_ID": message.id, **fields})


def choose(environ: Mapping[str, str] = os.environ, socket: Path = SOCKET) -> Sink:
    """The journal where there is one, else standard error. A person at a terminal sees lines either way."""
    streamed = "JOURNAL_STREAM" in environ
    if not streamed and not socket.exists():
        return to_stderr
    try:
        from systemd.journal import send  # Debian's python3-systemd; not on every host
    except ImportError:
        return to_stream if streamed else to_stderr

    def to_journal(priority: int, text: str, fields: Mapping[str, str]) -> None:
        send(text, PRIORITY=str(priority), SYSLOG_IDENTIFIER="homebound", **fields)
        if not streamed and sys.stderr.isatty():
            to_stderr(priority, text, fields)

    return to_journal


def to_stderr(priority: int, text: str, fields: Mapping[str, str]) -> None:
    """A plain line."""
    del priority, fields
    sys.stderr.write(f"homebound: {text}\n")
    sys.stderr.flush()


def to_stream(priority: int, text: str, fields: Mapping[str, str]) -> None:
    """Standard error is the journal's stream: it takes the priority from the line's head. sd-daemon(3)"""
    del fields
    sys.stderr.write(f"<{priority}>{text}\n")
    sys.stderr.flush()


def _number(message: Mapping[str, Any], key: str) -> int:
    value = message.get(key)
    return value if isinstance(value, int) and 0 <= value < 1 << 63 else 0


def _one_of(value: object, words: frozenset[str]) -> str:
    return value if isinstance(value, str) and value in words else OTHER


def _hash(value: object) -> str:
    """A SHA-256; which one it is, nobody can choose."""
    return value if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) else OTHER


def _rule(value: object) -> str:
    """Rules are numbers in the kernel and get their names from us; only their form is checked here."""
    is_name = isinstance(value, str) and len(value) <= 32 and value.isascii()
    return str(value) if is_name and str(value).replace("_", "").isalnum() else OTHER


def _line(text: str) -> str:
    printable = "".join(character if character.isprintable() else " " for character in text)
    return printable if len(printable) <= TEXT_CHARACTERS else printable[: TEXT_CHARACTERS - 3] + "..."
