# SPDX-License-Identifier: Apache-2.0
"""What a site's own program may be: one that looks on. Pure; instructions in, instructions or a refusal out.

It may call only functions of the kernel that read or that write to its own maps, and it decides nothing:
every exit returns 1, which for a program on a cgroup is "go on" and which tracing takes no notice of.
May import: errors, kernel.bytecode, kernel.siteplan. Source: bpf-helpers(7), enum bpf_func_id in
include/uapi/linux/bpf.h, Documentation/bpf/standardization/instruction-set.rst.
"""

from __future__ import annotations

import struct
from dataclasses import replace

from homebound.kernel import bytecode
from homebound.kernel.bytecode import CALL, EXIT, JUMP, WORD, Code
from homebound.kernel.siteplan import SiteProbeError

FAMILIES = ("tracepoint", "raw_tp", "kprobe", "kretprobe", "cgroup")
# Of the programs on cgroups those that can only let pass or not, which the exit below takes from them, and
# the one that is told of what happens to a connection.
CGROUP_SECTIONS = ("cgroup_skb/ingress", "cgroup_skb/egress", "sockops")
# bpf-helpers(7) by number: what reads, and what writes to maps that are the probe's own.
HELPERS = {
    1: "map_lookup_elem",
    2: "map_update_elem",
    3: "map_delete_elem",
    4: "probe_read",
    5: "ktime_get_ns",
    7: "get_prandom_u32",
    8: "get_smp_processor_id",
    14: "get_current_pid_tgid",
    15: "get_current_uid_gid",
    16: "get_current_comm",
    26: "skb_load_bytes",
    27: "get_stackid",
    42: "get_numa_node_id",
    45: "probe_read_str",
    46: "get_socket_cookie",
    47: "get_socket_uid",
    59: "sock_ops_cb_flags_set",
    67: "get_stack",
    68: "skb_load_bytes_relative",
    79: "skb_cgroup_id",
    80: "get_current_cgroup_id",
    83: "skb_ancestor_cgroup_id",
    112: "probe_read_user",
    113: "probe_read_kernel",
    114: "probe_read_user_str",
    115: "probe_read_kernel_str",
    118: "jiffies64",
    123: "get_current_ancestor_cgroup_id",
    125: "ktime_get_boot_ns",
}
OF_OUR_OWN = 0  # the source register of a call to a function of the kernel
EPILOGUE = struct.pack("<BBhi", 0xB7, 0, 0, 1) + struct.pack("<BBhi", EXIT, 0, 0, 0)  # r0 = 1; exit


def harmless(code: Code) -> Code:
    """The same program, made to return 1 wherever it ends. Raises SiteProbeError for what may not be."""
    instructions = bytearray(code.instructions)
    for offset, opcode, source, number in bytecode.words(code.instructions):
        if opcode == CALL and (source != OF_OUR_OWN or number not in HELPERS):
            raise SiteProbeError(
                f"{code.name} calls function {number} of bpf-helpers(7), which does more than look",
                "docs/probes.md lists what a probe may call",
            )
        if opcode == EXIT:
            distance = (len(code.instructions) - offset) // WORD - 1
            if distance >= 1 << 15:
                raise SiteProbeError(f"{code.name} is too long", "make it shorter than 32768 instructions")
            struct.pack_into("<BBhi", instructions, offset, JUMP, 0, distance, 0)
    return replace(code, instructions=bytes(instructions) + EPILOGUE)
