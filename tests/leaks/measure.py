# SPDX-License-Identifier: Apache-2.0
"""The table channel x wall of docs/leaks.md, measured: ``python tests/leaks/measure.py`` as root, a minute.

Runs the leak test with all walls, with each one left out, and with each one alone; writes docs/leaks.json and
the tables in docs/leaks.md that follow from it. With --table the measurements stay as they are.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "daemon"), str(ROOT / "tests")]

from homebound.leaktest.attempts import CHANNELS  # noqa: E402
from homebound.leaktest.device import device  # noqa: E402
from homebound.leaktest.elsewhere import HELD_ELSEWHERE  # noqa: E402
from homebound.leaktest.run import Report, leaktest, verdict  # noqa: E402
from homebound.leaktest.without import WALLS  # noqa: E402
from leaks.network import fresh_network  # noqa: E402

JSON, PAGE = ROOT / "docs/leaks.json", ROOT / "docs/leaks.md"
USERS_BASE = 60600
BEGIN, END = "<!-- {}: written by tests/leaks/measure.py -->", "<!-- end of {} -->"
HOLDS, OUT, NOT_HERE = "holds", "out", "not here"

Document = Mapping[str, Any]


def run_without(walls: Sequence[str]) -> Report:
    """One leak test of every channel in a network namespace of its own."""
    with fresh_network(), device(USERS_BASE, without=walls) as made:
        return leaktest(CHANNELS, made.launch, made.watch)


def measure() -> dict[str, Any]:
    """All runs: with every wall, without one, with one alone."""
    sets = [(), *((wall,) for wall in WALLS), *(others(wall) for wall in WALLS)]
    runs = []
    for left_out in sets:
        report = run_without(left_out)
        words = {outcome.name: word(verdict(outcome)) for outcome in report.channels}
        runs.append({"without": list(left_out), "channels": words})
    return {"schema": 1, "kernel": report.kernel, "runs": runs}


def others(wall: str) -> tuple[str, ...]:
    return tuple(each for each in WALLS if each != wall)


def word(text: str) -> str:
    return {"OUT": OUT, "blocked": HOLDS, "not applicable": NOT_HERE}.get(text, text)


def lookup(document: Document, left_out: Sequence[str]) -> Mapping[str, str]:
    """Channel -> word of the run without these walls."""
    (run,) = (run for run in document["runs"] if set(run["without"]) == set(left_out))
    channels: Mapping[str, str] = run["channels"]
    return channels


def only_walls(document: Document, name: str) -> list[str]:
    """The walls whose loss alone lets the channel out."""
    return [wall for wall in WALLS if lookup(document, [wall])[name] == OUT]


def matrix(document: Document) -> list[str]:
    """A line a channel: which walls hold it alone, and which one it cannot do without."""
    lines = [
        f"| # | way out | {' | '.join(WALLS)} | gets out without |",
        "|--:|---|" + ":-:|" * len(WALLS) + "---|",
    ]
    alone = {wall: lookup(document, others(wall)) for wall in WALLS}
    for channel in sorted(CHANNELS, key=lambda channel: channel.NUMBER):
        name, whole = channel.NAME, lookup(document, ())[channel.NAME]
        cells = ["x" if alone[wall][name] == HOLDS else "" for wall in WALLS]
        needs = ", ".join(only_walls(document, name)) or "-"
        if whole == NOT_HERE:
            cells, needs = [""] * len(WALLS), "not on the machine of the measurement"
        elif all(cells):
            cells, needs = [""] * len(WALLS), f"{', '.join(channel.WALLS)}, which cannot be left out"
        lines.append(f"| {channel.NUMBER} | {name} | {' | '.join(cells)} | {needs} |")
    return lines


def elsewhere() -> list[str]:
    """A line for each way out that no attempt can try."""
    lines = ["| # | way out | held by | shown in |", "|--:|---|---|---|"]
    return lines + [f"| {row.number} | {row.name} | {row.held} | `{row.proof}` |" for row in HELD_ELSEWHERE]


def with_tables(page: str, document: Document) -> str:
    """The page with both tables as they must be."""
    for name, lines in (("walls", matrix(document)), ("elsewhere", elsewhere())):
        begin, end = BEGIN.format(name), END.format(name)
        head, rest = page.split(begin)
        page = "\n".join([head + begin, "", *lines, "", end]) + rest.split(end)[1]
    return page


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--table", action="store_true", help="write the tables anew, measure nothing")
    if not parser.parse_args(words).table:
        JSON.write_text(json.dumps(measure(), indent=1) + "\n")
    PAGE.write_text(with_tables(PAGE.read_text(), json.loads(JSON.read_text())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
