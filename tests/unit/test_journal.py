# SPDX-License-Identifier: Apache-2.0
"""journal.py: fixed words, fields and priorities; the same list of messages as the catalog; nothing of a
role's own words gets in."""

from __future__ import annotations

import json
import re
import string
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homebound import journal, metrics, records
from homebound.gateway import trouble

SECRET = "pixel-0-12-255"
CATALOG = Path(__file__).parents[2] / "units" / "homebound.catalog"


class Lines:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.got: list[tuple[int, str, Mapping[str, str]]] = []

    def __call__(self, priority: int, text: str, fields: Mapping[str, str]) -> None:
        self.got.append((priority, text, fields))

    def one(self) -> tuple[int, str, Mapping[str, str]]:
        assert len(self.got) == 1
        return self.got[0]


def ids_of_catalog() -> list[str]:
    return re.findall(r"^-- ([0-9a-f]{32})$", CATALOG.read_text(), re.MULTILINE)


def test_messages_and_catalog_are_the_same_list() -> None:
    ids = [message.id for message in journal.MESSAGES.values()]
    assert len(ids) == len(set(ids)) >= 10
    assert sorted(ids_of_catalog()) == sorted(ids)
    assert all(re.fullmatch(r"[0-9a-f]{32}", number) for number in ids)


def test_catalog_entries_name_only_fields_that_their_message_has() -> None:
    by_id = {message.id: message for message in journal.MESSAGES.values()}
    entries = re.split(r"^-- ", CATALOG.read_text(), flags=re.MULTILINE)[1:]
    for entry in entries:
        message = by_id[entry[:32]]
        named = {name for _, name, _, _ in string.Formatter().parse(message.text) if name}
        # The canary's messages carry who it was besides.
        fields = {f"HOMEBOUND_{name.upper()}" for name in named} | {"HOMEBOUND_ROLE"}
        assert set(re.findall(r"@(\w+)@", entry)) <= fields, entry
        assert "\nSubject: " in entry
        assert "\nDefined-By: homebound\n" in entry
        assert len(entry.split("\n\n", 1)[1].strip()) > 40


def test_closed_sets_hold_those_of_their_owners() -> None:
    assert set(metrics.ROLES) == journal.ROLES
    assert {code.value for code in records.RefusalCode} <= journal.CODES
    assert {code.value for code in trouble.Trouble} <= journal.CODES


def test_a_release_has_round_and_bytes() -> None:
    lines = Lines()
    journal.report({"type": "released", "task": "t", "round": 3, "payload_bytes": 2300, "sha256": "x"}, lines)
    priority, text, fields = lines.one()
    assert priority == 6
    assert text == "round 3: 2300 bytes were released to the federation"
    assert fields == {
        "MESSAGE_ID": journal.RELEASED.id,
        "HOMEBOUND_ROUND": "3",
        "HOMEBOUND_BYTES": "2300",
    }


@pytest.mark.parametrize(
    ("message", "expected", "priority"),
    [
        (
            {"rule": "io_uring", "action": "deny"},
            "violation: the trainer tried io_uring 23 times; action: deny",
            2,
        ),
        ({"rule": "transmit", "action": "kill"}, "violation: 23 bytes left the trainer; action: kill", 2),
        ({"rule": "unaccounted", "action": "deny"}, "violation: 23 bytes left the trainer unaccounted", 2),
    ],
)
def test_verdicts(message: dict[str, Any], expected: str, priority: int) -> None:
    lines = Lines()
    journal.verdict({"type": "verdict", "role": "trainer", "count": 23, "enforced": True, **message}, lines)
    assert lines.one()[:2] == (priority, expected)
    assert lines.one()[2]["HOMEBOUND_ROLE"] == "trainer"
    assert lines.one()[2]["HOMEBOUND_RULE"] == message["rule"]


def test_a_verdict_that_repeats_is_summed_up_in_words_of_ours() -> None:
    lines = Lines()
    said = {"type": "verdict", "role": "trainer", "rule": "io_uring", "action": "deny", "enforced": True}
    journal.repeated({**said, "count": 143}, 120, 60.2, lines)
    assert lines.one()[:2] == (
        2,
        "violation goes on: trainer, io_uring: 120 more in 60 s, 143 in all; action: deny",
    )
    assert lines.one()[2]["HOMEBOUND_MORE"] == "120"
    lines.got.clear()
    journal.repeated({"role": SECRET, "rule": f"{SECRET} ", "action": SECRET, "count": SECRET}, 1, 1.0, lines)
    assert SECRET not in json.dumps([lines.one()[1], dict(lines.one()[2])])


