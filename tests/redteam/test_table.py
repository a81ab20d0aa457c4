# SPDX-License-Identifier: Apache-2.0
"""docs/redteam.md is of these attacks and of the settings as shipped; what is exact in it is compared."""

from __future__ import annotations

import re

from redteam import hiding, table

DOCUMENT = (table.ROOT / "docs/redteam.md").read_text()


def test_every_channel_has_a_row() -> None:
    for channel in (*hiding.CHANNELS, *hiding.KNOWING):
        assert re.search(rf"^\| {re.escape(channel.name)} \| {channel.bits} \|", DOCUMENT, re.MULTILINE)


def test_head_and_bounds_are_those_of_the_code() -> None:
    assert DOCUMENT.startswith(table.HEAD.strip("\n"))
    for line in table.bounds():
        assert line in DOCUMENT.splitlines()
    assert f"{table.answers()} at the shipped settings" in " ".join(DOCUMENT.split())


def test_the_aim_stands_in_it() -> None:
    """Over 90 % without the guard; with it a whole payload is no better than a coin, but for what is said."""
    rows = re.findall(r"^\| ([^|]+) \| (\d+) \| (\d+)% \| (\d+)% \|", DOCUMENT, re.MULTILINE)
    assert len(rows) == len(hiding.CHANNELS) + len(hiding.KNOWING)
    for name, bits, off, on in rows:
        assert int(off) > 90
        if int(bits) == hiding.PAYLOAD and name != "largest weights":
            assert int(on) == 50
