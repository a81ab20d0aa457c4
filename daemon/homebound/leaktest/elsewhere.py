# SPDX-License-Identifier: Apache-2.0
"""The ways out that no attempt from inside a sandbox can try: what holds each, and where that is shown.

With the channel files these are all 51. ``proof`` is a test, or a chapter of docs/leaks.md where a way cannot
be closed and is only bounded. Pure. Imports nothing of ours.
"""

from __future__ import annotations

from dataclasses import dataclass

ALL = range(1, 52)
BOUNDS = "docs/leaks.md"


@dataclass(frozen=True)
class Elsewhere:
    """One way out. ``held``: by what, in a few words; ``proof``: FILE::TEST, or a document."""

    number: int
    name: str
    held: str
    proof: str


HELD_ELSEWHERE: tuple[Elsewhere, ...] = (
    Elsewhere(
        21,
        "output of the app",
        "a file of limited size that root alone reads",
        "tests/leaks/test_output.py::test_a_secret_of_the_app_stays_in_its_log",
    ),
    Elsewhere(
        23,
        "text of errors",
        "a closed set of codes",
        "tests/unit/guard/test_hostile.py::test_a_spoilt_frame_ends_in_a_word_of_the_closed_set",
    ),
    Elsewhere(
        24,
        "metrics and labels",
        "allow-list, rounding; no label is the app's",
        "tests/unit/guard/test_checks.py::test_metrics",
    ),
    Elsewhere(
        29,
        "pickled update",
        "nothing is unpickled",
        "tests/leaks/test_inputs.py::test_nothing_of_ours_unpickles",
    ),
    Elsewhere(36, "GPU memory", "no GPU node in view; else bounded", BOUNDS),
    Elsewhere(40, "process names", "fixed names in metrics; host agents bounded", BOUNDS),
    Elsewhere(
        44,
        "before the programs are on",
        "attached first, then started frozen",
        "tests/kernel/test_sandbox.py::test_a_frozen_cgroup_holds_the_first_instruction",
    ),
    Elsewhere(
        45,
        "daemon dead or upgrading",
        "pinned programs; the trainer ends with it",
        "tests/daemon/test_lifecycle.py::test_killed_daemon_and_the_next_one",
    ),
    Elsewhere(
        46,
        "flood of events",
        "counters decide, and none is lost",
        "tests/kernel/test_maps.py::test_flood_loses_exactly_what_it_counts",
    ),
    Elsewhere(
        47,
        "hidden in an update",
        "fixed shape, clipped, noised, rounded, in the ledger",
        "tests/unit/guard/test_release.py::test_bytes_depend_on_the_values_alone",
    ),
    Elsewhere(
        48,
        "extras of the gateway",
        "one endpoint; every byte declared and counted",
        "tests/unit/books/test_accounts.py::test_bytes_that_were_not_declared_are_unaccounted_to_the_byte",
    ),
    Elsewhere(49, "timing, sizes, codes, load", "about 20 bits a round", BOUNDS),
    Elsewhere(
        50,
        "a trigger that comes in",
        "code of the federation never runs; else bounded",
        "tests/federation/test_federation.py::test_other_app_is_refused_and_never_fetched",
    ),
    Elsewhere(
        51,
        "left for a later run",
        "scratch in memory that ends with the trainer",
        "tests/leaks/test_inputs.py::test_a_later_run_finds_nothing_of_an_earlier_one",
    ),
)