def test_a_verdict_that_is_not_carried_out_says_so() -> None:
    lines = Lines()
    journal.verdict(
        {"role": "guard", "rule": "transmit", "count": 1, "action": "kill", "enforced": False}, lines
    )
    assert lines.one()[1].endswith("action: none")


def test_the_canary_is_written_once_by_its_report() -> None:
    lines = Lines()
    journal.verdict(
        {"role": "canary", "rule": "canary", "count": 1, "action": "kill", "enforced": True}, lines
    )
    assert lines.got == []
    journal.report({"type": "canary", "out": 0, "tried": 14}, lines)
    assert lines.one()[:2] == (7, "the walls held: 14 attempts refused")
    journal.report({"type": "canary", "out": 2, "tried": 14}, lines)
    assert lines.got[1][:2] == (2, "violation: 2 attempts of the canary got out")


def test_starting_in_observe_mode_is_a_warning() -> None:
    lines = Lines()
    journal.started("default", "enforce", lines)
    journal.started("default", "observe", lines)
    assert [(p, f["MESSAGE_ID"]) for p, _, f in lines.got] == [
        (6, journal.STARTED.id),
        (4, journal.OBSERVING.id),
    ]


def test_a_reason_of_ours_is_one_bounded_line() -> None:
    lines = Lines()
    journal.role_failed("guard", "line one\nline two\x1b[31m" + "x" * 1000, lines)
    text = lines.one()[1]
    assert "\n" not in text
    assert "\x1b" not in text
    assert len(text) < 450
    assert lines.one()[2]["HOMEBOUND_ROLE"] == "guard"


@pytest.mark.parametrize(
    "report",
    [
        {"type": "refused", "round": 1, "code": SECRET},
        {"type": "refused", "round": SECRET, "code": "timeout"},
        {"type": "disconnected", "reason": SECRET, "hint": SECRET},
        {"type": "connected", "node": SECRET},
        {"type": "dropped", "task": SECRET, "reason": SECRET},
        {"type": "warning", "code": SECRET, "hint": SECRET},
        {"type": "released", "round": 1, "payload_bytes": SECRET, "entry": SECRET, "norm": SECRET},
        {"type": "canary", "out": SECRET, "tried": SECRET},
    ],
)
def test_words_of_a_role_do_not_get_in(report: dict[str, Any]) -> None:
    lines = Lines()
    journal.report(report, lines)
    assert SECRET not in json.dumps([lines.one()[1], dict(lines.one()[2])])


@given(st.dictionaries(st.text(max_size=8), st.one_of(st.none(), st.integers(), st.text(), st.floats())))
def test_no_report_raises(message: dict[str, Any]) -> None:
    for kind in (
        "released",
        "refused",
        "disconnected",
        "connected",
        "canary",
        "dropped",
        "warning",
        "declare",
    ):
        journal.report({**message, "type": kind}, Lines())
    journal.verdict(message, Lines())


def test_without_a_journal_it_is_one_plain_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    sink = journal.choose({}, tmp_path / "no-socket")
    journal.stopped("default", sink)
    assert capsys.readouterr().err == "homebound: default stopped\n"


def test_a_stream_gets_its_priority(capsys: pytest.CaptureFixture[str]) -> None:
    journal.write(journal.CANARY_FAILED, journal.to_stream, count=1)
    assert capsys.readouterr().err == "<2>violation: 1 attempts of the canary got out\n"


@pytest.mark.root
def test_the_journal_gets_text_and_fields() -> None:
    """A datagram socket stands in for journald, in a mount namespace where only this test sees it."""
    pytest.importorskip("systemd.journal", reason="python3-systemd is not installed")
    script = Path(__file__).with_name("journal_listener.py")
    done = subprocess.run(
        [
            "unshare",
            "--mount",
            "sh",
            "-c",
            'mount -t tmpfs none /run && exec "$0" "$1"',
            sys.executable,
            script,
        ],
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    fields = dict(line.split("=", 1) for line in json.loads(done.stdout).splitlines())
    assert fields["MESSAGE"] == "round 3: 2300 bytes were released to the federation"
    assert fields["MESSAGE_ID"] == journal.RELEASED.id
    assert fields["PRIORITY"] == "6"
    assert fields["HOMEBOUND_ROUND"] == "3"
    assert fields["HOMEBOUND_BYTES"] == "2300"
    assert fields["SYSLOG_IDENTIFIER"] == "homebound"
