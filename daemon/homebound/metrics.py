# SPDX-License-Identifier: Apache-2.0
"""Every metric once: name, type, help and the closed set of its label values.

watcher/recording.py puts them on a registry. Imports nothing of ours; tests compare the sets with their
owners.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

SANDBOXED = ("watcher", "trainer", "guard", "gateway", "canary")
DAEMON = ("supervisor", "watcher", "trainer", "guard", "gateway")
STARTED = ("watcher", "trainer", "guard", "gateway")
ROLES = ("none", "supervisor", *SANDBOXED)
PROGRAM_RULES = (
    "sock_create", "connect4", "connect6", "sendmsg4", "sendmsg6", "egress", "ingress", "credit",
    "uplink",
)  # fmt: skip
RULES = (
    *PROGRAM_RULES,
    "socket_stream", "socket_datagram", "socket_raw", "socket_packet", "socket_vsock", "socket_unix",
    "socket_netlink", "socket_other",
    "io_uring", "file_outside", "foreign_fd", "namespace", "trace", "kernel", "cgroup",
)  # fmt: skip
LSM_RULES = (
    "lsm_socket", "lsm_connect", "lsm_send", "lsm_open", "lsm_receive", "lsm_trace", "lsm_bpf", "lsm_userns",
    "lsm_key",
)  # fmt: skip
# The programs on security hooks count as one, in rules and in what is attached. So do, in what is attached,
# those that hang on the device's cgroup, and those that look on one thing at several places: series are few.
# Status, events and the journal have each.
LSM = "lsm"
ON_CGROUP = (
    "hb_sock_create", "hb_connect4", "hb_connect6", "hb_sendmsg4", "hb_sendmsg6", "hb_egress", "hb_ingress",
)  # fmt: skip
PROGRAM_GROUPS = ("hb_process", "hb_thread", "hb_call", "hb_lsm")
PROGRAMS = (
    *ON_CGROUP, "hb_syscall_exit", "hb_files", "hb_uplink",
    "hb_process_fork", "hb_process_exec", "hb_process_exit", "hb_process_move",
    "hb_thread_exit", "hb_thread_move", "hb_thread_live",
    "hb_calls", "hb_call_enter", "hb_call_exit",
    *(f"hb_{rule}" for rule in LSM_RULES),
)  # fmt: skip
# Rules that are about sums and trials, not about one call.
POLICY_RULES = (
    ("trainer", "transmit"), ("guard", "transmit"), ("gateway", "unaccounted"), ("gateway", "destination"),
    ("canary", "canary"),
)  # fmt: skip
REQUIRED_GROUPS = ("hb_cgroup", "hb_syscall_exit")
WANTED_GROUPS = ("hb_files", "hb_uplink", *PROGRAM_GROUPS)
# Events that are about processes are one kind here.
PROCESS = "process"
PROCESS_KINDS = ("process_fork", "process_exec", "process_exit")
KINDS = ("denied", "canary", "attempt", PROCESS, "file_open")
FEATURES = (
    "btf", "bpf_programs", "bpf_lsm", "seccomp", "landlock", "sched_info", "task_io", "cgroup_controllers",
)  # fmt: skip
WALLS = (
    "namespaces", "seccomp", "landlock", "cgroup-bpf", "bpf-lsm", "users", "no-inherited-fd", "no-core-dump",
    "no-swap",
)  # fmt: skip
REASONS = (
    "app_failed", "app_not_loaded", "timeout", "trainer_died", "malformed", "schema", "not_finite",
    "too_large", "metric_not_allowed", "too_few_examples", "imprint", "secagg_stage",
    "secagg_too_few", "secagg_threshold", "secagg_keys", "secagg_lists", "secagg_required", "not_approved",
    "budget", "ledger",
)  # fmt: skip
SECAGG = "secagg"
PROCESS_STEPS = ("fork", "exec", "exit", "killed", "oom_kill")
STREAMS = ("refusals", "activity")
RESOURCES = ("cpu", "memory", "io")
# A minor fault is memory that is new: of the roles whose code is ours nobody asks for that.
FAULTS = (
    ("watcher", "major"), ("trainer", "major"), ("guard", "major"), ("gateway", "major"),
    ("trainer", "minor"),
)  # fmt: skip
# The watcher has nowhere to write.
ON_DISK = ("trainer", "guard", "gateway")
DIRECTIONS = ("read", "write")
SCOPES = ("run", "all")

# From a few kilobytes (digits) to the default of guard.max_update_bytes.
UPDATE_BUCKETS = (4096.0, 1048576.0, 16777216.0, 536870912.0)
# Times of system calls, kept in powers of two of a nanosecond, are shown up to three of them: what needs no
# wait, what a quick disk takes, what somebody notices. Of two classes; status has all of both.
CALL_SLOTS = {slot: f"{2**slot / 1e9:.12g}" for slot in (14, 20, 27)}
TIMED_CLASSES = ("file", "other")
ROUND_BUCKETS = (1.0, 15.0, 60.0, 600.0)

Combination = tuple[str, ...]
# Who fills a metric: this process as things happen, or a reader that is asked at each scrape.
Source = Literal[
    "counted", "traffic", "uplink", "denied", "processes", "calls", "opens", "events", "programs",
    "resources", "call_times", "usage", "collect",
]  # fmt: skip
# Metric name -> label values -> value; None is for what nobody knows and leaves a gap.
Readings = Mapping[str, Mapping[Combination, float | None]]
Reader = Callable[[], Readings]


@dataclass(frozen=True)
class Metric:
    """One metric. ``values``: its label combinations, all there from the start; none for a metric whose
    labels are facts that are set once (a version)."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    values: tuple[Combination, ...] = ((),)
    source: Source = "counted"
    buckets: tuple[float, ...] = ()


