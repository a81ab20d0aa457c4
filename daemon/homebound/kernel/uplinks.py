# SPDX-License-Identifier: Apache-2.0
"""The second meter on the host's uplinks: which links lead out, and hb_uplink on the egress of each.

Runs as a process of its own that ends, ``python -m homebound.kernel.uplinks``: the netlink library holds
20 MB, which the supervisor need not carry. Our filter is known by its name; one that an earlier life left is
replaced in place, so that no moment is unmetered. Needs root. May import: kernel.bpf.
Source: tc-bpf(8), rtnetlink(7), linux/if_arp.h.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from homebound.kernel import bpf

# TC_H_CLSACT with TC_H_MIN_EGRESS and TC_H_MIN_INGRESS, linux/pkt_sched.h.
EGRESS, INGRESS, CLSACT = 0xFFFFFFF3, 0xFFFFFFF2, 0xFFFF0000
PRIORITY = 49152
LOOPBACK = 0x8  # IFF_LOOPBACK
ETHERNET, ETHERNET_BYTES = 1, 14  # ARPHRD_ETHER
# Links whose packets go on, with their socket, to another link of the same host, where they are counted.
STACKED = frozenset(
    "vlan bond team bridge macvlan macvtap ipvlan ipvtap vrf vxlan geneve gre gretap ip6gre ip6gretap erspan"
    " ip6erspan ipip sit ip6tnl vti vti6 xfrm hsr macsec batadv openvswitch".split()
)
# Links that lead nowhere.
NOWHERE = frozenset({"dummy", "ifb", "nlmon", "vcan"})


@dataclass(frozen=True)
class Link:
    """``kind``: as ip-link(8) names it, "" for hardware. ``header``: bytes before an IP packet."""

    index: int
    name: str
    kind: str
    header: int
    loopback: bool


@dataclass(frozen=True)
class Metered:
    """One uplink and whether the meter is on it; why not, when it is not."""

    name: str
    attached: bool
    reason: str = ""


def links(netlink: IPRoute) -> list[Link]:
    """Every link of this network namespace."""
    found = []
    for message in netlink.get_links():
        info = message.get_attr("IFLA_LINKINFO")
        kind = (info.get_attr("IFLA_INFO_KIND") if info else None) or ""
        header = ETHERNET_BYTES if message["ifi_type"] == ETHERNET else 0
        name = str(message.get_attr("IFLA_IFNAME"))
        found.append(Link(message["index"], name, kind, header, bool(message["flags"] & LOOPBACK)))
    return found


def is_uplink(link: Link) -> bool:
    """Whether this is the last link on which a packet is known to be ours."""
    return not link.loopback and link.kind not in STACKED | NOWHERE


def meter(netlink: IPRoute, link: Link, program: int, name: str) -> None:
    """Put the program on a link, in the place of an earlier one of ours. Raises NetlinkError."""
    try:
        netlink.tc("add", "clsact", link.index)
    except NetlinkError as error:
        if error.code != 17:  # EEXIST: ours from before, or somebody else's; it is shared
            raise
    ours = _filters(netlink, link.index, name)
    words: dict[str, Any] = {"fd": program, "name": name, "parent": EGRESS, "direct_action": True}
    if not ours:
        netlink.tc("add-filter", "bpf", link.index, prio=PRIORITY, **words)
        return
    netlink.tc("replace-filter", "bpf", link.index, ours[0]["handle"], prio=ours[0]["info"] >> 16, **words)


def take_off(netlink: IPRoute, link: Link, name: str) -> None:
    """Remove our filters from a link, and the queueing discipline if nothing else hangs on it."""
    for found in _filters(netlink, link.index, name):
        netlink.tc("del-filter", "bpf", link.index, found["handle"], parent=EGRESS, prio=found["info"] >> 16)
    left = [*netlink.get_filters(index=link.index, parent=EGRESS)]
    left += netlink.get_filters(index=link.index, parent=INGRESS)
    if not left:
        netlink.tc("del", "clsact", link.index)


def _filters(netlink: IPRoute, index: int, name: str) -> list[Any]:
    """The filters of that name on a link's egress."""
    found = []
    for message in netlink.get_filters(index=index, parent=EGRESS):
        options = message.get_attr("TCA_OPTIONS")
        if options and message["handle"] and options.get_attr("TCA_BPF_NAME") == name:
            found.append(message)
    return found


def _has_ours(netlink: IPRoute, link: Link, name: str) -> bool:
    return bool(_filters(netlink, link.index, name))


def attach(netlink: IPRoute, name: str, program: int, headers: int) -> list[Metered]:
    """Meter every uplink; what is no uplink (any more) loses a filter of ours."""
    found = []
    for link in links(netlink):
        if not is_uplink(link):
            if _has_ours(netlink, link, name):
                take_off(netlink, link, name)
            continue
        key, value = (number.to_bytes(4, sys.byteorder) for number in (link.index, link.header))
        bpf.update(headers, key, value)
        found.append(_tried(link, lambda at: meter(netlink, at, program, name)))
    return found


def remove(netlink: IPRoute, name: str) -> list[Metered]:
    """Take all of ours off; ``attached`` is what could not be."""
    ours = [link for link in links(netlink) if _has_ours(netlink, link, name)]
    tried = [_tried(link, lambda at: take_off(netlink, at, name)) for link in ours]
    return [Metered(entry.name, not entry.attached, entry.reason) for entry in tried]


def _tried(link: Link, step: Callable[[Link], None]) -> Metered:
    try:
        step(link)
    except NetlinkError as error:
        return Metered(link.name, False, os.strerror(error.code) if error.code else str(error))
    return Metered(link.name, True)


def told(found: Iterable[Metered]) -> str:
    """For the supervisor: one line of JSON."""
    return json.dumps([asdict(entry) for entry in found])


def main(words: Sequence[str] | None = None) -> int:
    """``attach --name DEVICE --pins FOLDER`` or ``remove --name DEVICE``."""
    parser = argparse.ArgumentParser(prog="homebound-uplinks")
    parser.add_argument("verb", choices=("attach", "remove"))
    parser.add_argument("--name", required=True)
    parser.add_argument("--pins", type=Path)
    given = parser.parse_args(words)
    with IPRoute() as netlink:
        if given.verb == "remove":
            found = remove(netlink, given.name)
        else:
            program = bpf.open_pin(given.pins / "programs" / "hb_uplink")
            headers = bpf.open_pin(given.pins / "maps" / "link_header")
            found = attach(netlink, given.name, program, headers)
    sys.stdout.write(told(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
