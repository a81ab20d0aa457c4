# SPDX-License-Identifier: Apache-2.0
"""What the guard says of its ledger and its privacy budget, in the forms of status and metrics.

Pure. The report may be of a guard that was taken over, so a field of the wrong type is taken as not known
and never as zero spent. Used by supervisor (status) and watcher (metrics). Imports nothing of ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

# Above this epsilon nobody calls it a guarantee; docs/privacy.md says what is left then.
WEAK_EPSILON = 10.0
# What of the report is about the budget: of the present run, and of everything.
SCOPES = {"run": ("run_epsilon", "run_epsilon_limit"), "all": ("epsilon", "epsilon_limit")}


def document(report: Mapping[str, Any], trouble: str = "") -> dict[str, Any]:
    """The parts "ledger" and "privacy" of the status document; None for what the guard has not said yet.

    An epsilon of None is one that no number bounds: something left without noise.
    """
    if not report:
        return {"ledger": None, "privacy": None}
    return {
        "ledger": {
            "entries": report.get("entries"),
            "head": report.get("hash"),
            "verified": report.get("verified"),
            "trouble": trouble,
        },
        "privacy": {
            **{name: report.get(name) for pair in SCOPES.values() for name in pair},
            "delta": report.get("delta"),
            "exhausted": report.get("exhausted") is not False,
        },
    }


def readings(report: Mapping[str, Any]) -> Iterator[tuple[str, float, tuple[str, ...]]]:
    """Metric, value and labels. No limit and no bound are both infinite: a share of them means something."""
    entries, verified = _number(report.get("entries")), _number(report.get("verified"))
    if entries is not None and verified is not None:
        yield "homebound_ledger_entries", entries, ()
        yield "homebound_ledger_verified_timestamp_seconds", verified, ()
    for scope, (spent, limit) in SCOPES.items():
        value, bound = _number(report.get(spent)), _number(report.get(limit))
        yield "homebound_privacy_epsilon_spent", math.inf if value is None else value, (scope,)
        yield "homebound_privacy_epsilon_limit", bound or math.inf, (scope,)


def _number(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None


def words(privacy: Mapping[str, Any]) -> str:
    """One line for a person."""
    limit = privacy["epsilon_limit"]
    bound = f"limit {limit:g}" if limit else "no limit"
    text = f"epsilon {_epsilon(privacy['epsilon'])} spent at delta {privacy['delta']:g}, {bound}"
    if privacy["exhausted"]:
        return f"{text}: nothing trains any more"
    weak = limit == 0 or limit > WEAK_EPSILON
    return f"{text}; above {WEAK_EPSILON:g} is no guarantee" if weak else text


def _epsilon(value: float | None) -> str:
    return "without bound" if value is None else f"{value:.4g}"
