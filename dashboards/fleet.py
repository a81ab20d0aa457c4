# SPDX-License-Identifier: Apache-2.0
"""The dashboard of all devices: the worst first, then versions, violations and bytes over time."""

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

GATEWAY = 'role="gateway"'
AGE = f"time() - homebound_canary_timestamp_seconds{{{HERE}}}"
LATE = f"3 * max by (instance) (homebound_canary_interval_seconds{{{HERE}}})"
ONE_DEVICE = "/d/homebound-host?var-instance=${__value.text}&${__url_time_range}"
UP = f"max by (instance) (up{{{HERE}}})"
# Points for each kind of trouble that a device has; one that does not answer has no other figures.
POINTS = (
    (10, f"({grown('homebound_violations_total', 'instance', RANGE)} > bool 0)"),
    (10, f"({grown('homebound_transmit_unaccounted_bytes_total', 'instance', RANGE)} > bool 0)"),
    (10, f"max by (instance) (homebound_training_stopped{{{HERE}}})"),
    (
        10,
        f"(max by (instance) ({AGE}) > bool {LATE})",
    ),
    (1, f"(max by (instance) (homebound_enforce{{{HERE}}}) == bool 0)"),
    (1, f"(max by (instance) (homebound_federation_connected{{{HERE}}}) == bool 0)"),
)
TROUBLE = f"({' + '.join(f'{points} * {what}' for points, what in POINTS)}) * ({UP} == 1) or 100 * (1 - {UP})"


def build() -> dashboard.Dashboard:
    """All rows."""
    made = board(
        "homebound-fleet",
        "homebound: all devices",
        "Which device needs somebody to look at it.",
        ("One device", "homebound-host"),
    )
    for title, panels in (("At a glance", _glance()), ("Devices", _devices()), ("Over time", _over_time())):
        made.with_row(dashboard.Row(title))
        for panel in panels:
            made.with_panel(panel)
    return made


def _glance() -> Iterator[Any]:
    small: dict[str, int] = {"width": 4, "height": 4}
    up = f"up{{{HERE}}}"
    yield values(
        Panel(
            "Devices", "Targets that Prometheus knows.", "short", (Query(f"count({up})", "devices"),), **small
        )
    )
    yield values(
        Panel(
            "Not seen",
            "Targets that did not answer the last scrape.",
            "short",
            (Query(f"count({up}) - sum({up})", "not seen"),),
            **small,
        ),
        steps=BAD_FROM_ONE,
    )
    yield values(
        Panel(
            "Training stopped",
            "Devices that train no more until somebody has looked at them.",
            "short",
            (Query(f"sum(homebound_training_stopped{{{HERE}}})", "stopped"),),
            **small,
        ),
        steps=BAD_FROM_ONE,
    )
    yield values(
        Panel(
            "In mode observe",
            "Devices whose BPF programs only count.",
            "short",
            (Query(f"count(homebound_enforce{{{HERE}}}) - sum(homebound_enforce{{{HERE}}})", "observe"),),
            **small,
        ),
        steps=((None, "green"), (1.0, "orange")),
    )
    yield values(
        Panel(
            "Violations",
            "Of all devices in the time shown.",
            "short",
            (Query(grown("homebound_violations_total", window=RANGE), "violations"),),
            **small,
        ),
        steps=BAD_FROM_ONE,
    )
    yield values(
        Panel(
            "Unaccounted bytes",
            "Of all devices in the time shown.",
            "bytes",
            (Query(grown("homebound_transmit_unaccounted_bytes_total", window=RANGE), "bytes"),),
            **small,
        ),
        steps=BAD_FROM_ONE,
    )


