# SPDX-License-Identifier: Apache-2.0
"""The guard's word on its budget, as status, metrics and a line: nothing unknown is shown as zero spent."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from homebound.books import spending
from homebound.metrics import BY_NAME

REPORT: dict[str, Any] = {
    "type": "ledger", "entries": 23, "hash": "ab" * 32, "key": "cd" * 32, "verified": 1.7e9,
    "epsilon": 223.0, "run_epsilon": 91.8, "run": "r1", "epsilon_limit": 10000.0,
    "run_epsilon_limit": 0.0, "delta": 1e-5, "exhausted": False,
}  # fmt: skip


def shown(**changes: Any) -> dict[tuple[str, ...], float]:
    return {(name, *labels): value for name, value, labels in spending.readings({**REPORT, **changes})}


def test_metrics() -> None:
    found = shown()
    assert found == {
        ("homebound_ledger_entries",): 23,
        ("homebound_ledger_verified_timestamp_seconds",): 1.7e9,
        ("homebound_privacy_epsilon_spent", "run"): 91.8,
        ("homebound_privacy_epsilon_limit", "run"): math.inf,
        ("homebound_privacy_epsilon_spent", "all"): 223.0,
        ("homebound_privacy_epsilon_limit", "all"): 10000.0,
    }
    assert all(labels in BY_NAME[name].values for name, *rest in found for labels in [tuple(rest)])


@pytest.mark.parametrize("value", [None, "12", True, [], math.nan, math.inf])
def test_an_epsilon_that_is_no_number_is_unbounded(value: Any) -> None:
    assert shown(epsilon=value)["homebound_privacy_epsilon_spent", "all"] == math.inf


def test_the_documents_are_json_and_say_when_nothing_is_known() -> None:
    assert spending.document({}) == {"ledger": None, "privacy": None}
    found = json.loads(json.dumps(spending.document(REPORT, "no room"), allow_nan=False))
    assert found["ledger"] == {"entries": 23, "head": "ab" * 32, "verified": 1.7e9, "trouble": "no room"}
    assert (found["privacy"]["epsilon"], found["privacy"]["exhausted"]) == (223.0, False)
    assert spending.document({**REPORT, "exhausted": "no"})["privacy"]["exhausted"] is True


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "epsilon 223 spent at delta 1e-05, limit 10000; above 10 is no guarantee"),
        ({"epsilon_limit": 8.0, "epsilon": 4.38}, "epsilon 4.38 spent at delta 1e-05, limit 8"),
        ({"epsilon_limit": 0.0}, "epsilon 223 spent at delta 1e-05, no limit; above 10 is no guarantee"),
        ({"exhausted": True}, "epsilon 223 spent at delta 1e-05, limit 10000: nothing trains any more"),
        (
            {"epsilon": None},
            "epsilon without bound spent at delta 1e-05, limit 10000; above 10 is no guarantee",
        ),
    ],
)  # fmt: skip
def test_the_line(changes: dict[str, Any], words: str) -> None:
    assert spending.words(spending.document({**REPORT, **changes})["privacy"]) == words