def _each(*sets: Iterable[str]) -> tuple[Combination, ...]:
    return tuple(itertools.product(*sets))


# A rule is told less finely, for fewer series; status, events and journal have the rule itself. What a wall
# refused keeps its kind, since whoever tried a way out looks for that; by role there is less room.
DENIED_AS = {
    **dict.fromkeys(("connect4", "connect6"), "connect"),
    **dict.fromkeys(("sendmsg4", "sendmsg6"), "sendmsg"),
    **dict.fromkeys(LSM_RULES, LSM),
}  # fmt: skip
TRAINER_VIOLATED_AS = {
    **DENIED_AS,
    **dict.fromkeys(
        (
            "socket_datagram", "socket_raw", "socket_packet", "socket_vsock", "socket_unix", "socket_netlink",
        ),
        "socket_other",
    ),
    **dict.fromkeys(("namespace", "trace"), "kernel"),
}  # fmt: skip
# Of the roles whose code is ours less is told: that one of them tries anything is what has to be looked into.
NETWORK, SANDBOX = "network", "sandbox"
OWN_VIOLATED_AS = {
    **dict.fromkeys((*PROGRAM_RULES, *(rule for rule in RULES if rule.startswith("socket_"))), NETWORK),
    **dict.fromkeys(
        ("io_uring", "file_outside", "foreign_fd", "namespace", "trace", "kernel", LSM, *LSM_RULES), SANDBOX
    ),
}
# Only the gateway needs credit to send.
CREDIT = ("gateway", "credit")


def denied_rule(rule: str) -> str:
    """The rule under which a refusal is counted."""
    return DENIED_AS.get(rule, rule)


def violated_rule(role: str, rule: str) -> str:
    """The rule under which a violation of that role is counted."""
    if (role, rule) == CREDIT:
        return rule
    return (TRAINER_VIOLATED_AS if role == "trainer" else OWN_VIOLATED_AS).get(rule, rule)


def shown_reason(code: str) -> str:
    """The reason under which a refused answer is counted. A word that is none of ours is itself malformed; it
    must not become a label."""
    if code not in REASONS:
        return "malformed"
    return SECAGG if code.startswith(SECAGG) else code


def shown_kind(kind: str) -> str:
    """The kind under which an event is counted."""
    return PROCESS if kind in PROCESS_KINDS else kind


def program_group(name: str) -> str:
    """What of homebound_bpf_program_attached speaks of the program."""
    if name in ON_CGROUP:
        return "hb_cgroup"
    return next((group for group in PROGRAM_GROUPS if name.startswith(group)), name)


DENIED_RULES = tuple(dict.fromkeys(denied_rule(rule) for rule in (*RULES, LSM)))
VIOLATIONS = tuple(
    dict.fromkeys(
        (role, violated_rule(role, rule))
        for role, rule in _each(STARTED, (*RULES, LSM))
        if (role, rule) != ("trainer", "credit")
    )
)
SHOWN_REASONS = tuple(dict.fromkeys(shown_reason(code) for code in REASONS))