def _devices() -> Iterator[Any]:
    each = "by (instance)"
    yield rows(
        Panel(
            "Worst first",
            "100 points for a device that does not answer; ten each for violations, unaccounted bytes, "
            "stopped training and walls not tried for three intervals; one each for mode observe and "
            "federation away.",
            "short",
            (
                Query(TROUBLE, ""),
                Query(UP, ""),
                Query(grown("homebound_violations_total", "instance", RANGE), ""),
                Query(grown("homebound_transmit_unaccounted_bytes_total", "instance", RANGE), ""),
                Query(f"max {each} (homebound_training_stopped{{{HERE}}})", ""),
                Query(f"min {each} (homebound_enforce{{{HERE}}})", ""),
                Query(f"max {each} ({AGE})", ""),
                Query(f"min {each} (homebound_federation_connected{{{HERE}}})", ""),
                Query(grown("homebound_update_bytes_count", "instance", RANGE), ""),
                Query(grown("homebound_updates_rejected_total", "instance", RANGE), ""),
                Query(
                    f"max by (instance) (homebound_privacy_epsilon_spent{{{HERE}}}"
                    f" / homebound_privacy_epsilon_limit{{{HERE}}})",
                    "",
                ),
                Query(f"max by (instance, version) (homebound_build_info{{{HERE}}})", ""),
            ),
            width=24,
            height=10,
        ),
        key="instance",
        columns={
            "instance": "device",
            "Value #A": "points",
            "Value #B": "seen",
            "Value #C": "violations",
            "Value #D": "unaccounted",
            "Value #E": "training",
            "Value #F": "mode",
            "Value #G": "walls tried",
            "Value #H": "connected",
            "Value #I": "released",
            "Value #J": "refused",
            "Value #K": "budget spent",
            "version": "version",
        },
        worst="points",
        looks={
            "device": Query("", "", link=ONE_DEVICE),
            "points": Query("", "", "short", steps=((None, "green"), (1.0, "orange"), (10.0, "red"))),
            "seen": Query("", "", words=YES_NO),
            "violations": Query("", "", "short", steps=BAD_FROM_ONE),
            "unaccounted": Query("", "", "bytes", steps=BAD_FROM_ONE, decimals=0),
            "training": Query("", "", words={"0": ("allowed", "green"), "1": ("STOPPED", "red")}),
            "mode": Query("", "", words={"1": ("enforce", "green"), "0": ("observe", "orange")}),
            "walls tried": Query("", "", "s", decimals=0),
            "connected": Query("", "", words=YES_NO),
            "budget spent": Query("", "", "percentunit", decimals=0, steps=((None, "text"), (0.9, "orange"))),
        },
    )


def most(counter: str) -> str:
    """The ten devices on which a counter grew most."""
    return f"topk(10, {grown(counter, 'instance')})"


def _over_time() -> Iterator[Any]:
    yield lines(
        Panel(
            "Violations, by device",
            "The ten devices with most.",
            "short",
            (Query(most("homebound_violations_total"), "{{instance}}"),),
        ),
        stacked=True,
    )
    yield lines(
        Panel(
            "Sent by gateways",
            "The ten devices that send most.",
            "Bps",
            (
                Query(
                    f"topk(10, {speed('homebound_transmit_bytes_total', 'instance', more=GATEWAY)})",
                    "{{instance}}",
                ),
            ),
        )
    )
    yield lines(
        Panel(
            "Updates released",
            "By device, the ten that release most.",
            "short",
            (Query(most("homebound_update_bytes_count"), "{{instance}}"),),
        ),
        stacked=True,
    )
    yield bars(
        Panel(
            "Versions",
            "Devices by the version that they run.",
            "short",
            (Query(f"sort_desc(count by (version) (homebound_build_info{{{HERE}}}))", "{{version}}"),),
        )
    )
    yield bars(
        Panel(
            "Walls that do not hold",
            "Devices on which the wall did not hold when it was last tried.",
            "short",
            (Query(f"sort_desc(sum by (wall) (1 - homebound_wall_active{{{HERE}}}))", "{{wall}}"),),
        ),
        steps=((None, "green"), (1.0, "orange")),
    )
    yield lines(
        Panel(
            "Watcher's memory",
            "Resident memory of the ten largest watchers.",
            "bytes",
            (Query(f"topk(10, process_resident_memory_bytes{{{HERE}}})", "{{instance}}"),),
        )
    )
