# SPDX-License-Identifier: Apache-2.0
"""Two network namespaces and a veth pair between them: a wire with a capture on the device that sends.

The near end does no segmentation of its own (TSO and UDP GSO are off), so the kernel cuts just before the
device, behind the programs: they see one large packet, the capture the segments. With ``cut`` the stack
hands on single segments, so that programs and capture see the same packets. Needs root and iproute2.
Source: ip-link(8), packet(7), ethtool ioctls in linux/ethtool.h.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from kernel.capture import Capture

NEAR, FAR = "hb-near", "hb-far"
# Documentation prefixes: RFC 5737, RFC 3849.
NEAR4, FAR4 = "192.0.2.1", "192.0.2.2"
NEAR6, FAR6 = "2001:db8::1", "2001:db8::2"
FAR_MAPPED = f"::ffff:{FAR4}"
MTU = 1500
CLONE_NEWNET = 0x40000000
SIOCETHTOOL, ETHTOOL_GSTRINGS, ETHTOOL_SFEATURES, ETH_SS_FEATURES = 0x8946, 0x1B, 0x3B, 4
ETHTOOL_GSSET_INFO, NAME_BYTES = 0x37, 32
OFFLOADS = ("tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-tcp-ecn-segmentation",
            "tx-tcp-mangleid-segmentation", "tx-udp-segmentation")  # fmt: skip


@dataclass(frozen=True)
class Wire:
    """``far`` is the namespace of the receiving end; this process is in the sending one."""

    far: int

    @contextmanager
    def beyond(self) -> Iterator[None]:
        """Make sockets at the far end; they stay there."""
        libc = ctypes.CDLL(None, use_errno=True)
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            assert libc.setns(self.far, CLONE_NEWNET) == 0
            yield
        finally:
            assert libc.setns(here, CLONE_NEWNET) == 0
            os.close(here)


def stretch(cut: bool = False) -> Wire:
    """Make the wire in a namespace of this process's own. To be called in a child that then ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(CLONE_NEWNET) == 0
    far = os.open("/proc/self/ns/net", os.O_RDONLY)
    assert libc.unshare(CLONE_NEWNET) == 0
    wire = Wire(far)
    there = f"/proc/{os.getpid()}/fd/{far}"
    ip("link", "add", NEAR, "type", "veth", "peer", "name", FAR)
    ip("link", "set", FAR, "netns", there)
    switch_off(NEAR, OFFLOADS)
    if cut:
        ip("link", "set", NEAR, "gso_max_segs", "1")
    up(NEAR, NEAR4, NEAR6)
    with wire.beyond():
        up(FAR, FAR4, FAR6)
    return wire


def up(device: str, *addresses: str) -> None:
    ip("link", "set", "lo", "up")
    ip("link", "set", device, "up", "mtu", str(MTU))
    for address in addresses:
        # nodad: an address that is still looked for twice cannot be sent from.
        length, more = ("64", ("nodad",)) if ":" in address else ("24", ())
        ip("address", "add", f"{address}/{length}", "dev", device, *more)


def ip(*words: str) -> None:
    """ip(8); its complaint is the error."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


def switch_off(device: str, features: tuple[str, ...]) -> None:
    """What ``ethtool -K DEVICE FEATURE off`` does, which not every machine has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        asked = _ethtool(probe, device, struct.pack("IIQI", ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_FEATURES, 0))
        (count,) = struct.unpack_from("I", asked, 16)
        head = struct.pack("III", ETHTOOL_GSTRINGS, ETH_SS_FEATURES, count)
        text = _ethtool(probe, device, head + bytes(count * NAME_BYTES))[12:]
        names = [text[i : i + NAME_BYTES].rstrip(b"\0").decode() for i in range(0, len(text), NAME_BYTES)]
        blocks = [0] * -(-count // 32)
        for bit in (names.index(name) for name in features if name in names):
            blocks[bit // 32] |= 1 << bit % 32
        words = b"".join(struct.pack("II", block, 0) for block in blocks)
        _ethtool(probe, device, struct.pack("II", ETHTOOL_SFEATURES, len(blocks)) + words)


def _ethtool(probe: socket.socket, device: str, request: bytes) -> bytes:
    buffer = ctypes.create_string_buffer(request, len(request))
    fcntl.ioctl(probe, SIOCETHTOOL, struct.pack("16sQ16x", device.encode(), ctypes.addressof(buffer)))
    return buffer.raw


def capture() -> Capture:
    """On the device that sends."""
    return Capture(NEAR)