METRICS = (
    Metric("homebound_build_info", "gauge", "Version of homebound; always 1.", ("version", "revision"), ()),
    Metric("homebound_enforce", "gauge", "Whether walls deny (1) or only count (0, mode observe)."),
    Metric(
        "homebound_kernel_feature", "gauge", "Whether this kernel has it; it was tried.", ("feature",), (),
    ),
    Metric(
        "homebound_wall_active", "gauge", "Whether the wall held when it was last tried.",
        ("wall",), _each(WALLS),
    ),
    Metric(
        "homebound_canary_timestamp_seconds", "gauge", "When the walls were last tried and held; 0 is never."
    ),
    Metric("homebound_canary_interval_seconds", "gauge", "Time between two trials of the walls, as set."),
    Metric(
        "homebound_training_stopped", "gauge",
        "Whether nothing trains until homebound is started again (1): a wall fell, or the app changed.",
    ),
    # the BPF programs
    Metric(
        "homebound_bpf_program_attached", "gauge",
        "Whether the program, or each of its group, is attached. Nothing starts without a required one; a "
        "wanted one only looks on.",
        ("program", "need"), _each(REQUIRED_GROUPS, ("required",)) + _each(WANTED_GROUPS, ("wanted",)),
        "programs",
    ),
    Metric(
        "homebound_bpf_program_runs_total", "counter",
        "Runs of the program, by the kernel's BPF statistics, which are on while homebound runs.",
        ("program",), _each(PROGRAMS), "programs",
    ),
    Metric(
        "homebound_bpf_program_run_seconds_total", "counter",
        "Time spent in the program, by the kernel's BPF statistics.",
        ("program",), _each(PROGRAMS), "programs",
    ),
    Metric(
        "homebound_bpf_failed_lookups_total", "counter", "Map lookups that failed in a BPF program.",
        source="programs",
    ),
    Metric(
        "homebound_events_lost_total", "counter",
        "Events that found no room in the ring buffer: of refusals, or of what is against no rule.",
        ("stream",), _each(STREAMS), "programs",
    ),
    Metric(
        "homebound_events_total", "counter", "Events taken from the ring buffer.", ("kind",), _each(KINDS)
    ),
    Metric(
        "homebound_trainer_processes_total", "counter",
        "Processes of the trainer that began, became another program, ended, ended by signal or OOM killer.",
        ("what",), _each(PROCESS_STEPS), "processes",
    ),
    Metric(
        "homebound_trainer_process_peak_memory_bytes", "gauge",
        "Most memory that one process of the trainer held, of those that ended.", source="processes",
    ),
    Metric(
        "homebound_trainer_system_calls_total", "counter",
        "System calls of the trainer, with count_calls.", ("class",), (), "calls",
    ),
    Metric(
        "homebound_foreign_calls_total", "counter", "32-bit and x32 calls, with count_calls.", ("abi",), (),
        "calls",
    ),
    Metric(
        "homebound_trainer_opens_total", "counter",
        "Files that the trainer opened, by what they are to it, with kernel.count_opens.",
        ("area", "mode"), (), "opens",
    ),
    Metric(
        "homebound_trainer_call_seconds", "histogram",
        "Time from entry to return of the trainer's system calls, with kernel.time_calls: of those about "
        "files, and of all others, which may wait as long as they like.",
        ("class",), (), "call_times",
    ),
    Metric(
        "homebound_event_path_age_seconds", "gauge", "Age of the last event that came through.",
        source="events",
    ),
    Metric("homebound_events_undecoded_total", "counter", "Events of a version or kind not known here."),
    Metric("homebound_bpf_loader_info", "gauge", "Who loaded the BPF programs; always 1.", ("loader",), ()),
    Metric("homebound_site_probe_loaded", "gauge", "Whether a site's probe is loaded.", ("probe",), ()),
    Metric("homebound_site_series_cut", "gauge", "Series of the site's probes left out, as one too many."),
    # what the kernel counted
    Metric(
        "homebound_transmit_bytes_total", "counter", "IP bytes that the role sent, headers included.",
        ("role",), _each(ROLES), "traffic",
    ),
    Metric(
        "homebound_receive_bytes_total", "counter", "IP bytes that the role received, headers included.",
        ("role",), _each(DAEMON), "traffic",
    ),
    Metric(
        "homebound_uplink_bytes_total", "counter",
        "IP bytes that the role sent through the host's links, packet sockets included.",
        ("role",), _each(STARTED), "uplink",
    ),
    Metric(
        "homebound_gateway_connections", "gauge", "Connections of the gateway, by the kernel's own list.",
    ),
    Metric(
        "homebound_uplinks_unmetered", "gauge", "Links of the host that lead out without the second meter."
    ),
    Metric(
        "homebound_denied_total", "counter",
        "Attempts of any role that a wall refused, those of the canary and of a role's start included.",
        ("rule",), _each(DENIED_RULES), "denied",
    ),
    # what was decided
    Metric(
        "homebound_violations_total", "counter",
        "Verdicts other than allow; the rules transmit, unaccounted, destination and canary are about sums "
        "and trials.",
        ("role", "rule"), VIOLATIONS + POLICY_RULES,
    ),
    Metric(
        "homebound_transmit_unaccounted_bytes_total", "counter",
        "Bytes that the gateway sent and that no declaration or release explains.",
    ),
    Metric(
        "homebound_reconciled_timestamp_seconds", "gauge",
        "When what the kernel saw leave the gateway was last explained whole; 0 is never.",
    ),
    # rounds and updates
    Metric("homebound_updates_total", "counter", "Answers to tasks that the guard decided on."),
    Metric(
        "homebound_updates_rejected_total", "counter",
        "Answers that the guard refused; those of secure aggregation are one, and the ledger has each code.",
        ("reason",), _each(SHOWN_REASONS),
    ),
    Metric(
        "homebound_update_bytes", "histogram", "Payload of a released answer.", buckets=UPDATE_BUCKETS
    ),
    Metric(
        "homebound_round_seconds", "histogram", "From a training task's start to its release.",
        buckets=ROUND_BUCKETS,
    ),
    Metric(
        "homebound_round_last_success_timestamp_seconds", "gauge",
        "When the federation last acknowledged a training update; 0 is never.",
    ),
    Metric("homebound_federation_connected", "gauge", "Whether the gateway is connected to the federation."),
    Metric("homebound_reports_malformed_total", "counter", "Reports of roles that made no sense."),
    Metric("homebound_ledger_entries", "gauge", "Entries of the ledger: releases and refusals."),
    Metric(
        "homebound_ledger_verified_timestamp_seconds", "gauge",
        "When the guard last went through the whole ledger and found it unchanged; 0 is never.",
    ),
    Metric(
        "homebound_privacy_epsilon_spent", "gauge",
        "Epsilon of what was released, of the present run and in all; infinite once it had no noise.",
        ("scope",), _each(SCOPES),
    ),
    Metric(
        "homebound_privacy_epsilon_limit", "gauge",
        "Epsilon at which training stops; infinite where no limit is set.", ("scope",), _each(SCOPES),
    ),
    # the roles
    Metric("homebound_role_up", "gauge", "Whether the role's process lives.", ("role",), _each(STARTED)),
    Metric(
        "homebound_role_restarts_total", "counter", "Starts of the role after its first.",
        ("role",), _each(STARTED),
    ),
    Metric(
        "homebound_cpu_seconds_total", "counter", "Processor time of the role, user and system.",
        ("role",), _each(DAEMON), "usage",
    ),
    Metric(
        "homebound_memory_bytes", "gauge", "Memory that the role holds.", ("role",), _each(DAEMON), "usage"
    ),
    Metric(
        "homebound_pressure_stalled_seconds_total", "counter",
        "Time in which at least one task of the role waited for the resource.",
        ("role", "resource"), _each(STARTED, RESOURCES), "usage",
    ),
    Metric(
        "homebound_run_queue_seconds_total", "counter",
        "Time in which threads of the role could run and had no processor.",
        ("role",), _each(STARTED), "resources",
    ),
    Metric(
        "homebound_page_faults_total", "counter",
        "Page faults of the role; a major one had to be read from a disk.",
        ("role", "kind"), FAULTS, "resources",
    ),
    Metric(
        "homebound_block_bytes_total", "counter",
        "Bytes that the role read from block devices, and those that it made dirty, to be written there.",
        ("role", "direction"), _each(ON_DISK, DIRECTIONS), "resources",
    ),
    Metric(
        "homebound_trainer_block_wait_seconds_total", "counter",
        "Time in which threads of the trainer waited for a block device, where the host counts delays "
        "(sysctl kernel.task_delayacct).",
        source="resources",
    ),
    # this endpoint
    Metric(
        "homebound_collect_seconds", "gauge", "How long reading the kernel took in this scrape.",
        source="collect",
    ),
    Metric("homebound_collect_errors_total", "counter", "Sources that could not be read in a scrape."),
)  # fmt: skip
BY_NAME: Mapping[str, Metric] = {metric.name: metric for metric in METRICS}
