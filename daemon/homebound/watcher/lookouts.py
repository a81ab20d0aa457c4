# SPDX-License-Identifier: Apache-2.0
"""What programs that only look on measured of the roles, as metric values.

May import: events, metrics, kernel.calltimes, kernel.resources.
"""

from __future__ import annotations

from collections.abc import Mapping

from homebound.events import CallClass, Role
from homebound.kernel.calltimes import NONE, CallTimes
from homebound.kernel.resources import Resources
from homebound.metrics import CALL_SLOTS, ON_DISK, STARTED, TIMED_CLASSES, Readings


def of_resources(found: Mapping[Role, Resources], features: Mapping[str, bool]) -> Readings:
    """What the roles' threads used; left out where no program looks, or where the kernel does not count it.

    Nobody knows of the wait for block devices whether it is counted before there is any.
    """
    wait: dict[tuple[str, ...], float | None] = {}
    faults: dict[tuple[str, ...], float | None] = {}
    moved: dict[tuple[str, ...], float | None] = {}
    for name in STARTED:
        used = found.get(Role[name.upper()])
        queued = used if features.get("sched_info") else None
        told = used if features.get("task_io") else None
        wait[(name,)] = queued.run_queue_ns / 1e9 if queued else None
        faults[name, "major"] = used.major_faults if used else None
        if name in ON_DISK:
            moved[name, "read"] = told.read_bytes if told else None
            moved[name, "write"] = told.write_bytes if told else None
    trainer = found.get(Role.TRAINER)
    faults["trainer", "minor"] = trainer.minor_faults if trainer else None
    is_counted = any(used.block_wait_ns for used in found.values())
    return {
        "homebound_run_queue_seconds_total": wait,
        "homebound_page_faults_total": faults,
        "homebound_block_bytes_total": moved,
        "homebound_trainer_block_wait_seconds_total": {
            (): trainer.block_wait_ns / 1e9 if trainer and is_counted else None
        },
    }


def of_call_times(found: Mapping[CallClass, CallTimes]) -> Readings:
    """How long the trainer's calls took; nothing where no program looks, or before the first call."""
    sums = dict.fromkeys(TIMED_CLASSES, NONE)
    for kind, times in found.items():
        name = kind.label if kind.label in sums else "other"
        sums[name] += times
    buckets: dict[tuple[str, ...], float | None] = {}
    totals: dict[tuple[str, ...], float | None] = {}
    for name, times in sums.items():
        if times == NONE:
            continue
        buckets |= {(name, le): times.at_most(slot) for slot, le in CALL_SLOTS.items()}
        buckets[name, "+Inf"] = sum(times.slots)
        totals[(name,)] = times.total_ns / 1e9
    return {"homebound_trainer_call_seconds_bucket": buckets, "homebound_trainer_call_seconds_sum": totals}
