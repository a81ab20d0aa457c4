# SPDX-License-Identifier: Apache-2.0
"""docs/privacy.md names the defaults that the code has, and the example runs with the settings it names.

Reads files of the project; may import homebound.settings.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from homebound.settings import GuardSettings

ROOT = Path(__file__).resolve().parents[3]
DOCUMENT = (ROOT / "docs/privacy.md").read_text()
ROW = re.compile(r"^\| `(?P<name>[a-z._-]+)` \| (?P<value>[0-9.]+) \|", re.MULTILINE)


def named(document: str) -> dict[str, float]:
    """Settings in the tables of a document whose first cell is a name in backquotes and second a number."""
    return {found["name"]: float(found["value"]) for found in ROW.finditer(document)}


@pytest.mark.parametrize("name", ["clip_norm", "noise_multiplier", "quantum_bits"])
def test_default_is_the_documented_one(name: str) -> None:
    assert getattr(GuardSettings(), name) == named(DOCUMENT)[f"guard.{name}"]


@pytest.mark.parametrize("name", ["local-epochs", "lr", "batch-size"])
def test_example_runs_as_documented(name: str) -> None:
    app = tomllib.loads((ROOT / "examples/digits/pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert app["config"][name] == named(DOCUMENT)[name]


def test_bench_measures_the_documented_example() -> None:
    bench = (ROOT / "tests/bench/privacy_defaults.py").read_text()
    rows = named(DOCUMENT)
    wanted = {"epochs": "local-epochs", "lr": "lr", "batch_size": "batch-size"}
    for argument, row in wanted.items():
        found = re.search(rf'^LOCAL = .*"{argument}": ([0-9.]+)', bench, re.MULTILINE)
        assert found is not None
        assert float(found[1]) == rows[row]


def test_another_number_in_the_document_is_seen() -> None:
    changed = DOCUMENT.replace("| `guard.noise_multiplier` | 0.1 |", "| `guard.noise_multiplier` | 0.3 |")
    assert named(changed)["guard.noise_multiplier"] != GuardSettings().noise_multiplier


def test_the_documented_row_of_the_default_is_marked() -> None:
    """The table of reconstructions has a column for the default noise, in bold."""
    head = next(line for line in DOCUMENT.splitlines() if line.startswith("| model | attack"))
    assert f"**{GuardSettings().noise_multiplier}**" in head
