# SPDX-License-Identifier: Apache-2.0
"""The lower half of the dashboard of one device: rounds, resources, and what watching costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dashboards.panels import HERE, RANGE, YES_NO, Panel, Query, bars, grown, lines, rows, speed


def rounds() -> Iterator[Any]:
    """Answers, their time, and why some were refused."""
    yield lines(
        Panel(
            "Answers",
            "What the guard decided: updates and evaluations that were released, and those it refused.",
            "short",
            (
                Query(grown("homebound_update_bytes_count"), "released"),
                Query(grown("homebound_updates_rejected_total"), "refused"),
            ),
            width=6,
        ),
        stacked=True,
    )
    duration = "homebound_round_seconds"
    yield lines(
        Panel(
            "Length of a round",
            "Mean time from a training task's start to its release. A gap is a time without rounds.",
            "s",
            (Query(f"{speed(duration + '_sum')} / {speed(duration + '_count')}", "mean"),),
            width=6,
        )
    )
    rejected = grown("homebound_updates_rejected_total", "reason", window=RANGE)
    yield bars(
        Panel(
            "Refused, by reason",
            "The eight most frequent in the time shown. The federation gets this code and nothing else.",
            "short",
            (Query(f"sort_desc(topk(8, {rejected}))", "{{reason}}"),),
            width=6,
        ),
        steps=((None, "green"), (1.0, "orange")),
    )


def budget() -> Iterator[Any]:
    """What was spent of the privacy budget."""
    yield lines(
        Panel(
            "Privacy budget",
            "Epsilon of what was released, in the present run and in all, and its limits. An infinite limit "
            "is not drawn.",
            "none",
            (
                Query(f"max by (scope) (homebound_privacy_epsilon_spent{{{HERE}}})", "spent: {{scope}}"),
                Query(f"max by (scope) (homebound_privacy_epsilon_limit{{{HERE}}})", "limit: {{scope}}"),
            ),
            width=6,
        )
    )


def resources() -> Iterator[Any]:
    """What the roles use."""
    yield lines(
        Panel(
            "Processor, by role",
            "User and system time; 100 % is one processor.",
            "percentunit",
            (Query(speed("homebound_cpu_seconds_total", "role"), "{{role}}"),),
        )
    )
    yield lines(
        Panel(
            "Memory, by role",
            "From the role's cgroup, or the sum over its processes where the host has no memory controller.",
            "bytes",
            (Query(f"sum by (role) (homebound_memory_bytes{{{HERE}}})", "{{role}}"),),
        )
    )
    yield lines(
        Panel(
            "The trainer waits",
            "Share of time in which some task of it waited for the resource. Empty without pressure files.",
            "percentunit",
            (
                Query(
                    speed("homebound_pressure_stalled_seconds_total", "resource", more='role="trainer"'),
                    "{{resource}}",
                ),
            ),
        )
    )


def threads() -> Iterator[Any]:
    """What the kernel counts for each thread, by role."""
    yield lines(
        Panel(
            "Waiting for a processor, by role",
            "Time in which threads of the role could run and had no processor; two that wait are 200 %. "
            "Empty where the kernel does not take hb_thread_exit and its like, or does not count it.",
            "percentunit",
            (Query(speed("homebound_run_queue_seconds_total", "role"), "{{role}}"),),
        )
    )
    yield lines(
        Panel(
            "Block devices, by role",
            "Read from them, and made dirty to be written to them. What is on no disk (memory file systems, "
            "sockets) does not count.",
            "Bps",
            (Query(speed("homebound_block_bytes_total", "role, direction"), "{{role}}, {{direction}}"),),
        )
    )
    yield lines(
        Panel(
            "Major page faults, by role",
            "Pages a second that had to be read from a disk: data that do not fit into memory, or programs "
            "that were pushed out of it.",
            "short",
            (Query(speed("homebound_page_faults_total", "role", more='kind="major"'), "{{role}}"),),
        )
    )


def times() -> Iterator[Any]:
    """How long the trainer stands still in the kernel."""
    duration = "homebound_trainer_call_seconds"
    below = speed(f"{duration}_bucket", "class", more='le="0.001048576"')
    pressed = speed("homebound_pressure_stalled_seconds_total", more='role="trainer", resource="io"')
    yield lines(
        Panel(
            "The trainer waits for a disk",
            "Time in which its threads stood still for a block device, all together, where the host counts "
            "delays (sysctl kernel.task_delayacct); else the share of time in which some task of it did.",
            "percentunit",
            (Query(f"{speed('homebound_trainer_block_wait_seconds_total')} or {pressed}", "waits"),),
        )
    )
    yield lines(
        Panel(
            "Time of a system call",
            "Mean, of the trainer's calls about files and of all others, which wait as long as they like. "
            "Empty unless the setting kernel.time_calls is on.",
            "s",
            (
                Query(
                    f"{speed(duration + '_sum', 'class')} / {speed(duration + '_count', 'class')}",
                    "{{class}}",
                ),
            ),
        )
    )
    yield lines(
        Panel(
            "Slow system calls",
            "Share of the trainer's calls that took more than a millisecond. Empty unless the setting "
            "kernel.time_calls is on.",
            "percentunit",
            (Query(f"1 - {below} / {speed(duration + '_count', 'class')}", "{{class}}"),),
        )
    )


def processes() -> Iterator[Any]:
    """What the trainer's processes did."""
    yield lines(
        Panel(
            "Processes of the trainer",
            "Began, became another program, ended; and of those that ended, by a signal or the OOM killer. "
            "Empty where the kernel does not take hb_process_fork, hb_process_exec and hb_process_exit.",
            "short",
            (Query(grown("homebound_trainer_processes_total", "what"), "{{what}}"),),
            width=6,
        )
    )
    yield lines(
        Panel(
            "Largest process of the trainer",
            "Most memory that one process held, of those that ended since the daemon started.",
            "bytes",
            (Query(f"max(homebound_trainer_process_peak_memory_bytes{{{HERE}}})", "peak"),),
            width=6,
        )
    )


