# SPDX-License-Identifier: Apache-2.0
"""Every message of ours under a real journald: number, fields, priority, and what -x says to it."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Mapping
from typing import Any

import pytest

from homebound import journal
from system.conftest import ROOT_OF_CLONE
from system.machine import CLONE, Machine

pytestmark = [pytest.mark.root, pytest.mark.slow]
# Values as the daemon writes them; a word that no other field has, so that a mix-up shows.
VALUES: Mapping[str, str | int] = {
    "name": "ward-3", "role": "trainer", "why": "ended", "round": 23, "bytes": 2300, "code": "timeout",
    "rule": "io_uring", "count": 7, "action": "deny", "mode": "enforce",
}  # fmt: skip
WRITE = """
import json, sys
from homebound import journal
for name, values in json.load(sys.stdin).items():
    journal.write(journal.MESSAGES[name], None, **values)
"""


def values_of(message: journal.Message) -> dict[str, str | int]:
    named = [name for _, name, _, _ in string.Formatter().parse(message.text) if name]
    # A field that a later message brings has no value above yet: its own name will do.
    return {name: VALUES.get(name, name) for name in named} | {"role": "trainer"}


@pytest.fixture(scope="module")
def entries(whole_machine: Machine) -> dict[str, dict[str, Any]]:
    """What journald kept, by MESSAGE_ID."""
    whole = {name: values_of(message) for name, message in journal.MESSAGES.items()}
    (whole_machine.share / "values.json").write_text(json.dumps(whole))
    (whole_machine.share / "write.py").write_text(WRITE)
    whole_machine.run(
        "cd /run/machine/share"
        f" && PYTHONPATH={CLONE}/daemon {CLONE}/.venv/bin/python -B write.py <values.json"
        " && journalctl --sync"
    )
    lines = whole_machine.out("journalctl --output=json SYSLOG_IDENTIFIER=homebound").splitlines()
    return {entry["MESSAGE_ID"]: entry for line in lines if "MESSAGE_ID" in (entry := json.loads(line))}


@pytest.mark.parametrize("name", journal.MESSAGES)
def test_a_message_arrives_with_its_fields(entries: Mapping[str, dict[str, Any]], name: str) -> None:
    message = journal.MESSAGES[name]
    values = values_of(message)
    entry = entries[message.id]
    assert entry["MESSAGE"] == message.text.format(**values)
    assert int(entry["PRIORITY"]) == message.priority
    fields = {key: entry[key] for key in entry if key.startswith("HOMEBOUND_")}
    assert fields == {f"HOMEBOUND_{key.upper()}": str(value) for key, value in values.items()}


@pytest.mark.usefixtures("entries")
@pytest.mark.parametrize("name", journal.MESSAGES)
def test_what_it_means_is_shown(whole_machine: Machine, name: str) -> None:
    shown = whole_machine.out(f"journalctl --no-pager --catalog MESSAGE_ID={journal.MESSAGES[name].id}")
    catalog = (ROOT_OF_CLONE / "units/homebound.catalog").read_text()
    text = catalog.split(f"-- {journal.MESSAGES[name].id}\n")[1].split("\n-- ")[0]
    subject = re.findall(r"^Subject: (.*)$", text, re.MULTILINE)[0]
    for field, value in values_of(journal.MESSAGES[name]).items():
        subject = subject.replace(f"@HOMEBOUND_{field.upper()}@", str(value))
    assert f"Subject: {subject}" in shown
    assert "@HOMEBOUND_" not in shown
    assert "Defined-By: homebound" in shown
    last = [line for line in text.splitlines() if line][-1]
    assert "@" in last or last in shown
