# SPDX-License-Identifier: Apache-2.0
"""A site's program looks on: it returns 1 whatever it wanted, and calls nothing that acts."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from homebound.kernel import sitecode
from homebound.kernel.bytecode import Code
from homebound.kernel.siteplan import SiteProbeError

UAPI = Path("/usr/include/linux/bpf.h")
# Names of functions that act: on packets, sockets, memory of others, signals, results of calls.
ACT = (
    "probe_write_user",
    "override_return",
    "send_signal",
    "setsockopt",
    "redirect",
    "skb_store_bytes",
    "bind",
)


def word(opcode: int, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("<BBhi", opcode, source << 4, offset, immediate)


EXIT, MOVE_0, JUMP_OVER = word(0x95), word(0xB7), word(0x15, 0, 2)


def test_every_exit_returns_1() -> None:
    """Jumps keep their targets, because nothing is moved; each exit becomes a jump to the end."""
    code = MOVE_0 + JUMP_OVER + MOVE_0 + EXIT + MOVE_0 + EXIT
    made = sitecode.harmless(Code("x", "cgroup_skb/egress", code)).instructions
    assert made == (
        MOVE_0
        + JUMP_OVER
        + MOVE_0
        + word(0x05, 0, 2)
        + MOVE_0
        + word(0x05, 0, 0)
        + word(0xB7, 0, 0, 1)
        + EXIT
    )


def test_a_constant_is_no_exit() -> None:
    """The second half of a 64-bit constant may have any byte where an opcode stands."""
    code = word(0x18, 0, 0, 0x95) + struct.pack("<BBhi", 0, 0, 0, 0x85) + EXIT
    assert sitecode.harmless(Code("x", "raw_tp/x", code)).instructions[:16] == code[:16]


@pytest.mark.parametrize(("source", "number"), [(0, 36), (0, 49), (0, 109), (0, 6), (1, 2), (2, 5), (0, 999)])
def test_calls_that_do_more_than_look(source: int, number: int) -> None:
    """Functions that act, other functions of the program, kernel functions by their type."""
    with pytest.raises(SiteProbeError, match="x calls function"):
        sitecode.harmless(Code("x", "raw_tp/x", word(0x85, source, 0, number) + EXIT))


def test_too_long() -> None:
    with pytest.raises(SiteProbeError, match="too long"):
        sitecode.harmless(Code("x", "raw_tp/x", EXIT + MOVE_0 * (1 << 15)))


@pytest.mark.skipif(not UAPI.exists(), reason="linux-libc-dev is not installed")
def test_the_numbers_are_those_of_the_kernel() -> None:
    """Names in their order in the interface header, whichever of its two forms it has."""
    text = UAPI.read_text()
    names = re.findall(
        r"^\s+FN\((\w+)(?:, \d+, ##ctx)?\)", text[text.index("BPF_FUNC_MAPPER(FN") :], re.MULTILINE
    )
    assert names[0] == "unspec"
    assert {number: names[number] for number in sitecode.HELPERS} == sitecode.HELPERS
    assert not {names.index(name) for name in ACT} & sitecode.HELPERS.keys()