def system_calls() -> Iterator[Any]:
    """What the trainer asked of the kernel."""
    yield lines(
        Panel(
            "System calls of the trainer",
            "Calls a second, by class. Empty unless the setting count_calls is on.",
            "cps",
            (Query(speed("homebound_trainer_system_calls_total", "class"), "{{class}}"),),
            width=6,
        )
    )
    yield lines(
        Panel(
            "Foreign calls",
            "Calls of the roles by 32-bit tasks or the x32 interface, which the filters refuse. "
            "Empty unless the setting count_calls is on.",
            "short",
            (
                Query(
                    f"{grown('homebound_foreign_calls_total', 'abi')} or label_replace("
                    f'0 * {grown("homebound_trainer_system_calls_total")}, "abi", "none", "", "")',
                    "{{abi}}",
                ),
            ),
            width=6,
        )
    )


def opens() -> Iterator[Any]:
    """Which files the trainer opens, by what they are to it."""
    yield lines(
        Panel(
            "Files that the trainer opens",
            "Opens a second, by what the file is to the trainer; other: on none of its mounts. Empty unless "
            "the setting kernel.count_opens is on and the kernel has BTF.",
            "ops",
            (Query(speed("homebound_trainer_opens_total", "area, mode"), "{{area}}, {{mode}}"),),
        )
    )


def watching() -> Iterator[Any]:
    """What watching costs."""
    runs, seconds = "homebound_bpf_program_runs_total", "homebound_bpf_program_run_seconds_total"
    yield lines(
        Panel(
            "Time spent in BPF programs",
            "Share of one processor, of those that take more than a ten-thousandth of it.",
            "percentunit",
            (Query(f"{speed(seconds, 'program')} > 0.0001", "{{program}}"),),
        )
    )
    yield rows(
        Panel(
            "What each program costs",
            "Its runs in a second, the mean time of one, and the share of one processor that they take. "
            "hb_syscall_exit runs at every system call of the host.",
            "short",
            (
                Query(speed(runs, "program", window=RANGE), ""),
                Query(
                    f"{speed(seconds, 'program', window=RANGE)} / {speed(runs, 'program', window=RANGE)}", ""
                ),
                Query(speed(seconds, "program", window=RANGE), ""),
            ),
        ),
        key="program",
        columns={"program": "program", "Value #A": "runs", "Value #B": "each", "Value #C": "share"},
        worst="share",
        looks={"each": Query("", "", "s"), "share": Query("", "", "percentunit")},
    )
    yield lines(
        Panel(
            "Events",
            "Events read from the ring buffer, and those lost, not understood, or without a map entry. "
            "Also series of the site's own probes that are left out for being too many.",
            "short",
            (
                Query(grown("homebound_events_total"), "read"),
                Query(grown("homebound_events_lost_total"), "lost"),
                Query(grown("homebound_events_undecoded_total"), "not understood"),
                Query(grown("homebound_bpf_failed_lookups_total"), "failed lookups"),
                Query(f"sum(homebound_site_series_cut{{{HERE}}})", "series of the site left out"),
            ),
        )
    )
    yield lines(
        Panel(
            "Age of the last event",
            "The watcher asks a BPF program for an event every 5 s. Above that, events do not come through.",
            "s",
            (Query(f"max(homebound_event_path_age_seconds{{{HERE}}})", "age"),),
        )
    )


def whole() -> Iterator[Any]:
    """Whether programs and walls are all there."""
    yield rows(
        Panel(
            "Programs",
            "Whether each BPF program is attached; those that hang on one thing count together.",
            "short",
            (Query(f"min by (program) (homebound_bpf_program_attached{{{HERE}}})", ""),),
        ),
        key="program",
        columns={"program": "program", "Value": "attached"},
        worst="attached",
        least_first=True,
        looks={"attached": Query("", "", words=YES_NO)},
    )
    yield rows(
        Panel(
            "Walls",
            "Whether each wall held when it was last tried.",
            "short",
            (Query(f"min by (wall) (homebound_wall_active{{{HERE}}})", ""),),
        ),
        key="wall",
        columns={"wall": "wall", "Value": "holds"},
        worst="holds",
        least_first=True,
        looks={"holds": Query("", "", words=YES_NO)},
    )
    yield lines(
        Panel(
            "Cost of a scrape",
            "Time that reading the kernel's counters took, and the memory of the watcher itself.",
            "s",
            (Query(f"max by (instance) (homebound_collect_seconds{{{HERE}}})", "{{instance}}"),),
        )
    )


def loading() -> Iterator[Any]:
    """Who loaded the programs, and the site's own."""
    yield rows(
        Panel(
            "Who loaded the programs",
            "libbpf takes what was built ahead; bcc compiles on the host, where that does not fit.",
            "short",
            (Query(f"max by (instance, loader) (homebound_bpf_loader_info{{{HERE}}})", ""),),
        ),
        key="loader",
        columns={"instance": "device", "loader": "loader"},
        worst="loader",
        looks={},
    )
    yield rows(
        Panel(
            "Probes of the site",
            "Whether each of the site's own probes is loaded; the journal has the reason of one that is not. "
            "Their metrics begin with homebound_site_.",
            "short",
            (Query(f"min by (probe) (homebound_site_probe_loaded{{{HERE}}})", ""),),
        ),
        key="probe",
        columns={"probe": "probe", "Value": "loaded"},
        worst="loaded",
        looks={"loaded": Query("", "", words=YES_NO)},
    )
