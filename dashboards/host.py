# SPDX-License-Identifier: Apache-2.0
"""The dashboard of one device: its state, its four rooms side by side, what left and what was refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dashboards.panels import (
    BAD_FROM_ONE,
    HERE,
    RANGE,
    YES_NO,
    Panel,
    Query,
    bars,
    board,
    grown,
    lines,
    rows,
    speed,
    values,
)
from grafana_foundation_sdk.builders import dashboard

from dashboards import hostwork

SMALL: dict[str, int] = {"width": 3, "height": 4}
ROOMS = {
    "trainer": "Sees the raw data, has no network. It must send nothing, ever.",
    "guard": "Decides what leaves, has no network and no raw data. It must send nothing, ever.",
    "gateway": "Speaks to the federation and to nobody else. Sees only what was released.",
    "watcher": "Reads the kernel's counters and answers Prometheus, which is what it sends.",
}


def build() -> dashboard.Dashboard:
    """All rows."""
    made = board(
        "homebound-host",
        "homebound: one device",
        "What a device does, what left it, and whether its walls hold.",
        ("All devices", "homebound-fleet"),
    )
    for title, panels in (
        ("At a glance", (*_glance(), *_sums())),
        ("Four rooms", _rooms()),
        ("What left", _left()),
        ("Refusals", _refusals()),
        ("Rounds", (*hostwork.rounds(), *hostwork.budget())),
        ("Resources", (*hostwork.resources(), *hostwork.threads())),
        (
            "Processes and calls",
            (*hostwork.processes(), *hostwork.system_calls(), *hostwork.opens(), *hostwork.times()),
        ),
        ("Watching", (*hostwork.watching(), *hostwork.whole(), *hostwork.loading())),
    ):
        made.with_row(dashboard.Row(title))
        for panel in panels:
            made.with_panel(panel)
    return made


def _glance() -> Iterator[Any]:
    yield values(
        Panel(
            "Mode",
            "enforce: walls deny. observe: what the BPF programs would deny is only counted.",
            "short",
            (Query(f"min(homebound_enforce{{{HERE}}})", "mode"),),
            **SMALL,
        ),
        words={"1": ("enforce", "green"), "0": ("observe", "orange")},
    )
    yield values(
        Panel(
            "Training",
            "Stopped: nothing trains until the daemon is started again. Its status has the reason.",
            "short",
            (Query(f"max(homebound_training_stopped{{{HERE}}})", "training"),),
            **SMALL,
        ),
        words={"0": ("allowed", "green"), "1": ("STOPPED", "red")},
    )
    yield values(
        Panel(
            "Walls that hold",
            "As last tried by the canary. no-swap is missing on hosts without the memory controller.",
            "short",
            (Query(f"min(sum by (instance) (homebound_wall_active{{{HERE}}}))", "walls"),),
            **SMALL,
        ),
        steps=((None, "red"), (7.0, "green")),
    )
    yield values(
        Panel(
            "Walls last tried",
            "Time since the canary was refused everywhere. It flies every five minutes unless set otherwise.",
            "s",
            (Query(f"max(time() - homebound_canary_timestamp_seconds{{{HERE}}})", "age"),),
            **SMALL,
        ),
        steps=((None, "green"), (600.0, "orange"), (900.0, "red")),
    )


def _sums() -> Iterator[Any]:
    yield values(
        Panel(
            "Violations",
            "Verdicts other than allow in the time shown. A device that does its work has none.",
            "short",
            (Query(grown("homebound_violations_total", window=RANGE), "violations"),),
            **SMALL,
        ),
        steps=BAD_FROM_ONE,
    )
    yield values(
        Panel(
            "Unaccounted",
            "Bytes of the gateway that no declaration or release explains; how long ago all was explained.",
            "bytes",
            (
                Query(grown("homebound_transmit_unaccounted_bytes_total", window=RANGE), "bytes"),
                Query(
                    f"time() - min(homebound_reconciled_timestamp_seconds{{{HERE}}})",
                    "age",
                    "s",
                    steps=((None, "text"),),
                    decimals=0,
                ),
            ),
            **SMALL,
        ),
        steps=BAD_FROM_ONE,
    )
    yield values(
        Panel(
            "Federation",
            "Whether the gateway is connected to the federation.",
            "short",
            (Query(f"min(homebound_federation_connected{{{HERE}}})", "connected"),),
            **SMALL,
        ),
        words={"1": ("connected", "green"), "0": ("away", "orange")},
    )
    newest = f"max(homebound_round_last_success_timestamp_seconds{{{HERE}}})"
    yield values(
        Panel(
            "Last update taken",
            "When the federation last acknowledged a training update. 1970 is never.",
            "dateTimeFromNow",
            (Query(f"{newest} * 1000", "when"),),
            **SMALL,
        )
    )


def _rooms() -> Iterator[Any]:
    for role, what in ROOMS.items():
        sealed = role in ("trainer", "guard")
        this = f'role="{role}"'
        yield values(
            Panel(
                role,
                what,
                "short",
                (
                    Query(f"min(homebound_role_up{{{HERE}, {this}}})", "runs", words=YES_NO),
                    Query(
                        grown("homebound_transmit_bytes_total", window=RANGE, more=this),
                        "sent",
                        "bytes",
                        steps=BAD_FROM_ONE if sealed else (),
                    ),
                    Query(
                        grown("homebound_violations_total", window=RANGE, more=this),
                        "violations",
                        steps=BAD_FROM_ONE,
                    ),
                    Query(
                        speed("homebound_cpu_seconds_total", more=this),
                        "processor",
                        "percentunit",
                        decimals=1,
                    ),
                    Query(f"sum(homebound_memory_bytes{{{HERE}, {this}}})", "memory", "bytes", decimals=1),
                ),
                width=6,
                height=8,
            )
        )


def _sent() -> Iterator[Any]:
    yield lines(
        Panel(
            "Sent, by role",
            "IP bytes with headers, counted by the kernel on the role's cgroup. Trainer and guard stay at 0.",
            "Bps",
            (Query(speed("homebound_transmit_bytes_total", "role"), "{{role}}"),),
            width=6,
        )
    )
    yield lines(
        Panel(
            "Left through the host's links, by role",
            "The second meter, on the links: packet sockets are in it, loopback is not. What is more than "
            "sent went past the first meter.",
            "Bps",
            (Query(speed("homebound_uplink_bytes_total", "role"), "{{role}}"),),
            width=6,
        )
    )
    yield values(
        Panel(
            "Links and sockets",
            "Links of the host that lead out without the second meter, and the gateway's connections by the "
            "kernel's list.",
            "short",
            (
                Query(f"sum(homebound_uplinks_unmetered{{{HERE}}})", "not metered"),
                Query(f"sum(homebound_gateway_connections{{{HERE}}})", "connections"),
            ),
            width=3,
        )
    )
    yield lines(
        Panel(
            "Received, by role",
            "IP bytes with headers. The gateway receives models; the watcher the requests of Prometheus.",
            "Bps",
            (Query(speed("homebound_receive_bytes_total", "role"), "{{role}}"),),
            width=5,
        )
    )
    yield lines(
        Panel(
            "Unaccounted bytes",
            "Bytes of the gateway that stood unexplained for several seconds.",
            "bytes",
            (
                Query(
                    grown("homebound_transmit_unaccounted_bytes_total", "instance"),
                    "{{instance}}",
                ),
            ),
            width=4,
        )
    )


def _left() -> Iterator[Any]:
    yield from _sent()
    yield lines(
        Panel(
            "Released against sent",
            "Payload of releases beside all that the gateway sent: polls, heads and TLS make the difference.",
            "bytes",
            (
                Query(grown("homebound_update_bytes_sum"), "released"),
                Query(
                    grown("homebound_transmit_bytes_total", more='role="gateway"'),
                    "sent by the gateway",
                ),
            ),
            width=12,
        )
    )
    size = "homebound_update_bytes"
    yield lines(
        Panel(
            "Size of a release",
            "Mean payload of a release. A gap is a time without releases.",
            "bytes",
            (Query(f"{speed(size + '_sum')} / {speed(size + '_count')}", "mean"),),
            width=7,
        )
    )
    yield values(
        Panel(
            "Ledger",
            "Entries (releases and refusals), and when the guard last found the whole of it unchanged.",
            "short",
            (
                Query(f"sum(homebound_ledger_entries{{{HERE}}})", "entries"),
                Query(
                    f"min(homebound_ledger_verified_timestamp_seconds{{{HERE}}}) * 1000",
                    "verified",
                    "dateTimeFromNow",
                ),
            ),
            width=5,
        )
    )


def _refusals() -> Iterator[Any]:
    yield lines(
        Panel(
            "Violations, by role",
            "Refused attempts of a role, bytes of a role that must send none, and the canary's escapes.",
            "short",
            (Query(grown("homebound_violations_total", "role"), "{{role}}"),),
        ),
        stacked=True,
    )
    query = Query(f"topk(12, {grown('homebound_violations_total', 'role, rule', RANGE)})", "")
    yield rows(
        Panel(
            "Violations, by role and rule",
            "The twelve most frequent in the time shown. The rule is the way that was tried.",
            "short",
            (query,),
        ),
        key="rule",
        columns={"role": "role", "rule": "rule", "Value": "count"},
        worst="count",
        looks={"count": Query("", "", "short", steps=BAD_FROM_ONE)},
    )
    yield bars(
        Panel(
            "Refused attempts, all roles",
            "The eight most frequent in the time shown. The canary tries on purpose, and the start of a role "
            "asks in vain for a name service (socket_unix).",
            "short",
            (Query(f"sort_desc(topk(8, {grown('homebound_denied_total', 'rule', RANGE)}))", "{{rule}}"),),
        )
    )
