# SPDX-License-Identifier: Apache-2.0
"""What the tests of rules and dashboards share: names in PromQL, the rule file, Debian's Prometheus tools."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml

from conftest import ROOT
from homebound.metrics import METRICS

DASHBOARDS = ROOT / "dashboards"
RULES = DASHBOARDS / "rules" / "homebound.rules.yml"
RULE_TESTS = sorted((DASHBOARDS / "rules" / "tests").glob("*.yml"))
# Of Prometheus itself, and of client_python's process collector, which the endpoint adds.
FOREIGN = frozenset({"up", "ALERTS", "process_start_time_seconds", "process_resident_memory_bytes"})


def run(*words: str | Path) -> tuple[int, str]:
    """Exit status and output of a program that setup installs."""
    program = shutil.which(str(words[0]))
    if program is None:
        pytest.fail(f"{words[0]} is missing: run make setup", pytrace=False)
    done = subprocess.run([program, *map(str, words[1:])], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def rules() -> list[dict[str, Any]]:
    """All rules, recording and alerting, in order."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    """The alerting rules."""
    return [rule for rule in rules() if "alert" in rule]


def records() -> frozenset[str]:
    """Names that recording rules make."""
    return frozenset(rule["record"] for rule in rules() if "record" in rule)


def exported() -> frozenset[str]:
    """Names of samples that a scrape of ours holds."""
    names: set[str] = set()
    for metric in METRICS:
        parts = ("_bucket", "_sum", "_count") if metric.type == "histogram" else ("",)
        names.update(metric.name + part for part in parts)
    return frozenset(names)


def selectors(expression: str) -> Iterator[promql.VectorSelector]:
    """Every vector selector of a PromQL expression. Raises ValueError for one that does not parse."""
    waiting = [promql.parse(expression)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, promql.VectorSelector):
            yield node
        elif isinstance(node, promql.MatrixSelector):
            yield node.vector_selector
        elif isinstance(node, promql.BinaryExpr):
            waiting += [node.lhs, node.rhs]
        elif isinstance(node, promql.Call):
            waiting += list(node.args)
        elif hasattr(node, "expr"):
            waiting.append(node.expr)


def matchers(selector: promql.VectorSelector) -> dict[str, str]:
    """Label -> value of a selector's matchers."""
    return {matcher.name: matcher.value for matcher in selector.matchers.matchers}


def unknown(expression: str) -> list[str]:
    """Names in an expression that nobody exports or records."""
    known = exported() | records() | FOREIGN
    return [str(found.name) for found in selectors(expression) if found.name not in known]


def heading(text: str) -> str:
    """A Markdown heading as a link's fragment."""
    return re.sub(r"[^a-z0-9-]", "", text.lower().replace(" ", "-"))
