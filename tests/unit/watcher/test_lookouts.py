# SPDX-License-Identifier: Apache-2.0
"""lookouts.py: sums of threads and times of calls as metric values; what is unknown is left out, never 0."""

from __future__ import annotations

from dataclasses import replace

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from homebound.events import CallClass
from homebound.kernel.calltimes import NONE, SLOTS, CallTimes
from homebound.metrics import BY_NAME, CALL_SLOTS, TIMED_CLASSES
from homebound.watcher import lookouts
from homebound.watcher.recording import Metrics
from unit.watcher.rig import MemoryCounters


def test_resources_are_those_of_the_roles_that_are_started() -> None:
    found = lookouts.of_resources(MemoryCounters().resources(), {"sched_info": True, "task_io": True})
    for name in found:
        assert found[name].keys() == set(BY_NAME[name].values), name
    assert found["homebound_run_queue_seconds_total"]["guard",] == 6.0
    assert found["homebound_page_faults_total"]["guard", "major"] == 4
    assert found["homebound_block_bytes_total"]["guard", "read"] == 3
    assert found["homebound_block_bytes_total"]["guard", "write"] == 2
    assert found["homebound_trainer_block_wait_seconds_total"][()] == 1.0


def test_what_the_kernel_does_not_count_is_left_out() -> None:
    counters = MemoryCounters().resources()
    bare = lookouts.of_resources(counters, {"sched_info": False})
    assert set(bare["homebound_run_queue_seconds_total"].values()) == {None}
    assert set(bare["homebound_block_bytes_total"].values()) == {None}
    assert bare["homebound_page_faults_total"]["trainer", "major"] == 4
    assert bare["homebound_page_faults_total"]["trainer", "minor"] == 5
    never = {role: replace(used, block_wait_ns=0) for role, used in counters.items()}
    assert lookouts.of_resources(never, {})["homebound_trainer_block_wait_seconds_total"] == {(): None}
    nobody = lookouts.of_resources({}, {"sched_info": True, "task_io": True})
    assert {value for values in nobody.values() for value in values.values()} == {None}


def took(*slots: int, total_ns: int = 0) -> CallTimes:
    """One call in each of these slots."""
    return CallTimes(tuple(slots.count(slot) for slot in range(SLOTS)), total_ns)


def test_calls_at_most_as_long() -> None:
    """A slot holds its own bound; the last one all that is longer."""
    times = took(0, 14, 15, 39)
    assert [times.at_most(slot) for slot in (0, 13, 14, 15, 38, 39)] == [1, 1, 2, 3, 3, 4]
    assert times + NONE == times
    assert took(3, total_ns=5) + took(3, 4, total_ns=7) == took(3, 3, 4, total_ns=12)


def test_call_times_are_joined_and_add_up() -> None:
    """Files by themselves, all other classes as one."""
    found = {kind: took(14, 20, 39, total_ns=10**9) for kind in CallClass} | {CallClass.NETWORK: NONE}
    registry = CollectorRegistry()
    Metrics(registry, {"call_times": lambda: lookouts.of_call_times(found)})
    lines = [
        line for line in generate_latest(registry).decode().splitlines()
        if line.startswith("homebound_trainer_call_seconds")
    ]  # fmt: skip
    wanted = []
    for name, each in (("file", 1), ("other", len(CallClass) - 2)):
        counts = dict(zip((*CALL_SLOTS.values(), "+Inf"), (1, 2, 2, 3), strict=True))
        wanted += [
            f'homebound_trainer_call_seconds_bucket{{class="{name}",le="{le}"}} {float(count * each)}'
            for le, count in counts.items()
        ]
        wanted.append(f'homebound_trainer_call_seconds_count{{class="{name}"}} {3.0 * each}')
        wanted.append(f'homebound_trainer_call_seconds_sum{{class="{name}"}} {1.0 * each}')
    assert lines == wanted


def test_nothing_is_shown_where_nothing_is_timed() -> None:
    for found in ({}, dict.fromkeys(CallClass, NONE)):
        assert [values for values in lookouts.of_call_times(found).values() if values] == []


def test_classes_that_are_shown_by_themselves_are_classes() -> None:
    assert set(TIMED_CLASSES) < {kind.label for kind in CallClass}
    assert TIMED_CLASSES[-1] == "other"
