# SPDX-License-Identifier: Apache-2.0
"""The decision over a role's facts: each wall that is missing is named, and nothing else is."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from homebound.kernel import audit
from homebound.kernel.audit import Expected, Facts

OWN = dict.fromkeys(audit.NAMESPACES, 1)
EXPECTED = Expected(
    uid=700, gid=700, groups=frozenset({700, 50}), shared_namespaces=frozenset(), links=frozenset({3, 4})
)
GOOD = Facts(
    pid=9,
    uids=frozenset({700}),
    gids=frozenset({700}),
    groups=frozenset({50}),
    capabilities=0,
    no_new_privs=True,
    seccomp=2,
    namespaces=dict.fromkeys(audit.NAMESPACES, 2),
    descriptors={0: "/dev/null", 1: "pipe:[1]", 2: "pipe:[1]", 3: "socket:[5]", 4: "/memfd:x (deleted)"},
    core_limit=1,
    program="/usr/bin/python3",
)


def test_a_role_behind_all_walls_has_no_fault() -> None:
    assert audit.decide(GOOD, OWN, EXPECTED) == []


@pytest.mark.parametrize(
    ("change", "wall"),
    [
        ({"uids": frozenset({0})}, "users"),
        ({"uids": frozenset({700, 0})}, "users"),
        ({"gids": frozenset({0})}, "users"),
        ({"groups": frozenset({0})}, "users"),
        ({"capabilities": 1}, "users"),
        ({"no_new_privs": False}, "users"),
        ({"seccomp": 0}, "seccomp"),
        ({"seccomp": 1}, "seccomp"),
        ({"namespaces": {**GOOD.namespaces, "net": 1}}, "namespaces"),
        ({"namespaces": {**GOOD.namespaces, "pid": 1}}, "namespaces"),
        ({"descriptors": {**GOOD.descriptors, 7: "socket:[77]"}}, "no-inherited-fd"),
        ({"descriptors": {**GOOD.descriptors, 7: "pipe:[77]"}}, "no-inherited-fd"),
        ({"descriptors": {**GOOD.descriptors, 7: "/dev/sda"}}, "no-inherited-fd"),
        ({"core_limit": -1}, "no-core-dump"),
        ({"core_limit": 0}, "no-core-dump"),  # a program that takes dumps would get them
    ],
)
def test_a_missing_wall_is_named(change: dict[str, object], wall: str) -> None:
    faults = audit.decide(replace(GOOD, **change), OWN, EXPECTED)  # type: ignore[arg-type]
    assert [fault.wall for fault in faults] == [wall]


def test_a_role_that_may_share_the_network_is_excused_for_it_alone() -> None:
    shared = replace(GOOD, namespaces={**GOOD.namespaces, "net": 1})
    excused = replace(EXPECTED, shared_namespaces=frozenset({"net"}))
    assert audit.decide(shared, OWN, excused) == []
    both = replace(shared, namespaces={**shared.namespaces, "ipc": 1})
    assert "ipc" in audit.decide(both, OWN, excused)[0].detail


def test_the_facts_of_this_very_process_are_true() -> None:
    facts = audit.read_facts(os.getpid())
    assert facts.uids == {os.getuid(), os.geteuid()}
    assert facts.namespaces["net"] == os.stat("/proc/self/ns/net").st_ino
    assert set(facts.descriptors) >= {0, 1, 2}
